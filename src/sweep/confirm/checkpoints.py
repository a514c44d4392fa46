"""Checkpoints of the confirmation: recommended.ckpt, and what it is chosen from.

checkpoints/confirmed/ has one for each training until all have ended, and then one a setting: that
of the median seed, neither lucky nor unlucky. Another setting may be recommended after more trials.
"""

from __future__ import annotations

from pathlib import Path

from sweep.confirm.arms import arms_of, by_seed, margin_of, recommend
from sweep.confirm.contenders import code_of
from sweep.files import write_aside
from sweep.results import ConfirmRow, ResultSet


def keep_checkpoint(folder: Path, row: ConfirmRow, checkpoint: bytes) -> None:
    """Writes the checkpoint of a training; to be called before its row is."""
    path = _path(folder, row)
    path.parent.mkdir(exist_ok=True)
    write_aside(path, checkpoint)


def recommended_path(folder: Path) -> Path:
    return folder / "checkpoints" / "recommended.ckpt"


def recommended_row(results: ResultSet) -> ConfirmRow | None:
    """The training whose checkpoint is recommended.ckpt; None if that is not there (yet)."""
    return _choose(results) if recommended_path(results.folder).exists() else None


def forget_recommended(folder: Path) -> None:
    """Until what is left of a confirmation has been trained nothing is recommended."""
    recommended_path(folder).unlink(missing_ok=True)


def settle_checkpoints(results: ResultSet) -> None:
    """After the last training of a confirmation: writes recommended.ckpt, and thins out the rest.

    Whatever a crash leaves undone of it is done when it is called again.
    """
    chosen, path = _choose(results), recommended_path(results.folder)
    if chosen is None:
        forget_recommended(results.folder)
    else:
        checkpoint = _path(results.folder, chosen).read_bytes()
        if not path.exists() or path.read_bytes() != checkpoint:
            write_aside(path, checkpoint)
    rows = [_median(results, arm.name) for arm in arms_of(results)]
    kept = {_path(results.folder, row) for row in rows if row is not None}
    for stray in set(_folder(results.folder).glob("*.ckpt")) - kept:
        stray.unlink()


def _choose(results: ResultSet) -> ConfirmRow | None:
    arm = recommend(arms_of(results), results.sign, margin_of(results))
    return None if arm is None else _median(results, arm.name)


def _median(results: ResultSet, arm: str) -> ConfirmRow | None:
    """An arm's training with the median value on validation, of those with a checkpoint."""
    values = by_seed(results, arm, "validation")
    rows = {row.seed: row for row in results.confirm if row.arm == arm}
    there = [seed for seed in values if _path(results.folder, rows[seed]).exists()]
    ranked = sorted(there, key=lambda seed: (values[seed], seed))
    return rows[ranked[(len(ranked) - 1) // 2]] if ranked else None


def _folder(folder: Path) -> Path:
    return folder / "checkpoints" / "confirmed"


def _path(folder: Path, row: ConfirmRow) -> Path:
    return _folder(folder) / f"{code_of(row.params)}_{row.seed}.ckpt"
