"""What is confirmed: the best few of the search and the default setting, on the same fresh seeds.

The seeds are shared, so contenders begin with the same weights and see the same data orders:
differences between them are paired, which shows smaller ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dropnorm.seeds import derive
from sweep.config import Plan
from sweep.errors import as_typed
from sweep.messages import TrialSpec, Value
from sweep.metric import sign_of
from sweep.profile import momenta
from sweep.results import DEFAULT, ConfirmRow, TrialRow
from sweep.sections import leaves


@dataclass(frozen=True)
class Contender:
    """One setting to confirm; `trial` is None for the default unless that is among the best."""

    arm: str
    trial: int | None
    params: Mapping[str, Value]


def choose_contenders(plan: Plan, trials: Sequence[TrialRow]) -> list[Contender]:
    """The `confirm.top` best settings of complete trials, best first, and the default; each once.

    Of trials with one setting the best counts; one that has the default's is the default.
    """
    sign = sign_of(plan.study.direction)
    complete = [t for t in trials if t.status == "complete" and t.value is not None]
    ranked = sorted(complete, key=lambda t: (-sign * (t.value or 0.0), t.number))
    settings: dict[str, TrialRow] = {}
    for trial in ranked:
        settings.setdefault(key_of(trial.params), trial)
    best = enumerate([*settings.values()][: plan.confirm.top], 1)
    found = [Contender(_ordinal(place), t.number, dict(t.params)) for place, t in best]
    default = _default(plan)
    if default is None or not ranked:
        return found
    again = next((c.trial for c in found if c.params == default), None)
    return [*(c for c in found if c.params != default), Contender(DEFAULT, again, default)]


def make_specs(
    plan: Plan, contenders: Sequence[Contender]
) -> dict[int, tuple[Contender, TrialSpec]]:
    """What is trained for each contender and seed, by number; one seed of all before the next."""
    specs: dict[int, tuple[Contender, TrialSpec]] = {}
    for place in range(plan.confirm.seeds):
        seed = derive(plan.study.seed, "confirm", place)
        for contender in contenders:
            config = plan.trial_config(contender.params)
            last = int(config["trainer"]["max_epochs"])
            spec = TrialSpec(len(specs), seed, contender.params, config, test=True)
            if plan.profiled:
                key, all_of = plan.profiled.key, momenta(plan.profiled)
                spec = replace(spec, momenta=all_of, momentum_key=key, scored=(last,))
                spec = replace(spec, momentum_is_fixed=True)
            specs[spec.number] = (contender, spec)
    return specs


def renamed(rows: Sequence[ConfirmRow], contenders: Sequence[Contender]) -> list[ConfirmRow]:
    """All rows under their contenders' present names; others keep the number of their trial."""
    by_params = {key_of(contender.params): contender for contender in contenders}
    found = []
    for row in rows:
        contender = by_params.get(key_of(row.params))
        if contender is None:
            found.append(replace(row, arm=f"trial {row.trial}"))
        else:
            found.append(replace(row, arm=contender.arm, trial=contender.trial))
    return found


def is_done(spec: TrialSpec, rows: Sequence[ConfirmRow]) -> bool:
    """Whether what a spec trains is among the rows."""
    return any(key_of(r.params) == key_of(spec.params) and r.seed == spec.seed for r in rows)


def key_of(params: Mapping[str, Value]) -> str:
    """A setting in one line, whatever the order of its parameters."""
    return as_typed(dict(sorted(params.items())))


def code_of(params: Mapping[str, Value]) -> str:
    """A setting in a file's name; its arm is called otherwise when more trials have ended."""
    return hashlib.sha256(key_of(params).encode()).hexdigest()[:12]


def _default(plan: Plan) -> dict[str, Value] | None:
    """The configuration's own values of what is searched; None if it has none for some key."""
    there = leaves(plan.trial)
    if any(d.key not in there for d in plan.search):
        return None
    settings = {d.key: there[d.key] for d in plan.search}
    # A list is written as the search would spell it.
    return {k: as_typed(v) if isinstance(v, list) else v for k, v in settings.items()}


def _ordinal(place: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(place, f"{place}th")
