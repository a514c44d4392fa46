"""IDX files, the format of MNIST and its relatives: one file as an array, a folder as four arrays.

Files may be raw, `.gz` or `.xz`, recognised by name. A `SHA256SUMS` beside them holds the sums of
the *unpacked* files, so it stays right when they are packed in another way.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import math
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dropnorm.data.errors import DataError

Bytes: TypeAlias = NDArray[np.uint8]

PACKAGED = Path(__file__).parent / "files"  # MNIST's own

TRAIN_IMAGES = "train-images-idx3-ubyte"
TRAIN_LABELS = "train-labels-idx1-ubyte"
TEST_IMAGES = "t10k-images-idx3-ubyte"
TEST_LABELS = "t10k-labels-idx1-ubyte"
DIMENSIONS = {TRAIN_IMAGES: 3, TRAIN_LABELS: 1, TEST_IMAGES: 3, TEST_LABELS: 1}

_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
}
_UNSIGNED_BYTE = 0x08
_REPLACE = "replace it by an intact copy"


@dataclass(frozen=True, eq=False)
class IdxFolder:
    """The four arrays of a data set in IDX files: images [N, H, W] and labels [N], both uint8."""

    train_images: Bytes
    train_labels: Bytes
    test_images: Bytes
    test_labels: Bytes


def training_part(count: int) -> int:
    """How many of `count` training images train: the last sixth validates."""
    return count - count // 6


def read_folder(folder: Path) -> IdxFolder:
    """Reads the four files with the standard names, checked against SHA256SUMS if that is there.

    Errors: DataError, naming every file that is missing at once, or the first that is damaged.
    """
    if missing := missing_files(folder):
        raise DataError(
            f"{', '.join(missing)} (raw, .gz or .xz) in {folder}",
            "none of them" if folder.is_dir() else "no such folder",
            "put them there, or set data.path to the folder that holds them",
        )
    found = {name: find_file(folder, name) for name in DIMENSIONS}
    sums = _read_sums(folder / "SHA256SUMS")
    raw = IdxFolder(
        *(read_idx(path, DIMENSIONS[name], sums.get(name)) for name, path in found.items() if path)
    )
    _check_shapes(folder, raw)
    return raw


def missing_files(folder: Path) -> list[str]:
    """Those of the four standard names that `folder` has neither raw nor packed."""
    return [name for name in DIMENSIONS if find_file(folder, name) is None]


def find_file(folder: Path, name: str) -> Path | None:
    """The file called `name` in `folder`, raw or packed; a raw one wins."""
    return next((p for suffix in _UNPACK if (p := folder / f"{name}{suffix}").is_file()), None)


def read_idx(path: Path, dimensions: int, sha256: str | None = None) -> Bytes:
    """One IDX file of unsigned bytes as an array of the shape that its header gives.

    Errors: DataError if it cannot be unpacked, has another sum than `sha256` (of the unpacked
    content), starts with another magic number, or is shorter or longer than its header says.
    """
    content = _unpack(path)
    if sha256 is not None and (sum_ := hashlib.sha256(content).hexdigest()) != sha256:
        raise DataError(f"{path} with SHA-256 {sha256}", sum_, _REPLACE)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    start = 4 + 4 * dimensions
    if content[:4] != magic or len(content) < start:
        raise DataError(
            f"{path} to start with {magic.hex(' ')} and {dimensions} dimensions",
            content[:start].hex(" ") or "an empty file",
            _REPLACE,
        )
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    length = start + math.prod(shape)
    if len(content) != length:
        raise DataError(
            f"{path} of {length:,} bytes, unpacked, for its shape {shape}",
            f"{len(content):,}",
            _REPLACE,
        )
    # Copied, because an array over `bytes` is read-only, which torch does not support.
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def _unpack(path: Path) -> bytes:
    unpack = _UNPACK.get(path.suffix, bytes)
    try:
        return unpack(path.read_bytes())
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise DataError(f"to read {path}", f"{type(error).__name__}: {error}", _REPLACE) from error


def _read_sums(path: Path) -> dict[str, str]:
    """File name -> SHA-256, as `sha256sum` writes them; empty if there is no such file."""
    if not path.is_file():
        return {}
    pairs = [line.split(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
    wrong = [" ".join(pair) for pair in pairs if len(pair) != 2 or len(pair[0]) != 64]
    if wrong:
        raise DataError(f"lines of `<sha256>  <name>` in {path}", repr(wrong[0]), "mend it")
    return {name.lstrip("*"): sum_.lower() for sum_, name in pairs}


def _check_shapes(folder: Path, raw: IdxFolder) -> None:
    """Raises a DataError unless each image has its label and all images have one size."""
    train, test = raw.train_images, raw.test_images
    paired = len(train) == len(raw.train_labels) and len(test) == len(raw.test_labels)
    if not (paired and train.size and test.size and train.shape[1:] == test.shape[1:]):
        raise DataError(
            f"as many labels as images and images of one size in {folder}",
            f"images {train.shape} and {test.shape} (train and test), "
            f"labels {raw.train_labels.shape} and {raw.test_labels.shape}",
            "take all four files from the same data set",
        )
