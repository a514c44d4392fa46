"""`ImageData`: a LightningDataModule over parts that live on the device as uint8."""

from __future__ import annotations

import itertools

import pytorch_lightning as pl
import torch
from torch import Tensor

from dropnorm.data.batches import ALONE, EvalBatches, Share, TrainBatches
from dropnorm.data.errors import DataError
from dropnorm.data.parts import Part, PartName, Source, load, place
from dropnorm.seeds import derive


class ImageData(pl.LightningDataModule):
    """Image classification data from any source, with train, val and test loaders for Lightning.

    Nothing is read before it is needed, and then once a process: trials share one copy a device.
    Of a Trainer's several processes each takes its share, `batch_size` images a step: the batch in
    all is that times their number. `seed` keys the data order only: the split, the rows that
    `train_size` keeps and the scale of the pixels never change, so trials differ in nothing but
    what they say. Without a trainer, every pass is the next epoch.

    Errors: DataError for sizes below 1 at once; for those above what there is in `setup`.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        eval_batch_size: int,
        train_size: int | None,
        seed: int,
    ) -> None:
        super().__init__()
        sizes = {"batch_size": batch_size, "eval_batch_size": eval_batch_size}
        if train_size is not None:
            sizes["train_size"] = train_size
        check_sizes(sizes)
        self.source = source
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.train_size = train_size
        self.seed = seed

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Channels, height and width of an image."""
        return tuple(load(self.source).train.images.shape[1:])

    @property
    def classes(self) -> int:
        return load(self.source).classes

    def train_rows(self) -> Tensor:
        """The rows of the training part that an epoch visits, int64 [N] on the CPU.

        All of them, or the first `train_size` of a fixed permutation: more rows contain the fewer.
        """
        there = len(load(self.source).train)
        size = there if self.train_size is None else self.train_size
        if size > there:
            raise DataError(f"train_size from 1 to {there:,}", f"{size:,}", "lower data.train_size")
        processes = self._share().world_size
        if self.batch_size * processes > size:
            each = f" / {processes} processes" if processes > 1 else ""
            raise DataError(
                f"batch_size from 1 to {size // processes:,}, the number of training images{each}",
                f"{self.batch_size:,}",
                "lower data.batch_size",
            )
        if size == there:
            return torch.arange(there)
        generator = torch.Generator().manual_seed(derive(0, "train_size"))
        return torch.randperm(there, generator=generator)[:size]

    def part(self, name: PartName, device: torch.device | None = None) -> Part:
        """One part on `device`: by default the trainer's, without a trainer the CPU."""
        return place(self.source, name, self._device() if device is None else device)

    def prepare_data(self) -> None:
        load(self.source)

    def setup(self, stage: str) -> None:
        self.train_rows()  # raises before anything trains

    def train_dataloader(self) -> TrainBatches:
        trainer = self.trainer
        epoch = (lambda: trainer.current_epoch) if trainer else itertools.count().__next__
        rows = self.train_rows()
        return TrainBatches(
            self.part("train"),
            rows,
            self.batch_size,
            seed=self.seed,
            epoch=epoch,
            share=self._share(),
        )

    def val_dataloader(self) -> EvalBatches:
        return EvalBatches(self.part("val"), self.eval_batch_size, self._share())

    def test_dataloader(self) -> EvalBatches:
        return EvalBatches(self.part("test"), self.eval_batch_size, self._share())

    def predict_dataloader(self) -> EvalBatches:
        """The test images, labels included: `predict_step` gets (x, y) like every other step."""
        return self.test_dataloader()

    def _device(self) -> torch.device:
        return torch.device("cpu") if self.trainer is None else self.trainer.strategy.root_device

    def _share(self) -> Share:
        if self.trainer is None:
            return ALONE
        return Share(self.trainer.global_rank, self.trainer.world_size)


def check_sizes(sizes: dict[str, int]) -> None:
    """Raises one DataError that names every size that is not a whole number from 1."""
    wrong = {name: size for name, size in sizes.items() if not isinstance(size, int) or size < 1}
    if wrong:
        raise DataError(
            f"whole numbers from 1 for {', '.join(wrong)}",
            ", ".join(map(repr, wrong.values())),
            f"set {', '.join(f'data.{name}' for name in wrong)} to such a number",
        )
