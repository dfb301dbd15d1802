"""What learning a task costs with each method, as a multiple of sequential LoRA: the last of ten, with
Icons-R's protocol.

    python benchmarks/methods_cost.py --out benchmarks/results/measurements/methods_cost.json

Training steps, and what a method does before, between and after them; evaluation is not in it, nor the pass
that gives every method's class means. A method learns nine tasks, once; its last task is then learned again
and again from the same state, in turns with the other methods.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from functools import partial
from pathlib import Path
from typing import Any

import torch

from janus.bench.variants import KNOWN, PROTOCOL, PUBLISHED
from janus.config import Config
from janus.configure import layered
from janus.data.stream import Task
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions
from janus.runtime.timing import interleaved, ratios
from janus.train import Run

BASE = "LoRA"
OURS = (BASE, "frozen", "OE", "OE+GR", "OE+GR+DML", "exact", "exact+DML", "GPM")
ROWS = (*OURS, *PUBLISHED)


class Learning(Run):
    """A run that is never tested."""

    def evaluate(self, task: Task, old_prototypes: torch.Tensor) -> None:
        pass

    def report(self, task: Task) -> None:
        pass


def learned(row: str, per_class: int, threads: int) -> tuple[Config, dict[str, Any]]:
    """A row's config, and its state before the last task."""
    config = layered(PROTOCOL, KNOWN[row], {"per_class": per_class, "threads": threads})
    run = Learning(config, None)
    for task in run.stream.tasks[:-1]:
        run.learn(task)
    return config, run.state()


def once(config: Config, state: dict[str, Any]) -> float:
    """Seconds of learning the last task."""
    run = Learning(config, None)
    run.load_state(copy.deepcopy(state))
    before = run.seconds["train"] + run.seconds["oe"]
    run.learn(run.stream.tasks[-1])
    return run.seconds["train"] + run.seconds["oe"] - before


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows = dict(nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--rows", **rows, help=f"besides {BASE}")
    parser.add_argument("--per-class", type=int, default=10, help="images of a class (the benchmark has 60)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    started = {}
    for row in dict.fromkeys((BASE, *args.rows)):
        print(f"{row}: nine tasks", flush=True)
        started[row] = learned(row, args.per_class, args.threads)
    work = {row: partial(once, *before) for row, before in started.items()}
    seconds = interleaved(work, args.rounds, warm_up=1)
    rows = ratios(seconds, BASE)
    for row, found in rows.items():
        found["seconds"] = statistics.median(seconds[row])
        quarters = f"({found['low']:.2f} … {found['high']:.2f})"
        print(f"{row:22s} {found['ratio']:.2f} {quarters}  {found['seconds']:.2f} s")
    record = {
        "rows": rows,
        "per_class": args.per_class,
        "rounds": args.rounds,
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")) | {"threads": args.threads},
    }
    if args.out:
        write_json(args.out, record)


if __name__ == "__main__":
    main()
