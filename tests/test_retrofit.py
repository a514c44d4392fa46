"""Retrofit: anyone's module gets our layers in place, keeps its names and values, and goes back."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch.demos.transformer as unified_transformer
import pytest
import pytorch_lightning.demos.boring_classes as boring
import pytorch_lightning.demos.lstm as lstm
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.utils.data import DataLoader, TensorDataset

from dropnorm.blocks import BatchNorm, Dropout, seed_dropout
from dropnorm.pack import stack
from dropnorm.pack.stacked import Stacked
from dropnorm.retrofitting import retrofit, unretrofit
from tests.plain_modules import PACKAGES, loaders, network, plain_module, trainer


class Images(nn.Module):
    """Every kind of layer that is replaced, and some that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, eps=1e-3), nn.ReLU(), nn.Dropout2d(0.3)
        )
        self.head = nn.Sequential(
            nn.Flatten(), nn.Linear(4 * 36, 8), nn.BatchNorm1d(8, momentum=None), nn.Dropout(0.5)
        )
        self.selu = nn.AlphaDropout(0.1)
        self.last = nn.LSTM(8, 5, 2, dropout=0.2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.selu(self.head(self.body(x)))[:, None])[0]
        return y


@pytest.fixture
def images() -> Images:
    module = Images()
    for _ in range(3):  # so that running statistics are not those of the start
        module(torch.randn(8, 1, 8, 8) + 1)
    return module


@pytest.fixture
def x() -> Tensor:
    return torch.randn(6, 1, 8, 8)


def state_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


# What is replaced


def test_layers_are_replaced_and_keep_their_values(images: Images) -> None:
    changes = retrofit(images)
    assert str(changes) == (
        "changed (4)\n"
        "  body.1  BatchNorm2d(0.1) -> BatchNorm(0.1)\n"
        "  body.3  Dropout2d(0.3) -> Dropout(0.3)\n"
        "  head.2  BatchNorm1d(None) -> BatchNorm(None)\n"
        "  head.3  Dropout(0.5) -> Dropout(0.5)\n"
        "left alone (2)\n"
        "  selu    AlphaDropout keeps SELU's mean and variance, as dropout would not\n"
        "  last    LSTM has dropout=0.2 inside, not as a layer"
    )
    assert isinstance(images.body[1], BatchNorm) and isinstance(images.body[3], Dropout)
    assert images.body[1].eps == 1e-3
    assert images.head[2].momentum is None


def test_values_are_set_everywhere(images: Images) -> None:
    retrofit(images, dropout=0.2, bn_momentum=0.03)
    torch.testing.assert_close(images.body[3].rate, torch.tensor(0.2))
    torch.testing.assert_close(images.head[3].rate, torch.tensor(0.2))
    torch.testing.assert_close(images.head[2].momentum, torch.tensor(0.03))


def test_first_pattern_that_matches_gives_the_value(images: Images) -> None:
    retrofit(images, dropout={"body.*": 0.1, "*": 0.4}, bn_momentum={"BatchNorm2d": None})
    assert images.body[3].extra_repr() == "rate=0.1"
    assert images.head[3].extra_repr() == "rate=0.4"
    assert images.body[1].momentum is None


def test_where_restricts_what_is_touched(images: Images) -> None:
    retrofit(images, dropout=0.2, where="head.*")
    assert type(images.body[3]) is nn.Dropout2d and images.body[3].p == 0.3
    assert isinstance(images.head[3], Dropout)


def test_second_call_sets_the_values_of_the_first(images: Images) -> None:
    retrofit(images, dropout=0.2, insert="ReLU")
    changes = retrofit(images, dropout=0.3, bn_momentum=0.2, insert=nn.ReLU)
    assert all(m.extra_repr() == "rate=0.3" for m in images.modules() if isinstance(m, Dropout))
    assert changes.made["body.1"] == "BatchNorm(0.1) -> BatchNorm(0.2)"
    assert len(images.body[2]._forward_hooks) == 1


