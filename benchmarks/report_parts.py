"""What the pages of results share: a table beside the floor, and where its numbers come from."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import pandas as pd

from janus.report.compare import NONE, interval, paired
from janus.report.tables import Table, overview

SCORES = ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift")


def floored(runs: pd.DataFrame, kinds: Sequence[str] = SCORES) -> Table:
    """Scores, and ACC over frozen."""
    scored = overview(runs, kinds, cite=False)
    return Table(
        [*scored.header, "ACC over frozen"], [[*cells, gain(runs, cells[0])] for cells in scored.rows]
    )


def gain(runs: pd.DataFrame, row: str) -> str:
    """ACC over frozen in the same seeds: mean, and its 95 % interval."""
    found = paired(runs, "frozen", row).tolist()
    if row == "frozen" or not found:
        return NONE
    return f"{statistics.fmean(found):+.1f}" + (f" ± {interval(found):.1f}" if len(found) > 1 else "")


def provenance(runs: pd.DataFrame) -> str:
    seeds, machines = (sorted(runs[key].unique()) for key in ("training.seed", "hardware.cpu"))
    return (
        f"Seeds {', '.join(map(str, seeds))} (class order, initialisation and batches; mean ± standard deviation where there "
        f"are several), {' and '.join(machines)}, {runs['hardware.threads'].iloc[0]} thread a run, "
        f"torch {runs['versions.torch'].iloc[0]}."
    )
