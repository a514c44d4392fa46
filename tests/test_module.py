"""Classifier: trains under a plain Trainer, comes back from checkpoints, and says what is wrong."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropnorm import Classifier, Synthetic
from dropnorm.blocks import BatchNorm, Dropout, seed_dropout
from dropnorm.uncertainty import mc_dropout

SHAPE, CLASSES = (1, 8, 8), 4
PLAIN = (dict, list, tuple, str, int, float, bool, type(None))
BATCHES = 8  # in an epoch of `data`


@pytest.fixture
def data() -> Synthetic:
    sizes = {"train_size": 256, "val_size": 301, "test_size": 202}
    return Synthetic(**sizes, batch_size=32, eval_batch_size=128)


def classifier(network: str | nn.Module = "mlp", **settings: Any) -> Classifier:
    if network == "mlp":
        settings = {"hidden": [16, 16], "dropout": 0.5, **settings}
    elif network == "cnn":
        settings = {"channels": [4, 8], "hidden": [16], "dropout": 0.5, **settings}
    return Classifier(network, input_shape=SHAPE, classes=CLASSES, **settings)


def quiet_trainer(folder: Path, **settings: Any) -> pl.Trainer:
    """Without output and files; one epoch unless told otherwise."""
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "enable_checkpointing": False, "max_epochs": 1}
    return pl.Trainer(default_root_dir=folder, **{**quiet, **defaults, **settings})


def images(data: Synthetic, part: str) -> tuple[Tensor, Tensor]:
    """All of a part at once: x [N, 1, 8, 8], y [N]."""
    whole = data.part(part)
    return whole.between(0, len(whole))


def same_state(a: nn.Module, b: nn.Module) -> bool:
    theirs = b.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in a.state_dict().items())


# Training


def test_ten_lines_with_a_plain_trainer_learn(tmp_path: Path) -> None:
    data = Synthetic()
    model = Classifier("mlp", input_shape=data.input_shape, classes=data.classes, hidden=[64])
    trainer = pl.Trainer(
        max_epochs=5, accelerator="cpu", logger=False, default_root_dir=tmp_path,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, data)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert set(metrics) == {"train_loss", "val_accuracy", "val_nll", "val_ece"}
    # One of four classes at random: 0.25 ± 0.02 (512 images), and a loss of log 4.
    assert metrics["val_accuracy"] > 0.6
    assert metrics["val_nll"] < 0.8 * math.log(4)
    (tested,) = trainer.test(model, data, verbose=False)
    assert set(tested) == {"test_accuracy", "test_nll", "test_ece"}
    assert tested["test_accuracy"] > 0.6


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_same_seed_trains_to_the_same_weights_whatever_the_global_generator(
    tmp_path: Path, data: Synthetic, network: str
) -> None:
    trained = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        model = classifier(network, seed=seed)
        quiet_trainer(tmp_path).fit(model, data)
        trained.append(model)
    first, again, other = trained
    assert same_state(first, again)
    assert not same_state(first, other)


def test_seed_keys_initial_weights_and_masks_and_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    one, two = classifier(seed=1), classifier(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(one.network[1].weight.weight, two.network[1].weight.weight)
    seeds = [int(m.seed) for model in (one, two) for m in model.modules() if type(m) is Dropout]
    assert len(set(seeds)) == 4


def test_training_loss_is_cross_entropy_with_label_smoothing() -> None:
    model = classifier(label_smoothing=0.2).eval()  # without dropout, to compute it again
    x, y = torch.randn(6, *SHAPE), torch.tensor([0, 1, 2, 3, 0, 1])
    log_p = model(x).log_softmax(-1)
    target = F.one_hot(y, CLASSES) * 0.8 + 0.2 / CLASSES
    torch.testing.assert_close(model.training_step((x, y), 0), -(target * log_p).sum(-1).mean())


def test_mixed_precision_trains(tmp_path: Path, data: Synthetic) -> None:
    trainer = quiet_trainer(tmp_path, precision="bf16-mixed", max_epochs=5)
    trainer.fit(classifier(hidden=[64], dropout=0.1), data)
    assert trainer.callback_metrics["val_accuracy"] > 0.5  # at random: 0.25 ± 0.025


# Metrics


def expected_metrics(logits: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Accuracy, NLL in nats and ECE in 15 bins, from their definitions."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    confidence, correct = p.max(-1), p.argmax(-1) == y
    bins = np.ceil(confidence * 15)
    gaps = [
        abs(confidence[bins == b].mean() - correct[bins == b].mean()) * (bins == b).mean()
        for b in np.unique(bins)
    ]
    nll = -np.log(p[np.arange(len(y)), y]).mean()
    return {"accuracy": correct.mean(), "nll": nll, "ece": sum(gaps)}


@pytest.mark.parametrize("part", ["val", "test"])
def test_metrics_equal_their_definitions_though_batches_and_classes_are_unequal(
    tmp_path: Path, data: Synthetic, part: str
) -> None:
    model, trainer = classifier(), quiet_trainer(tmp_path, max_epochs=3)
    trainer.fit(model, data)
    evaluate = {"val": trainer.validate, "test": trainer.test}[part]
    (got,) = evaluate(model, data, verbose=False)
    x, y = images(data, part)
    assert len(y) % data.eval_batch_size and len(y) % CLASSES
    logits = model.eval()(x).detach().double().numpy()
    expected = {f"{part}_{k}": v for k, v in expected_metrics(logits, y.numpy()).items()}
    # Float32 sums of 301 numbers of about 1: a few 1e-7, with logits rounded as often.
    assert got == pytest.approx(expected, abs=3e-6)


class Watch(pl.Callback):
    """The loss and learning rate of every training step, and train_loss of every epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.logged: list[float] = []

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.logged.append(float(trainer.callback_metrics["train_loss"]))


