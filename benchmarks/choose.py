"""What validation chose, from the runs of a grid: for each row the setting with the highest accuracy.

    python benchmarks/choose.py runs/bench/icons_r2_tune --key lr --out benchmarks/protocols/icons_r2.json
    python benchmarks/choose.py benchmarks/results --group icons_r_tune --key lr --out janus/bench/chosen.json

FOLDER holds runs, or their tables; there --group names those that are meant. A key is a setting of the
training, or any by its full path (`method.loss.push`).

Refuses runs on test, and rows that were given fewer trials than others. What a file has for other rows stays
in it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from janus.bench import variants
from janus.bench.store import read, settings_of
from janus.bench.variants import slug
from janus.errors import JanusError, UsageError
from janus.report.compare import by_variant
from janus.runtime.checkpoint import write_json


def choose(
    folder: Path, keys: list[str], before: dict[str, dict[str, Any]] | None = None, group: str | None = None
) -> dict[str, dict[str, Any]]:
    """Row → its best setting of `keys`, of those that its runs differ in; for rows that have no runs, what
    was chosen `before`.

    Raises:
        UsageError: no such group, a run was judged on test, rows have different numbers of trials. See
            `janus.bench.store.read`.
    """
    runs = read(folder, detail=False)
    if group is not None:
        if group not in set(runs["group"]):
            raise UsageError(f"no group {group!r} in {folder}; there are {', '.join(runs['group'].unique())}")
        runs = runs[runs["group"] == group]
    chosen, trials = dict(before or {}), {}
    for row, found in by_variant(runs).items():
        if (found["data.evaluate"] != "val").any():
            judged = f"{slug(row)} in {folder} was judged on test"
            raise UsageError(f"{judged}: choose on validation (evaluate=val)")
        paths = [key if "." in key else f"training.{key}" for key in keys]
        varied = [path for path in paths if found[path].nunique() > 1]
        settings, accs = [settings_of(run) for _, run in found.iterrows()], found["acc"].tolist()
        best = settings[accs.index(max(accs))]
        chosen[row], trials[row] = {path: best[path] for path in varied}, len(found)
        tried = [" ".join(f"{path}={run[path]:g}" for path in varied) for run in settings]
        print(f"{row:12s} " + ", ".join(f"{what}: {acc:.1f}" for what, acc in zip(tried, accs)))
    if len(set(trials.values())) > 1:
        raise UsageError(f"not every row had as many trials: {json.dumps(trials)}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--group", help="of the runs in FOLDER")
    parser.add_argument("--key", nargs="+", default=["lr", "head_lr"], help="settings to choose")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        before = variants.chosen(args.out) if args.out.exists() else {}
        write_json(args.out, choose(args.folder, args.key, before, args.group))
    except JanusError as error:
        parser.exit(2, f"choose: {error}\n")


if __name__ == "__main__":
    main()
