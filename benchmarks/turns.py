"""Several things timed in turns in one process, so that what else the machine does meets them all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping


def in_turns(work: Mapping[str, Callable[[], float]], rounds: int, warm_up: int) -> dict[str, list[float]]:
    """Name → the seconds that each call says it took, round by round after `warm_up` rounds; each round begins with another one."""
    names, seconds = list(work), {name: [] for name in work}
    for r in range(warm_up + rounds):
        for name in names[r % len(names):] + names[: r % len(names)]:
            seconds[name].append(work[name]())
        print(f"round {r + 1} of {warm_up + rounds}", flush=True)
    return {name: found[warm_up:] for name, found in seconds.items()}


def against(seconds: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """Name → ratio to `base` in the same round: median, and the quarter points of the rounds."""
    report = {}
    for name, found in seconds.items():
        low, middle, high = statistics.quantiles((t / reference for t, reference in zip(found, seconds[base])), n=4)
        report[name] = {"ratio": middle, "low": low, "high": high}
    return report
