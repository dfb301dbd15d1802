"""`make demo`: the paper's ablation on the embedded benchmark, beside the paper's own rows, and where updates
leak.

The runs are those of `benchmarks/grids/icons_r2/demo.yaml`, executed as `janus bench` executes any grid:
several at a time, one thread each. They are kept in `runs/demo/`; finished ones are not repeated, stopped
ones resume. Then the table is printed and `figures/violation.*` is written.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from functools import partial
from itertools import combinations
from pathlib import Path

from .. import plots
from ..cli.commands import explained
from ..errors import JanusError
from ..runtime.result import Result
from ..runtime.timing import clock
from . import grids, scheduler
from .variants import PAPER, PAPER_ROWS

REPOSITORY = Path(__file__).parents[2]
ORDER = [*PAPER_ROWS, "GPM", "exact", "frozen", "joint"]
NOTES = (  # a line each, below the table
    "LoRA to OE+GR+DML: the paper's seven ablation rows (one pair of factors for the whole stream). "
    "exact: null-space",
    "restart; frozen: heads only; joint: all classes at once. Icons-R is not ImageNet-R, "
    "nor its backbone a ViT-B/16:",
    "compare orders, not numbers. ACC, MAA, BWT in per cent; violation: the share of a task's weight change "
    "that acts",
    "on past inputs, mean over layers and tasks.",
)
FIGURE = {"LoRA": "LoRA", "GPM": "GPM", "OE+GR": "OE+GR (tangent)", "exact": "exact (ours)"}


def main(argv: list[str] | None = None) -> int:
    about = __doc__.partition("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m janus.bench.demo", description=about)
    parser.add_argument("--grid", default="icons_r2/demo", help="the grid file whose rows are run, one seed")
    kept = REPOSITORY / "runs" / "demo"
    parser.add_argument("--runs", type=Path, default=kept, help="where the runs are kept")
    parser.add_argument("--figures", type=Path, default=REPOSITORY / "figures", help="where the figure goes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    return explained(
        lambda: demo(args.grid, args.runs, args.figures, args.jobs),
        args.debug,
        "stopped; `make demo` resumes from the last checkpoints",
    )


def demo(file: str, runs: Path, figures: Path, jobs: int) -> None:
    """Run what is missing, print the table, write the figure. JanusError: some rows failed; the others are
    finished."""
    grid, began = grids.load(file), time.monotonic()
    say = partial(print, flush=True)
    failed = scheduler.execute(grid, runs, retry=True, workers=jobs, progress=say)
    if failed:
        raise JanusError(f"{', '.join(failed)} failed (see above); `make demo` tries again")
    results = {run.variant: Result.load(runs / run.name) for run in grid.runs}
    results = {row: results[row] for row in ORDER if row in results}
    took = clock(time.monotonic() - began)
    print(f"\n{table(results)}\n\n{took} minutes this time; the runs are kept in {_short(runs)}")
    shown = {label: results[row].violation["tasks"] for row, label in FIGURE.items()}
    written = plots.violation(shown).save(figures / "violation")
    print(f"violation per layer, K and V: {', '.join(map(_short, written))}")


def table(results: dict[str, Result]) -> str:
    """Ours beside the paper's, with what a reader must know to compare them."""
    some = results["LoRA"]
    lines = [
        f"{'':11s} Icons-R, T={len(some.accuracy):<2d}, ours      violation   ImageNet-R, T=10, the paper's",
        f"{'row':11s}   ACC    MAA     BWT                    ACC    MAA     BWT",
    ]
    for row, r in results.items():
        moves = row not in ("frozen", "joint")
        score = r.violation["mean"]["all"] if moves else None
        ours = f"{r.acc:6.2f} {_number(r.maa if row != 'joint' else None, 6)} {_number(r.bwt, 7)}"
        leak = f"{'–':>9s}" if score is None else f"{score:9.2f}" if score >= 0.005 else f"{score:9.0e}"
        paper = " ".join(_number(v, w) for v, w in zip(PAPER.get(row, (None,) * 3), (6, 6, 7)))
        lines.append(f"{row:11s}{ours}  {leak}       {paper}")
    training, paper = some.config["training"], {row: PAPER[row][0] for row in PAPER_ROWS if row in results}
    arithmetic = "float32" if training["amp"] == "off" else training["amp"]
    pairs = [(a, b) for a, b in combinations(paper, 2) if paper[a] != paper[b]]
    alike = sum((results[a].acc < results[b].acc) == (paper[a] < paper[b]) for a, b in pairs)
    lines += [
        "",
        f"Of the {len(pairs)} pairs of the paper's rows {alike} are in the paper's order of ACC.",
        *NOTES,
        f"One learning rate for all rows ({training['lr']:g}), {training['epochs']} passes a task, one seed: "
        "with a rate of its own, LoRA loses less.",
        f"{some.hardware['cpu']}, {some.hardware['threads']} thread a run, torch {some.versions['torch']}, "
        f"{arithmetic}. Full runs with more seeds: docs/results/.",
    ]
    return "\n".join(lines)


def _number(value: float | None, width: int) -> str:
    return f"{'–':>{width}s}" if value is None else f"{value:{width}.2f}"


def _short(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
