"""DropoutSchedule: every layer's rate follows the mode, and comes back when training ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas
import pytest
import pytorch_lightning
import torch
from pytorch_lightning.loggers import CSVLogger
from torch import nn

from dropnorm.blocks import Dropout
from dropnorm.callbacks import DropoutSchedule
from dropnorm.retrofitting import retrofit
from tests.plain_modules import CLASSES, INPUTS, PACKAGES, loaders, plain_module, trainer

STEPS = 16  # two epochs of eight batches


def net() -> nn.Sequential:
    layers = [nn.Linear(INPUTS, 8), nn.Dropout(0.4), nn.Linear(8, 8), Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(8, CLASSES))


def rates(module: nn.Module) -> tuple[float, float]:
    return module.network[1].p, module.network[3].rate.item()


def watched(package: Any, seen: list[tuple[float, float]]) -> Any:
    """A callback that notes the rates of each step."""

    class Watch(package.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(rates(pl_module))

    return Watch()


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize(
    ("mode", "scales"),
    [
        ("constant", [1.0] * STEPS),
        ("early", [1, 0.75, 0.5, 0.25] + [0.0] * 12),
        ("late", [0.0] * 4 + [1.0] * 12),
        ("ramp", [0, 0.25, 0.5, 0.75] + [1.0] * 12),
    ],
)
def test_rates_follow_the_mode(
    tmp_path: Path, package: Any, mode: str, scales: list[float]
) -> None:
    seen: list[tuple[float, float]] = []
    module = plain_module(package, net())
    schedule = DropoutSchedule(mode, turn=0.25)
    trainer(package, tmp_path, schedule, watched(package, seen)).fit(module, **loaders())
    torch.testing.assert_close(
        torch.tensor(seen), torch.tensor(scales)[:, None] * torch.tensor([0.4, 0.2])
    )
    assert rates(module) == (0.4, pytest.approx(0.2))


def test_rate_and_length_can_be_given(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    module = plain_module(PACKAGES[0], net())
    schedule = DropoutSchedule("ramp", turn=1.0, rate=0.8, steps=64)
    fit = trainer(PACKAGES[0], tmp_path, schedule, watched(PACKAGES[0], seen))
    fit.fit(module, **loaders())
    torch.testing.assert_close(torch.tensor(seen[-1]), torch.full((2,), 0.8 * 15 / 64))
    assert fit.callback_metrics["dropout_scale"].item() == pytest.approx(15 / 64)
    assert rates(module) == (0.8, pytest.approx(0.8))


def test_loggers_hear_the_scale_of_the_steps_that_they_log(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    schedule = DropoutSchedule("ramp", turn=1.0)
    fit = trainer(pytorch_lightning, tmp_path, schedule, logger=logger, log_every_n_steps=3)
    fit.fit(plain_module(pytorch_lightning, net()), **loaders())
    table = pandas.read_csv(Path(logger.log_dir) / "metrics.csv").dropna(subset="dropout_scale")
    assert list(table["step"]) == [2, 5, 8, 11, 14]
    assert list(table["dropout_scale"]) == pytest.approx([s / STEPS for s in table["step"]])


def test_retrofitted_and_inserted_layers_follow_too(tmp_path: Path) -> None:
    module = plain_module(PACKAGES[0], net())
    retrofit(module, dropout=0.5, insert="network.0")
    seen: list[float] = []

    class Watch(PACKAGES[0].Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append(sum(m.rate.item() for m in pl_module.modules() if isinstance(m, Dropout)))

    schedule = DropoutSchedule("late", turn=0.5)
    trainer(PACKAGES[0], tmp_path, schedule, Watch()).fit(module, **loaders())
    assert seen == [0.0] * 8 + [1.5] * 8


def test_resumed_training_goes_on_where_the_schedule_was(tmp_path: Path) -> None:
    seen: list[tuple[float, float]] = []
    data = loaders()
    first = trainer(
        PACKAGES[0], tmp_path, DropoutSchedule("early", turn=1.0, steps=STEPS), max_epochs=1
    )
    first.fit(plain_module(PACKAGES[0], net()), **data)
    first.save_checkpoint(tmp_path / "half.ckpt")
    callbacks = [DropoutSchedule("early", turn=1.0, steps=STEPS), watched(PACKAGES[0], seen)]
    second = trainer(PACKAGES[0], tmp_path, *callbacks)
    second.fit(
        plain_module(PACKAGES[0], net()),
        **data,
        ckpt_path=tmp_path / "half.ckpt",
        weights_only=True,
    )
    torch.testing.assert_close(
        torch.tensor([p for p, _ in seen]), 0.4 * (1 - torch.arange(8, 16) / STEPS)
    )


def test_rates_come_back_after_an_error(tmp_path: Path) -> None:
    module = plain_module(PACKAGES[0], net())

    class Fail(PACKAGES[0].Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        trainer(PACKAGES[0], tmp_path, DropoutSchedule("late"), Fail()).fit(module, **loaders())
    assert rates(module) == (0.4, pytest.approx(0.2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "erly"}, "mode: expected one of constant, early, late, ramp, got 'erly'"),
        ({"turn": 0.0}, "turn: expected 0 < turn <= 1, a share of training, got 0.0"),
        ({"rate": 1.0}, "rate: expected 0 <= rate < 1, got 1.0"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DropoutSchedule(**settings)


def test_training_without_dropout_or_end_is_refused(tmp_path: Path) -> None:
    bare = plain_module(PACKAGES[0], nn.Linear(INPUTS, CLASSES))
    with pytest.raises(
        ValueError, match="DropoutSchedule: expected dropout layers, got none in Mine"
    ):
        trainer(PACKAGES[0], tmp_path, DropoutSchedule()).fit(bare, **loaders())
    endless = {"max_epochs": -1, "max_steps": -1}
    with pytest.raises(
        ValueError, match=r"steps: expected a length of training, got .*; type steps"
    ):
        trainer(PACKAGES[0], tmp_path, DropoutSchedule(), **endless).fit(
            plain_module(PACKAGES[0], net()), **loaders()
        )
