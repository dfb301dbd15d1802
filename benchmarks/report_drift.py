"""Does a score predict drift? The marked places of docs/results/drift.md, for `report.py`.

python benchmarks/report_drift.py          # prints them; nothing is written
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import StatisticsError, correlation

import pandas as pd

from janus import plots
from janus.report.compare import NONE, by_variant, number
from janus.report.tables import Table

FIGURES = Path(__file__).parent.parent / "figures"
SETS = {  # what is asked → the groups of runs that answer
    "Icons-R 2, one rate for all rows (test)": ("icons_r2_demo",),
    "Icons-R 2, five rates a row (validation)": ("icons_r2_tune",),
    "Icons-R 2, each row at its own rate (test)": ("icons_r2",),
    "the first benchmark, each row at its own rate (test)": ("rows", "cross"),
}
ONE_RATE, FIVE_RATES, *_ = SETS
SCORES = {"violation": "violation", "absolute score": "past_output_norm"}


def adapted(groups: Mapping[str, pd.DataFrame], names: tuple[str, ...]) -> pd.DataFrame:
    """Runs whose features moved, each once: another classifier on the same features repeats their numbers."""
    runs = pd.concat([groups[name] for name in names if name in groups])
    linear = runs["classifier.name"].fillna("linear") == "linear"
    return runs[linear & runs["drift"].notna() & (runs["past_output_norm"] > 0)]


def pearson(runs: pd.DataFrame, first: str, second: str) -> float | None:
    """Pearson's r; None for fewer than two runs, or where one of both does not vary."""
    try:
        return correlation(runs[first].tolist(), runs[second].tolist())
    except StatisticsError:
        return None


def written(r: float | None) -> str:
    return NONE if r is None else f"{r:+.2f}"


def correlations(groups: Mapping[str, pd.DataFrame]) -> str:
    """Pearson's r over runs, in brackets over the means of rows; which score goes with drift more closely."""
    pairs = [(key, "drift") for key in SCORES.values()] + [("drift", "bwt")]
    lines, closer = [], 0
    for name, wanted in SETS.items():
        runs = adapted(groups, wanted)
        means = runs.groupby("variant")[[*SCORES.values(), "drift", "bwt"]].mean()
        share, moved, _ = over_runs = [pearson(runs, *pair) for pair in pairs]
        closer += abs(moved or 0.0) > abs(share or 0.0)
        cells = [f"{written(r)} ({written(pearson(means, *pair))})" for r, pair in zip(over_runs, pairs)]
        lines.append([name, len(runs), len(means), *cells])
    header = ["which runs", "runs", "rows", *(f"{name} with drift" for name in SCORES), "drift with BWT"]
    said = (
        f"Over runs, the absolute score goes with drift more closely in {closer} of these {len(lines)} sets."
    )
    return f"{Table(header, lines)}\n\n{said}"


def rows_at_one_rate(groups: Mapping[str, pd.DataFrame]) -> Table:
    """One run a row, by falling drift."""
    runs = adapted(groups, SETS[ONE_RATE]).sort_values("drift", ascending=False)
    keys = (*SCORES.values(), "drift")
    lines = []
    for _, run in runs.iterrows():
        lines.append([run["variant"], *(number(run[key], 2) for key in keys), number(run["bwt"])])
    return Table(["row", *SCORES, "drift", "BWT"], lines)


def within_rows(groups: Mapping[str, pd.DataFrame]) -> Table:
    """How far each score goes over the rates of one row, from the smallest rate to the largest."""
    lines = []
    for row, found in by_variant(adapted(groups, SETS[FIVE_RATES])).items():
        found = found.sort_values("training.lr")
        first, last = found.iloc[0], found.iloc[-1]
        rates = f"{first['training.lr']:g} … {last['training.lr']:g}"
        digits = {key: 1 if key == "bwt" else 2 for key in (*SCORES.values(), "drift", "bwt")}
        spans = (f"{number(first[key], n)} → {number(last[key], n)}" for key, n in digits.items())
        lines.append([row, rates, *spans])
    return Table(["row", "rates", *SCORES, "drift", "BWT"], lines)


def figure(groups: Mapping[str, pd.DataFrame]) -> plots.Figure:
    """Icons-R 2 at one rate and at five: drift and BWT over either score, a point a run."""
    runs = pd.concat([adapted(groups, SETS[name]) for name in (ONE_RATE, FIVE_RATES)])
    scores = {
        "relative violation": runs["violation"].tolist(),
        "absolute score": runs["past_output_norm"].tolist(),
    }
    outcomes = {"drift of old features": runs["drift"].tolist(), "BWT (points)": runs["bwt"].tolist()}
    drawn = plots.predictors(runs["variant"].tolist(), scores, outcomes)
    share, moved = (written(pearson(runs, key, "drift")) for key in SCORES.values())
    title = (
        f"Drift goes with the violation by r = {share}, with the absolute score by {moved} ({len(runs)} runs)"
    )
    drawn.plotly.update_layout(title=title)
    return drawn


def blocks(groups: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Marked place → what belongs there; draws the page's figure."""
    figure(groups).save(FIGURES / "drift")
    return {
        "drift": correlations(groups),
        "drift_one_rate": str(rows_at_one_rate(groups)),
        "drift_rates": str(within_rows(groups)),
    }


if __name__ == "__main__":
    from janus.bench.store import read
    from janus.runtime.assets import results

    found = dict(iter(read(results()).groupby("group")))
    for table in (correlations(found), rows_at_one_rate(found), within_rows(found)):
        print(f"{table}\n")
