"""The default list of benchmarks/device.sh: the rows of the ablation, on Icons-R.

python benchmarks/device_runs.py > benchmarks/device_runs.txt
"""

from __future__ import annotations

from janus.bench.variants import settings, slug
from janus.configure import as_text, make

ROWS = (
    *("exact", "OE+GR", "LoRA", "frozen", "joint", "OE+GR+DML", "exact+DML"),
    *("GPM", "OE", "GR", "DML", "OE+DML", "ncm"),
)
SEEDS = (0, 1, 2)
ABOUT = (
    "# What benchmarks/device.sh runs (made by benchmarks/device_runs.py): the rows of the ablation, on "
    "Icons-R, each\n"
    "# with the settings that validation chose for it. A command a line, without quotes, in the order in "
    "which they begin."
)


def commands() -> list[str]:
    """One `janus run` a row and seed."""
    lines = []
    for seed in SEEDS:
        for row in ROWS:
            place, values = f"{slug(row)}__seed={seed}", " ".join(as_text(make(settings(row), seed=seed)))
            lines.append(f"janus run --variant {row} --out runs/device/{place} --set {values}")
    return lines


if __name__ == "__main__":
    print("\n".join([ABOUT, "", *commands()]))
