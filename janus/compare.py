"""Runs over seeds: read a folder of results, compare rows within a seed, and say how sure a difference is."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

from .ablation import CROSS, PAPER, ROWS, slug
from .errors import JanusError, UsageError
from .metrics import over_samples
from .result import Result

Rows = Mapping[str, Sequence[Result]]  # row of a table → its runs, by seed
FLOOR = "frozen"  # what adapts nothing: a row below it has only forgotten
NONE = "—"

_ORDER = [*ROWS, *CROSS]
_UNSLUG = {slug(row): row for row in _ORDER}


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(folder: str | Path) -> dict[str, dict[str, list[Result]]]:
    """All runs below a results folder: group (its subfolder) → row → results, ordered by seed.

    A file's name is the row's slug, then `__` and what tells its runs apart. JSON files that are no runs are left out.

    Raises:
        UsageError: no such folder, or no runs in it. JanusError: a damaged file; it is named.
    """
    folder, groups = Path(folder), {}
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise JanusError(f"{path}: not readable ({error}); delete it and run again") from None
        if isinstance(values, dict) and {"accuracy", "config"} <= values.keys():
            group = groups.setdefault(path.parent.relative_to(folder).as_posix(), {})
            group.setdefault(_UNSLUG.get(name := path.stem.partition("__")[0], name), []).append(Result.load(path))
    if not groups:
        raise UsageError(f"no results in {folder}: name a folder of runs (each has a result.json or is a file of its own)")
    for group, rows in groups.items():
        order = sorted(rows, key=lambda row: (_ORDER.index(row) if row in _ORDER else len(_ORDER), row))
        groups[group] = {row: sorted(rows[row], key=lambda r: (r.config["seed"], r.config["lr"])) for row in order}
    return groups


def curve(result: Result) -> list[float]:
    """Accuracy over the classes seen so far, after each task (T,), in per cent; its mean is MAA."""
    judged = "val" if result.stream["evaluate"] == "val" else "test"
    sizes = [task[judged] for task in result.stream["tasks"]]
    return [over_samples(row, sizes) for row in result.accuracy]


def score(result: Result, key: str) -> float | None:
    """One number of a run: acc, maa, bwt, learning_acc, task_aware_acc, acc_task_mean, drift; or the mean over layers and tasks of
    violation, past_output_norm, danger. None where the run has none (one task has no BWT, nor a mean over tasks worth the name).
    """
    if key == "maa" and len(result.accuracy) == 1:
        return None
    value = getattr(result, key)
    if isinstance(value, dict):
        value = value["mean"]
    return value["all"] if isinstance(value, dict) else value


def values(runs: Sequence[Result], key: str) -> list[float]:
    """That number of each run that has it, in the order of the runs."""
    return [v for v in (score(run, key) for run in runs) if v is not None]


# ── comparing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def paired(rows: Rows, first: str, second: str, key: str = "acc") -> dict[int, float]:
    """seed → `second` minus `first`, in the seeds that both rows have: what a seed does to both of them cancels."""
    a, b = ({run.config["seed"]: score(run, key) for run in rows.get(row, ())} for row in (first, second))
    return {seed: b[seed] - a[seed] for seed in sorted(a.keys() & b.keys()) if a[seed] is not None and b[seed] is not None}


def interval(differences: Collection[float], level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean of n differences; NaN for fewer than two."""
    from scipy import stats  # comes with scikit-learn

    n = len(differences)
    return float(stats.t.ppf((1 + level) / 2, n - 1)) * stdev(differences) / math.sqrt(n) if n > 1 else math.nan


def order(rows: Rows, key: str) -> tuple[list[str], list[float], list[float]]:
    """What a rank correlation with the paper needs: rows that it has too, its values, our mean gains over the floor.

    Gains in the same seeds and not means, since rows with other seeds have met other class orders. key: acc, maa or bwt.
    """
    column = ("acc", "maa", "bwt").index(key)
    gains = {row: gain for row in PAPER if (gain := paired(rows, FLOOR, row, key))}
    return list(gains), [PAPER[row][column] for row in gains], [fmean(gain.values()) for gain in gains.values()]


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table: — for None, powers of ten for what would round to zero."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.0e}" if value and abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def spread(found: Sequence[float | None], digits: int = 1) -> str:
    """mean ± standard deviation over seeds; the value alone for one seed; — for none."""
    kept = [v for v in found if v is not None]
    mean = number(fmean(kept), digits) if kept else NONE
    return mean if len(kept) < 2 or "e" in mean else f"{mean} ± {stdev(kept):.{digits}f}"
