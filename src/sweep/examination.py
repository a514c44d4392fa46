"""A look at somebody else's module before a study trains it: what it logs, and how it is packed.

It takes a process of its own, some seconds, a training step and a validation batch: the module's
code needs torch, which the conductor does without.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context

from sweep.config import Plan
from sweep.errors import ConfigError, Problem, Unbuildable, did_you_mean
from sweep.messages import TrialSpec
from sweep.profile import PACKABLE, momenta
from sweep.trial_config import PACKED_PRECISIONS, devices_per_trial, is_retrofitted


@dataclass(frozen=True)
class Examination:
    """What was found: the names that are logged, and why trials cannot share a pack.

    With an `error` nothing is known: the trials themselves will tell. `is_built`: it is no error of
    the constructors, which no look of a batch could have caused.
    """

    logs: tuple[str, ...] = ()
    alone: str | None = None
    error: str | None = None
    is_built: bool = True


def is_examined(plan: Plan) -> bool:
    """Whether there is anything to find out: of our own module all is known."""
    return bool(plan.trial["model"]["_target_"] != PACKABLE)


def examine(plan: Plan, share: float = 0.5) -> Examination:
    """Looks at the trial in the middle of the search space, or elsewhere between its ends."""
    config = plan.trial_config({d.key: d.at(share) for d in plan.asked})
    spec = TrialSpec(0, plan.study.seed, {}, config)
    if free := plan.profiled:
        spec = replace(spec, momenta=momenta(free), momentum_key=free.key)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_look, spec, plan.study.metric).result()
        except Exception as error:  # of somebody else's code, whatever it is
            said = " ".join(str(error).split()) or "no reason given"
            if isinstance(error, Unbuildable):
                return Examination(error=said, is_built=False)
            return Examination(error=f"{type(error).__name__}: {said}")


def _look(spec: TrialSpec, metric: str) -> Examination:
    """Runs in the process that looks; what its libraries say is nobody's concern."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    from sweep.worker.look import look

    return Examination(*look(spec, metric))


def check_metric_is_logged(plan: Plan) -> None:
    """Errors: ConfigError naming what the module logs, if the study's metric is not among it.

    And if module and data cannot be made, in the middle of the search space and at its beginning.
    """
    if not is_examined(plan):
        return
    found, metric = examine(plan), plan.study.metric
    if not (found.is_built or examine(plan, 0.0).is_built):
        what = f"expected a module and data that can be made, got {found.error}"
        raise ConfigError([Problem("model", what, "correct it; nothing is recorded yet")])
    if found.error is None and metric not in found.logs:
        target = plan.trial["model"]["_target_"]
        what = f"expected a metric that {target} logs ({', '.join(found.logs)}), got {metric}"
        raise ConfigError([Problem("study.metric", what, did_you_mean(metric, list(found.logs)))])


def packing(plan: Plan) -> str:
    """Whether trials share packs, and how, or what keeps them apart: a line."""
    config, lanes = plan.trial, plan.executor.lanes
    if devices_per_trial(config) > 1:
        return "one trial at a time: trainer.devices gives each several"
    if is_examined(plan):
        return _packing_of_theirs(plan)
    most = f"packs of {lanes}" if lanes != "auto" else "packs as large as pays"
    if is_retrofitted(config):
        return "one trial at a time: retrofit changes its layers"
    if config["trainer"]["precision"] not in PACKED_PRECISIONS:
        return "one trial at a time: trainer.precision is neither 32-true nor bf16-mixed"
    return f"{most}, of trials with equal shapes"


def _packing_of_theirs(plan: Plan) -> str:
    found, lanes = examine(plan), plan.executor.lanes
    if reason := found.error or found.alone:
        return f"one trial at a time: {reason}"
    if lanes == 1:
        return "one trial at a time, as executor.lanes says; they could share packs"
    if lanes == "auto":
        cpu = "one trial at a time on a CPU, where vmap is slower unless you type executor.lanes=4"
        return f"packs by vmap on a GPU, of trials with equal shapes; {cpu}"
    return f"packs of {lanes} by vmap, of trials with equal shapes"
