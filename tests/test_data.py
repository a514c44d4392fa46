"""The data package: files, parts, orders, downloads, and loaders under a real Trainer."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import pickle
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from dropnorm.data import (
    MNIST,
    DataError,
    EvalBatches,
    ImageData,
    Share,
    Synthetic,
    TrainBatches,
    epoch_order,
)
from dropnorm.data.download import REMOTES, Remote, fetch
from dropnorm.data.idx import (
    DIMENSIONS,
    PACKAGED,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    read_folder,
)
from dropnorm.data.parts import PartName, pixel_statistics

PACK: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "it's a folder")


def write_folder(folder: Path, suffix: str = "", train: int = 60, test: int = 12) -> Path:
    """A small IDX data set: `train` and `test` images of 6 x 5 pixels in 3 classes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, dimensions in DIMENSIONS.items():
        count = train if name.startswith("train") else test
        if dimensions == 3:
            array = rng.integers(0, 256, (count, 6, 5), dtype=np.uint8)
        else:
            array = (np.arange(count) % 3).astype(np.uint8)
        (folder / f"{name}{suffix}").write_bytes(PACK[suffix](idx(array)))
    return folder


class Recorder(pl.LightningModule):
    """A small classifier that keeps the epoch and the images of every batch it trained on."""

    def __init__(self, data: ImageData) -> None:
        super().__init__()
        self.linear = nn.Linear(int(np.prod(data.input_shape)), data.classes)
        self.seen: list[tuple[int, Tensor]] = []

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        self.seen.append((self.current_epoch, batch[0].clone()))
        return nn.functional.cross_entropy(self.linear(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        hits = self.linear(batch[0].flatten(1)).argmax(1) == batch[1]
        self.log("val_accuracy", hits.float().mean(), batch_size=len(hits))

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)


def trainer(tmp_path: Path, **settings: Any) -> pl.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "enable_checkpointing": False, "num_sanity_val_steps": 0}
    return pl.Trainer(default_root_dir=tmp_path, **{**quiet, **defaults, **settings})


# Files


def test_packaged_mnist_has_the_published_sums_and_sizes() -> None:
    published = "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
    assert f"{published}  {TRAIN_IMAGES}" in (PACKAGED / "SHA256SUMS").read_text()
    raw = read_folder(PACKAGED)
    assert raw.train_images.shape == (60_000, 28, 28)
    assert raw.test_images.shape == (10_000, 28, 28)
    assert raw.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(raw.test_labels).tolist()[:3] == [980, 1135, 1032]


@pytest.mark.parametrize("suffix", PACK)
def test_folder_reads_the_same_however_it_is_packed(tmp_path: Path, suffix: str) -> None:
    raw = read_folder(write_folder(tmp_path / "packed", suffix))
    plain = read_folder(write_folder(tmp_path / "plain"))
    assert np.array_equal(raw.train_images, plain.train_images)
    assert np.array_equal(raw.test_labels, plain.test_labels)


def test_missing_files_are_named_all_at_once_with_the_folder(folder: Path) -> None:
    (folder / TRAIN_IMAGES).unlink()
    (folder / TEST_LABELS).unlink()
    with pytest.raises(DataError) as caught:
        read_folder(folder)
    message = str(caught.value)
    assert f"expected {TRAIN_IMAGES}, {TEST_LABELS} (raw, .gz or .xz) in {folder}" in message
    assert TRAIN_LABELS not in message
    assert "set data.path" in message


def test_missing_folder_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere, got no such folder"):
        MNIST(tmp_path / "nowhere").prepare_data()


@pytest.mark.parametrize("suffix", PACK)
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_folder(tmp_path / "cut", suffix) / f"{TRAIN_IMAGES}{suffix}"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=f"{TRAIN_IMAGES}.*; replace it by an intact copy"):
        read_folder(path.parent)


@pytest.mark.parametrize(
    ("content", "came"),
    [
        (b"", "an empty file"),
        (b"<html>404</html>", "3c 68 74 6d 6c"),
        (idx(np.zeros(60, np.uint8)), "00 00 08 01"),
        (b"\0\0\x0d\x03" + bytes(12), "00 00 0d 03"),
        (b"\0\0\x08\x03" + bytes(4), "00 00 08 03"),
        (idx(np.zeros((60, 6, 5), np.uint8)) + b"\0", "1,817"),
    ],
    ids=["empty", "web page", "labels", "floats", "half a header", "too long"],
)
def test_file_with_other_content_is_refused(folder: Path, content: bytes, came: str) -> None:
    (folder / TRAIN_IMAGES).write_bytes(content)
    with pytest.raises(DataError, match=f"got {came}"):
        read_folder(folder)