def test_shared_layer_stays_shared() -> None:
    drop = nn.Dropout(0.5)
    module = nn.Sequential(nn.Linear(4, 4), drop, nn.Linear(4, 4), drop)
    retrofit(module, dropout=0.1)
    assert module[1] is module[3]
    unretrofit(module)
    assert module[1] is module[3]


@pytest.mark.parametrize(
    ("kind", "shape", "dropped"),
    [
        (nn.Dropout1d, (40, 30, 5), (2,)),
        (nn.Dropout1d, (300, 5), (1,)),  # one example without a batch, as torch allows
        (nn.Dropout2d, (40, 30, 5, 5), (2, 3)),
        (nn.Dropout3d, (40, 30, 3, 3, 3), (2, 3, 4)),
        (nn.Dropout3d, (300, 3, 3, 3), (1, 2, 3)),
    ],
)
def test_numbered_dropout_drops_whole_channels(
    kind: type[nn.Module], shape: tuple[int, ...], dropped: tuple[int, ...]
) -> None:
    module = nn.Sequential(kind(0.25))
    retrofit(module)
    kept = module(torch.ones(shape)) != 0
    assert torch.equal(kept.all(dropped), kept.any(dropped))
    # 300 channels or more at 0.75: three standard deviations are 0.075.
    assert abs(kept.float().mean() - 0.75) < 0.075


def test_training_mode_batch_norm_is_torchs(x: Tensor, images: Images) -> None:
    plain = copy.deepcopy(images)
    retrofit(images)
    for module in (plain, images):
        module.body[:2].train()
    torch.testing.assert_close(images.body[:2](x), plain.body[:2](x))
    assert same(state_of(images.body[1]), state_of(plain.body[1])) or torch.allclose(
        images.body[1].running_var, plain.body[1].running_var
    )


def test_volumes_go_through_a_retrofitted_batch_norm_of_theirs() -> None:
    module = nn.Sequential(nn.BatchNorm3d(2))
    plain, x = copy.deepcopy(module), torch.randn(4, 2, 3, 3, 3)
    retrofit(module)
    torch.testing.assert_close(module(x), plain(x))
    with pytest.raises(ValueError, match="expected 5D input"):
        module(torch.randn(4, 2))


# Old checkpoints, and the way back


def test_names_and_values_of_the_state_stay_and_old_checkpoints_load(
    images: Images, x: Tensor
) -> None:
    file = io.BytesIO()
    torch.save(images.state_dict(), file)
    file.seek(0)
    expected = copy.deepcopy(images).eval()(x)
    before = state_of(images)
    retrofit(images, dropout=0.2, bn_momentum=0.3, insert="Conv2d")
    assert same(state_of(images), before)
    fresh = Images()
    retrofit(fresh, dropout=0.2, bn_momentum=0.3, insert="Conv2d")
    fresh.load_state_dict(torch.load(file))
    assert torch.equal(fresh.eval()(x), expected)


def test_parameters_are_shared_so_an_optimizer_goes_on(images: Images, x: Tensor) -> None:
    optimizer = torch.optim.SGD(images.parameters(), lr=0.1)
    before = state_of(images)
    retrofit(images, dropout=0.2)
    images(x).sum().backward()
    optimizer.step()
    assert not torch.equal(images.body[1].weight, before["body.1.weight"])


@pytest.mark.parametrize("insert", [None, "ReLU", "body"])
def test_there_and_back_is_bitwise_the_same(images: Images, x: Tensor, insert: str | None) -> None:
    expected = copy.deepcopy(images).eval()(x)
    layers = [type(m) for m in images.modules()]
    before = state_of(images)
    retrofit(images, dropout=0.2, bn_momentum=0.3, insert=insert)
    assert torch.equal(images.eval()(x), expected)
    unretrofit(images)
    assert torch.equal(images.eval()(x), expected)
    assert [type(m) for m in images.modules()] == layers
    assert same(state_of(images), before)
    assert (images.body[3].p, images.body[1].momentum) == (0.2, 0.3)


