"""Runs over seeds: read a folder of results, compare rows within a seed, and say how sure a difference is."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from .ablation import KNOWN, PAPER, slug
from .configure import deciding, flat
from .errors import JanusError, UsageError
from .grids import some
from .metrics import over_samples
from .paper import PLUG_IN
from .result import Result

Rows = Mapping[str, Sequence[Result]]  # row of a table → its runs, by seed
FLOOR = "frozen"  # what adapts nothing: a row below it has only forgotten
NONE = "—"

_ORDER = list(KNOWN)
_UNSLUG = {slug(row): row for row in (*_ORDER, *PLUG_IN)}


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(folder: str | Path) -> dict[str, dict[str, list[Result]]]:
    """All runs below a results folder: group (its subfolder) → row → results, ordered by seed.

    A file's name, or that of the folder of a `result.json`, is the row's slug, then `__` and what tells its runs apart. JSON
    files that are no runs are left out, and with a note a run that its row has already, under another name.

    Raises:
        UsageError: no such folder, or no runs in it. JanusError: a damaged file; it is named.
    """
    folder, groups, again = Path(folder), {}, []
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise JanusError(f"{path}: not readable ({error}); delete it and run again") from None
        if isinstance(values, dict) and {"accuracy", "config"} <= values.keys():
            named = path.parent if path.name == "result.json" and path.parent != folder else path
            name = (named.name if named == path.parent else path.stem).partition("__")[0]
            group = groups.setdefault(named.parent.relative_to(folder).as_posix(), {})
            group.setdefault(_UNSLUG.get(name, name), []).append((path, Result.from_values(values, path)))
    if not groups:
        raise UsageError(f"no results in {folder}: name a folder of runs (each has a result.json or is a file of its own)")
    for group, rows in groups.items():
        order = sorted(rows, key=lambda row: (_ORDER.index(row) if row in _ORDER else len(_ORDER), row))
        groups[group] = {row: sorted(_once(rows[row], again), key=_seed_and_lr) for row in order}
    if again:
        warnings.warn(f"runs that are there twice count once: {some(again)}", stacklevel=2)
    return groups


def _seed_and_lr(run: Result) -> tuple[int, float]:
    settings = flat(run.config)
    return settings["training.seed"], settings["training.lr"]


def _once(found: Sequence[tuple[Path, Result]], again: list[str]) -> list[Result]:
    """The runs of a row, each once; `again` is told of the others. The same config with other weights is another run."""
    kept: dict[tuple[str, str | None], tuple[Path, Result]] = {}
    for (path, run), backbone in zip(found, _fingerprints([run for _, run in found])):
        first, _ = kept.setdefault((run.hash, backbone), (path, run))
        if first != path:
            again.append(f"{path} is {first}")
    return [run for _, run in kept.values()]


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


# What must be equal for two rows to stand in one table, whatever their methods and hyper-parameters are.
PROTOCOL = ("data.dataset", "data.strength", "data.vocabulary", "data.tasks", "data.per_class", "data.evaluate", "data.extended",
            "backbone.model", "backbone.weights", "backbone.normalise", "data.augment", "training.epochs", "training.batch_size")


def by_protocol(rows: Rows) -> dict[str, dict[str, list[Result]]]:
    """What may be compared: title → row → runs. Runs of different protocols come into different tables, and runs of one row with
    different hyper-parameters into different rows.

    A title states the settings that tell the tables apart ("tasks=5"; "" for a single table), a row's name those that tell its
    runs apart ("OE+GR, lr=0.001"); the seeds do not count.
    """
    runs = [(row, run) for row, found in rows.items() for run in found]
    prints = _fingerprints([run for _, run in runs])
    titles = _told_apart([_protocol(run) | {"backbone": known, "images": _images(run)} for (_, run), known in zip(runs, prints)])
    out: dict[str, dict[str, list[Result]]] = {}
    for title in dict.fromkeys(titles):
        inside = [pair for pair, other in zip(runs, titles) if other == title]
        for row in dict.fromkeys(row for row, _ in inside):
            found = [run for name, run in inside if name == row]
            settings = [{k: v for k, v in deciding(run.config).items() if k not in ("training.seed", "data.class_seed")}
                        for run in found]
            for run, what in zip(found, _told_apart(settings)):
                out.setdefault(title, {}).setdefault(f"{row}, {what}" if what else row, []).append(run)
    return out


def _protocol(run: Result) -> dict[str, Any]:
    decided = deciding(run.config)
    return {key: decided.get(key) for key in PROTOCOL}


def _fingerprints(runs: Sequence[Result]) -> list[str | None]:
    """Of each run's backbone: files of one name may hold different weights. A run older than fingerprints is taken for one with
    the weights of the others of its protocol, or, where none of these has one either, of its model, if those are all the same."""
    names = [[json.dumps(_protocol(run), sort_keys=True), _weights(run)] for run in runs]
    known: dict[str, set[str]] = {}
    for run, both in zip(runs, names):
        for name in both:
            known.setdefault(name, set()).update({run.backbone} - {None})
    others = [known[protocol] or known[model] for protocol, model in names]
    return [run.backbone or (next(iter(found)) if len(found) == 1 else None) for run, found in zip(runs, others)]


def _weights(run: Result) -> str:
    settings = flat(run.config)
    return f"{settings['backbone.model']} {settings['backbone.weights']}"


def _images(run: Result) -> str:
    """Of the stream that a run has met, whatever the order: its classes, how many images of which split, how they were split. A
    list, a folder or a split file of one name may hold others."""
    tasks = run.stream["tasks"]
    counts = [sum(task.get(part) or 0 for task in tasks) for part in ("train", "val", "test")]
    cuts = sorted(note for note in run.stream.get("notes", ()) if "split" in note or "sha256" in note)
    known = json.dumps([sorted(run.stream.get("class_names", ())), counts, cuts])
    return hashlib.sha256(known.encode()).hexdigest()[:6]


def _told_apart(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """For each, the settings in which they are not all equal, written out: "tasks=5, epochs=1"."""
    keys = [key for key in dict.fromkeys(key for one in settings for key in one)
            if len({json.dumps(one.get(key), sort_keys=True) for one in settings}) > 1]
    return [", ".join(f"{key.rpartition('.')[2]}={_short(one[key])}" for key in keys if key in one) for one in settings]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# ── comparing ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def paired(rows: Rows, first: str, second: str, key: str = "acc") -> dict[tuple[int, int], float]:
    """(seed, class order's seed) → `second` minus `first`, where both rows have them: what they do to both of them cancels."""
    a, b = ({_seeds(run): score(run, key) for run in rows.get(row, ())} for row in (first, second))
    return {seed: b[seed] - a[seed] for seed in sorted(a.keys() & b.keys()) if a[seed] is not None and b[seed] is not None}


def _seeds(run: Result) -> tuple[int, int]:
    decided = deciding(run.config)  # spells out the second
    return decided["training.seed"], decided["data.class_seed"]


def interval(differences: Collection[float], level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean of n differences; NaN for fewer than two."""
    try:
        from scipy import stats
    except ImportError:
        raise JanusError("Student's intervals need scipy: pip install 'janus-lora[plots]'") from None
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