@pytest.mark.parametrize("suffix", [".gz", ".xz"])
def test_corrupted_archive_is_refused(tmp_path: Path, suffix: str) -> None:
    path = write_folder(tmp_path / "corrupt", suffix) / f"{TRAIN_IMAGES}{suffix}"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"to read .*{TRAIN_IMAGES}"):
        read_folder(path.parent)


def test_sums_beside_the_files_are_those_of_the_unpacked_content(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "summed", ".gz")
    path = folder / f"{TRAIN_LABELS}.gz"
    content = gzip.decompress(path.read_bytes())
    sums = f"{hashlib.sha256(content).hexdigest()}  {TRAIN_LABELS}\n"
    (folder / "SHA256SUMS").write_text(sums)
    read_folder(folder)
    path.write_bytes(gzip.compress(content[:-1] + b"\x07"))
    with pytest.raises(DataError, match=f"{TRAIN_LABELS}.gz with SHA-256 {sums[:64]}"):
        read_folder(folder)


def test_damaged_sums_are_refused(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text("not a sum\n")
    with pytest.raises(DataError, match=r"SHA256SUMS, got 'not a sum'"):
        read_folder(folder)


def test_labels_of_another_set_are_refused(folder: Path) -> None:
    (folder / TRAIN_LABELS).write_bytes(idx(np.zeros(59, np.uint8)))
    with pytest.raises(DataError, match=r"as many labels as images.*\(60, 6, 5\).*\(59,\)"):
        MNIST(folder).setup("fit")


def test_set_without_contrast_is_refused(folder: Path) -> None:
    (folder / TRAIN_IMAGES).write_bytes(idx(np.full((60, 6, 5), 7, np.uint8)))
    with pytest.raises(DataError, match="every pixel 7"):
        MNIST(folder).prepare_data()


def test_error_survives_pickling() -> None:
    error = DataError("this", "that", "do so")
    assert str(pickle.loads(pickle.dumps(error))) == "expected this, got that; do so"


# Parts


def test_split_is_fixed_and_disjoint() -> None:
    raw = read_folder(PACKAGED)
    train, val, test = (MNIST(seed=3).part(name) for name in ("train", "val", "test"))
    assert [len(part) for part in (train, val, test)] == [50_000, 10_000, 10_000]
    whole = torch.cat([train.images, val.images]).squeeze(1)
    assert torch.equal(whole, torch.from_numpy(raw.train_images))
    assert torch.equal(test.images.squeeze(1), torch.from_numpy(raw.test_images))
    assert torch.equal(val.labels, torch.from_numpy(raw.train_labels[50_000:]).long())


def test_statistics_are_those_of_the_training_part_for_all_parts() -> None:
    data = MNIST()
    train = data.part("train")
    pixels = train.images.double()
    assert train.mean == pytest.approx(pixels.mean().item(), rel=1e-8)
    assert train.std == pytest.approx(pixels.std(correction=0).item(), rel=1e-8)
    assert (data.part("test").mean, data.part("val").std) == (train.mean, train.std)


def test_statistics_are_exact_across_chunks() -> None:
    assert pixel_statistics(torch.tensor([0, 255] * 1500, dtype=torch.uint8)) == (127.5, 127.5)


def test_batches_are_normalised() -> None:
    data = MNIST(batch_size=50_000)
    [(x, y)] = data.train_dataloader()
    assert (x.shape, x.dtype, y.dtype) == ((50_000, 1, 28, 28), torch.float32, torch.int64)
    assert x.mean(dtype=torch.float64).abs() < 1e-5
    assert x.double().std() == pytest.approx(1, abs=1e-5)


def test_pixel_becomes_the_same_number_wherever_it_stands_in_a_batch() -> None:
    part = MNIST().part("train")
    rows = torch.arange(1000)
    together, _ = part.gather(rows)
    assert torch.equal(together[613:616], part.gather(rows[613:616])[0])
    assert torch.equal(together[7:8], part.between(7, 8)[0])


def test_idx_folder_is_a_data_set_of_its_own(folder: Path) -> None:
    data = MNIST(str(folder), batch_size=7)
    assert (data.input_shape, data.classes) == ((1, 6, 5), 3)
    assert [len(data.part(name)) for name in ("train", "val", "test")] == [50, 10, 12]
    assert len(data.train_dataloader()) == 7  # the 50th image is left over
    assert [len(y) for _, y in MNIST(folder, 7, eval_batch_size=5).test_dataloader()] == [5, 5, 2]


def test_trials_share_the_tensors() -> None:
    first, second = (MNIST(seed=seed).part("train") for seed in (1, 2))
    assert first is second
    assert first.images.data_ptr() == MNIST(batch_size=9).part("train").images.data_ptr()


def test_changing_a_batch_leaves_the_shared_data_alone() -> None:
    data = Synthetic()
    before = data.part("val").labels.clone()
    for x, y in data.val_dataloader():
        x.zero_(), y.zero_()
    assert torch.equal(data.part("val").labels, before)


# Sizes


@pytest.mark.parametrize("size", [0, -1, 2.5, "128"])
@pytest.mark.parametrize("name", ["batch_size", "eval_batch_size", "train_size"])
def test_size_that_is_none_is_refused_at_once(name: str, size: Any) -> None:
    with pytest.raises(DataError, match=f"whole numbers from 1 for {name}, got {size!r}"):
        MNIST(**{name: size})


def test_wrong_sizes_are_named_together() -> None:
    with pytest.raises(DataError, match=r"for batch_size, eval_batch_size, got 0, -2"):
        MNIST(batch_size=0, eval_batch_size=-2)


def test_size_above_what_there_is_is_refused_before_training() -> None:
    with pytest.raises(DataError, match="train_size from 1 to 50,000, got 50,001"):
        MNIST(train_size=50_001).setup("fit")
    with pytest.raises(
        DataError, match="batch_size from 1 to 100, the number of training images, got 128"
    ):
        MNIST(train_size=100).setup("fit")


def test_few_training_images_are_the_same_for_every_trial_and_nested() -> None:
    few = MNIST(train_size=500, seed=1).train_rows()
    assert torch.equal(few, MNIST(train_size=500, seed=2).train_rows())
    assert torch.equal(few, MNIST(train_size=1000).train_rows()[:500])
    assert len(few.unique()) == 500
    assert not torch.equal(few, torch.arange(500))
    labels = torch.cat([y for _, y in MNIST(batch_size=100, train_size=500).train_dataloader()])
    expected = MNIST().part("train").labels[few]
    assert torch.equal(labels.bincount(), expected.bincount())


# Order


def test_order_is_a_function_of_seed_and_epoch() -> None:
    rows = torch.arange(1000)
    assert torch.equal(epoch_order(rows, 5, 2), epoch_order(rows, 5, 2))
    assert torch.equal(epoch_order(rows, 5, 2).sort().values, rows)
    for other in (epoch_order(rows, 5, 3), epoch_order(rows, 6, 2)):
        assert (other == epoch_order(rows, 5, 2)).float().mean() < 0.02


def test_order_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    next(iter(Synthetic(data_seed=77).train_dataloader()))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_pass_without_a_trainer_is_the_next_epoch() -> None:
    batches = MNIST(seed=4, batch_size=1000).train_dataloader()
    first, second = (torch.cat([y for _, y in batches]) for _ in range(2))
    labels = MNIST().part("train").labels
    assert torch.equal(first, labels[epoch_order(torch.arange(50_000), 4, 0)])
    assert torch.equal(second, labels[epoch_order(torch.arange(50_000), 4, 1)])


def test_interrupted_pass_goes_on_where_it_stopped_and_only_then() -> None:
    part = Synthetic().part("train")
    make = partial(TrainBatches, part, torch.arange(1024), 100, seed=1, epoch=lambda: 3)
    whole = [y for _, y in make()]
    stopped = make()
    for _ in zip(range(4), stopped, strict=False):
        pass
    resumed = make()
    resumed.load_state_dict(stopped.state_dict())
    rest = [y for _, y in resumed]
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[4:], strict=True))
    assert len(list(resumed)) == len(whole) == 10