def test_modes_and_options_survive_the_way(images: Images) -> None:
    images.body.eval()
    images.head[3].inplace = True
    retrofit(images)
    unretrofit(images)
    assert not images.body[1].training and images.head[2].training
    assert images.head[3].inplace


def test_a_copy_can_go_back_too(images: Images, x: Tensor) -> None:
    retrofit(images, dropout=0.2, insert="ReLU")
    twin = copy.deepcopy(images)
    assert torch.equal(twin.eval()(x), images.eval()(x))
    unretrofit(twin)
    assert type(twin.body[2]) is nn.ReLU and not twin.body[2]._forward_hooks
    assert isinstance(images.body[3], Dropout)


# Inserting


@pytest.mark.parametrize("insert", ["*.2", "ReLU", nn.ReLU, "body", ["nothing*", "ReLU"][1:]])
def test_dropout_is_inserted_after_what_matches(insert: Any) -> None:
    module = nn.Sequential()
    module.add_module("body", nn.Sequential(nn.Linear(4, 400), nn.Identity(), nn.ReLU()))
    changes = retrofit(module, dropout=0.5, insert=insert)
    assert changes.made == {"body.2": "ReLU, then Dropout(0.5)"}
    hidden, x = module.body[:2], torch.randn(8, 4)
    before = hidden(x).relu()
    after = module(x)
    kept = after != 0
    torch.testing.assert_close(after[kept], 2 * before[kept])
    assert 0.4 < kept.sum() / (before != 0).sum() < 0.6
    assert torch.equal(module.eval()(x), before)


def test_dropout_is_inserted_after_the_first_of_several_outputs() -> None:
    module = nn.ModuleDict({"rnn": nn.LSTM(3, 200, batch_first=True)})
    retrofit(module, dropout=0.5, insert="rnn")
    outputs, (h, _) = module["rnn"](torch.randn(2, 5, 3))
    assert 0.3 < (outputs == 0).float().mean() < 0.7
    assert (h != 0).all()


def test_inserted_dropout_is_keyed_like_any_other() -> None:
    module, x = network(), torch.randn(8, 12)
    retrofit(module, dropout=0.5, insert="Linear")
    runs = []
    for _ in range(2):
        seed_dropout(module, 3)
        runs.append(module(x))
    assert torch.equal(*runs)


# Refusals, before anything is changed


class OwnNorm(nn.BatchNorm1d):
    """As people derive them."""


def weight_normed() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    parametrize.register_parametrization(norm, "weight", nn.Softplus())
    return norm


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.norm(self.first(x)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"where": "tail.*"}, r"where='tail\.\*' matches no layer; found body \(Sequential\), bod"),
        ({"insert": "GELU", "dropout": 0.1}, "insert='GELU' matches no layer; found body"),
        (
            {"dropout": {"tail": 0.1}},
            r"dropout\['tail'\]=0.1 meets no such layer; found body.3 \(D",
        ),
        ({"bn_momentum": {"*.3": 0.1}}, r"bn_momentum\['\*.3'\]=0.1 meets no .* found body.1 \(B"),
        ({"dropout": 0.1, "where": "body.1"}, "dropout=0.1 meets no such layer; found none"),
        ({"dropout": 1.0}, "expected 0 <= rate < 1, got 1.0"),
        ({"bn_momentum": 0.0}, "expected 0 < momentum <= 1 or None, got 0.0"),
        ({"insert": "ReLU"}, "insert: needs a rate, got dropout=None; type dropout=0.1"),
        ({"where": "last"}, "expected nn.Dropout or nn.BatchNorm layers.* last: LSTM has dropout"),
    ],
)
def test_what_meets_nothing_is_refused_with_what_was_found(
    images: Images, settings: dict[str, Any], message: str
) -> None:
    layers = list(images.modules())
    with pytest.raises(ValueError, match=message):
        retrofit(images, **settings)
    assert list(images.modules()) == layers


