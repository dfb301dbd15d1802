"""Differences between rows as the documents write them."""

from __future__ import annotations

from statistics import fmean

import pandas as pd

from janus.report.compare import interval, paired


def difference(runs: pd.DataFrame, first: str, second: str, key: str = "acc") -> str:
    """How far two rows' scores lie apart in the same seeds, whichever is ahead: mean ± 95 % interval."""
    found = paired(runs, first, second, key).tolist()
    return f"{abs(fmean(found)):.1f} ± {interval(found):.1f}"
