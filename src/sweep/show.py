"""Plans and results as text: what `plan`, `best` and the end of a study print."""

from __future__ import annotations

import shlex
import statistics
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sweep.config import Plan
from sweep.confirm.checkpoints import recommended_path, recommended_row
from sweep.confirm.summary import summarise
from sweep.errors import StudyError
from sweep.examination import packing
from sweep.executors.places import describe
from sweep.experiment import planned
from sweep.loading import load_lines, target_of
from sweep.metric import tested
from sweep.profile import PACKABLE, momenta
from sweep.results import ResultSet, TrialRow
from sweep.terminal import minutes, show, spell

_LABELS = 14  # columns of the labels before lines


def show_plan(plan: Plan, recorded: ResultSet | None, console: Console) -> None:
    """What would run; nothing is trained or written."""
    study, epochs = plan.study, plan.trial["trainer"]["max_epochs"]
    total = planned(plan)
    ended = [t for t in recorded.trials if t.ended] if recorded else []
    limit = f", no trial starts after {study.timeout_s:g} s" if study.timeout_s else ""
    remain = f"{len(ended)} trials; {max(total - len(ended), 0)} remain"
    lines = [
        *((dimension.key, dimension.text) for dimension in plan.search),
        ("metric", f"{study.metric} ({study.direction})"),
        ("budget", f"{total} trials of at most {epochs} epochs{limit}"),
        *([("recorded", remain)] if recorded else []),
        ("sampler, pruner", f"{plan.sampler.name}, {plan.pruner.name}"),
        ("executor", describe(plan)),
        ("packing", packing(plan)),
        ("momenta", _momenta(plan)),
        ("confirm", _confirmation(plan)),
        ("estimate", _estimate(ended, total)),
        ("folder", str(plan.folder)),
    ]
    _print(f"study {study.name}", lines, console)


def _momenta(plan: Plan) -> str:
    if plan.profiled is None:
        return "not scored: the sampler searches what there is"
    values = momenta(plan.profiled)
    return f"every trial scores {len(values)}, so {plan.profiled.key} costs no trial"


def _confirmation(plan: Plan) -> str:
    settings = plan.confirm
    if not settings.seeds:
        return "none: confirm.seeds is 0"
    return f"the best {settings.top} and the default on {settings.seeds} fresh seeds each"


def _estimate(ended: list[TrialRow], total: int) -> str:
    if not ended:
        return "known once a trial of this study has run"
    seconds = statistics.mean(t.seconds for t in ended)
    left = max(total - len(ended), 0)
    return f"{seconds:.1f} s a trial so far; about {minutes(seconds * left)} one at a time"


def show_end(results: ResultSet, page: Path, seconds: float, console: Console) -> None:
    """The end of a study: the best parameters, where everything lies, what to type next."""
    lines = [
        *_answer(results, console),
        *_result(results),
        ("took", minutes(seconds)),
        ("report", str(page)),
        ("next", f"tensorboard --logdir {_typed(results.folder)}"),
        ("", f"python -m sweep best {_study(results)}"),
    ]
    _print(f"study {results.name}", lines, console)


def show_best(results: ResultSet, console: Console) -> None:
    """The best parameters and the lines that load the checkpoint. Errors: StudyError if none is."""
    if results.best is None:
        raise StudyError(f"study {results.name}: no trial is complete yet; run it first")
    _print(f"study {results.name}", [*_answer(results, console, True), *_result(results)], console)
    lines = _loading(results, results.best)
    if target_of(results) == PACKABLE:
        lines += _USES
    console.print(Text("\n    ".join(["", *lines])), soft_wrap=True)


def _loading(results: ResultSet, best: TrialRow) -> list[str]:
    """The lines for the checkpoint to use: the recommended setting's, if it was confirmed."""
    row = recommended_row(results)
    if row is not None:
        whose = f"the recommended setting ({row.arm}), its median seed of the confirmation"
        path = recommended_path(results.folder)
        return [f"# {whose}", *load_lines(results, row.params, path, str(path))]
    path = results.folder / "checkpoints" / "best.ckpt"
    whose = f"trial {best.number}, the best of the search"
    return [f"# {whose}", *load_lines(results, best.params, path, str(path))]


# What can be done with a Classifier; a test types these lines.
_USES = [
    "images = model.example_input_array                 # yours: normalised as in training",
    "model(images)                                      # logits",
    "network = model.fold()                             # no norm layers, no dropout: inference",
    "import torch",
    'torch.export.save(torch.export.export(network, (images,)), "model.pt2")',
    'torch.onnx.export(network, (images,), "model.onnx") # pip install "dropnorm[onnx]"',
]


def _answer(results: ResultSet, console: Console, all_of_it: bool = False) -> list[tuple[str, str]]:
    """What the study says, in sentences; with `all_of_it` also how far to trust it."""
    if results.best is None:
        return []
    answer = summarise(results)
    said = list(answer.sentences)
    if all_of_it:
        said += [answer.shrinkage, *answer.unknown]
    width = max(console.width - _LABELS, 30)
    lines = [line for text in said for line in textwrap.wrap(text, width)]
    return [("answer" if place == 0 else "", line) for place, line in enumerate(lines)]


def _result(results: ResultSet) -> list[tuple[str, str]]:
    counts = Counter(t.status for t in results.trials)
    tally = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "none yet"
    if (ended := sum(t.ended for t in results.trials)) < results.total:
        tally = f"{ended} of {results.total} ended ({tally})"
    lines = [("trials", tally)]
    best = results.best
    if best is None or best.value is None:
        return [*lines, ("best", "no trial is complete")]
    others = ", ".join(
        f"{k} {_shown(results, k, v)}" for k, v in best.metrics.items() if k != results.metric
    )
    value = _shown(results, results.metric, best.value)
    return [
        *lines,
        ("best", f"{spell(best.params, results.search)}  (trial {best.number})"),
        (results.metric, f"{value}  ({others})" if others else value),
        ("checkpoint", str(results.folder / "checkpoints" / "best.ckpt")),
        *_recommended(results),
    ]


def _recommended(results: ResultSet) -> list[tuple[str, str]]:
    """The recommended setting's checkpoint, and what that very training reached."""
    row = recommended_row(results)
    if row is None:
        return []
    names = [n for n in (results.metric, tested(results.metric) or "") if n in row.metrics]
    reached = ", ".join(f"{name} {_shown(results, name, row.metrics[name])}" for name in names)
    return [
        ("recommended", f"{spell(row.params, results.search)}  ({row.arm}, seed {row.seed})"),
        ("", reached),
        ("checkpoint", str(recommended_path(results.folder))),
    ]


def _shown(results: ResultSet, name: str, value: float) -> str:
    """A value of a metric as it is shown beside all that was recorded of that metric."""
    recorded = [*(t.metrics for t in results.trials), *(r.metrics for r in results.confirm)]
    return show(name, value, [metrics[name] for metrics in recorded if name in metrics])


def _study(results: ResultSet) -> str:
    """The study as `best` and `report` find it: by name below sweeps/, elsewhere by folder."""
    below = results.folder == Path("sweeps", results.name)
    return results.name if below else _typed(results.folder)


def _typed(folder: Path) -> str:
    return shlex.quote(str(folder))


def _print(title: str, lines: Sequence[tuple[str, str]], console: Console) -> None:
    """Two columns. Nothing is folded or cut, so that paths and commands can be copied."""
    width = max(_LABELS, *(len(label) + 2 for label, _ in lines))
    console.print(Text(title, style="bold"))
    for label, value in lines:
        console.print(Text.assemble((label.ljust(width), "dim"), value), soft_wrap=True)
