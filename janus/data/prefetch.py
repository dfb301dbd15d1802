"""The next batches are read while the model works on this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .images import Images

DEPTH = 3  # batches that wait


def of(images: Images, indices: Iterable[Tensor]) -> Iterator[tuple[Images, Tensor]]:
    """What `Prefetcher` takes where all batches come from the same images."""
    return ((images, index) for index in indices)


class Prefetcher:
    """`(index, batch)` for each `(images, index)` of `asked`, in order.

    A batch is what `images.batch(index)` gives, on `device`. A thread reads ahead (into pinned memory for
    cuda, from where the copy does not wait); the first batch is read by the caller's own thread, so that
    whatever is done once (`janus.data.cache`) is done, and fails, there. Images that are in memory already
    are read as they are asked for where the device is a CPU: there is nothing to gain. An error of a batch is
    raised where that batch would have come. Use it as a context: leaving it ends the thread.
    """

    def __init__(
        self, asked: Iterable[tuple[Images, Tensor]], device: torch.device, depth: int = DEPTH
    ) -> None:
        self.asked: Iterator[tuple[Images, Tensor]] = iter(asked)
        self.device = device
        self.ahead = True
        self.ready: queue.Queue[tuple[Tensor | None, Any]] = queue.Queue(depth)
        self.stop = threading.Event()
        self.thread: threading.Thread | None = None
        self.first = True

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop.set()
        if self.thread is not None:
            while self.thread.is_alive():  # it may wait for room in the queue
                with self.ready.mutex:
                    self.ready.queue.clear()
                    self.ready.not_full.notify_all()
                self.thread.join(0.01)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        if self.first or not self.ahead:
            images, index = next(self.asked)
            batch = self._read(images, index)
            self.ahead = self.device.type != "cpu" or not images.in_memory
            self.first = False
        else:
            if self.thread is None:
                self.thread = threading.Thread(target=self._work, name="prefetch", daemon=True)
                self.thread.start()
            index, batch = self.ready.get()
            if isinstance(batch, BaseException):
                self.thread.join()
                self.ready.put((None, batch))  # once ended it stays ended
                raise batch
        return index, batch.to(self.device, non_blocking=self.device.type == "cuda")

    def _read(self, images: Images, index: Tensor) -> Tensor:
        batch = images.batch(index)
        return batch.pin_memory() if self.device.type == "cuda" else batch

    def _work(self) -> None:
        try:
            for images, index in self.asked:
                batch = self._read(images, index)
                if self.stop.is_set():
                    return
                self.ready.put((index, batch))
                if self.stop.is_set():
                    return
            self.ready.put((None, StopIteration()))
        except BaseException as error:  # noqa: BLE001 - raised again where the batch is asked for
            self.ready.put((None, error))