def test_module_without_such_layers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found 0 \(Linear\)"):
        retrofit(nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(ValueError, match="expected layers that retrofit replaced"):
        unretrofit(nn.Sequential(nn.Dropout()))


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (OwnNorm(3), "OwnNorm is a class of its own"),
        (nn.Dropout(1.0), "p=1"),
        (nn.BatchNorm1d(3, track_running_stats=False), "no running statistics"),
        (nn.BatchNorm1d(3, momentum=0.0), "momentum 0"),
        (nn.LazyBatchNorm1d(), "has not seen a batch yet; run one through"),
        (weight_normed(), "BatchNorm1d is parametrized"),
        (torch.compile(nn.BatchNorm1d(3), backend="eager"), "compiled by itself; retrofit before"),
    ],
)
def test_layers_that_we_cannot_stand_in_for_are_left_alone(layer: nn.Module, reason: str) -> None:
    module = nn.Sequential(layer, nn.Dropout(0.5))
    changes = retrofit(module)
    assert module[0] is layer
    assert reason in str(changes.left.values())


def test_layer_with_hooks_is_left_alone() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    module[0].register_forward_hook(lambda *_: None)
    assert retrofit(module).left == {"0": "Dropout has hooks of its own"}


# Modules that are not plain trees of layers


def test_norm_with_two_names_stays_one_and_goes_on_as_it_was() -> None:
    norm, x = nn.BatchNorm1d(4), torch.randn(8, 4)
    module = nn.Sequential(nn.Linear(4, 4), norm, nn.Linear(4, 4), norm)
    plain = copy.deepcopy(module)
    retrofit(module, bn_momentum=0.1)
    assert module[1] is module[3]
    torch.testing.assert_close(module(x), plain(x))
    assert module[1].num_batches_tracked == 2
    unretrofit(module)
    assert module[1] is module[3] and type(module[1]) is nn.BatchNorm1d
    torch.testing.assert_close(dict(module.state_dict()), dict(plain.state_dict()))


def test_layers_beside_lazy_ones_are_replaced_and_the_lazy_ones_work() -> None:
    module = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Dropout(0.3))
    changes = retrofit(module, dropout=0.9, insert="ReLU")
    module(torch.randn(8, 3))
    assert list(changes.left) == ["1"] and type(module[1]) is nn.BatchNorm1d
    assert retrofit(module, bn_momentum=0.2).made["1"] == "BatchNorm1d(0.1) -> BatchNorm(0.2)"


def test_weight_norm_stays_and_its_layer_goes_by_its_name() -> None:
    module = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4))
    x, names = torch.randn(8, 4), list(module.state_dict())
    changes = retrofit(module, dropout=0.0, insert="Linear")
    assert changes.made["0"] == "Linear, then Dropout(0.0)" and list(module.state_dict()) == names
    module(x).square().sum().backward()
    assert all(p.grad is not None for p in module.parameters())
    unretrofit(module)
    assert list(module.state_dict()) == names


