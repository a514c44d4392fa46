"""The report of a recorded study: a page, a Markdown file and figures.

Reads rows only: importing it loads neither torch nor Optuna.
"""

from sweep.report.build import build_report

__all__ = ["build_report"]