def test_train_loss_is_the_mean_over_the_batches_of_its_epoch(
    tmp_path: Path, data: Synthetic
) -> None:
    watch = Watch()
    quiet_trainer(tmp_path, max_epochs=3, callbacks=[watch]).fit(classifier(), data)
    expected = np.array(watch.losses).reshape(3, BATCHES).mean(1)
    assert watch.logged == pytest.approx(expected.tolist(), rel=1e-6)  # a float32 sum of 8


# Schedules


def test_cosine_runs_over_all_batches_of_all_epochs(tmp_path: Path, data: Synthetic) -> None:
    watch, steps = Watch(), 3 * BATCHES
    model = classifier(optimizer={"lr": 0.1, "schedule": "cosine"})
    quiet_trainer(tmp_path, max_epochs=3, callbacks=[watch]).fit(model, data)
    expected = [0.1 * (1 + math.cos(math.pi * step / steps)) / 2 for step in range(steps)]
    assert watch.rates == pytest.approx(expected, abs=1e-15)


class StopAtOnce(pl.Callback):
    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        trainer.should_stop = True


def test_training_without_an_end_takes_a_constant_rate_only(
    tmp_path: Path, data: Synthetic
) -> None:
    endless = {"max_epochs": -1, "callbacks": [StopAtOnce()]}
    quiet_trainer(tmp_path, **endless).fit(classifier(), data)
    model = classifier(optimizer={"schedule": "cosine"})
    with pytest.raises(ValueError, match=r"cosine expects a training with an end, .* max_epochs"):
        quiet_trainer(tmp_path, **endless).fit(model, data)


# Checkpoints


@pytest.fixture
def checkpoint(tmp_path: Path, data: Synthetic) -> tuple[Classifier, Path]:
    """A trained model and its checkpoint."""
    model = classifier("cnn", optimizer={"name": "sgd", "lr": 0.1})
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "a model.ckpt")
    return model, tmp_path / "a model.ckpt"


def assert_plain(value: object) -> None:
    assert type(value) in PLAIN
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple):
        for part in value:
            assert_plain(part)


