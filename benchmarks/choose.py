"""What validation chose, from the runs of a grid: for each row the setting with the highest accuracy.

    python benchmarks/choose.py benchmarks/results/tin100_tune --key lr head_lr --out benchmarks/protocols/tin100.json
    python benchmarks/choose.py benchmarks/results/icons_r_tune --key lr --out janus/chosen.json

Refuses runs on test, and rows that were given fewer trials than others. A row with the margin loss for which nothing was
chosen takes what was chosen for the same row without it; that is said. What a file has for other rows stays in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from janus import ablation
from janus.ablation import ROWS, slug
from janus.checkpoint import write_json
from janus.compare import read
from janus.configure import flat
from janus.errors import JanusError, UsageError


def choose(folder: Path, keys: list[str], before: dict[str, dict[str, Any]] | None = None) -> dict[str, dict[str, Any]]:
    """Row → its best setting of `keys`, of those that its runs differ in; for rows that have no runs, what was chosen `before`.

    Raises:
        UsageError: a run was judged on test, rows have different numbers of trials. See `janus.compare.read`.
    """
    chosen, trials = dict(before or {}), {}
    for rows in read(folder).values():
        for row, runs in rows.items():
            if any(run.config["data"]["evaluate"] != "val" for run in runs):
                raise UsageError(f"{slug(row)} in {folder} was judged on test: choose on validation (evaluate=val)")
            told = [flat(run.config) for run in runs]
            varied = [path for path in (key if "." in key else f"training.{key}" for key in keys)
                      if len({settings[path] for settings in told}) > 1]
            best = max(runs, key=lambda run: run.acc)
            chosen[row], trials[row] = {path: flat(best.config)[path] for path in varied}, len(runs)
            print(f"{row:12s} " + ", ".join(f"{' '.join(f'{k}={settings[k]:g}' for k in varied)}: {run.acc:.1f}"
                                            for run, settings in zip(runs, told)))
    if len(set(trials.values())) > 1:
        raise UsageError(f"not every row had as many trials: {json.dumps(trials)}")
    for row in ROWS:
        if row not in chosen and (without := row.removesuffix("+DML")) in chosen:
            chosen[row] = chosen[without]
            print(f"{row:12s} not tuned itself: as {without}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--key", nargs="+", default=["lr", "head_lr"], help="settings to choose")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        before = ablation.chosen(args.out) if args.out.exists() else {}
        write_json(args.out, choose(args.folder, args.key, before))
    except JanusError as error:
        parser.exit(2, f"choose: {error}\n")


if __name__ == "__main__":
    main()
