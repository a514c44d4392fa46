"""Which plain attributes of a module and its parts a loss reads, and which of them differ.

Under vmap one module's Python runs for all lanes: a number that is an attribute, as a label
smoothing often is, would be the first lane's in every lane.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dropnorm.blocks import Dropout
from dropnorm.pack.vmap_layers import is_norm


@dataclass(frozen=True, order=True)
class Read:
    """An attribute of the submodule at `path` ("" is the module itself)."""

    path: str
    name: str

    def __str__(self) -> str:
        return f"{self.path}.{self.name}" if self.path else self.name


def names_read(module: nn.Module, batch: Any) -> list[Read]:
    """Every attribute that `module.loss(batch)` reads of the module and its submodules.

    The module stays as it is; what runs is a copy in the precision of the batch.
    """
    watched: Any = copy.deepcopy(module)
    for tensor in tree_leaves(batch):
        if tensor.is_floating_point():
            watched.to(tensor.dtype)
    seen = set[Read]()
    paths = {id(part): path for path, part in watched.named_modules()}
    for part in list(watched.modules()):
        part.__class__ = _watching(type(part), paths, seen)
    watched.loss(batch)
    return sorted(seen)


def _watching(kind: type[nn.Module], paths: dict[int, str], seen: set[Read]) -> type[nn.Module]:
    def getattribute(self: Any, name: str) -> Any:
        seen.add(Read(paths[id(self)], name))
        return kind.__getattribute__(self, name)

    watching: type[nn.Module] = types.new_class(kind.__name__, (kind,))
    watching.__getattribute__ = getattribute  # type: ignore[method-assign]
    return watching


def differing(
    modules: Sequence[nn.Module], reads: Sequence[Read]
) -> tuple[Read, tuple[Any, Any]] | None:
    """The first of `reads` with a value that is not the same in all modules, and two such values.

    Looks at numbers, words, tensors that are no buffers, and lists and dicts of plain values.
    """
    own = _kept_for_each_lane(modules[0])
    for read in reads:
        if read.path in own:
            continue
        values = [vars(module.get_submodule(read.path)).get(read.name) for module in modules]
        for value in values[1:]:
            if _differ(values[0], value):
                return read, (values[0], value)
    return None


def values_read(module: nn.Module, reads: Sequence[Read]) -> tuple[tuple[str, str], ...]:
    """What `differing` would look at in this module, spelled: equal for modules that may be packed.

    Layers of which a pack keeps the values for each lane are left out.
    """
    own = _kept_for_each_lane(module)
    found = []
    for read in reads:
        value = vars(module.get_submodule(read.path)).get(read.name)
        if read.path not in own and (isinstance(value, Tensor) or _is_plain(value)):
            spelled = value.tolist() if isinstance(value, Tensor) else value
            found.append((str(read), repr(spelled)))
    return tuple(found)


def _kept_for_each_lane(module: nn.Module) -> list[str]:
    return [n for n, part in module.named_modules() if isinstance(part, Dropout) or is_norm(part)]


def _differ(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return not torch.equal(a, b)
    return _is_plain(a) and _is_plain(b) and a != b


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
