"""VmappedPack: lanes of networks that we did not write are the trials trained alone."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm import Classifier, Dropout
from dropnorm.blocks import Block, seed_dropout
from dropnorm.blocks.variants import GaussianDropout
from dropnorm.pack import LaneBatches, Pack
from dropnorm.pack.protocol import can_pack
from dropnorm.pack.vmap_layers import LaneNoise
from dropnorm.pack.vmapped import VmappedPack
from dropnorm.random import keep_mask_on_device
from tests.packs import BATCH, CNN, MLP, data, quiet_trainer, trials

Batch = tuple[Tensor, Tensor]
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
}
SETTINGS: list[dict[str, Any]] = [
    {"dropout": 0.3, "momentum": 0.1, "lr": 1e-3, "seed": 1},
    {"dropout": 0.0, "momentum": None, "lr": 1e-2, "seed": 2},
    {"dropout": 0.6, "momentum": 1.0, "lr": 3e-3, "seed": 3},
    {"dropout": 0.1, "momentum": 0.5, "lr": 1e-2, "seed": 4},
]


class Theirs(pl.LightningModule):
    """A module as people write them, but for keyed dropout and the method `loss`."""

    def __init__(
        self, dropout: float, momentum: float | None, lr: float, seed: int, name: str = "adam"
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr, self.name, self.smoothing = lr, name, 0.0
        torch.manual_seed(seed)
        self.convolution = nn.Conv2d(1, 3, 5, stride=4)
        self.norm = nn.BatchNorm2d(3, momentum=momentum)
        self.head = nn.Sequential(
            nn.Linear(108, 20), nn.BatchNorm1d(20, momentum=momentum), nn.GELU(), Dropout(dropout),
            nn.Linear(20, 16), nn.LayerNorm(16), nn.ReLU(), GaussianDropout(dropout),
            nn.Linear(16, 10),
        )  # fmt: skip
        seed_dropout(self, seed)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(F.silu(self.norm(self.convolution(x))).flatten(1))
        return logits

    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=self.smoothing)

    def metrics(self, batch: Batch) -> dict[str, Tensor]:
        logits = self(batch[0])
        right = (logits.argmax(-1) == batch[1]).to(logits.dtype)
        return {"accuracy": right.mean(), "nll": F.cross_entropy(logits, batch[1])}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.log("train_loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.log_dict({f"val_{name}": value for name, value in self.metrics(batch).items()})

    test_step = validation_step

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.name](self.parameters(), lr=self.lr, weight_decay=0.01)


class AfterEpoch(pl.Callback):
    def __init__(self, act: Callable[[VmappedPack, int], None]) -> None:
        self.act = act

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, VmappedPack)
        self.act(pl_module, trainer.current_epoch + 1)


def module(which: int, **changes: Any) -> Theirs:
    return Theirs(**{**SETTINGS[which], **changes})


def pack_of(*which: int, **changes: Any) -> VmappedPack:
    return VmappedPack([module(k, **changes) for k in which], seeds=[k + 1 for k in which])


def batch_of(lanes: int | None = None) -> Batch:
    shape = (20,) if lanes is None else (lanes, 20)
    return torch.randn(*shape, 1, 28, 28), torch.randint(10, shape)


def fit(folder: Path, pack: VmappedPack | Pack, epochs: int = 2, **settings: Any) -> Any:
    source = data()
    source.setup("fit")
    batches = LaneBatches(source.part("train"), source.train_rows(), BATCH, pack.ages)
    settings = {"precision": "64-true", **settings}
    quiet_trainer(folder, epochs, **settings).fit(pack, batches, source.val_dataloader())
    return pack


def fit_alone(
    folder: Path, plain: pl.LightningModule, seed: int, epochs: int = 2, **settings: Any
) -> dict[str, float]:
    trainer = quiet_trainer(folder, epochs, **{"precision": "64-true", **settings})
    trainer.fit(plain, data(seed=seed))
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def assert_same(pack: VmappedPack, lane: int, plain: nn.Module, metrics: dict[str, float]) -> None:
    """In float64 rounding stays far below 1e-7, even where Adam divides small gradients by their
    own size. A momentum is a float32 in a pack, 1.5e-8 off what torch's own layers compute with."""
    state = dict(plain.state_dict())
    torch.testing.assert_close(pack.lane_state(lane), state, rtol=1e-6, atol=1e-7)
    assert pack.metrics(lane) == pytest.approx(metrics, rel=1e-6, abs=1e-7)


