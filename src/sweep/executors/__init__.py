"""Where workers run. An executor is a function that carries `exchange` to its workers."""

from collections.abc import Callable

from sweep.config import Plan
from sweep.executors.inline import run_inline
from sweep.executors.local import run_local
from sweep.executors.ray import run_ray
from sweep.messages import Conducting

EXECUTORS: dict[str, Callable[[Conducting, Plan], None]] = {
    "inline": run_inline,
    "local": run_local,
    "ray": run_ray,
}
