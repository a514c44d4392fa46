"""A study of a module of Lightning's own demonstrations, a Transformer that saves no arguments.

It has dropout and no batch norm, so the rate alone is searched; and it only trains: validation is
what whoever tunes it adds, its network and its training stay as they were published.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as unified
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.demos.transformer import LightningTransformer
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from dropnorm.blocks import Dropout
from sweep.__main__ import main
from sweep.confirm.checkpoints import recommended_row
from sweep.results import ResultSet
from tests.own_modules import studied, typed
from tests.plain_modules import trainer
from tests.report_studies import Page

Batch = tuple[Tensor, Tensor]
LETTERS, LENGTH = 12, 6


class Validated(LightningTransformer):  # type: ignore[misc]
    def prepare_data(self) -> None:
        """Does not download a text."""

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.log("test_loss", self._loss(batch))

    def _loss(self, batch: Batch) -> Tensor:
        return F.nll_loss(self(*batch), batch[1].view(-1))


class Text(unified.LightningDataModule):  # type: ignore[misc]
    """The alphabet again and again, from random places."""

    def setup(self, stage: str) -> None:
        start = torch.randint(LETTERS, (96, 1), generator=torch.Generator().manual_seed(5))
        self.letters = (start + torch.arange(LENGTH + 1)) % LETTERS

    def _part(self, first: int, last: int, **settings: Any) -> DataLoader[Any]:
        some = self.letters[first:last]
        return DataLoader(TensorDataset(some[:, :-1], some[:, 1:]), batch_size=16, **settings)

    def train_dataloader(self) -> DataLoader[Any]:
        return self._part(0, 64, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return self._part(64, 80)

    def test_dataloader(self) -> DataLoader[Any]:
        return self._part(80, 96)


STUDY = f"""\
# @package _global_
defaults:
  - override /model: own
  - override /data: own
study: {{name: letters, trials: 3, metric: val_loss, direction: minimize}}
model: {{_target_: tests.test_own_demonstration.Validated, vocab_size: {LETTERS}}}
data: {{_target_: tests.test_own_demonstration.Text}}
search: {{retrofit.dropout: "choice(0.0,0.4,0.9)"}}
"""
WORDS = ("executor=inline", "pruner=none", "trainer.max_epochs=2")
CONFIRM = ("confirm.seeds=2", "confirm.top=1")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ResultSet]:
    """Run by the command line in a folder of its own, which stays the current one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("letters"))
        patch.setattr(sys, "path", [str(Path(__file__).parents[1]), *sys.path])
        yield studied(Path.cwd(), STUDY, *WORDS, *CONFIRM, "sampler=grid")


def test_every_rate_is_trained_and_it_matters(study: ResultSet) -> None:
    values = {t.params["retrofit.dropout"]: t.value for t in study.trials}
    assert {t.status for t in study.trials} == {"complete"} and len(values) == 3
    assert values[0.9] > 1.05 * values[0.0]  # type: ignore[operator]


def test_the_best_is_confirmed_beside_the_module_as_it_is_published(study: ResultSet) -> None:
    settings = {(row.arm, row.params["retrofit.dropout"]) for row in study.confirm}
    assert settings == {("1st", study.best and study.best.params["retrofit.dropout"]),
                        ("default", None)}  # fmt: skip
    assert all({"val_loss", "test_loss"} <= row.metrics.keys() for row in study.confirm)
    assert all("gap/val_loss" in row.diagnostics for row in study.confirm)


def lines_of(study: ResultSet, capsys: pytest.CaptureFixture[str], where: str) -> dict[str, Any]:
    """What is defined by the lines that a person finds at the end, typed as they stand there."""
    names: dict[str, Any] = {}
    if where == "best":
        capsys.readouterr()
        assert main(["best", study.name]) == 0
        return typed(capsys.readouterr().out)
    page = Page(study.folder / "report" / "index.html")
    codes = ["".join(text) for tag, _, text in page.found if tag == "code"]
    (loading,) = [code for code in codes if "recommended.ckpt" in code]
    assert loading in (study.folder / "report" / "REPORT.md").read_text()
    exec(loading, names)
    return names


@pytest.mark.parametrize("where", ["best", "report"])
def test_printed_lines_load_the_module_and_its_figures(
    study: ResultSet, capsys: pytest.CaptureFixture[str], tmp_path: Path, where: str
) -> None:
    """The module saves none of its arguments, and by default has another vocabulary."""
    model = lines_of(study, capsys, where)["model"]
    row = recommended_row(study)
    assert row is not None and type(model) is Validated
    fit = trainer(unified, tmp_path)
    for measure, name in ((fit.validate, "val_loss"), (fit.test, "test_loss")):
        (found,) = measure(model, Text(), verbose=False)
        assert found[name] == pytest.approx(row.metrics[name], rel=1e-5)
    rates = {m.extra_repr() for m in model.modules() if isinstance(m, Dropout)}
    wanted = row.params["retrofit.dropout"]
    assert rates == (set() if wanted is None else {f"rate={wanted:g}"})


def test_a_trial_of_it_is_repeated_to_the_last_digit(
    study: ResultSet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rerun", study.name, "1"]) == 0
    assert "the same in every digit" in capsys.readouterr().out
