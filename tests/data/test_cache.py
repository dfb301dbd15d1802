"""Decoded once: the disk cache gives the pixels that decoding gives, whatever happens to whoever makes it.

And batches are read ahead.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from helpers.image_sets import class_folder, encoded, every, said, write
from helpers.toys import toy_backbone

from janus import learner, train
from janus.data import cache, datasets, images
from janus.data.images import TensorImages, from_paths
from janus.data.prefetch import Prefetcher, of
from janus.errors import JanusError, UsageError
from janus.models import backbones

pytestmark = pytest.mark.usefixtures("without_home")

CPU = torch.device("cpu")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Where caches go, and every set too large for memory."""
    monkeypatch.setenv("JANUS_CACHE", str(tmp_path / "cache"))
    defaults = _no_memory(images.Encoded.__init__.__defaults__)
    monkeypatch.setattr(images.Encoded.__init__, "__defaults__", defaults)
    return tmp_path / "cache"


def _no_memory(defaults: tuple) -> tuple:
    assert images.CACHE_BYTES in defaults
    return tuple(0 if value == images.CACHE_BYTES else value for value in defaults)


def files(place: Path, ending: str = ".npy") -> list[Path]:
    return sorted(place.glob(f"*{ending}"))


# ---- the disk cache ----------------------------------------------------------------------------------------


def test_the_cache_gives_the_decoded_pixels_and_no_image_is_opened_again(tmp_path, place, caplog):
    caplog.set_level("INFO", "janus")
    root = class_folder(tmp_path / "set", {"a": 20, "b": 10})
    plain = every(datasets.load(root, cache="none").train)
    assert not place.exists()
    data = datasets.load(root)
    assert not place.exists()  # nothing is decoded before an image is asked for
    assert torch.equal(every(data.train), plain)
    (file,) = files(place)
    assert file.name.startswith("set-10px-") and not files(place, ".part")
    (line,) = caplog.messages
    assert "decoding set once" in line and "30/30 images" in line and str(file) in line
    again = datasets.load(root)  # its headers are read to know the side, so the files must be there still
    again.train.store.decode = None  # and nothing is decoded any more
    shuffled = torch.randperm(len(plain), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.train.batch(shuffled), plain[shuffled]) and caplog.messages == [line]


def test_memory_comes_first_unless_the_disk_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("JANUS_CACHE", str(tmp_path / "cache"))
    root = class_folder(tmp_path / "set", {"a": 5, "b": 5})
    in_memory = every(datasets.load(root).train)
    assert not (tmp_path / "cache").exists()
    assert torch.equal(every(datasets.load(root, cache="disk").train), in_memory)
    assert len(files(tmp_path / "cache")) == 1
    assert "did you mean 'disk'" in said(UsageError, lambda: datasets.load(root, cache="disc"))


def test_janus_cache_none_switches_it_off(tmp_path, place, monkeypatch):
    root = class_folder(tmp_path / "set", {"a": 5, "b": 5})
    monkeypatch.setenv("JANUS_CACHE", "none")
    monkeypatch.chdir(tmp_path)
    data = datasets.load(root, cache="disk")
    assert data.train.store.disk is None and len(every(data.train)) == len(data.train)
    assert not place.exists() and not (tmp_path / "none").exists()


def test_images_that_change_get_another_file(tmp_path, place):
    root = class_folder(tmp_path / "set", {"a": 10})
    before = every(datasets.load(root).train)
    write(root / "a" / "000.png", encoded(250))
    write(root / "a" / "001.png", encoded(251))
    after = every(datasets.load(root).train)
    assert len(files(place)) == 2 and not torch.equal(before, after)
    cut = datasets.load(root, test_fraction=0.1, val_fraction=0.0)
    assert {250, 251} <= {*every(cut.train)[:, 0, 0, 0].tolist(), *every(cut.test)[:, 0, 0, 0].tolist()}
    assert len(files(place)) == 2  # another cut of the same images shares the file


def test_a_side_has_its_own_file(tmp_path, place):
    for i in range(3):
        write(tmp_path / "set" / "a" / f"{i}.png", encoded(i, (120, 110)))
    assert every(datasets.load(tmp_path / "set", size=28).train).shape[-1] == 32
    assert every(datasets.load(tmp_path / "set", size=56).train).shape[-1] == 64
    assert [f.name.split("-")[1] for f in files(place)] == ["32px", "64px"]


