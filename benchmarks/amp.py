"""Does half precision change what is found? The same runs on Icons-R in float32 and in bf16, seed by seed.

    python benchmarks/amp.py --out benchmarks/results/measurements/amp.json    # about 10 minutes on one core

Shorter runs than the tables' (`SHORT`), of plain LoRA and of the two rectifications, each with the settings
that validation chose. A pair of runs differs in `amp` alone: same start, same batches. What rounding does is
told from chance by the spread over seeds: `within` says that the mean difference is no larger than the seeds'
standard deviation in float32. Finished runs are kept in `--runs` and not repeated.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

import janus
from janus.bench.variants import settings
from janus.runtime.checkpoint import write_json
from janus.runtime.device import native_bf16
from janus.runtime.result import Result, hardware, versions

ROWS = {"finetune": "LoRA", "tangent": "OE+GR", "exact": "exact"}
SHORT: dict[str, Any] = {
    "data.tasks": 5,
    "data.per_class": 20,
    "training.epochs": 3,
    "runtime.threads": 1,
    "runtime.device": "cpu",
}
MEASURES = ("acc", "violation", "drift")
NOTHING = 1e-6  # a violation below it is rounding, whatever the seeds do


def found(result: Result) -> dict[str, float]:
    return {"acc": result.acc, "violation": result.violation["mean"]["all"], "drift": result.drift}


def compared(full: list[float], half: list[float]) -> dict[str, Any]:
    """The two precisions' values by seed: means, the seeds' deviation in float32, the paired difference."""
    differences, spread = [b - a for a, b in zip(full, half)], statistics.stdev(full)
    mean = statistics.mean(differences)
    return {
        "off": statistics.mean(full),
        "bf16": statistics.mean(half),
        "seeds_sd": spread,
        "difference": mean,
        "differences": differences,
        "within": abs(mean) <= spread or max(map(abs, full + half)) <= NOTHING,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="at least two")
    parser.add_argument("--runs", type=Path, default=Path("runs") / "amp", help="where the runs are kept")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("a spread takes at least two seeds")
    values: dict[str, dict[str, list[dict[str, float]]]] = {name: {"off": [], "bf16": []} for name in ROWS}
    for seed in args.seeds:
        for name, row in ROWS.items():
            for amp in ("off", "bf16"):
                pair = {"training.seed": seed, "training.amp": amp}
                result = janus.run(args.runs / f"{name}-{amp}-{seed}", **settings(row) | SHORT | pair)
                values[name][amp].append(found(result))
                print(f"{name} seed {seed} {amp}: {values[name][amp][-1]}", flush=True)
    table: dict[str, dict[str, Any]] = {}
    for name, by in values.items():
        table[name] = {}
        for m in MEASURES:
            table[name][m] = compared([run[m] for run in by["off"]], [run[m] for run in by["bf16"]])
    for name, row in table.items():
        for measure, c in row.items():
            print(
                f"{name:9s} {measure:9s} off {c['off']:.4g}  bf16 {c['bf16']:.4g}  "
                f"difference {c['difference']:+.2g}, seeds' sd {c['seeds_sd']:.2g}: "
                f"{'within' if c['within'] else 'NOT within'}"
            )
    if args.out:
        cpu = torch.device("cpu")
        record = {
            "settings": SHORT | {"data.dataset": "icons-r"},
            "rows": ROWS,
            "seeds": args.seeds,
            "runs": values,
            "compared": table,
            "versions": versions(),
            "hardware": hardware(cpu) | {"native_bf16": native_bf16(cpu)},
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()
