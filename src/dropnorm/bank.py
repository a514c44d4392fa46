"""The bank: the running averages of many momenta from one training, and their scores.

bank = Bank.of(network)
bank.update(name, mean, var)                  # after each training step, for each batch norm
curve = score(network, bank, validation_batches)["val_accuracy"]
network.load_state_dict(bank.column(curve.index(max(curve))), strict=False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from dropnorm.evaluation import Norm, averages_of, evaluating, norms_of, split, steps
from dropnorm.kernels.cpu import track
from dropnorm.scores import Scores

# 13 values log-spaced from 0.001 to 1, short enough to be typed, and the cumulative average.
MOMENTA: tuple[float | None, ...] = (*(float(f"{10 ** (k / 4 - 3):.3g}") for k in range(13)), None)

_VALUES = 1 << 20  # that go through a network at a time


@dataclass(eq=False)
class Bank:
    """M running averages of every batch norm of a network, one for each of `momenta`.

    Batch norm trains with the batch's own statistics; momentum only shapes the averages that
    evaluation reads. So of one training, column m is what a training with `momenta[m]` would have:
    the same bits if the norms are `BatchNorm`, equal to rounding if they are torch's.

    `averages` has [2, M, C] for the name of each norm (`mean, var = bank.averages[name]`), `counts`
    how many batches it has seen, which the cumulative average (None) needs. Norms that keep no
    running averages are in neither. Errors: ValueError for no momenta, and for one out of range.
    """

    momenta: tuple[float | None, ...]
    averages: dict[str, Tensor]
    counts: dict[str, int]

    @classmethod
    def of(cls, network: nn.Module, momenta: Sequence[float | None] = MOMENTA) -> Bank:
        """A bank that begins with the network's own averages and counts, as they are now."""
        norms = norms_of(network)
        averages = {name: begun(*averages_of(norm), len(momenta)) for name, norm in norms.items()}
        counts = {name: int(norm.num_batches_tracked or 0) for name, norm in norms.items()}
        return cls(tuple(momenta), averages, counts)

    def __post_init__(self) -> None:
        fixed = weights(self.momenta)
        self._weights = {name: fixed.to(average) for name, average in self.averages.items()}

    @torch.no_grad()
    def update(self, name: str, mean: Tensor, var: Tensor) -> None:
        """Moves a norm's averages towards a batch's mean and *unbiased* variance, [C] each.

        To be called once for each training step and norm. `F.batch_norm(x, mean, var,
        training=True, momentum=1.0)` writes these two, on CPUs 5 to 20 times faster than
        `torch.var_mean` computes them.
        """
        self.counts[name] += 1
        means, variances = self.averages[name]
        track(means, variances, self._weights[name], (mean, var), self.counts[name])

    def column(self, m: int) -> dict[str, Tensor]:
        """A copy of one momentum's averages, for `network.load_state_dict(..., strict=False)`."""
        entries: dict[str, Tensor] = {}
        for name, average in self.averages.items():
            prefix = f"{name}." if name else ""
            mean, var = average[:, m].clone()
            entries |= {f"{prefix}running_mean": mean, f"{prefix}running_var": var}
        return entries

    def index(self, momentum: float | None) -> int:
        """The column of a momentum. Errors: ValueError if it has none."""
        if momentum not in self.momenta:
            known = ", ".join(map(str, self.momenta))
            raise ValueError(f"momentum: expected one of the bank's {known}, got {momentum!r}")
        return self.momenta.index(momentum)

    def state_dict(self) -> dict[str, Any]:
        """Plain types and the bank's own tensors; `Bank(**state)` makes a bank of them."""
        return {"momenta": self.momenta, "averages": {**self.averages}, "counts": {**self.counts}}


def weights(momenta: Sequence[float | None]) -> Tensor:
    """The part [M] that a new batch has in each average; 0 stands for the cumulative one.

    Errors: ValueError for no momenta, or one that is neither None nor in 0 < momentum <= 1.
    """
    if not momenta:
        raise ValueError("momenta: expected at least one, got none; leave it out for the default")
    for momentum in momenta:
        if momentum is not None and not 0 < momentum <= 1:
            raise ValueError(f"momenta: expected 0 < momentum <= 1 or None, got {momentum!r}")
    return torch.tensor([0.0 if momentum is None else momentum for momentum in momenta])


def begun(mean: Tensor, var: Tensor, momenta: int) -> Tensor:
    """The averages [..., C] with which all momenta begin: [..., 2, M, C]."""
    return torch.stack((mean, var), -2).unsqueeze(-2).repeat_interleave(momenta, -2)


@torch.inference_mode()
def score(
    network: nn.Module,
    bank: Bank,
    batches: Iterable[tuple[Tensor, Tensor]],
    classes: int | None = None,
) -> dict[str, list[float]]:
    """val_accuracy, val_nll (nats) and val_ece (15 bins) of each of the bank's momenta.

    They are those of M evaluations, each with one column (the same bits, or within rounding where a
    large batch is cut); but what runs before the first batch norm runs once, not M times. The
    network stays as it is. Mixed precision is the caller's: under a Trainer's
    `precision_plugin.forward_context()` scores are what its validation would log.

    Shapes: x [B, ...] and y int64 [B], on the network's device; the network gives [B, classes].
    Errors: ValueError for no batches, for a bank of another network, and, if `classes` is given,
    for another number of outputs.
    """
    scores: Scores | None = None
    with evaluating(network) as norms:
        columns = _columns(bank, norms)
        first, layers = split(network)
        rest = steps(layers)
        for x, y in batches:
            for shared, labels in _cut(first(x), y):
                logits = torch.stack([_logits(rest, shared, column) for column in columns])
                if classes not in (None, logits.shape[-1]):
                    raise ValueError(f"classes: expected {classes} outputs, got {logits.shape[-1]}")
                scores = scores or Scores(len(columns), logits.device)
                scores.update(logits, labels)
    if scores is None:
        raise ValueError("batches: expected at least one to score momenta on, got none")
    return {f"val_{name}": values.tolist() for name, values in scores.compute().items()}


Column: TypeAlias = list[tuple[Norm, Tensor, Tensor]]  # for each norm its mean and variance, [C]


def _columns(bank: Bank, norms: Mapping[str, Norm]) -> list[Column]:
    """The bank on the network's device, by momentum."""
    if strange := bank.averages.keys() - norms.keys():
        raise ValueError(
            f"bank: expected norms of this network, got {min(strange)!r}; "
            "make it with Bank.of(network), and give score the same network"
        )
    here = [(norms[name], *a.to(averages_of(norms[name])[0])) for name, a in bank.averages.items()]
    return [[(norm, mean[m], var[m]) for norm, mean, var in here] for m in range(len(bank.momenta))]


def _cut(x: Tensor, y: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """On the CPU a batch of large images in parts: all of it at once takes more than twice as long.

    Each momentum would write and read memory where a part stays in the cache.
    """
    rows = max(_VALUES // max(x[0].numel(), 1), 1) if x.device.type == "cpu" else len(x)
    return zip(torch.split(x, rows), torch.split(y, rows), strict=True)


def _logits(layers: Sequence[Callable[[Tensor], Tensor]], x: Tensor, column: Column) -> Tensor:
    for norm, mean, var in column:
        norm.running_mean, norm.running_var = mean, var
    for layer in layers:
        x = layer(x)
    return x
