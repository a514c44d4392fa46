"""Packed layers: the plain network's state, its numbers by vmap, and both ways to compute them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap

from dropnorm import BatchNorm, Block, Dropout, cnn, mlp
from dropnorm.blocks import seed_dropout
from dropnorm.pack import stack
from dropnorm.pack.layer import LaneLayer
from dropnorm.pack.norm import LaneBatchNorm
from dropnorm.pack.sequential import keep_lanes, lane_state, put_lane
from dropnorm.pack.vmap_layers import LaneNoise
from dropnorm.random import keep_mask

LANES, BATCH = 3, 20
OPTIONS: dict[str, Any] = {
    "mlp": {"hidden": [13, 8]},
    "cnn": {"channels": [3, 5], "hidden": [11]},
    "act first": {"hidden": [13], "order": ["act", "norm", "drop"], "activation": "gelu"},
    "no norm": {"hidden": [13], "norm": "none", "activation": "tanh"},
}


def network(name: str, lane: int, **settings: Any) -> nn.Sequential:
    make = cnn if name == "cnn" else mlp
    built = make((1, 8, 8), 4, **{"dropout": 0.1 * lane, **OPTIONS[name], **settings})
    seed_dropout(built, lane)
    return built


def networks(name: str, **settings: Any) -> list[nn.Sequential]:
    return [network(name, lane, **settings) for lane in range(LANES)]


def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(LANES, BATCH, 1, 8, 8), torch.randint(4, (LANES, BATCH))


class Masked(nn.Module):
    """Dropout whose mask is a buffer, which vmap can map over."""

    mask: Tensor

    def __init__(self, layer: Dropout, shape: tuple[int, ...]) -> None:
        super().__init__()
        rate = layer.rate.item()
        assert layer.seed is not None
        mask = keep_mask(shape, rate, layer.seed, 1, 1 / (1 - rate), double=True)
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.mask


def functional(plain: nn.Sequential) -> nn.Sequential:
    """A copy for one training step under vmap: no running averages, masks drawn beforehand."""
    plain, shapes = copy.deepcopy(plain), {}
    layers = {name: m for name, m in plain.named_modules() if isinstance(m, Dropout | BatchNorm)}
    for name, layer in layers.items():
        layer.register_forward_hook(lambda m, a, y, n=name: shapes.update({n: tuple(y.shape)}))
    plain.eval()(torch.zeros(BATCH, 1, 8, 8))
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        if isinstance(layer, Dropout):
            other: nn.Module = Masked(layer, shapes[name])
        else:
            kind = nn.BatchNorm2d if len(shapes[name]) == 4 else nn.BatchNorm1d
            other = kind(layer.num_features, track_running_stats=False)
            other.load_state_dict(dict(layer.named_parameters()))
        setattr(plain.get_submodule(parent), child, other)
    return plain.train()


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.usefixtures("double")
def test_training_pass_and_gradients_are_those_of_vmap(name: str) -> None:
    plain = networks(name)
    packed, (x, y) = stack(plain), batch()
    copies = [functional(one) for one in plain]
    parameters, buffers = stack_module_state(copies)

    def loss(p: Any, b: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(copies[0], (p, b), x), y)

    gradients, losses = vmap(grad_and_value(loss))(parameters, buffers, x, y)
    mine = torch.stack([F.cross_entropy(z, t) for z, t in zip(packed(x), y, strict=True)])
    mine.sum().backward()
    torch.testing.assert_close(mine, losses)
    for key, parameter in packed.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.usefixtures("double")
def test_all_lanes_together_are_the_lanes_in_turn(name: str, training: bool) -> None:
    """Without dropout, whose masks on other devices are other ones."""
    x, _ = batch()
    results = []
    for together in (False, True):
        torch.manual_seed(1)  # for equal weights
        packed = stack(networks(name, dropout=0.0, bn_momentum=0.3)).train(training)
        y = packed.together(x) if together else packed(x)
        y.square().sum().backward()
        results.append((y, [p.grad for p in packed.parameters()], packed.state_dict()))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("double")
def test_dropout_together_keeps_the_rate_of_each_lane() -> None:
    layers = [Dropout(rate, seed=1) for rate in (0.0, 0.25, 0.6)]
    y = stack(layers).together(torch.ones(3, 100, 100))
    assert (y == 0).double().mean((1, 2)).tolist() == pytest.approx([0, 0.25, 0.6], abs=0.02)
    assert y.mean((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=0.03)


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("together", [True, False])
def test_shared_images_give_what_copies_for_each_lane_give(name: str, together: bool) -> None:
    packed, (x, _) = stack(networks(name)).eval(), batch()
    run = packed.together if together else packed
    shared, copied = x[0].expand(LANES, *x.shape[1:]), x[:1].repeat(3, 1, 1, 1, 1)
    torch.testing.assert_close(run(shared), run(copied))


@pytest.mark.parametrize("name", OPTIONS)
def test_state_of_a_lane_is_the_plain_state(name: str) -> None:
    plain = networks(name)
    packed = stack(plain)
    assert set(packed.state_dict()) == set(plain[0].state_dict())
    for lane, one in enumerate(plain):
        torch.testing.assert_close(lane_state(packed, lane), dict(one.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize("name", OPTIONS)
def test_put_and_kept_lanes_have_the_settings_too(name: str) -> None:
    packed, other = stack(networks(name)), network(name, 7, dropout=0.7, bn_momentum=None)
    pointers = [p.data_ptr() for p in packed.parameters()]
    put_lane(packed, 1, other)
    assert pointers == [p.data_ptr() for p in packed.parameters()]
    keep_lanes(packed, [2, 1])
    x, _ = batch()
    twin = stack([network(name, 2), other])
    put_lane(twin, 0, _unpacked(packed, 0, name))
    assert torch.equal(packed(x[:2]), twin(x[:2]))


def _unpacked(packed: LaneLayer, lane: int, name: str) -> nn.Sequential:
    plain = network(name, 2)
    plain.load_state_dict(lane_state(packed, lane))
    return plain


def test_running_averages_follow_each_lanes_own_momentum() -> None:
    momenta = (0.1, None, 1.0)
    plain = [BatchNorm(5, momentum) for momentum in momenta]
    packed = stack(plain)
    for x in torch.randn(4, LANES, BATCH, 5):
        packed(x)
        for lane, norm in enumerate(plain):
            norm(x[lane])
    for lane, norm in enumerate(plain):
        assert torch.equal(lane_state(packed, lane)["running_mean"], norm.running_mean)
        assert torch.equal(lane_state(packed, lane)["running_var"], norm.running_var)


def test_gradients_add_up_when_they_are_not_given_up() -> None:
    packed, (x, _) = stack(networks("mlp", dropout=0.0)), batch()
    packed(x).sum().backward()
    once = [p.grad.clone() for p in packed.parameters() if p.grad is not None]
    packed(x).sum().backward()
    for parameter, gradient in zip(packed.parameters(), once, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)


def test_gradients_of_two_passes_add_up_in_one_backward() -> None:
    packed, (x, _) = stack(networks("mlp", dropout=0.0)), batch()
    packed(x).sum().backward()
    packed(-x).sum().backward()
    apart = [p.grad for p in packed.parameters()]
    packed.zero_grad()
    (packed(x).sum() + packed(-x).sum()).backward()
    torch.testing.assert_close([p.grad for p in packed.parameters()], apart)


def test_a_second_backward_through_a_kept_graph_adds_the_same_again() -> None:
    packed, (x, _) = stack(networks("mlp")), batch()
    y = packed(x).sum()
    y.backward(retain_graph=True)
    once = [p.grad.clone() for p in packed.parameters() if p.grad is not None]
    y.backward()
    torch.testing.assert_close([p.grad for p in packed.parameters()], [2 * g for g in once])


def test_layers_without_a_packed_form_are_named() -> None:
    with pytest.raises(TypeError, match="got LayerNorm; train this network one trial at a time"):
        stack([nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)) for _ in range(2)])


@pytest.mark.parametrize("other", [[nn.Tanh()], [nn.ReLU(), nn.ReLU()], []])
def test_networks_of_other_layers_than_the_first_are_refused(other: list[nn.Module]) -> None:
    with pytest.raises(TypeError, match="expected the same layers in every lane, got "):
        stack([nn.Sequential(nn.ReLU()), nn.Sequential(*other)])


def test_a_flattening_may_begin_anywhere() -> None:
    plain, x = nn.Sequential(nn.Flatten(2), nn.ReLU()), torch.randn(3, 2, 4, 5, 6)
    packed = stack([plain] * 3)
    for y in (packed(x), packed.together(x)):
        torch.testing.assert_close(y, torch.stack([plain(images) for images in x]))


def test_dropout_together_in_bfloat16_has_a_scale_that_is_rounded_once() -> None:
    drop, x = stack([Dropout(0.97, seed=1)]), torch.ones(1, 40, 50, dtype=torch.bfloat16)
    scale = torch.tensor(1 / 0.03).bfloat16()  # of the rate rounded to bfloat16 it would be 32
    assert set(drop.together(x).unique().tolist()) == {0.0, scale.item()}
    assert set(LaneNoise([Dropout(0.97, seed=1)]).together(x).unique().tolist()) == {
        0.0,
        scale.item(),
    }


def test_unseeded_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="call seed_dropout"):
        stack([Block(3, 3)])


@pytest.mark.usefixtures("double")
def test_a_norm_in_eval_mode_stays_so_in_a_network_that_trains() -> None:
    plain, (x, _) = networks("mlp", dropout=0.0), batch()
    packed = stack(plain)
    for network in (packed, *plain):
        for layer in network.modules():
            if isinstance(layer, BatchNorm | LaneBatchNorm):
                layer.eval()
    packed(x).square().sum().backward()
    for lane, one in enumerate(plain):
        one(x[lane]).square().sum().backward()
        for mine, theirs in zip(packed.parameters(), one.parameters(), strict=True):
            assert mine.grad is not None
            torch.testing.assert_close(mine.grad[lane], theirs.grad, rtol=1e-9, atol=1e-12)


def test_a_batch_of_one_is_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="expected more than 1 value per channel"):
        stack(networks("mlp"))(torch.randn(LANES, 1, 1, 8, 8))
