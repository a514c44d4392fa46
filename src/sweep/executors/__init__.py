"""Where workers run. An executor is a function that carries `Conductor.exchange` to its workers."""

from collections.abc import Callable

from sweep.conductor import Conductor
from sweep.config import Plan
from sweep.executors.inline import run_inline
from sweep.executors.local import run_local

EXECUTORS: dict[str, Callable[[Conductor, Plan], None]] = {
    "inline": run_inline,
    "local": run_local,
}
