"""Seconds of a run, as one number and as text. Imports nothing that takes seconds to import."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Stopwatch:
    """Adds up the seconds of pieces of work on a device: `with watch.running(): …`.

    A GPU works through a queue, so a clock beside it would time the queueing alone, or all that was queued
    before; there events in the queue tell. On mps it is the clock.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self._taken = device, 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Times what is done within."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            yield
            self._taken += time.perf_counter() - start
            return
        import torch

        while len(self._events) > 64 and self._events[0][1].query():  # nobody may ever ask for them
            self._add(*self._events.pop(0))
        stream = torch.cuda.current_stream(self.device)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(stream)
        yield
        end.record(stream)
        self._events.append((begin, end))

    def take(self) -> float:
        """The seconds since this was asked last; waits for the GPU to have done what they were spent on."""
        for events in self._events:
            self._add(*events)
        self._events.clear()
        taken, self._taken = self._taken, 0.0
        return taken

    def _add(self, begin: torch.cuda.Event, end: torch.cuda.Event) -> None:
        end.synchronize()
        self._taken += begin.elapsed_time(end) / 1e3  # from milliseconds


def total(parts: Mapping[str, float]) -> float:
    """Of a whole run, from its parts.

    `gr` and `data` are in `train`, as are OE's hooks, of which up to a second counts twice.
    """
    return parts["train"] + parts["eval"] + parts["oe"]


def clock(seconds: float) -> str:
    """3725 → "1:02:05", 125 → "2:05"."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def interleaved(
    work: Mapping[str, Callable[[], float]],
    rounds: int,
    warm_up: int,
    seconds: float | None = None,
    progress: Callable[[str], None] | None = print,
) -> dict[str, list[float]]:
    """Time several things in turns in one process, so that what else the machine does meets them all.

    Args:
        work: name → a call that does it once and says how many seconds it took.
        rounds: how often each is done after `warm_up` rounds; each round begins with another one.
        seconds: no round begins after so many, but two at least are made.
        progress: gets a line a round; None: nobody does.

    Returns:
        Name → the seconds of each round.
    """
    names, taken, begun = list(work), {name: [] for name in work}, time.monotonic()
    for r in range(warm_up + rounds):
        if seconds is not None and r >= warm_up + 2 and time.monotonic() - begun > seconds:
            break
        for name in names[r % len(names) :] + names[: r % len(names)]:
            taken[name].append(work[name]())
        if progress:
            progress(f"round {r + 1} of {warm_up + rounds}")
    return {name: found[warm_up:] for name, found in taken.items()}


def ratios(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Name → ratio to `base` in the same round: median, quarter points of the rounds (two at least)."""
    report = {}
    for name, found in seconds.items():
        each = [t / reference for t, reference in zip(found, seconds[base])]
        low, middle, high = statistics.quantiles(each, n=4)
        report[name] = {"ratio": middle, "low": low, "high": high}
    return report
