"""Decoded images on disk: what does not fit in memory is decoded once and read as plain pixels ever after.

One `.npy` file a data set and side, an array of records (state, pixels), memory-mapped: the operating system
keeps in memory what fits. The file's name follows from the identity of the images (`Source.identity`), so
images that change get a new file. $JANUS_CACHE says in which folder (default: the user's cache folder);
JANUS_CACHE=none switches the cache off. Nothing is ever deleted: the folder may be emptied whenever no run is
under way.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from filelock import AcquireReturnProxy, FileLock, Timeout
from platformdirs import user_cache_path
from torch import Tensor

from ..errors import JanusError

VERSION = 2  # of the file and of how pixels are made (`janus.data.images`): another one is another file
ABSENT, GOOD, BAD = 0, 1, 2  # states of a record: not decoded yet, decoded, cannot be decoded
CHUNK_BYTES = 64 * 1024**2  # pixels that are on disk before their states say so: what a crash can lose
SECONDS = 5.0  # between two lines of progress
logger = logging.getLogger(__name__)


def folder() -> Path | None:
    """Where caches are: $JANUS_CACHE, else the user's cache folder; None where JANUS_CACHE is "none"."""
    given = os.environ.get("JANUS_CACHE", "")
    if given.lower() in ("none", "off"):
        return None
    return Path(given).expanduser() if given else user_cache_path("janus-lora") / "images"


class DiskCache:
    """The decoded pixels of `count` images of side S, in one file below `place`.

    `label` and `identity` name the file. `decode(i)` gives uint8 (3, S, S) of image i or raises JanusError;
    it runs in `pool`. `open()` makes the file if it is not there: one process decodes while others wait for
    it, and what a killed one had finished is not decoded again. JanusError: no room, no rights.
    """

    def __init__(self, place: Path, label: str, identity: str, count: int, side: int) -> None:
        digest = hashlib.sha256(f"{VERSION}\0{identity}\0{count}\0{side}".encode()).hexdigest()[:24]
        name = re.sub(r"[^A-Za-z0-9.-]+", "_", label)[-40:].strip("._") or "images"
        self.path = place / f"{name}-{side}px-{digest}.npy"
        self.count, self.label = count, label
        self.dtype = np.dtype([("state", np.uint8), ("pixels", np.uint8, (side, side, 3))])
        self.records: np.ndarray | None = None

    def open(self, decode: Callable[[int], Tensor], pool: ThreadPoolExecutor) -> None:
        """Map the file, made first if need be. Does nothing when it is mapped already."""
        if self.records is not None:
            return
        self.records = self._mapped(self.path, "r")
        if self.records is not None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock():
                self.records = self._mapped(self.path, "r")  # made by another process in the meantime
                if self.records is None:
                    self._build(decode, pool)
                    self.records = self._mapped(self.path, "r")
        except OSError as error:
            raise JanusError(
                f"cannot write the image cache {self.path} ({error.strerror or error}); set JANUS_CACHE to "
                "a folder with room, or JANUS_CACHE=none to decode at every use"
            ) from error

    def good(self, rows: Sequence[int]) -> list[bool]:
        """Which of the images `rows` could be decoded."""
        return (self.records["state"][list(rows)] == GOOD).tolist()

    def read(self, rows: Sequence[int], pool: ThreadPoolExecutor, workers: int) -> Tensor:
        """uint8 (B, 3, S, S) of the images `rows`, colours last in memory; several threads read at once."""
        out = torch.empty((len(rows), *self.dtype["pixels"].shape), dtype=torch.uint8)
        into, records = out.numpy(), self.records

        def copy(part: range) -> None:
            for k in part:
                into[k] = records[rows[k]]["pixels"]

        list(pool.map(copy, [range(k, len(rows), workers) for k in range(min(workers, len(rows)))]))
        return out.permute(0, 3, 1, 2)

    def _lock(self) -> AcquireReturnProxy:
        """The file's lock, held until the end of the `with` it is used in."""
        guard = FileLock(self.path.with_suffix(".lock"))
        try:
            return guard.acquire(timeout=0)
        except Timeout:
            logger.info(f"another process is decoding {self.label}; waiting for {self.path}")
            return guard.acquire()

    def _mapped(self, path: Path, mode: str) -> np.ndarray | None:
        """The records in `path`, None if it is not there, not whole, or something else."""
        try:
            found = np.load(path, mmap_mode=mode, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        return found if found.dtype == self.dtype and found.shape == (self.count,) else None

    def _build(self, decode: Callable[[int], Tensor], pool: ThreadPoolExecutor) -> None:
        """Decode what is not there yet into a file beside the final one, which it becomes; under the lock."""
        part = self.path.with_suffix(".part")
        self._fill(part, decode, pool)
        os.replace(part, self.path)

    def _fill(self, part: Path, decode: Callable[[int], Tensor], pool: ThreadPoolExecutor) -> None:
        records = self._mapped(part, "r+")
        if records is None:
            part.unlink(missing_ok=True)
            self._room()
            records = np.lib.format.open_memmap(part, "w+", self.dtype, (self.count,))
        # a full disk is told of now, and not by a signal in the middle of a write
        if hasattr(os, "posix_fallocate"):
            with part.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, part.stat().st_size)
        missing = (records["state"] == ABSENT).nonzero()[0].tolist()
        size = f"{self.count * self.dtype.itemsize / 1e9:.1f} GB"
        if len(missing) < self.count:
            logger.info(
                f"{self.label}: going on with {self.path} where it stopped, "
                f"{self.count - len(missing)} images are there"
            )
        begun = told = time.monotonic()

        def state(i: int) -> int:
            try:
                records[i]["pixels"] = decode(i).permute(1, 2, 0).numpy()
            except JanusError:  # told of by its name when somebody asks for this image
                return BAD
            return GOOD

        left = iter(missing)
        done, chunk = 0, max(1, CHUNK_BYTES // self.dtype.itemsize)
        while rows := list(islice(left, chunk)):
            states = list(pool.map(state, rows))
            records.flush()  # pixels reach the disk before the states that vouch for them
            records["state"][rows] = states
            done += len(rows)
            now = time.monotonic()
            if now - told >= SECONDS or done == len(missing):
                told, rest = now, (now - begun) * (len(missing) - done) / done
                logger.info(
                    f"decoding {self.label} once into {self.path} ({size}): {done}/{len(missing)} images, "
                    f"{rest:.0f} s left"
                )
        records.flush()

    def _room(self) -> None:
        needed, free = self.count * self.dtype.itemsize, shutil.disk_usage(self.path.parent).free
        if free < needed * 1.02:
            raise JanusError(
                f"the decoded images of {self.label} need {needed / 1e9:.1f} GB and {self.path.parent} has "
                f"{free / 1e9:.1f}; set JANUS_CACHE to a folder with room, "
                "or JANUS_CACHE=none to decode at every use"
            )
