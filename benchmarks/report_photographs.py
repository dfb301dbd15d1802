"""The marked places of docs/results/photographs.md, for `report.py`: photographs, with a ViT-S/14."""

from __future__ import annotations

import pandas as pd
from report_icons_r2 import FIGURES, RANPAC, RANPAC_STEPS, SCORES
from report_parts import floored, heads, provenance

from janus import plots
from janus.report.compare import best, pick
from janus.report.tables import difference_table, rate_table

ADAPTED = ("LoRA", "OE+GR", "exact")
TEST = ("frozen", *ADAPTED, "ncm", *RANPAC)
ROWS = (*TEST, "probe", "joint, lr 1e-3")
STEPS = [
    *(("frozen", row) for row in ADAPTED),
    ("LoRA", "OE+GR"),
    ("LoRA", "exact"),
    ("OE+GR", "exact"),
    *RANPAC_STEPS,
    ("OE+GR, RanPAC head", "exact, RanPAC head"),
]


def blocks(groups: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Marked place → what belongs there."""
    frozen, tune, test = (groups[f"photographs{part}"] for part in ("_heads", "_tune", ""))
    rates = pd.concat([tune, groups["photographs_tune_classifiers"]], ignore_index=True)
    every = pd.concat([frozen, rates, groups["photographs_adaptation"]], ignore_index=True)
    figure = plots.rates(
        pd.concat([tune, frozen]),
        title="Photographs, linear heads: LoRA's best is above the protected rows' best",
    )
    figure.save(FIGURES / "photographs_rates")
    return {
        "photographs_heads": heads(frozen),
        "photographs_tune": f"{rate_table(rates)}\n\n{provenance(rates)}",
        "photographs_validation": str(floored(pick(best(every), ROWS), SCORES)),
        "photographs": f"{floored(pick(test, TEST), SCORES)}\n\n{provenance(test)}",
        "photographs_differences": str(difference_table(test, STEPS)),
    }
