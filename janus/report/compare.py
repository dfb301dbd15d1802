"""Runs over seeds: what may stand in one table, differences within a seed, and how sure they are.

Runs are a DataFrame, a line a run (`janus.bench.store.read`); what has the same `variant` is a row of a
table.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from ..bench.paper import PAPER
from ..bench.store import PARTS
from ..errors import JanusError
from ..metrics import over_samples

FLOOR = "frozen"  # what adapts nothing: a row below it has only forgotten
NONE = "—"
SEEDS = ["training.seed", "data.class_seed"]  # what two rows have in common in one seed


# ── choosing ──────────────────────────────────────────────────────────────────────────────────────────────


def by_variant(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Variant → its runs, in the order of the runs."""
    return dict(iter(runs.groupby("variant", sort=False)))


def pick(runs: pd.DataFrame, variants: Iterable[str]) -> pd.DataFrame:
    """The runs of some variants, in the order of these; variants without runs are left out."""
    order = {variant: place for place, variant in enumerate(variants)}
    kept = runs[runs["variant"].isin(order)]
    return kept.sort_values("variant", key=lambda names: names.map(order), kind="stable")


def best(runs: pd.DataFrame) -> pd.DataFrame:
    """Of each variant the run with the highest ACC, in the order of the variants."""
    return runs.loc[runs.groupby("variant", sort=False)["acc"].idxmax()]


def curve(run: Mapping[str, Any]) -> list[float]:
    """Accuracy over the classes seen so far, after each task (T,), in per cent; its mean is MAA."""
    judged = "val" if run["stream"]["evaluate"] == "val" else "test"
    sizes = [task[judged] for task in run["stream"]["tasks"]]
    return [over_samples(row, sizes) for row in run["accuracy"]]


# ── what may stand in one table ───────────────────────────────────────────────────────────────────────────


# What must be equal in the rows of one table, whatever their methods and hyper-parameters, beside the data
PROTOCOL = (
    *("backbone.model", "backbone.weights", "backbone.normalise", "backbone.image_size"),
    *("training.epochs", "training.batch_size"),
)