def test_checkpoint_holds_plain_hyperparameters(checkpoint: tuple[Classifier, Path]) -> None:
    hyperparameters = torch.load(checkpoint[1], weights_only=True)["hyper_parameters"]
    assert_plain(dict(hyperparameters))
    assert hyperparameters["optimizer"] == {"name": "sgd", "lr": 0.1}
    assert hyperparameters["channels"] == [4, 8]


def test_loading_with_weights_only_gives_bitwise_the_same_logits(
    checkpoint: tuple[Classifier, Path], data: Synthetic
) -> None:
    model, path = checkpoint
    torch.manual_seed(99)
    loaded = Classifier.load_from_checkpoint(path, weights_only=True)
    x, _ = images(data, "test")
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert loaded.hparams == model.hparams


def record_dropout(model: Classifier) -> list[Tensor]:
    """Grows by what each dropout layer puts out at each training step."""
    seen: list[Tensor] = []

    def keep(layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if layer.training:
            seen.append(output.detach().clone())

    for layer in model.modules():
        if isinstance(layer, Dropout):
            layer.register_forward_hook(keep)
    return seen


class SaveAfter(pl.Callback):
    """A checkpoint after that many steps."""

    def __init__(self, steps: int, path: Path) -> None:
        self._steps, self._path = steps, path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._steps:
            trainer.save_checkpoint(self._path)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("stop", [BATCHES + 3, 2 * BATCHES], ids=["within", "after"])
def test_resumed_training_draws_the_masks_of_one_that_never_stopped(
    tmp_path: Path, data: Synthetic, stop: int, schedule: str
) -> None:
    """Saved within an epoch or after one; from there on everything is bitwise the same."""
    layers = 2

    def fit(resume: Path | None = None) -> tuple[Classifier, list[Tensor]]:
        model = classifier(optimizer={"schedule": schedule})
        seen = record_dropout(model)
        saving = SaveAfter(stop, tmp_path / "middle.ckpt")
        trainer = quiet_trainer(tmp_path, max_epochs=3, callbacks=[saving])
        trainer.fit(model, data, ckpt_path=resume, weights_only=True)
        return model, seen

    model, seen = fit()
    resumed, seen_again = fit(tmp_path / "middle.ckpt")
    rest = seen[stop * layers :]
    assert len(seen) == 3 * BATCHES * layers
    assert len(seen_again) == len(rest)
    assert all(torch.equal(a, b) for a, b in zip(seen_again, rest, strict=True))
    assert same_state(resumed, model)


def test_loaded_model_goes_on_with_the_next_masks(checkpoint: tuple[Classifier, Path]) -> None:
    model, path = checkpoint
    loaded = Classifier.load_from_checkpoint(path, weights_only=True)
    steps = [[int(m.step) for m in c.modules() if type(m) is Dropout] for c in (model, loaded)]
    assert steps[0] == steps[1] == [BATCHES] * 3
    ones = torch.ones(100)
    pairs = zip(model.train().modules(), loaded.train().modules(), strict=True)
    drops = [(a, b) for a, b in pairs if isinstance(a, Dropout)]
    assert all(torch.equal(a(ones), b(ones)) for a, b in drops)


# A network of one's own


def own_network() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), Dropout(0.5),
        nn.Linear(16, CLASSES),
    )  # fmt: skip


def test_own_module_trains_and_comes_back_when_passed_again(
    tmp_path: Path, data: Synthetic
) -> None:
    model, trainer = classifier(own_network(), seed=3), quiet_trainer(tmp_path, max_epochs=2)
    trainer.fit(model, data)
    trainer.save_checkpoint(tmp_path / "own.ckpt")
    loaded = Classifier.load_from_checkpoint(
        tmp_path / "own.ckpt", weights_only=True, network=own_network()
    )
    x, _ = images(data, "test")
    assert torch.equal(loaded.eval()(x), model.eval()(x))
    assert "network" not in model.hparams
    assert model.network[4].seed == loaded.network[4].seed >= 0  # its dropout is keyed too
    assert loaded.network[4].step == 2 * BATCHES


# Prediction


