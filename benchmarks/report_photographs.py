"""The marked places of docs/results/photographs.md, for `report.py`: photographs, with a ViT-S/14."""

from __future__ import annotations

import pandas as pd
from report_parts import floored, heads, provenance

from janus.report.compare import pick, values
from janus.report.tables import difference_table, rate_table

SCORES = ("ACC", "MAA", "BWT", "learning acc.", "task-aware acc.", "violation", "drift")
LINEAR = ("frozen", "LoRA", "OE+GR", "exact")
OTHER = ("ncm", "RanPAC", *(f"{row}, RanPAC head" for row in ("OE+GR", "exact")), "probe", "joint")
STEPS = [
    ("probe", "joint"),
    ("frozen", "LoRA"),
    ("frozen", "OE+GR"),
    ("frozen", "exact"),
    ("LoRA", "OE+GR"),
    ("LoRA", "exact"),
    ("OE+GR", "exact"),
    ("RanPAC", "OE+GR, RanPAC head"),
    ("RanPAC", "exact, RanPAC head"),
]


def rates(runs: pd.DataFrame, frozen: pd.DataFrame) -> str:
    """Learning rates on validation, and what adaptation is worth there."""
    (probe,) = values(frozen, "probe")
    joint = max(values(runs, "joint"))
    gap = f"`joint` at its best rate: {joint:.1f}; `probe`: {probe:.1f}; between them {joint - probe:+.1f}."
    return f"{rate_table(runs)}\n\n{gap}\n\n{provenance(runs)}"


def blocks(groups: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Marked place → what belongs there."""
    test = groups["photographs"]
    rows = pick(test, (*LINEAR, *OTHER))
    return {
        "photographs_heads": heads(groups["photographs_heads"]),
        "photographs_tune": rates(groups["photographs_tune"], groups["photographs_adaptation"]),
        "photographs": f"{floored(rows, SCORES)}\n\n{provenance(rows)}",
        "photographs_differences": str(difference_table(test, STEPS)),
    }
