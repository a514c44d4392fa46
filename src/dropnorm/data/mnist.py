"""MNIST, which comes with the package, and any other data set in IDX files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from dropnorm.data.download import check_name, fetch
from dropnorm.data.errors import DataError
from dropnorm.data.idx import PACKAGED, Bytes, read_folder, training_part
from dropnorm.data.images import ImageData
from dropnorm.data.parts import Batch, Parts, assemble


class MNIST(ImageData):
    """MNIST (LeCun, Cortes & Burges), or the IDX data set in the folder `path`.

    The last 10,000 of the 60,000 training images validate, whatever the seed; in a set of another
    size the last sixth does. The test images are not moved to the device before they are asked for.
    `download="fashion_mnist"` first fetches what is missing in `path`. `seed` keys the data order.

    Shapes: x float32 [B, 1, 28, 28] with mean 0 and standard deviation 1, y int64 [B] in 0..9.
    Errors: DataError for files that are missing or damaged (when first needed) and for bad sizes.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        batch_size: int = 128,
        eval_batch_size: int = 2000,
        train_size: int | None = None,
        seed: int = 0,
        download: str | None = None,
    ) -> None:
        if download is not None:
            check_name(download)
            if path is None:
                raise DataError(
                    "a path to download into", "none", f"set data.path, such as data/{download}"
                )
        folder = PACKAGED if path is None else Path(path).expanduser().resolve()
        super().__init__(
            IdxSource(folder, download),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            train_size=train_size,
            seed=seed,
        )


@dataclass(frozen=True)
class IdxSource:
    """A folder of IDX files, and the name of the data set to fetch into it if there is one."""

    folder: Path
    download: str | None = None

    def read(self) -> Parts:
        if self.download is not None:
            fetch(self.download, self.folder)
        raw = read_folder(self.folder)
        count = len(raw.train_images)
        cut = training_part(count)
        if cut == count:
            raise DataError(
                f"6 or more training images in {self.folder}, a sixth of them to validate",
                f"{count}",
                "use a larger set",
            )
        images, labels = _tensors(raw.train_images, raw.train_labels)
        return assemble(
            train=(images[:cut], labels[:cut]),
            val=(images[cut:], labels[cut:]),
            test=_tensors(raw.test_images, raw.test_labels),
        )


def _tensors(images: Bytes, labels: Bytes) -> Batch:
    """Images [N, H, W] as uint8 [N, 1, H, W], labels as int64 [N]."""
    return torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).long()