def test_a_corrupt_image_is_named_when_it_is_asked_for_and_skipped_if_asked(tmp_path, place):
    root = class_folder(tmp_path / "set", {"a": 10, "b": 10})
    bad = write(root / "a" / "004.png", b"\x89PNG broken")
    data = datasets.load(root)
    message = said(JanusError, lambda: [every(part) for part in (data.train, data.val, data.test)])
    assert str(bad) in message and "skip_corrupt=true" in message
    assert len(files(place)) == 1  # the others are there
    with pytest.warns(UserWarning, match="1 corrupt images skipped: .*004.png"):
        data = datasets.load(root, skip_corrupt=True)
    assert sum(len(every(part)) for part in (data.train, data.val, data.test)) == 19


@pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b"", lambda b: b"something else"])
def test_a_damaged_file_is_made_again(tmp_path, place, damage):
    root = class_folder(tmp_path / "set", {"a": 10})
    first = every(datasets.load(root).train)
    (file,) = files(place)
    file.write_bytes(damage(file.read_bytes()))
    assert torch.equal(every(datasets.load(root).train), first)


def test_a_half_written_cache_goes_on_where_it_stopped(tmp_path, place, monkeypatch, caplog):
    monkeypatch.setattr(cache, "CHUNK_BYTES", 4 * 301)  # four images at a time
    root = class_folder(tmp_path / "set", {"a": 10, "b": 10})
    plain = every(datasets.load(root, cache="none").train)
    data, decoded = datasets.load(root), []
    real = data.train.store.decode

    def stops(i: int) -> torch.Tensor:
        if len(decoded) >= 9:
            raise KeyboardInterrupt
        decoded.append(i)
        return real(i)

    data.train.store.decode = stops
    with pytest.raises(KeyboardInterrupt):
        every(data.train)
    assert files(place, ".part") and not files(place)
    caplog.set_level("INFO", "janus")
    data, again = datasets.load(root), []
    data.train.store.decode = lambda i: again.append(i) or real(i)
    assert torch.equal(every(data.train), plain)
    assert len(again) == 12 and set(again) | set(decoded) == set(range(20))  # two chunks of four stood
    assert "where it stopped, 8 images are there" in caplog.messages[0] and not files(place, ".part")


def test_a_part_of_something_else_is_made_anew(tmp_path, place):
    root = class_folder(tmp_path / "set", {"a": 10})
    plain = every(datasets.load(root, cache="none").train)
    data = datasets.load(root)
    write(data.train.store.disk.path.with_suffix(".part"), b"junk")
    assert torch.equal(every(data.train), plain)


def test_no_room_and_no_rights_are_told_of_in_one_line(tmp_path, place, monkeypatch):
    root = class_folder(tmp_path / "set", {"a": 10})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    message = said(JanusError, lambda: every(datasets.load(root).train))
    assert "JANUS_CACHE=none" in message and str(place) in message
    monkeypatch.setenv("JANUS_CACHE", str(write(tmp_path / "a file", b"") / "below"))
    assert "cannot write the image cache" in said(JanusError, lambda: every(datasets.load(root).train))


def test_the_lock_is_let_go_even_if_making_the_cache_fails(tmp_path, place, monkeypatch):
    root = class_folder(tmp_path / "set", {"a": 10})
    data = datasets.load(root)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "posix_fallocate", full, raising=False)
        with pytest.raises(JanusError, match="No space left on device") as caught:
            every(data.train)
    guard = FileLock(data.train.store.disk.path.with_suffix(".lock"))
    with guard.acquire(timeout=0):
        assert guard.is_locked and caught.value  # the traceback, which holds the frames, is still there
    assert len(every(data.train)) == len(data.train)  # with room it is made after all


BUILD = """
import logging, sys, time
from janus.data import cache, datasets, images
cache.CHUNK_BYTES = 2 * 301
real = images.Encoded.decode
images.Encoded.decode = lambda self, i: (
    time.sleep(0.02) or print(f"decoded {i};", flush=True) or real(self, i)
)
import torch
logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
data = datasets.load(sys.argv[1], cache="disk")
print("sum", int(data.train.batch(torch.arange(len(data.train))).long().sum()), flush=True)
"""


def build(root: Path) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", BUILD, str(root)], stdout=subprocess.PIPE, text=True)


def test_two_processes_that_start_at_once_decode_once_and_read_the_same(tmp_path, place):
    root = class_folder(tmp_path / "set", {"a": 30, "b": 30})
    both = [build(root), build(root)]
    outputs = [p.communicate()[0] for p in both]
    assert all(p.returncode == 0 for p in both)
    assert "".join(outputs).count("decoded ") == 60  # each image by one of them (threads may share a line)
    sums = {line for output in outputs for line in output.splitlines() if line.startswith("sum")}
    assert sums == {f"sum {int(every(datasets.load(root, cache='none').train).long().sum())}"}


