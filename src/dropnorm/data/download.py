"""Downloads of known data sets in IDX files, each file checked before it gets its name."""

from __future__ import annotations

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from dropnorm.data.errors import DataError
from dropnorm.data.idx import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, missing_files

_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Remote:
    """A data set on the net: folders that hold the same `.gz` files, and the MD5 of each file."""

    mirrors: tuple[str, ...]
    md5: Mapping[str, str]


# Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, MIT licence); the sums are those its authors publish.
REMOTES = {
    "fashion_mnist": Remote(
        mirrors=(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        md5={
            TRAIN_IMAGES: "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            TRAIN_LABELS: "25c81989df183df01b3e8a0aad5dffbe",
            TEST_IMAGES: "bef4ecab320f06d8554ea6380940ec79",
            TEST_LABELS: "bb300cfdad3c16e7a12a480ee83cd310",
        },
    )
}


def check_name(name: str) -> None:
    """Raises a DataError unless `name` is a data set that can be downloaded."""
    if name not in REMOTES:
        raise DataError(
            f"download to be {' or '.join(REMOTES)}",
            repr(name),
            "set data.path to a folder of IDX files for any other set",
        )


def fetch(name: str, folder: Path) -> None:
    """Downloads what `folder` lacks of a known data set; with all files there it needs no network.

    Errors: DataError if no mirror gives a file with the right sum; files fetched before it stay.
    """
    remote = REMOTES[name]
    for file in missing_files(folder):
        _write(folder / f"{file}.gz", _first_sound(remote, file, folder))


def _first_sound(remote: Remote, file: str, folder: Path) -> bytes:
    """The content of a file from the first mirror that has it with the right sum."""
    failures = []
    for mirror in remote.mirrors:
        url = f"{mirror}{file}.gz"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response:
                content: bytes = response.read()
        except (OSError, HTTPException) as error:
            failures.append(f"{url}: {error}")
            continue
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if md5 == remote.md5[file]:
            return content
        failures.append(f"{url}: MD5 {md5}")
    files = ", ".join(f"{name}.gz" for name in remote.md5)
    raise DataError(
        f"{file}.gz with MD5 {remote.md5[file]} from one of {len(remote.mirrors)} mirrors",
        "; ".join(failures),
        f"try again when online, or put {files} into {folder} yourself",
    )


def _write(path: Path, content: bytes) -> None:
    """Writes aside, then renames: a file with its final name is whole, however many download it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
