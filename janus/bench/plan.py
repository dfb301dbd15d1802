"""What a grid's runs will take: the plan that `janus bench --dry-run` prints, and the time that is left."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import configure
from ..errors import JanusError
from ..runtime import assets
from ..runtime.timing import clock
from .clusters import gpus
from .grids import Grid, PlannedRun
from .states import State, states

UNKNOWN = "unknown"
COST = (  # what seconds depend on, and the data, without `NO_COST`
    *("backbone.model", "backbone.rank", "training.epochs", "training.batch_size"),
    *("method.name", "method.oe", "method.gr", "method.dml", "method.adapter", "method.init"),
)
NO_COST = ("data.tasks", "data.class_seed", "data.evaluate", "data.extended", "data.augment", "data.cache")


class RuntimeEstimate:
    """Seconds that a run takes, from finished runs of the same variant on the same data: those here, else
    those that come with janus, from another machine. An estimate: the number of tasks and of threads is not
    looked at."""

    def __init__(self) -> None:
        self.here: dict[str, list[float]] = {}
        self.shipped: dict[str, list[float]] = {}
        from . import store

        with contextlib.suppress(JanusError):  # there are none
            for run, _ in store.lines(assets.results(), detail=False)[0]:
                self.shipped.setdefault(_cost(run), []).append(run["seconds"])

    def add(self, run: PlannedRun, seconds: float) -> None:
        self.here.setdefault(_cost(configure.flat(run.config)), []).append(seconds)

    def estimate(self, run: PlannedRun) -> float | None:
        """Seconds, None if unknown."""
        key = _cost(configure.flat(run.config))
        found = self.here.get(key) or self.shipped.get(key)
        return sum(found) / len(found) if found else None

    def left(self, runs: Sequence[tuple[PlannedRun, float]], workers: int) -> str:
        """Time that `runs`, each with the share that is done, still take on so many workers."""
        times = [(self.estimate(run), done) for run, done in runs]
        known = [seconds * max(0.0, 1 - done) for seconds, done in times if seconds is not None]
        missing = len(times) - len(known)
        text = clock(sum(known) / max(1, min(workers, len(runs))))
        if not missing:
            return text
        return f"{text} and {missing} runs whose time is {UNKNOWN}" if known else UNKNOWN


def plan(grid: Grid, out: Path, workers: int | None = None, known: Sequence[str | Path] = ()) -> list[str]:
    """What `--dry-run` prints: a line for each run, then how many there are of each kind and the time left.

    workers: runs at once, if there are as many; None: as `execute` would have it here.
    """
    found = states(grid, out, known)
    workers = workers or len(gpus()) or 1
    estimate = runtime_estimate(grid, found)
    width = max(len(run.name) for run in grid.runs)
    lines = [f"{'run':{width}s}  {'method':8s}  seed  time      state"]
    for run in grid.runs:
        seconds = estimate.estimate(run)
        time_ = UNKNOWN if seconds is None else clock(seconds)
        method, seed = run.config.method.name, run.config.training.seed
        lines.append(f"{run.name:{width}s}  {method:8s}  {seed:4d}  {time_:8s}  {found[run.name].text}")
    kinds = Counter(state.kind for state in found.values())
    todo = [(run, found[run.name].done) for run in grid.runs if found[run.name].kind in ("to do", "stopped")]
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    left = estimate.left(todo, workers)
    lines.append(f"{grid.title}: {len(grid.runs)} runs, {counts}; time left {left}")
    return lines


def runtime_estimate(grid: Grid, found: Mapping[str, State]) -> RuntimeEstimate:
    estimate = RuntimeEstimate()
    for run in grid.runs:
        if (seconds := found[run.name].seconds) is not None:
            estimate.add(run, seconds)
    return estimate


def _cost(settings: Mapping[str, Any]) -> str:
    """Equal for runs that take about as long, but for the number of tasks."""
    names = [key for key in settings if key in COST or key.startswith("data.") and key not in NO_COST]
    kept = {name: settings[name] for name in names if settings[name] is not None}
    return json.dumps(kept, sort_keys=True)