def test_a_killed_builder_leaves_what_it_had_finished(tmp_path, place):
    root = class_folder(tmp_path / "set", {"a": 60})
    victim = build(root)
    for _ in range(12):
        victim.stdout.readline()
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert files(place, ".part") and not files(place)
    output, _ = build(root).communicate()
    assert "where it stopped" in output and output.count("decoded ") < 60
    assert f"sum {int(every(datasets.load(root, cache='none').train).long().sum())}" in output


# ---- reading ahead -----------------------------------------------------------------------------------------


def batches(count: int = 10, size: int = 3) -> list[torch.Tensor]:
    return [torch.randint(0, 12, (size,), generator=torch.Generator().manual_seed(i)) for i in range(count)]


def test_batches_come_in_order_and_as_they_are(tmp_path):
    paths = [write(tmp_path / f"{i}.png", encoded(10 * i)) for i in range(12)]
    for kept in (
        from_paths(paths),
        from_paths(paths, cache_bytes=0),
        TensorImages(every(from_paths(paths)), torch.arange(12)),
    ):
        with Prefetcher(of(kept, batches()), CPU) as loader:
            seen = list(loader)
            assert list(loader) == []  # ended, and stays so
        assert [i.tolist() for i, _ in seen] == [i.tolist() for i in batches()]
        assert all(torch.equal(b, kept.batch(i)) for i, b in seen)


class Slow(TensorImages):
    """Images that take a while, and say which thread read them."""

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        self.threads = [*getattr(self, "threads", []), threading.current_thread().name]
        if 11 in index.tolist():
            raise JanusError("cannot decode image 11")
        time.sleep(0.01)
        return super().batch(index)


class Stored:
    """Not in memory, so that a CPU reads ahead too."""

    in_memory = False

    def __init__(self, inner) -> None:
        self.inner, self.labels, self.styles = inner, inner.labels, None

    def __len__(self) -> int:
        return len(self.inner)

    def batch(self, index: torch.Tensor) -> torch.Tensor:
        return self.inner.batch(index)


def slow() -> Stored:
    pixels = torch.arange(12, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)
    return Stored(Slow(pixels, torch.arange(12)))


def test_an_error_comes_where_its_batch_would_have_come():
    indices = [torch.tensor([i]) for i in (0, 1, 2, 11, 3)]
    with Prefetcher(of(slow(), indices), CPU) as loader:
        assert [int(next(loader)[0]) for _ in range(3)] == [0, 1, 2]
        for _ in range(2):
            assert "image 11" in said(JanusError, lambda: next(loader))
    with Prefetcher(of(slow(), indices[3:]), CPU) as loader:  # the first batch is the caller's own
        assert "image 11" in said(JanusError, lambda: next(loader))
        assert loader.thread is None


def test_the_thread_reads_ahead_and_ends_with_the_loop():
    images, before = slow(), threading.active_count()
    with Prefetcher(of(images, [torch.tensor([i % 10]) for i in range(1000)]), CPU, depth=2) as loader:
        next(loader), next(loader)
        time.sleep(0.2)
        assert 2 < len(images.inner.threads) <= 6  # what the queue holds, no more
        assert images.inner.threads[0] == threading.current_thread().name
        assert set(images.inner.threads[1:]) == {"prefetch"}
    assert threading.active_count() == before
    with pytest.raises(ZeroDivisionError), Prefetcher(of(images, [torch.tensor([0])] * 50), CPU) as loader:
        for _ in loader:
            raise ZeroDivisionError
    assert threading.active_count() == before


class Plain(Prefetcher):
    """What the loop did before: each batch when it is asked for."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.ahead = False


def test_a_run_has_the_same_numbers_to_the_last_bit_with_and_without(image_folder, place, monkeypatch):
    monkeypatch.setattr(backbones, "create", toy_backbone)
    settings = dict(
        dataset=str(image_folder), tasks=3, epochs=2, rank=2, device="cpu", threads=1, method="janus"
    )

    def numbers(**data) -> dict:
        result = train.run(**settings, data=data).to_dict()
        return {k: v for k, v in result.items() if k not in ("seconds", "date", "config")}

    ahead_from_disk = numbers()
    assert len(files(place)) == 1
    # the same hash too: where pixels are kept is not what they are
    assert numbers(cache="none") == ahead_from_disk
    monkeypatch.setattr(train, "Prefetcher", Plain)
    monkeypatch.setattr(learner, "Prefetcher", Plain)
    assert numbers(cache="none") == ahead_from_disk
    assert np.isfinite(ahead_from_disk["acc"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_batches(tmp_path):
    paths = [write(tmp_path / f"{i}.png", encoded(10 * i)) for i in range(12)]
    kept = from_paths(paths)
    with Prefetcher(of(kept, batches(50)), torch.device("cuda")) as loader:
        for index, batch in loader:
            assert batch.is_cuda and torch.equal(batch.cpu(), kept.batch(index))
