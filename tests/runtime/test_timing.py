"""What is timed on a card is the card's work, not its queueing."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from janus.runtime import timing
from janus.runtime.timing import Stopwatch


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A card that does nothing until it is waited for.

    Its queue: [seconds of work in it, of those how many are done].
    """
    queue = [0.0, 0.0]

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: str) -> None:
            assert stream == "the queue of cuda:1"
            self.at = queue[0]

        def query(self) -> bool:
            return queue[1] >= self.at

        def synchronize(self) -> None:
            queue[1] = max(queue[1], self.at)

        def elapsed_time(self, end: Event) -> float:
            assert queue[1] >= end.at, "the card has not done it yet"
            return 1e3 * (end.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the queue of {device}")
    return queue


def test_on_a_card_the_work_in_its_queue_is_timed(queue: list[float]) -> None:
    watch = Stopwatch(torch.device("cuda:1"))
    for piece in (2.0, 3.0):
        queue[0] += 100.0  # of others
        with watch.running():
            queue[0] += piece
    assert queue[1] == 0.0  # nobody has waited
    assert watch.take() == pytest.approx(5.0) and queue[1] == queue[0]
    assert watch.take() == 0.0


def test_what_nobody_asks_for_does_not_pile_up(queue: list[float]) -> None:
    watch = Stopwatch(torch.device("cuda:1"))
    for _ in range(500):
        with watch.running():
            queue[0] += 1.0
        queue[1] = queue[0]  # the card keeps up
    assert len(watch._events) < 70
    assert watch.take() == pytest.approx(500.0)


def test_elsewhere_a_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(now))
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.running():
            pass
    assert watch.take() == 5.0 and watch.take() == 0.0


def test_things_are_timed_in_turns_and_compared_round_by_round() -> None:
    order: list[str] = []

    def work(name: str, seconds: float) -> float:
        order.append(name)
        return seconds * (1 + len(order) // 3)  # a machine that slows down: both alike within a round

    works = {name: partial(work, name, seconds) for name, seconds in (("a", 1.0), ("b", 2.0), ("c", 3.0))}
    lines: list[str] = []
    seconds = timing.interleaved(works, rounds=3, warm_up=1, progress=lines.append)
    assert order == [*"abc", *"bca", *"cab", *"abc"] and lines[-1] == "round 4 of 4"
    assert {len(found) for found in seconds.values()} == {3}
    assert timing.ratios({"a": [1, 2, 4], "b": [2, 4, 8]}, "a")["b"] == {"ratio": 2, "low": 2, "high": 2}


def test_timing_stops_in_time_but_not_before_there_is_something_to_compare() -> None:
    found = timing.interleaved({"a": lambda: 1.0}, 50, 1, seconds=0.0, progress=lambda line: None)
    assert len(found["a"]) == 2
