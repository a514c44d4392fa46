"""The report of a recorded study: a page, a Markdown file and figures.

Reads rows only: importing it loads neither torch nor Optuna, and `build_report` loads the drawing
library when it is first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sweep.report.build import build_report

__all__ = ["build_report"]


def __getattr__(name: str) -> Any:
    if name != "build_report":
        raise AttributeError(f"module 'sweep.report' has no attribute {name!r}")
    from sweep.report.build import build_report

    return build_report
