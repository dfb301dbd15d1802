"""The marked places of docs/results/photographs.md, for `report.py`: photographs, with a ViT-S/14."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from report_icons_r2 import RANPAC, SCORES
from report_parts import floored, heads, provenance

from janus import plots
from janus.report.compare import pick
from janus.report.tables import rate_table

FIGURES = Path(__file__).parent.parent / "figures"
ADAPTED = ("LoRA", "OE+GR", "exact")
ROWS = ("frozen", *ADAPTED, "ncm", *RANPAC, "probe", "joint, lr 1e-3")


def best(runs: pd.DataFrame) -> pd.DataFrame:
    """Of each row the run with the highest ACC on validation."""
    return runs.loc[runs.groupby("variant", sort=False)["acc"].idxmax()]


def blocks(groups: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Marked place → what belongs there."""
    frozen, tune = groups["photographs_heads"], groups["photographs_tune"]
    every = pd.concat([frozen, tune, groups["photographs_adaptation"]], ignore_index=True)
    figure = plots.rates(
        pd.concat([pick(tune, ADAPTED), frozen]),
        title="Photographs, linear heads: LoRA's best is above the protected rows' best",
    )
    figure.save(FIGURES / "photographs_rates")
    return {
        "photographs_heads": heads(frozen),
        "photographs_tune": f"{rate_table(tune)}\n\n{provenance(tune)}",
        "photographs": str(floored(pick(best(every), ROWS), SCORES)),
    }