def predict(folder: Path, model: Classifier, data: Synthetic) -> dict[str, Tensor]:
    batches = quiet_trainer(folder).predict(model, data)
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def test_prediction_gives_the_probabilities_of_the_test_part(
    tmp_path: Path, data: Synthetic
) -> None:
    model, (x, _) = classifier(), images(data, "test")
    got = predict(tmp_path, model, data)
    assert set(got) == {"probabilities"}
    torch.testing.assert_close(got["probabilities"], model.eval()(x).softmax(-1))
    batch = model.predict_step(x)  # without labels as well
    torch.testing.assert_close(batch["probabilities"], got["probabilities"])


def test_prediction_with_mc_samples_averages_passes_with_dropout_on(
    tmp_path: Path, data: Synthetic
) -> None:
    model = classifier(mc_samples=10)
    twin = copy.deepcopy(model.network)
    got = predict(tmp_path, model, data)
    assert set(got) == {"probabilities", "entropy", "mutual_information"}
    x, _ = images(data, "test")
    seed_dropout(twin, 0)
    expected = [mc_dropout(twin, part, 10) for part in x.split(data.eval_batch_size)]
    for name, value in got.items():
        torch.testing.assert_close(value, torch.cat([part[name] for part in expected]))
    assert (got["mutual_information"] > 0).all()
    assert (got["entropy"] >= got["mutual_information"]).all()


# For use elsewhere


@pytest.mark.parametrize("network", ["mlp", "cnn"])
def test_classifier_network_and_folded_network_export(network: str) -> None:
    model = classifier(network).eval()
    x, more = torch.randn(5, *SHAPE), torch.randn(9, *SHAPE)
    batch = ({0: torch.export.Dim("batch")},)
    for module in (model, model.network, model.fold()):
        exported = torch.export.export(module, (x,), dynamic_shapes=batch).module()
        torch.testing.assert_close(exported(more), model(more))


def test_folding_gives_the_logits_without_norms_and_dropout(
    checkpoint: tuple[Classifier, Path], data: Synthetic
) -> None:
    model, (x, _) = checkpoint[0].eval(), images(data, "test")
    folded = model.fold()
    assert not any(isinstance(m, BatchNorm | Dropout) for m in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-5, atol=1e-5)


def test_example_input_fits() -> None:
    model = classifier("cnn")
    assert model(model.example_input_array).shape == (2, CLASSES)


# Errors


class Tiny(nn.Linear):
    """A network of one's own, as short as can be."""

    def __init__(self) -> None:
        super().__init__(1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"network": "mpl"}, r"network: expected mlp, cnn or a module, got 'mpl'"),
        ({"hiden": [3]}, r"Classifier\(mlp\)\.hiden: unknown key; did you mean 'hidden'\?"),
        ({"dropuot": 0.1}, r"Classifier\(mlp\)\.dropuot: unknown key; did you mean 'dropout'\?"),
        ({"optimiser": {}}, r"\.optimiser: unknown key; did you mean 'optimizer'\?"),
        ({"kernel": 3}, r"Classifier\(mlp\)\.kernel: unknown key; expected .*, hidden, .*norm,"),
        ({"network": Tiny(), "hidden": [3]}, r"Classifier\(Tiny\)\.hidden: unknown key; expected"),
        ({"optimizer": {"lrr": 1}}, r"optimizer\.lrr: unknown key; did you mean 'lr'\?"),
        ({"dropout": 1.0}, r"dropout: expected 0 <= rate < 1, got 1\.0"),
        ({"bn_momentum": 2.0}, r"bn_momentum: expected 0 < momentum <= 1 or None, got 2\.0"),
        ({"activation": "rleu"}, r"activation: expected one of relu, .*, got 'rleu'"),
        ({"hidden": 512}, r"hidden: expected a list of widths, got 512; type \[512\]"),
    ],
)
def test_unknown_names_and_values_out_of_range_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Classifier(**settings)


def test_mc_samples_without_dropout_are_refused() -> None:
    model = classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)), mc_samples=5)
    with pytest.raises(ValueError, match="expected a network with dropout, got none"):
        model.predict_step(torch.ones(2, *SHAPE))