# Under a Trainer


@pytest.mark.parametrize("data", [MNIST(), Synthetic()], ids=["mnist", "synthetic"])
def test_trainer_fits_validates_and_tests(data: ImageData, tmp_path: Path) -> None:
    model = Recorder(data)
    runs = trainer(tmp_path, fast_dev_run=2)
    runs.fit(model, datamodule=data)
    assert [x.shape for _, x in model.seen] == [(128, *data.input_shape)] * 2
    assert "val_accuracy" in runs.validate(model, datamodule=data, verbose=False)[0]
    assert "val_accuracy" in runs.test(model, datamodule=data, verbose=False)[0]


def test_trainer_gives_each_epoch_its_keyed_order(tmp_path: Path) -> None:
    data = Synthetic(batch_size=256, seed=8)
    model = Recorder(data)
    trainer(tmp_path, max_epochs=3).fit(model, datamodule=data)
    part = data.part("train")
    for epoch in range(3):
        seen = torch.cat([x for at, x in model.seen if at == epoch])
        expected, _ = part.gather(epoch_order(torch.arange(1024), 8, epoch))
        assert torch.equal(seen, expected)


class SaveAt(pl.Callback):
    """Writes a checkpoint after one training step, as if the run was killed right after it."""

    def __init__(self, step: int, path: Path) -> None:
        self.step = step
        self.path = path

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("step", [6, 8], ids=["within an epoch", "at the end of one"])
def test_resumed_training_is_the_uninterrupted_one(tmp_path: Path, step: int) -> None:
    saved = tmp_path / "saved.ckpt"
    whole, resumed = Recorder(Synthetic()), Recorder(Synthetic())
    data = partial(Synthetic, batch_size=256, seed=8)
    runs = trainer(tmp_path, max_epochs=4, callbacks=[SaveAt(step, saved)])
    runs.fit(whole, datamodule=data())
    runs = trainer(tmp_path, max_epochs=4)
    runs.fit(resumed, datamodule=data(), ckpt_path=saved, weights_only=True)
    assert [epoch for epoch, _ in resumed.seen] == [epoch for epoch, _ in whole.seen[step:]]
    pairs = zip(resumed.seen, whole.seen[step:], strict=True)
    assert all(torch.equal(ours[1], theirs[1]) for ours, theirs in pairs)
    assert torch.equal(resumed.linear.weight, whole.linear.weight)