# Lanes and trials alone


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_lanes_are_the_trials_alone(tmp_path: Path, name: str) -> None:
    pack = fit(tmp_path, pack_of(0, 1, 2, name=name))
    for lane in range(3):
        plain = module(lane, name=name)
        assert_same(pack, lane, plain, fit_alone(tmp_path, plain, lane + 1))


def test_gradients_are_clipped_as_if_alone(tmp_path: Path) -> None:
    pack = fit(tmp_path, pack_of(0, 3, name="sgd"), gradient_clip_val=0.1)
    for lane, which in enumerate((0, 3)):
        plain = module(which, name="sgd")
        metrics = fit_alone(tmp_path, plain, which + 1, gradient_clip_val=0.1)
        assert_same(pack, lane, plain, metrics)


def test_refilled_and_kept_lanes_go_on_as_if_alone(tmp_path: Path) -> None:
    def act(pack: VmappedPack, epoch: int) -> None:
        if epoch == 1:
            pack.refill(1, module(3), seed=4)
            assert pack.metrics(1) == {}
            pack.shrink([2, 1])

    pack = fit(tmp_path, pack_of(0, 1, 2), 3, callbacks=[AfterEpoch(act)])
    assert pack.ages() == [(3, 3), (4, 2)]
    for lane, which, epochs in ((0, 2, 3), (1, 3, 2)):
        plain = module(which)
        assert_same(pack, lane, plain, fit_alone(tmp_path, plain, which + 1, epochs))


def test_diverged_lane_fails_alone(tmp_path: Path) -> None:
    lost = module(1, lr=float("1e300"), name="sgd")
    others = [module(k, name="sgd") for k in (0, 2)]
    pack = fit(tmp_path, VmappedPack([others[0], lost, others[1]], seeds=[1, 2, 3]))
    assert [pack.failed(lane) for lane in range(3)] == [False, True, False]
    plain = module(2, name="sgd")
    assert_same(pack, 2, plain, fit_alone(tmp_path, plain, 3))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_usual_precisions_train(tmp_path: Path, precision: str) -> None:
    pack = fit(tmp_path, pack_of(3, 3), 10, precision=precision)
    assert min(pack.metrics(lane)["val_accuracy"] for lane in range(2)) > 0.3


@pytest.mark.parametrize("network", [MLP, CNN])
def test_our_own_pack_computes_what_vmap_does(tmp_path: Path, network: dict[str, Any]) -> None:
    some = [{**trial, "label_smoothing": 0.1} for trial in trials(network, [0, 1, 3])]
    ours = fit(tmp_path, Pack(some))
    vmapped = [WithLoss(**trial) for trial in some]
    pack = fit(tmp_path, VmappedPack(vmapped, seeds=[trial["seed"] for trial in some]))
    for lane in range(3):
        mine = {k.removeprefix("network."): v for k, v in pack.lane_state(lane).items()}
        torch.testing.assert_close(mine, ours.lane_state(lane), rtol=1e-6, atol=1e-7)
        assert pack.metrics(lane)["train_loss"] == pytest.approx(ours.metrics(lane)["train_loss"])
        assert pack.metrics(lane)["val_loss"] == pytest.approx(_smoothed(ours, lane))


class WithLoss(Classifier):
    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], label_smoothing=self.label_smoothing)


def _smoothed(pack: Pack, lane: int) -> float:
    """The validation loss of a lane, which `Pack` does not report."""
    source = data()
    source.setup("fit")
    x, y = next(iter(source.val_dataloader()))
    plain = pack.classifier(lane).eval().double()
    with torch.no_grad():
        return float(F.cross_entropy(plain(x.double()), y, label_smoothing=0.1))


# Modules that come back


