"""Plans and results as text: what `plan`, `best` and the end of a study print."""

from __future__ import annotations

import json
import shlex
import statistics
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from sweep.config import Plan
from sweep.errors import StudyError
from sweep.executors.local import placement
from sweep.experiment import planned
from sweep.results import ResultSet, TrialRow
from sweep.terminal import minutes, show, spell


def show_plan(plan: Plan, recorded: ResultSet | None, console: Console) -> None:
    """What would run; nothing is trained or written."""
    study, epochs = plan.study, plan.trial["trainer"]["max_epochs"]
    total = planned(plan)
    ended = [t for t in recorded.trials if t.ended] if recorded else []
    table = _table(f"study {study.name}")
    for dimension in plan.search:
        table.add_row(dimension.key, dimension.text)
    table.add_row("metric", f"{study.metric} ({study.direction})")
    limit = f", no trial starts after {study.timeout_s:g} s" if study.timeout_s else ""
    table.add_row("budget", f"{total} trials of at most {epochs} epochs{limit}")
    if recorded:
        table.add_row("recorded", f"{len(ended)} trials; {max(total - len(ended), 0)} remain")
    table.add_row("sampler, pruner", f"{plan.sampler.name}, {plan.pruner.name}")
    table.add_row("executor", _devices(plan))
    table.add_row("estimate", _estimate(ended, total))
    table.add_row("folder", str(plan.folder))
    console.print(table, soft_wrap=True)


def _devices(plan: Plan) -> str:
    if plan.executor.name == "inline":
        return "inline: one worker in this process"
    workers, gpus = placement(plan.executor)
    where = f"{gpus} GPU" + "s" * (gpus > 1) if gpus else "the CPU"
    return f"local: {workers} worker{'s' * (workers > 1)} on {where}"


def _estimate(ended: list[TrialRow], total: int) -> str:
    if not ended:
        return "known once a trial of this study has run"
    seconds = statistics.mean(t.seconds for t in ended)
    left = max(total - len(ended), 0)
    return f"{seconds:.1f} s a trial so far; about {minutes(seconds * left)} one at a time"


def show_end(results: ResultSet, page: Path, seconds: float, console: Console) -> None:
    """The end of a study: the best parameters, where everything lies, what to type next."""
    table = _result_table(results)
    table.add_row("took", minutes(seconds))
    table.add_row("report", str(page))
    table.add_row("next", f"tensorboard --logdir {_typed(results.folder)}")
    table.add_row("", f"python -m sweep best {_study(results)}")
    console.print(table, soft_wrap=True)


def show_best(results: ResultSet, console: Console) -> None:
    """The best parameters and the lines that load the checkpoint. Errors: StudyError if none is."""
    if results.best is None:
        raise StudyError(f"study {results.name}: no trial is complete yet; run it first")
    console.print(_result_table(results), soft_wrap=True)
    checkpoint = json.dumps(f"{results.folder}/checkpoints/best.ckpt", ensure_ascii=False)
    console.print(
        "This is the search's own figure: one seed, and the best of many looks better than it is.\n"
        "\n"
        "    from dropnorm import Classifier\n"
        f"    model = Classifier.load_from_checkpoint({checkpoint})\n"
        "    model.eval()(images)    # logits; model.fold() for inference without norm layers\n",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _study(results: ResultSet) -> str:
    """The study as `best` and `report` find it: by name below sweeps/, elsewhere by folder."""
    return (
        results.name if results.folder == Path("sweeps", results.name) else _typed(results.folder)
    )


def _typed(folder: Path) -> str:
    return shlex.quote(str(folder))


def _result_table(results: ResultSet) -> Table:
    table = _table(f"study {results.name}")
    counts = Counter(t.status for t in results.trials)
    table.add_row("trials", ", ".join(f"{n} {status}" for status, n in sorted(counts.items())))
    best = results.best
    if best is None or best.value is None:
        table.add_row("best", "no trial is complete")
        return table
    table.add_row("best", f"{spell(best.params)}  (trial {best.number})")
    others = [f"{k} {show(k, v)}" for k, v in best.metrics.items() if k != results.metric]
    table.add_row(results.metric, f"{show(results.metric, best.value)}  ({', '.join(others)})")
    table.add_row("checkpoint", str(results.folder / "checkpoints" / "best.ckpt"))
    return table


def _table(title: str) -> Table:
    """Two columns without a frame. Nothing is folded, so that paths and commands can be copied."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ignore")
    return table
