"""Retrofit: dropout and batch norm of anyone's module made tunable, without rewriting it.

    print(retrofit(module, dropout=0.2, bn_momentum=0.03))
    print(retrofit(module, dropout={"encoder.*": 0.1, "*": 0.3}))  # the first that matches
    print(retrofit(module, dropout=0.1, where="head.*", insert="ReLU"))
    unretrofit(module)

Patterns are a shell's (`fnmatch`) on whole dotted names, or names of classes; see `patterns`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from dropnorm.blocks import BatchNorm, Dropout
from dropnorm.blocks.setting import setting_of
from dropnorm.changeable import check_changeable, check_something_to_do, reason_to_leave
from dropnorm.patterns import Layers, Patterns, kind, matching, named_layers, values
from dropnorm.standins import StandInDropout, StandInNorm, TorchDropout, TorchNorm, short

INSERTED = "inserted_dropout"  # the child of a layer that holds the dropout put after it


@dataclass(frozen=True)
class Changes:
    """What was changed, and what was left alone and why, by the layers' names; `print` it."""

    made: Mapping[str, str]
    left: Mapping[str, str]

    def __str__(self) -> str:
        width = max(map(len, [*self.made, *self.left]), default=0)
        parts = [("changed", self.made), ("left alone", self.left)]
        lines = [
            [f"{title} ({len(what)})", *(f"  {n:<{width}}  {text}" for n, text in what.items())]
            for title, what in parts
            if what
        ]
        return "\n".join(chain(*lines))


def retrofit(
    module: nn.Module,
    dropout: float | Mapping[str, float] | None = None,
    bn_momentum: float | Mapping[str, float | None] | None = None,
    where: Patterns | None = None,
    insert: Patterns | None = None,
) -> Changes:
    """Replaces torch's dropout and batch norm layers inside `module`, in place, by ours.

    A layer that the module also keeps outside its tree, in a plain list say, stays the old one
    there. Parameters and buffers are shared: names and values of the `state_dict` stay, so old
    checkpoints load and optimizers go on.

    `dropout` and `bn_momentum` are set everywhere, or by pattern; layers without one keep theirs
    ({"*": None} sets the cumulative average). `where` restricts what is replaced and set. `insert`
    puts dropout of rate `dropout` after the output (the first, of several) of the layers that
    match, `where` or not. It hangs on a hook, so that no name moves.

    `torch.export` takes the result in eval mode, `torch.compile` in both. Errors: ValueError, with
    a list of what was found and before anything is changed, for a pattern or a value that meets no
    layer, and for values out of range.
    """
    layers = named_layers(module)
    check_changeable(module, layers)
    chosen = layers if where is None else matching("where", where, layers)
    left = {name: reason for name, layer in chosen if (reason := reason_to_leave(name, layer))}
    free = [(name, layer) for name, layer in chosen if name not in left]
    drops = [(n, m) for n, m in free if isinstance(m, Dropout | TorchDropout)]
    norms = [(n, m) for n, m in free if isinstance(m, BatchNorm | TorchNorm)]
    targets = [] if insert is None else _targets(matching("insert", insert, layers))
    check_something_to_do([*drops, *norms, *targets], chosen, left)
    if targets and dropout is None:
        raise ValueError("insert: needs a rate, got dropout=None; type dropout=0.1")
    rates = values("dropout", dropout, [*drops, *targets], _checked_rate)
    momenta: dict[int, float | None] = values("bn_momentum", bn_momentum, norms, _checked_momentum)

    wanted = [pair for pair in free if pair in drops or pair in norms]
    made = _replace(module, wanted, {**rates, **momenta})
    for name, target in targets:
        if id(target) not in rates:
            left[name] = "no dropout inserted: no pattern gives its rate"
            continue
        # The target may just have been replaced itself.
        inserted = _insert(module.get_submodule(name), rates[id(target)], module)
        made[name] = f"{made.get(name, kind(target).__name__)}, then {inserted}"
    return Changes(made, left)


def unretrofit(module: nn.Module) -> Changes:
    """Puts torch's layers back where `retrofit` replaced some, and takes out what it inserted.

    Rates and momenta stay as they are now, and in eval mode the outputs, bit for bit. Layers of
    ours that the module was built with stay. Errors: ValueError when there is nothing to undo.
    """
    made = {}
    restored: dict[int, nn.Module] = {}
    layers = named_layers(module)
    for name, layer in layers:
        if isinstance(layer, StandInDropout) and layer.origin is None:
            made[name] = "taken out"
            _take_out(dict(layers)[name.rpartition(".")[0]])
        elif isinstance(layer, StandInDropout | StandInNorm):
            new = restored.setdefault(id(layer), layer.original())
            made[name] = f"{_described(layer)} -> {_described(new)}"
            _put(module, name, new)
    if not made:
        raise ValueError("unretrofit: expected layers that retrofit replaced or inserted, got none")
    return Changes(made, {})


