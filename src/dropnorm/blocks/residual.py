"""A block with a way around it."""

from __future__ import annotations

from torch import Tensor, nn

from dropnorm.blocks.variants import DropPath


class Residual(nn.Module):
    """x + branch(x), the branch dropped for an example with probability `drop_path` in training.

    Source: He et al. 2016 for the sum, Huang et al. 2016 for dropping (see `DropPath`).
    Shapes: those of the branch, which must return what it takes. Errors: ValueError unless
    0 <= drop_path < 1.
    """

    def __init__(self, branch: nn.Module, drop_path: float = 0.0) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path: expected 0 <= rate < 1, got {drop_path!r}")
        self.branch = branch
        self.drop_path: nn.Module = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.drop_path(self.branch(x))
        return y
