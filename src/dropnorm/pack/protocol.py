"""What a LightningModule must offer so that `VmappedPack` can train it, and whether it does.

    class Mine(LightningModule):
        def loss(self, batch):            # the mean loss of a batch, one number; and nothing else:
            x, y = batch                  # no logging, no numbers read, no random draws of its own
            return F.cross_entropy(self.network(x), y)

        def metrics(self, batch):         # optional: means over a batch, {"loss": loss(batch)} if
            ...                           # left out; the pack calls them val_... and test_...

        def training_step(self, batch, batch_idx):
            return self.loss(batch)

        def configure_optimizers(self):   # Adam, AdamW or SGD; for a schedule an attribute
            return torch.optim.Adam(...)  # `optimizer_settings`, a `dropnorm.optimizers.Optimizer`

Dropout must be keyed: `dropnorm.Dropout` with a seed, `retrofit` and `seed_dropout` put it in. The
module's hooks around training do not run, so it may have none.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from dropnorm.blocks import BatchNorm, Dropout
from dropnorm.optimizers import Optimizer
from dropnorm.pack.read import Read, differing, names_read
from dropnorm.pack.stacked import Stacked
from dropnorm.pack.vmap_layers import KNOWN_NORMS, is_norm

_SAID_AT_MOST = 200  # characters of a library's message
_LOGS = ("log", "log_dict")
_HOOKS = (
    "setup", "configure_model", "on_fit_start", "on_train_start", "on_train_epoch_start",
    "on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer",
    "on_train_batch_start", "on_before_zero_grad", "optimizer_zero_grad", "backward",
    "on_before_backward", "on_after_backward", "on_before_optimizer_step", "optimizer_step",
    "configure_gradient_clipping", "lr_scheduler_step", "on_train_batch_end",
    "on_train_epoch_end", "on_train_end",
)  # fmt: skip
_HARMLESS = ("pytorch_lightning", "lightning", "dropnorm")  # packages of which hooks are known


def can_pack(module: nn.Module, batch: Any = None) -> str | None:
    """Why a `VmappedPack` cannot train this module, in a line; None if it can.

    With a training `batch` two copies are trained on it for a step beside the plain module, and
    have to agree with it; without, only what can be seen from outside is looked at. `module` stays
    as it is.
    """
    try:
        _check_outside(module)
        if batch is not None:
            with warnings.catch_warnings(action="ignore"):  # there is no Trainer here
                _check_inside(copy.deepcopy(module), batch)
    except Exception as error:  # of somebody else's code, whatever it is
        lines = str(error).strip().splitlines()
        said = lines[0][:_SAID_AT_MOST] if lines else ""
        return said if isinstance(error, Unpackable) else f"{type(error).__name__}: {said}"
    return None


class Unpackable(TypeError):
    """A module that does not keep to the protocol: what it lacks, and what to change."""


def has_method(module: nn.Module, name: str) -> bool:
    """Whether the class defines it: a loss function kept as an attribute is no method."""
    return callable(getattr(type(module), name, None))


def own_hooks(thing: object, hooks: Sequence[str] = _HOOKS) -> list[str]:
    """The hooks that the class of a module, or of its data, defines itself."""
    found = {name: getattr(type(thing), name, None) for name in hooks}
    homes = {n: f.__module__.partition(".")[0] for n, f in found.items() if callable(f)}
    return [name for name, home in homes.items() if home not in _HARMLESS]


def optimizer_of(module: Any) -> tuple[Optimizer, list[str]]:
    """The settings of a module's optimizer, and the names of the parameters that it updates.

    Errors: Unpackable for another kind than torch's Adam, AdamW and SGD, several parameter groups,
    options that packs do not have, and schedules outside `optimizer_settings`.
    """
    names = [name for name, _ in module.named_parameters()]
    settings = getattr(module, "optimizer_settings", None)
    if isinstance(settings, Optimizer):
        return settings, names
    made: Any = (
        module.configure_optimizers() if has_method(module, "configure_optimizers") else None
    )
    if isinstance(made, list | tuple) and len(made) == 1:
        made = made[0]
    if isinstance(made, dict) and set(made) == {"optimizer"}:
        made = made["optimizer"]
    if not isinstance(made, torch.optim.Optimizer):
        raise Unpackable(
            "configure_optimizers: expected one optimizer without a schedule, got "
            f"{type(made).__name__}; set the attribute optimizer_settings to an Optimizer"
        )
    (group, *others) = made.param_groups
    if others:
        raise Unpackable(f"optimizer: expected one parameter group, got {1 + len(others)}")
    updated = {id(p) for p in group["params"]}
    return _settings(made, group), [n for n, p in module.named_parameters() if id(p) in updated]


def _settings(made: torch.optim.Optimizer, group: dict[str, Any]) -> Optimizer:
    kinds: dict[type, str] = {
        torch.optim.Adam: "adam",
        torch.optim.AdamW: "adamw",
        torch.optim.SGD: "sgd",
    }
    name = kinds.get(type(made))
    if name is None:
        known = ", ".join(kind.__name__ for kind in kinds)
        raise Unpackable(f"optimizer: expected one of {known}, got {type(made).__name__}")
    fixed = {"amsgrad": False, "maximize": False, "dampening": 0, "eps": 1e-8}
    for option, value in fixed.items():
        if group.get(option, value) != value:
            raise Unpackable(f"optimizer.{option}: packs have {value}, got {group[option]}")
    taken = ("weight_decay", "betas", "momentum", "nesterov")
    return Optimizer(name, float(group["lr"]), **{n: group[n] for n in taken if n in group})


def _check_outside(module: nn.Module) -> None:
    if not has_method(module, "loss"):
        raise Unpackable(
            f"{type(module).__name__} has no method loss(batch); "
            "move there what its training_step computes, without the logging"
        )
    if getattr(module, "automatic_optimization", True) is False:
        raise Unpackable("it optimizes by hand (automatic_optimization is False)")
    if hooks := own_hooks(module):
        raise Unpackable(f"it has {hooks[0]}, which a pack would not run")
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd) and layer.p > 0:
            raise Unpackable(
                f"{name} is torch's {type(layer).__name__}, whose masks depend on who else draws; "
                "put keyed dropout in with retrofit(module)"
            )
        if isinstance(layer, Dropout) and layer.seed is None:
            raise Unpackable(f"{name} has no seed; call seed_dropout(module, seed)")
        if is_norm(layer) and type(layer) not in KNOWN_NORMS:
            raise Unpackable(f"{name} is {type(layer).__name__}, which is no plain batch norm")
        if is_norm(layer) and not isinstance(layer, BatchNorm) and layer.momentum == 0:
            raise Unpackable(f"{name} has momentum 0, which is the cumulative average in a pack")
    optimizer_of(module)


def _check_inside(module: Any, batch: Any) -> None:
    """A training step of two lanes against one of the plain module; `module` is used up."""
    if logged := [read.name for read in names_read(module, batch) if read.name in _LOGS]:
        raise Unpackable(f"loss(batch) calls {logged[0]}; leave that to training_step")
    pack = Stacked([copy.deepcopy(module), copy.deepcopy(module)])
    stepping = copy.deepcopy(module)
    alone = module.loss(batch)
    if not isinstance(alone, Tensor) or alone.dim() or not alone.requires_grad:
        raise Unpackable(f"loss(batch): expected one number with a gradient, got {_said(alone)}")
    losses = pack("loss", tree_map(lambda t: torch.stack([t, t]), batch))
    losses.sum().backward()
    _check_equal("loss", losses[1], alone)
    mine = pack.lane_state(1)
    for name, buffer in module.state_dict().items():
        _check_equal(name, mine[name], buffer)
    if has_method(module, "training_step"):
        _check_step(stepping, batch, alone)
    if has_method(module, "metrics"):
        for name, values in pack.eval()("metrics", batch, shared=True).items():
            if values.dim() != 1:
                raise Unpackable(f"metrics(batch): expected a number for {name}, got a tensor")


def _check_step(module: Any, batch: Any, loss: Tensor) -> None:
    """Whether training_step has no other objective than the loss, which is all a pack trains."""
    trained = module.training_step(batch, 0)
    trained = trained.get("loss") if isinstance(trained, dict) else trained
    if not isinstance(trained, Tensor) or not torch.allclose(trained, loss, rtol=1e-3, atol=1e-5):
        got = f"{trained.item():g}" if isinstance(trained, Tensor) else _said(trained)
        raise Unpackable(f"training_step(batch, 0) gives {got} where loss(batch) is {loss:g}")


def metric_names(module: Any, batch: Any) -> list[str]:
    """What a pack would log of these modules."""
    names = ["loss"]
    if has_method(module, "metrics"):
        copied = copy.deepcopy(module).eval()
        with torch.no_grad():
            names = list(copied.metrics(batch))
    return [*(f"val_{name}" for name in names), "train_loss"]


def _said(value: Any) -> str:
    return f"shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _check_equal(name: str, packed: Tensor, alone: Tensor) -> None:
    """To far more than rounding, but a lost update or a shared draw is further apart."""
    if not torch.allclose(packed.double(), alone.double(), rtol=1e-3, atol=1e-5, equal_nan=True):
        raise Unpackable(f"{name} is not the same in a pack as alone after one training step")


def module_signature(module: nn.Module) -> dict[str, Hashable]:
    """What must agree for modules to share a pack, as far as it can be seen from outside.

    Its class, the kind of its optimizer and what that updates, and the shape of every tensor.
    Errors: Unpackable as from `optimizer_of`.
    """
    optimizer, updated = optimizer_of(module)
    kind = type(module)
    state = {name: (tuple(t.shape), t.dtype) for name, t in module.state_dict().items()}
    named: dict[str, Hashable] = {"class": f"{kind.__module__}.{kind.__qualname__}"}
    return named | {"optimizer": optimizer.name, "updated parameters": tuple(updated)} | state


def check_alike(modules: Sequence[nn.Module], reads: Sequence[Read] = ()) -> None:
    """Raises ValueError unless the modules differ in nothing but what a pack keeps for each lane.

    Those are tensors, dropout, momenta and the optimizer's numbers. `reads` are the attributes that
    the loss reads: a number that it does not read may differ.
    """
    first, *others = map(module_signature, modules)
    for theirs in others:
        for name in {**first, **theirs}:
            mine, other = first.get(name), theirs.get(name)
            if mine != other:
                raise ValueError(
                    f"pack: expected {name} to be {mine} in every lane, got {other}; "
                    "put such trials into another pack"
                )
    if found := differing(modules, reads):
        read, values = found
        raise ValueError(
            f"pack: expected {read} to be the same in every lane, for its loss reads it, got "
            f"{values[0]!r} and {values[1]!r}; make it a buffer or train in separate packs"
        )