def by_protocol(runs: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What may be compared: title → runs. Runs of different protocols come into different tables, and runs of
    one variant with different hyper-parameters into different rows.

    A title states the settings that tell the tables apart ("tasks=5"; "" for a single table), a row's name
    those that tell its runs apart ("OE+GR, lr=0.001"); the seeds do not count.
    """
    runs = runs.reset_index(drop=True)
    known = runs.assign(backbone=_fingerprints(runs).fillna("None"), images=runs["stream"].map(_images))
    titles = _told_apart(known, [*_protocol(runs), "backbone", "images"])
    own = [key for key in runs if key.partition(".")[0] in PARTS and key not in SEEDS]
    out = {}
    for title, inside in runs.groupby(titles, sort=False):
        rows = []
        for variant, found in by_variant(inside).items():
            what = _told_apart(found, own)
            named = found.assign(variant=[f"{variant}, {text}" if text else variant for text in what])
            rows += [same for _, same in named.groupby(what, sort=False)]
        out[title] = pd.concat(rows)
    return out


def _protocol(runs: pd.DataFrame) -> list[str]:
    return [key for key in runs if key.startswith("data.") and key not in SEEDS or key in PROTOCOL]


def _fingerprints(runs: pd.DataFrame) -> pd.Series:
    """Of each run's backbone: files of one name may hold different weights. A run older than fingerprints is
    taken for one with the weights of the others of its protocol, or, where none of these has one either, of
    its model, if those are all the same."""
    own = runs["fingerprint"]
    protocol, model = (_key(runs, keys) for keys in (_protocol(runs), ["backbone.model", "backbone.weights"]))
    near, far = (own.groupby(key) for key in (protocol, model))
    counts = near.transform("nunique"), far.transform("nunique")
    same = near.transform("first").where(counts[0] == 1)
    alike = far.transform("first").where((counts[0] == 0) & (counts[1] == 1))
    return own.fillna(same).fillna(alike)


def _key(runs: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """One text a run: equal where these columns are."""
    present = [key for key in columns if key in runs]
    texts = (runs[key].map(_short) for key in present)
    return pd.Series([json.dumps(cells) for cells in zip(*texts)], index=runs.index)


def _images(stream: Mapping[str, Any]) -> str:
    """Of the stream that a run has met, whatever the order: its classes, how many images of which split, how
    they were split. A list, a folder or a split file of one name may hold others."""
    tasks = stream["tasks"]
    counts = [sum(task.get(part) or 0 for task in tasks) for part in ("train", "val", "test")]
    cuts = sorted(note for note in stream.get("notes", ()) if "split" in note or "sha256" in note)
    known = json.dumps([sorted(stream.get("class_names", ())), counts, cuts])
    return hashlib.sha256(known.encode()).hexdigest()[:6]


def _told_apart(runs: pd.DataFrame, columns: Sequence[str]) -> pd.Series:
    """For each run, the settings in which the runs are not all equal, written out: "tasks=5, epochs=1"."""
    texts = {key: [_short(cell) for cell in runs[key].tolist()] for key in columns}
    texts = {key: cells for key, cells in texts.items() if len({*cells}) > 1}
    last = [key.rpartition(".")[2] for key in texts]
    names = [name if last.count(name) == 1 else key for key, name in zip(texts, last)]
    said = [", ".join(f"{name}={cell}" for name, cell in zip(names, cells)) for cells in zip(*texts.values())]
    return pd.Series(said or "", index=runs.index, dtype="object")


def _short(value: Any) -> str:
    return NONE if pd.isna(value) else f"{value:g}" if isinstance(value, float) else str(value)


# ── comparing ─────────────────────────────────────────────────────────────────────────────────────────────


def values(runs: pd.DataFrame, variant: str, key: str = "acc") -> list[float]:
    """That number of each of the variant's runs that has it."""
    return runs.loc[runs["variant"] == variant, key].dropna().tolist()


def paired(runs: pd.DataFrame, first: str, second: str, key: str = "acc") -> pd.Series:
    """`second` minus `first`, where both variants have runs, by seed and class order's seed: what those do to
    both of them cancels."""
    found = []
    for variant in (first, second):
        own = runs.loc[runs["variant"] == variant, [*SEEDS, key]]
        found.append(own.drop_duplicates(SEEDS, keep="last").set_index(SEEDS)[key])
    return (found[1] - found[0]).dropna().sort_index()


def interval(differences: Collection[float], level: float = 0.95) -> float:
    """Half the width of Student's interval of the mean of n differences; NaN for fewer than two."""
    try:
        from scipy import stats
    except ImportError:
        raise JanusError("Student's intervals need scipy: pip install 'janus-lora[plots]'") from None
    n = len(differences)
    if n < 2:
        return math.nan
    return float(stats.t.ppf((1 + level) / 2, n - 1)) * stdev(differences) / math.sqrt(n)


def is_clear(differences: Collection[float]) -> bool:
    """Does the 95 % interval of their mean leave out zero? One seed never does."""
    return len(differences) > 1 and abs(fmean(differences)) > interval(differences)


def order(runs: pd.DataFrame, key: str) -> tuple[list[str], list[float], list[float]]:
    """What a rank correlation with the paper needs: common rows, its values, our mean gains over the floor.

    Gains in the same seeds and not means, since rows with other seeds have met other class orders. key: acc,
    maa or bwt.
    """
    column = ("acc", "maa", "bwt").index(key)
    gains = {row: gain for row in PAPER if len(gain := paired(runs, FLOOR, row, key))}
    return list(gains), [PAPER[row][column] for row in gains], [fmean(gain) for gain in gains.values()]


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table: — for None, powers of ten for what would round to zero."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.0e}" if value and abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def change(differences: Collection[float], digits: int = 1) -> str:
    """Signed mean of paired differences, and its 95 % interval; the mean alone for one; — for none."""
    if not differences:
        return NONE
    mean = f"{fmean(differences):+.{digits}f}"
    return mean if len(differences) < 2 else f"{mean} ± {interval(differences):.{digits}f}"


def spread(found: Iterable[float | None], digits: int = 1) -> str:
    """mean ± standard deviation over seeds; the value alone for one seed; — for none."""
    kept = [v for v in found if not pd.isna(v)]
    mean = number(fmean(kept), digits) if kept else NONE
    return mean if len(kept) < 2 or "e" in mean else f"{mean} ± {stdev(kept):.{digits}f}"