def test_processes_share_the_steps_that_one_of_their_batch_would_take() -> None:
    """Step by step the two halves are the batch of twice the size, and nothing is seen twice."""
    part, rows = Synthetic().part("train"), torch.arange(1000)
    make = partial(TrainBatches, part, rows, seed=1, epoch=lambda: 3)
    whole = make(batch_size=200)
    halves = [make(batch_size=100, share=Share(rank, 2)) for rank in range(2)]
    assert [len(half) for half in halves] == [len(whole)] * 2 == [5, 5]
    for (x, y), *parts in zip(whole, *halves, strict=True):
        assert torch.equal(torch.cat([x for x, _ in parts]), x)
        assert torch.equal(torch.cat([y for _, y in parts]), y)


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_processes_validate_each_image_once(world_size: int) -> None:
    part = Synthetic(val_size=103).part("val")
    shares = [EvalBatches(part, 20, Share(rank, world_size)) for rank in range(world_size)]
    seen = [[y for _, y in batches] for batches in shares]
    assert [len(batches) for batches in shares] == [len(batches) for batches in seen]
    assert torch.equal(torch.cat([y for labels in seen for y in labels]), part.labels)
    sizes = [len(torch.cat(batches)) for batches in seen]
    assert max(sizes) - min(sizes) <= 1


def test_batch_of_all_processes_must_fit(tmp_path: Path) -> None:
    data = Synthetic(train_size=100, batch_size=60)
    data.setup("fit")
    data.trainer = trainer(tmp_path, devices=2, strategy="ddp")
    with pytest.raises(DataError, match=r"from 1 to 50, .* images / 2 processes, got 60"):
        data.setup("fit")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_parts_live_on_the_trainers_device(tmp_path: Path) -> None:
    data = Synthetic()
    model = Recorder(data)
    trainer(tmp_path, accelerator="gpu", devices=1, fast_dev_run=1).fit(model, datamodule=data)
    part = data.part("train", torch.device("cuda", 0))
    assert part is data.part("train", torch.device("cuda", 0))
    assert part.images.dtype == torch.uint8
    rows = epoch_order(torch.arange(1024), 0, 0)[:128]
    expected, _ = data.part("train", torch.device("cpu")).gather(rows)
    torch.testing.assert_close(model.seen[0][1].cpu(), expected)