def test_module_of_a_lane_goes_on_as_the_trial_would() -> None:
    pack, plain, batches = pack_of(0, 1), module(0), [batch_of(2) for _ in range(3)]
    for x, y in batches[:2]:
        pack.training_step((x, y), 0)
        plain.loss((x[0], y[0]))
    back, (x, y) = pack.module(0), batches[2]
    assert isinstance(back, Theirs)
    torch.testing.assert_close(dict(back.state_dict()), dict(plain.state_dict()))
    torch.testing.assert_close(back.loss((x[0], y[0])), plain.loss((x[0], y[0])))


def test_checkpoint_of_a_lane_is_a_plain_one(tmp_path: Path) -> None:
    pack = fit(tmp_path, pack_of(0, 2), precision="32-true")
    for lane, which in enumerate((0, 2)):
        path = tmp_path / f"{lane}.ckpt"
        torch.save(pack.checkpoint(lane), path)
        model = Theirs.load_from_checkpoint(path, weights_only=True)
        assert dict(model.hparams) == {**SETTINGS[which], "name": "adam"}
        trainer = quiet_trainer(tmp_path, 1)
        (metrics,) = trainer.validate(model, data(), verbose=False)
        known = pack.metrics(lane)
        assert metrics["val_nll"] == pytest.approx(known["val_nll"], rel=1e-4)
        trained = pack.module(lane)
        assert isinstance(trained, Theirs)
        assert [m.step for m in trained.modules() if isinstance(m, Dropout)] == [8, 8]


# What can be packed


def test_modules_of_the_protocol_can_be_packed() -> None:
    plain = module(0)
    before = copy.deepcopy(plain.state_dict())
    assert can_pack(plain) is None
    assert can_pack(plain, batch_of()) is None
    torch.testing.assert_close(plain.state_dict(), before, rtol=0, atol=0)
    assert [m.step for m in plain.modules() if isinstance(m, Dropout)] == [0, 0]


class Reads(Theirs):
    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) * (2 if super().loss(batch) > 1 else 1)


class Counts(Theirs):
    def loss(self, batch: Batch) -> Tensor:
        return super().loss(batch) / super().loss(batch).item()


class Logs(Theirs):
    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        self.log("train_loss", loss)
        return loss


class Draws(Theirs):
    def loss(self, batch: Batch) -> Tensor:
        return super().loss((batch[0] + torch.randn_like(batch[0]), batch[1]))


class Torchs(Theirs):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.head[3] = nn.Dropout(0.2)


class Unseeded(Theirs):
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.head[3] = Dropout(0.2)


class Forgets(Theirs):
    count: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.register_buffer("count", torch.zeros(()))

    def loss(self, batch: Batch) -> Tensor:
        self.count = self.count + 1
        return super().loss(batch)


class Two(Theirs):
    def loss(self, batch: Batch) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1], reduction="none")


class Scheduled(Theirs):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)]


class Grouped(Theirs):
    def configure_optimizers(self) -> Any:
        groups = [{"params": self.convolution.parameters()}, {"params": self.head.parameters()}]
        return torch.optim.Adam(groups)


class Odd(Theirs):
    def configure_optimizers(self) -> Any:
        return torch.optim.RMSprop(self.parameters())


REASONS = [
    (Reads, "data-dependent control flow"),
    (Counts, r"\.item\(\)"),
    (Logs, "calls log; leave that to training_step"),
    (Draws, "random"),
    (Torchs, "head.3 is torch's Dropout.*retrofit"),
    (Unseeded, "head.3 has no seed; call seed_dropout"),
    (Forgets, "count is not the same in a pack as alone"),
    (Two, r"expected one number with a gradient, got shape \[20\]"),
    (Scheduled, "without a schedule, got tuple; set the attribute optimizer_settings"),
    (Grouped, "one parameter group, got 2"),
    (Odd, "one of Adam, AdamW, SGD, got RMSprop"),
]


@pytest.mark.parametrize(("kind", "reason"), REASONS, ids=[kind.__name__ for kind, _ in REASONS])
def test_reason_says_what_cannot_be_packed(kind: type[Theirs], reason: str) -> None:
    said = can_pack(kind(**SETTINGS[0]), batch_of())
    assert said is not None
    assert "\n" not in said
    with pytest.raises(ValueError, match=reason):
        raise ValueError(said)