# Changing it


def _targets(layers: Layers) -> Layers:
    """Where hooks go: a Sequential's output is that of its last layer, which is always called."""
    targets = []
    for name, layer in layers:
        while isinstance(layer, nn.Sequential) and len(layer):
            last = list(layer._modules)[-1]
            name, layer = f"{name}.{last}", layer[-1]
        if isinstance(layer, torch.jit.ScriptModule):
            raise ValueError(f"insert: {name} is TorchScript; retrofit before torch.jit.script")
        if isinstance(layer, nn.ModuleList | nn.ModuleDict):
            raise ValueError(f"insert: {name} is a {type(layer).__name__}, which has no output")
        if not isinstance(layer, StandInDropout) or layer.origin is not None:
            targets.append((name, layer))
    return targets


def _checked_rate(rate: float) -> float:
    return short(Dropout(rate).rate)


def _checked_momentum(momentum: float | None) -> float | None:
    BatchNorm(1, momentum)
    return momentum


def _replace(module: nn.Module, layers: Layers, settings: Mapping[int, Any]) -> dict[str, str]:
    """Puts a stand-in at each name and sets its value, with one stand-in for a shared layer."""
    made = {}
    new: dict[int, nn.Module] = {}
    for name, old in layers:
        was = _described(old)
        if id(old) not in new:
            new[id(old)] = _stand_in(old, module)
            if id(old) in settings:
                _set(new[id(old)], settings[id(old)])
        _put(module, name, new[id(old)])
        made[name] = f"{was} -> {_described(new[id(old)])}"
    return made


def _stand_in(layer: nn.Module, module: nn.Module) -> nn.Module:
    if isinstance(layer, TorchDropout):
        new = StandInDropout(layer.p, type(layer), layer.inplace).train(layer.training)
        return new.to(_device(module))
    return StandInNorm(layer) if isinstance(layer, TorchNorm) else layer


def _set(layer: nn.Module, value: float | None) -> None:
    if isinstance(layer, Dropout) and value is not None:
        layer.rate.fill_(value)
    elif isinstance(layer, BatchNorm):
        layer.momentum = None if value is None else setting_of(value, layer.running_mean.device)


def _insert(layer: nn.Module, rate: float, module: nn.Module) -> str:
    """Puts dropout after the layer, or sets that which is there already."""
    inserted = getattr(layer, INSERTED, None)
    if inserted is None:
        inserted = StandInDropout(rate, None, False).train(layer.training).to(_device(module))
        layer.add_module(INSERTED, inserted)
        layer.register_forward_hook(_drop_output)
    inserted.rate.fill_(rate)
    return _described(inserted)


def _drop_output(layer: nn.Module, _: Any, output: Any) -> Any:
    dropout = getattr(layer, INSERTED)
    if isinstance(output, Tensor):
        return dropout(output)
    if type(output) is tuple and output and isinstance(output[0], Tensor):
        return dropout(output[0]), *output[1:]
    raise TypeError(
        f"{INSERTED}: expected {type(layer).__name__} to return a tensor or a tuple that begins "
        f"with one, got {type(output).__name__}; insert it after another layer"
    )


def _take_out(layer: nn.Module) -> None:
    if hasattr(layer, INSERTED):  # a shared layer has it under each of its names
        delattr(layer, INSERTED)
    for key, hook in list(layer._forward_hooks.items()):
        if hook is _drop_output:
            del layer._forward_hooks[key]


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, layer)


def _device(module: nn.Module) -> torch.device:
    return next((t.device for t in module.parameters()), torch.device("cpu"))


def _described(layer: nn.Module) -> str:
    """A layer's kind and the value that matters here: "Dropout(0.1)"."""
    name = "BatchNorm" if isinstance(layer, StandInNorm) else type(layer).__name__
    if isinstance(layer, StandInDropout):
        name = "Dropout"
    value = getattr(layer, "p", getattr(layer, "rate", getattr(layer, "momentum", None)))
    return f"{name}({short(value) if isinstance(value, Tensor) else value})"