# Synthetic


def test_synthetic_set_is_fixed_by_its_data_seed() -> None:
    def images(name: PartName, **settings: int) -> Tensor:
        return Synthetic(**settings).part(name).images

    assert torch.equal(images("train", seed=1), images("train", seed=2))
    assert torch.equal(images("val", train_size=300), images("val"))
    assert not torch.equal(images("train", data_seed=1), images("train"))


def test_synthetic_sizes_are_as_asked() -> None:
    data = Synthetic(train_size=600, val_size=70, test_size=80, classes=6)
    assert [len(data.part(name)) for name in ("train", "val", "test")] == [600, 70, 80]
    assert (data.input_shape, data.classes) == ((1, 8, 8), 6)
    assert data.part("train").labels.bincount().tolist() == [100] * 6
    with pytest.raises(DataError, match="for test_size, classes, got 0, 0"):
        Synthetic(test_size=0, classes=0)


def test_synthetic_set_can_be_learned_but_not_to_perfection(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = Synthetic(batch_size=32)
    model = Recorder(data)
    runs = trainer(tmp_path, max_epochs=2)
    runs.fit(model, datamodule=data)
    assert 0.6 < runs.callback_metrics["val_accuracy"] < 0.97


# Downloads


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server of a folder of .gz files on this machine: its address and the folder."""
    served = write_folder(tmp_path / "served", ".gz")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/", served
        httpd.shutdown()
        thread.join()


def remote(served: Path, *mirrors: str) -> Remote:
    sums = {
        name: hashlib.md5((served / f"{name}.gz").read_bytes(), usedforsecurity=False).hexdigest()
        for name in DIMENSIONS
    }
    return Remote(mirrors, sums)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Callable[[Remote], None]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return partial(monkeypatch.setitem, REMOTES, "fashion_mnist")


def test_download_makes_a_folder_that_trains_and_is_not_asked_for_again(
    server: tuple[str, Path], known: Callable[[Remote], None], tmp_path: Path
) -> None:
    address, served = server
    known(remote(served, f"{address}elsewhere/", address))  # the first mirror has nothing
    target = tmp_path / "data" / "fashion_mnist"
    data = MNIST(target, batch_size=10, download="fashion_mnist")
    data.prepare_data()
    assert sorted(p.name for p in target.iterdir()) == sorted(f"{n}.gz" for n in DIMENSIONS)
    assert len(data.part("train")) == 50
    known(remote(served))  # no mirrors at all
    fetch("fashion_mnist", target)


def test_download_with_another_sum_leaves_nothing_behind(
    server: tuple[str, Path], known: Callable[[Remote], None], tmp_path: Path
) -> None:
    address, served = server
    known(remote(served, address))
    (served / f"{TRAIN_IMAGES}.gz").write_bytes(b"something else")
    with pytest.raises(DataError, match=rf"with MD5 .*/{TRAIN_IMAGES}.gz: MD5 [0-9a-f]+"):
        fetch("fashion_mnist", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_download_offline_says_which_files_to_put_where(
    server: tuple[str, Path], known: Callable[[Remote], None], tmp_path: Path
) -> None:
    _, served = server
    known(remote(served, "http://127.0.0.1:1/"))  # nobody listens there
    with pytest.raises(DataError) as caught:
        MNIST(tmp_path / "target", download="fashion_mnist").prepare_data()
    message = str(caught.value)
    assert "http://127.0.0.1:1/train-images-idx3-ubyte.gz" in message
    assert all(f"{name}.gz" in message for name in DIMENSIONS)
    assert str(tmp_path / "target") in message


def test_download_needs_a_known_name_and_a_path() -> None:
    with pytest.raises(DataError, match="download to be fashion_mnist, got 'fashion'"):
        MNIST("somewhere", download="fashion")
    with pytest.raises(DataError, match="a path to download into, got none"):
        MNIST(download="fashion_mnist")


@pytest.mark.parametrize("rows", [[0, 5000], [-1, 3]])
def test_rows_that_are_not_there_are_refused(rows: list[int]) -> None:
    part = Synthetic(train_size=64).part("train")
    with pytest.raises(IndexError, match=f"expected 0 to 63, got {rows[0]} to {rows[1]}"):
        TrainBatches(part, torch.tensor(rows), 1, seed=0, epoch=lambda: 0)