def test_loss_function_kept_as_an_attribute_is_no_method() -> None:
    plain = nn.Linear(3, 3)
    plain.loss = nn.CrossEntropyLoss()
    assert "no method loss(batch)" in str(can_pack(plain))
    with pytest.raises(TypeError, match="pack: Linear has no method"):
        VmappedPack([plain], seeds=[0])


def test_numbers_that_the_loss_reads_must_agree() -> None:
    smoothed = module(1)
    smoothed.smoothing = 0.1
    pack = VmappedPack([module(0), smoothed], seeds=[1, 2])
    with pytest.raises(ValueError, match=r"smoothing to be the same.* got 0\.0 and 0\.1"):
        pack.training_step(batch_of(2), 0)


def test_refill_is_held_against_what_the_loss_reads() -> None:
    pack, smoothed = pack_of(0, 1), module(2)
    pack.training_step(batch_of(2), 0)
    smoothed.smoothing = 0.1
    with pytest.raises(ValueError, match="smoothing to be the same"):
        pack.refill(0, smoothed, seed=3)


def test_modules_of_other_shapes_are_refused() -> None:
    wider = module(1)
    wider.head[8] = nn.Linear(16, 11)
    with pytest.raises(ValueError, match=r"head\.8\.weight .* another pack"):
        VmappedPack([module(0), wider], seeds=[1, 2])


def test_another_kind_of_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="optimizer to be adam in every lane, got sgd"):
        pack_of(0).refill(0, module(1, name="sgd"), seed=2)


def test_packs_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one module"):
        VmappedPack([], seeds=[])
    with pytest.raises(ValueError, match="at least one lane"):
        pack_of(0).shrink([])


# Details


def test_parameters_with_two_names_stay_one(tmp_path: Path) -> None:
    def tied(which: int) -> Theirs:
        plain = module(which)
        plain.twin = plain.head[0]
        return plain

    pack = fit(tmp_path, VmappedPack([tied(0), tied(3)], seeds=[1, 4]))
    plain = tied(3)
    assert_same(pack, 1, plain, fit_alone(tmp_path, plain, 4))


def test_parameters_outside_the_optimizer_stay_as_they_are(tmp_path: Path) -> None:
    class Frozen(Theirs):
        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.head.parameters(), lr=self.lr)

    pack = fit(tmp_path, VmappedPack([Frozen(**SETTINGS[k]) for k in (0, 3)], seeds=[1, 4]))
    plain = Frozen(**SETTINGS[3])
    assert_same(pack, 1, plain, fit_alone(tmp_path, plain, 4))
    start = Frozen(**SETTINGS[3]).convolution.weight.double()
    assert torch.equal(pack.lane_state(1)["convolution.weight"], start)


def test_dropout_together_draws_each_lanes_mask_on_the_device() -> None:
    layers = [Dropout(rate, seed=seed) for rate, seed in ((0.0, 1), (0.5, 2), (0.3, 3))]
    noise, x = LaneNoise(layers), torch.randn(3, 4, 5)
    for step in (1, 2):
        y = noise.together(x)
        rate, seed = torch.tensor([0.0, 0.5, 0.3]), torch.tensor([1, 2, 3])
        keep = keep_mask_on_device(x.shape, rate, seed, torch.full((3,), step))
        torch.testing.assert_close(y, x * keep / (1 - rate).view(3, 1, 1))


def test_a_norm_that_vmap_would_take_for_another_is_refused() -> None:
    class Ghost(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = Block(5, 3, norm="ghost", ghost_batch=4, dropout=None)

        def loss(self, batch: Batch) -> Tensor:
            return self.network(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    assert can_pack(Ghost()) == "network.norm is GhostBatchNorm, which is no plain batch norm"


def test_a_frozen_norm_of_torchs_is_refused() -> None:
    """Its momentum of 0 would be taken for the cumulative average."""
    assert can_pack(Theirs(**{**SETTINGS[0], "momentum": 0.0})) == (
        "norm has momentum 0, which is the cumulative average in a pack"
    )
