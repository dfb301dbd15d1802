"""Published baselines beside ours, for `report.py`."""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd
from report_parts import gain, provenance

from janus.bench.paper import PLUG_IN
from janus.bench.variants import PUBLISHED
from janus.report import properties
from janus.report.compare import NONE, by_variant, pick, spread
from janus.report.tables import Table, difference_table, overview

BEST = "merged free OE gr=tangent"  # of Janus's variants with the linear heads, by validation
FIELD_ROWS = ("LoRA", "GPM", "OE+GR", "OE+GR+DML", "exact", BEST, *PUBLISHED, "frozen", "ncm", "joint")
HEAD_STEPS = [
    *(("RanPAC", f"{row}, RanPAC head") for row in ("LoRA", "exact", "OE+GR")),
    *(("LoRA, RanPAC head", f"{row}, RanPAC head") for row in ("exact", "OE+GR")),
]
FIELD_STEPS = [
    *((row, BEST) for row in (*PUBLISHED, "ncm") if "RanPAC" not in row),
    ("ncm", "LoRA-DRS, class means"),
    *HEAD_STEPS,
]


def plugged(ten: pd.DataFrame) -> str:
    """Figure 6: GR on top of GPM's basis, of Online Estimation's and of LoRA-DRS's."""
    shown = pick(ten, ("frozen", "GPM", "OE", "OE+GR", "GPM+GR", "LoRA-DRS", "LoRA-DRS+GR"))
    pairs = [
        ("GPM", "GPM+GR"),
        ("OE", "OE+GR"),
        ("LoRA-DRS", "LoRA-DRS+GR"),
        ("GPM+GR", "OE+GR"),
        *(("frozen", row) for row in ("GPM+GR", "LoRA-DRS", "LoRA-DRS+GR")),
    ]
    kinds = ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift")
    scores = overview(shown, kinds, ("ImageNet-R, T=10, figure 6", PLUG_IN))
    return "\n\n".join([str(scores), str(difference_table(shown, pairs)), provenance(shown)])


def field(runs: pd.DataFrame, cost: dict[str, Any]) -> str:
    """Published baselines beside ours: scores, what learning a task takes, what is kept between tasks."""
    scored, lines = overview(runs, ("ACC", "MAA", "BWT"), cite=False), []
    for (row, found), cells in zip(by_variant(runs).items(), scored.rows):
        facts = [properties.of_run(run) for _, run in found.iterrows()]
        step = cost["rows"].get(row)
        kept = statistics.fmean(f["stored_bytes"] for f in facts) / 1e6
        own = {
            "ACC over frozen": gain(runs, row),
            "seconds a run": spread(found["seconds"], 0),
            "learning a task, × LoRA": f"{step['ratio']:.2f}" if step else NONE,
            "extra passes over a task's images": properties.passes_text(facts[0]),
            "MB kept": f"{kept:.2f}",
        }
        lines.append([*cells, *own.values()])
    return str(Table([*scored.header, *own], lines))


def without_field(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[~runs["variant"].isin(PUBLISHED)]
