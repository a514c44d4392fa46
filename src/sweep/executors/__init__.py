"""Where workers run. An executor is a function that carries `exchange` to its workers.

Every worker's process comes by here, so a plan is only named: its room loads Optuna and Hydra,
which a worker would wait a second for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sweep.executors.inline import run_inline
from sweep.executors.local import run_local
from sweep.executors.ray import run_ray
from sweep.messages import Conducting

if TYPE_CHECKING:
    from sweep.config import Plan

EXECUTORS: dict[str, Callable[[Conducting, Plan], None]] = {
    "inline": run_inline,
    "local": run_local,
    "ray": run_ray,
}
