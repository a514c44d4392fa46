"""A small generated data set, for tests and first tries: no files, and a study in seconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dropnorm.data.images import ImageData, check_sizes
from dropnorm.data.parts import Batch, Parts, assemble
from dropnorm.seeds import derive

_SIDE = 8
_CONTRAST = 24.0  # standard deviations in pixel values, so that nobody gets everything right
_NOISE = 64.0


class Synthetic(ImageData):
    """Noisy copies of one random image a class, 8 x 8 pixels, equally many of each class.

    Two seeds: `data_seed` decides which data set this is, `seed` only the order of training, as in
    `MNIST`. Validation and test images do not depend on `train_size`.

    Shapes: x float32 [B, 1, 8, 8], y int64 [B] in 0..classes - 1. Errors: DataError for bad sizes.
    """

    def __init__(
        self,
        train_size: int = 1024,
        val_size: int = 512,
        test_size: int = 512,
        classes: int = 4,
        batch_size: int = 128,
        eval_batch_size: int = 2000,
        seed: int = 0,
        data_seed: int = 0,
    ) -> None:
        check_sizes({"val_size": val_size, "test_size": test_size, "classes": classes})
        super().__init__(
            Prototypes(train_size, val_size, test_size, classes, data_seed),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            train_size=train_size,
            seed=seed,
        )


@dataclass(frozen=True)
class Prototypes:
    """The sizes and the seed from which the images are generated."""

    train_size: int
    val_size: int
    test_size: int
    classes: int
    data_seed: int

    def read(self) -> Parts:
        return assemble(
            train=self._draw("train", self.train_size),
            val=self._draw("val", self.val_size),
            test=self._draw("test", self.test_size),
        )

    def _draw(self, part: str, count: int) -> Batch:
        """uint8 images [count, 1, 8, 8] and int64 labels [count], from a key of their own."""
        shape = (1, _SIDE, _SIDE)
        prototypes = torch.randn(self.classes, *shape, generator=self._generator("prototypes"))
        noise = torch.randn(count, *shape, generator=self._generator(part))
        labels = torch.arange(count) % self.classes
        pixels = 128 + _CONTRAST * prototypes[labels] + _NOISE * noise
        return pixels.round().clamp(0, 255).to(torch.uint8), labels

    def _generator(self, purpose: str) -> torch.Generator:
        return torch.Generator().manual_seed(derive(self.data_seed, "synthetic", purpose))