def test_frozen_layers_stay_frozen_both_ways() -> None:
    module = network()
    module[1].eval().requires_grad_(False)
    before = state_of(module[1])
    retrofit(module, bn_momentum=1.0)
    module(torch.randn(8, 12))
    unretrofit(module)
    assert same(state_of(module[1]), before)
    assert not module[1].training and not any(p.requires_grad for p in module[1].parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # but people have it
def test_modules_with_torchscript_inside_are_changed_around_it() -> None:
    module = nn.Sequential(torch.jit.script(Net()), nn.Dropout(0.3))
    changes = retrofit(module, dropout=0.1)
    assert set(changes.made) == {"1"}
    assert "retrofit before torch.jit.script" in changes.left["0"]
    module(torch.randn(4, 4))
    with pytest.raises(ValueError, match=r"insert: 0 is TorchScript; retrofit before"):
        retrofit(module, dropout=0.1, insert="0")
    with pytest.raises(ValueError, match=r"norm: TorchScript, which runs as it was written"):
        retrofit(module[0], dropout=0.1)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as below
def test_compiled_modules_take_what_was_changed_inside_them() -> None:
    """Compiled before, and run once: with rate 0 nothing is dropped, with 0.9 most of it."""
    x = torch.randn(400, 4)
    outer, inner = torch.compile(Net(), backend="eager"), Net()
    inner.compile(backend="eager")
    for module in (outer, inner):
        module(x)
        names = list(module.state_dict())
        for rate in (0.0, 0.9):
            retrofit(module, dropout=rate)
            # 1,600 units: three standard deviations are 0.0225.
            assert abs((module(x) == 0).float().mean() - rate) < 0.03
        assert list(module.state_dict()) == names


def test_layers_of_packs_are_refused() -> None:
    modules = [nn.Sequential(nn.Linear(4, 4), Dropout(0.1, seed=seed)) for seed in (1, 2)]
    for packed in (stack(modules), Stacked(modules)):
        with pytest.raises(ValueError, match="before it is packed"):
            retrofit(packed, dropout=0.2)


def test_layer_by_itself_is_refused() -> None:
    with pytest.raises(ValueError, match=r"BatchNorm1d by itself, .* put it into nn.Sequential"):
        retrofit(nn.BatchNorm1d(3), bn_momentum=0.2)


# torch.export and torch.compile


CONVOLUTIONS = {
    1: (nn.Conv1d, nn.BatchNorm1d, nn.Dropout1d),
    2: (nn.Conv2d, nn.BatchNorm2d, nn.Dropout2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.Dropout3d),
}


def nested(dims: int, **options: Any) -> nn.Module:
    """A network of convolutions in two levels, with the norms' `options`."""
    convolution, norm, drop = CONVOLUTIONS[dims]
    block = nn.Sequential(convolution(2, 3, 3), norm(3, **options), nn.ReLU(), drop(0.3))
    return nn.Sequential(block, nn.Sequential(convolution(3, 4, 2), norm(4), nn.Flatten()))


KINDS = [
    *((dims, options) for dims in CONVOLUTIONS for options in ({}, {"affine": False})),
    (2, {"track_running_stats": False}),
]


@pytest.mark.parametrize(("dims", "options"), KINDS)
def test_networks_of_every_dimension_go_there_and_back_and_export(
    dims: int, options: dict[str, Any]
) -> None:
    """Old checkpoint in, bitwise the same out, exported as it is, and torch's layers again."""
    plain, x = nested(dims, **options), torch.randn(5, 2, *[6] * dims)
    plain(x)
    old, expected = state_of(plain), copy.deepcopy(plain).eval()(x)
    fresh = nested(dims, **options)
    kinds = [type(m) for m in fresh.modules()]
    changes = retrofit(fresh, dropout=0.2, bn_momentum=0.3)
    assert ("0.1" in changes.left) == (options == {"track_running_stats": False})
    fresh.load_state_dict(old)
    assert torch.equal(fresh.eval()(x), expected)
    program = torch.export.export(fresh, (x,))
    assert torch.equal(program.module()(x), expected)
    unretrofit(fresh)
    assert [type(m) for m in fresh.modules()] == kinds and same(state_of(fresh), old)
    assert torch.equal(fresh(x), expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as below
@pytest.mark.parametrize(("dims", "options"), KINDS)
def test_networks_of_every_dimension_compile(dims: int, options: dict[str, Any]) -> None:
    module, x = nested(dims, **options), torch.randn(5, 2, *[6] * dims)
    retrofit(module, dropout=0.3)
    seed_dropout(module, 3)
    compiled = torch.compile(copy.deepcopy(module), backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(x), module(x))
    torch.testing.assert_close(compiled.eval()(x), module.eval()(x))


def test_synchronised_norms_go_there_and_back_and_export() -> None:
    plain = nn.SyncBatchNorm.convert_sync_batchnorm(nested(2)).eval()
    x = torch.randn(5, 2, 6, 6)
    expected, old = plain(x), state_of(plain)
    changes = retrofit(plain, dropout=0.2, bn_momentum=0.3)
    assert changes.made["0.1"] == "SyncBatchNorm(0.1) -> BatchNorm(0.3)"
    plain.load_state_dict(old)
    assert torch.equal(plain(x), expected)
    assert torch.equal(torch.export.export(plain, (x,)).module()(x), expected)
    unretrofit(plain)
    assert isinstance(plain[0][1], nn.SyncBatchNorm) and torch.equal(plain(x), expected)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # as below
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_synchronised_norms_compile(backend: str) -> None:
    """In one process, where they take the batch's own statistics; torch's refuse CPUs there."""
    module, x = nn.SyncBatchNorm.convert_sync_batchnorm(nested(2)), torch.randn(5, 2, 6, 6)
    retrofit(module, dropout=0.3, bn_momentum=0.2)
    assert module[0][1].synchronised
    seed_dropout(module, 3)
    compiled = torch.compile(copy.deepcopy(module), backend=backend)
    for _ in range(3):
        got, expected = compiled(x), module(x)
        torch.testing.assert_close(got, expected)
    for (name, parameter), other in zip(
        module.named_parameters(), compiled.parameters(), strict=True
    ):
        mine, theirs = (torch.autograd.grad(y.square().sum(), p, retain_graph=True)[0]
                        for y, p in ((expected, parameter), (got, other)))  # fmt: skip
        # Biases before a norm have a gradient of rounding noise only.
        torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-4, msg=name)
    for mine, theirs in zip(module.buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(theirs, mine)
    torch.testing.assert_close(compiled.eval()(x), module.eval()(x))


@pytest.mark.parametrize("insert", [None, "ReLU"])
def test_retrofitted_module_exports(x: Tensor, insert: str | None) -> None:
    module = nn.Sequential(Images().body, Images().head).eval()
    retrofit(module, dropout=0.2, insert=insert)
    program = torch.export.export(module, (x,))
    assert torch.equal(program.module()(x), module(x))
    assert set(program.state_dict) == set(module.state_dict())


# torch.compile's own, wherever a graph breaks between layers.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_retrofitted_module_compiles_for_training_and_eval(backend: str) -> None:
    module, x = network(), torch.randn(8, 12)
    retrofit(module, dropout=0.5, insert="Linear")
    seed_dropout(module, 3)
    compiled = torch.compile(copy.deepcopy(module), backend=backend)
    for _ in range(10):  # more steps than torch.compile recompiles for
        got, expected = compiled(x), module(x)
        torch.testing.assert_close(got, expected)
    got.sum().backward()
    torch.testing.assert_close(compiled.eval()(x), module.eval()(x))


# Modules that others wrote


class OfflineLSTM(lstm.LightningLSTM):
    def prepare_data(self) -> None:
        """Does not download a text."""


class OfflineTransformer(unified_transformer.LightningTransformer):
    def prepare_data(self) -> None:
        """Does not download a text."""


def words() -> DataLoader[Any]:
    tokens = torch.randint(20, (8, 2, 6))
    return DataLoader(TensorDataset(tokens[:, 0], tokens[:, 1]), batch_size=4)


@pytest.mark.parametrize(
    ("build", "package", "settings", "changed"),
    [
        (lambda: OfflineLSTM(20), PACKAGES[0], {}, ["model.drop"]),
        (
            lambda: OfflineTransformer(20),
            PACKAGES[1],
            {"where": "*encoder*"},
            ["model.pos_encoder"],
        ),
        (boring.BoringModel, PACKAGES[0], {"insert": "layer"}, ["layer"]),
    ],
)
def test_modules_of_others_train_after_retrofit(
    tmp_path: Path, build: Callable[[], Any], package: Any, settings: Any, changed: list[str]
) -> None:
    module = build()
    changes = retrofit(module, dropout=0.1, **settings)
    assert all(any(name.startswith(c) for name in changes.made) for c in changed)
    before = state_of(module)
    data = module.train_dataloader() if build is boring.BoringModel else words()
    fit = trainer(package, tmp_path, max_epochs=1, limit_val_batches=0)
    fit.fit(module, train_dataloaders=data)
    assert not same(state_of(module), before)
    unretrofit(module)
    assert not any(isinstance(m, Dropout) for m in module.modules())


@pytest.mark.parametrize("package", PACKAGES)
def test_rates_of_a_retrofitted_module_matter_in_training(tmp_path: Path, package: Any) -> None:
    losses = []
    for rate in (0.0, 0.9):
        torch.manual_seed(0)
        module = plain_module(package)
        retrofit(module, dropout=rate)
        fit = trainer(package, tmp_path, max_epochs=3)
        fit.fit(module, **loaders())
        losses.append(fit.callback_metrics["train_loss"].item())
    assert losses[0] < losses[1]


# In place of SyncBatchNorm, in several processes


def test_two_processes_with_synchronised_norms_are_one_process(tmp_path: Path) -> None:
    """The batch in two unequal halves: outputs, gradients and running statistics of the whole."""
    torch.manual_seed(0)
    plain, x = network(), torch.randn(10, 12)
    plain[3].p = 0.0
    torch.save((plain, x), tmp_path / "given.pt")
    mp.start_processes(_half_of_the_batch, (tmp_path,), nprocs=2, start_method="fork")
    halves = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    y = plain(x)
    (y * torch.arange(10.0)[:, None]).sum().backward()
    torch.testing.assert_close(torch.cat([half["y"] for half in halves]), y)
    for name, parameter in plain.named_parameters():
        summed = halves[0]["gradients"][name] + halves[1]["gradients"][name]
        # Sums over the batch in another order; biases before a norm have rounding noise only.
        torch.testing.assert_close(summed, parameter.grad, rtol=1e-4, atol=1e-4)
    for half in halves:
        for name, value in plain.state_dict().items():
            torch.testing.assert_close(half["state"][name], value)


def _half_of_the_batch(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    plain, x = torch.load(folder / "given.pt", weights_only=False)
    module = nn.SyncBatchNorm.convert_sync_batchnorm(plain)
    retrofit(module)
    mine = slice(0, 6) if rank == 0 else slice(6, 10)
    y = module(x[mine])
    (y * torch.arange(10.0)[mine, None]).sum().backward()
    found = {
        "y": y.detach(),
        "gradients": {name: p.grad for name, p in module.named_parameters()},
        "state": module.state_dict(),
    }
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


# Modules that are put together in unusual ways


def test_attributes_called_origin_are_the_modules_own() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    module.register_buffer("origin", torch.zeros(3))
    module[0].origin = (0, 0)
    assert "1" in retrofit(module, dropout={"Dropout": 0.2}).made


def test_layers_with_backward_hooks_are_left_alone() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    module[0].register_full_backward_hook(lambda *_: None)
    changes = retrofit(module)
    assert changes.left == {"0": "BatchNorm1d has hooks of its own"}
    assert type(module[0]) is nn.BatchNorm1d


def test_a_momentum_out_of_range_is_left_alone() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=1.5))
    assert retrofit(module).left == {"1": "BatchNorm1d has momentum 1.5, outside 0 to 1"}


def test_dropout_inserted_after_a_shared_layer_is_taken_out() -> None:
    act = nn.ReLU()
    module = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act)
    before = repr(module)
    retrofit(module, dropout=0.5, insert="ReLU")
    unretrofit(module)
    assert repr(module) == before
    assert not act._forward_hooks


def test_layers_may_be_called_by_keyword() -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    retrofit(module)
    assert module[1](input=module[0](input=torch.ones(4, 3))).shape == (4, 3)
