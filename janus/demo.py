"""`make demo`: the paper's ablation on the embedded benchmark, beside the paper's own rows, and where updates leak.

A command of the repository: it trains each row once, several at a time on one thread each, keeps the runs in `runs/demo/`,
prints the table and writes `figures/violation.*`. Finished runs are not repeated, broken ones go on.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import plots
from .__main__ import explained
from .ablation import PAPER, PAPER_ROWS, settings, slug
from .config import Config
from .configure import as_text, config_hash, from_text, layered
from .errors import JanusError
from .result import Result
from .timing import clock
from .train import RESULT

REPOSITORY = Path(__file__).parents[1]
SHOWN = [*PAPER_ROWS, "GPM", "exact", "frozen", "joint"]
SLOW = ("OE+GR+DML", "OE+GR", "GR", "joint")  # first, so that no core is left alone with a long run at the end
FIGURE = {"LoRA": "finetune", "GPM": "LoRA-GPM", "OE+GR": "OE+GR (tangent)", "exact": "exact (ours)"}
PROGRESS = re.compile(r"task (\d+)/(\d+)(?: epoch (\d+)/(\d+))?(.*)  \d+:\d\d gone")  # a line of `Run.report`


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m janus.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "runs" / "demo", help="where the runs are kept")
    parser.add_argument("--figures", type=Path, default=REPOSITORY / "figures", help="where the figure goes")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at the same time")
    parser.add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help="settings of every run")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    args = parser.parse_args(argv)
    return explained(lambda: demo(args.runs, args.figures, args.jobs, from_text(args.set)), args.debug,
                     "stopped; `make demo` goes on from the last checkpoints")


def demo(runs: Path, figures: Path, jobs: int, common: dict[str, Any]) -> None:
    """Train what is missing, print the table, write the figure."""
    configs = {row: layered({"runtime.threads": 1, "training.amp": "auto"}, settings(row), common) for row in SHOWN}
    folders = {row: runs / f"{slug(row)}-{config_hash(config)[:6]}" for row, config in configs.items()}
    began = time.monotonic()
    todo = [row for row in sorted(SHOWN, key=lambda r: r not in SLOW) if not (folders[row] / RESULT).exists()]
    print(f"{len(SHOWN)} runs, {len(SHOWN) - len(todo)} finished already", flush=True)
    train_all(todo, configs, folders, jobs)
    results = {row: Result.load(folder) for row, folder in folders.items()}
    print(f"\n{table(results)}\n\n{clock(time.monotonic() - began)} minutes this time; the runs are kept in {_short(runs)}")
    written = plots.violation({label: results[row].violation["tasks"] for row, label in FIGURE.items()}).save(figures / "violation")
    print(f"violation per layer, K and V: {', '.join(map(_short, written))}")


def train_all(rows: list[str], configs: dict[str, Config], folders: dict[str, Path], jobs: int) -> None:
    """Run rows as `janus run` does, `jobs` at a time.

    Raises:
        JanusError: some rows failed; the others are finished, and each failure has been printed.
    """
    progress = Progress(rows)
    children: list[subprocess.Popen[str]] = []

    def work(row: str) -> bool:
        command = [sys.executable, "-m", "janus", "run", "--out", str(folders[row]), "--variant", row,
                   "--set", *as_text(configs[row])]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                 env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
        children.append(child)
        for line in child.stderr:
            progress.say(row, line.strip())
        return child.wait() == 0

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        try:
            succeeded = list(pool.map(work, rows))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.terminate()
            raise
    failed = [row for row, ok in zip(rows, succeeded) if not ok]
    if failed:
        raise JanusError(f"{', '.join(failed)} failed (see above); `make demo` tries again")


class Progress:
    """One line for each finished task of any row, with the time that all rows together still need."""

    def __init__(self, rows: list[str]) -> None:
        self.began, self.lock = time.monotonic(), threading.Lock()
        self.done = dict.fromkeys(rows, 0.0)  # share of each run
        self.before: dict[str, float] = {}  # what was done when it was taken up

    def say(self, row: str, line: str) -> None:
        with self.lock:
            if found := PROGRESS.match(line):
                task, tasks, epoch, epochs = (int(number or 0) for number in found.groups()[:4])
                self.done[row] = (task - 1 + epoch / epochs) / tasks if epochs else task / tasks
                line = f"task {task}/{tasks}{found[5]}"
            elif resumed := re.match(r"resumed at task (\d+)/(\d+)", line):
                self.before[row] = self.done[row] = (int(resumed[1]) - 1) / int(resumed[2])
            now, start = sum(self.done.values()), sum(self.before.values())
            elapsed = time.monotonic() - self.began
            left = clock(elapsed * (len(self.done) - now) / (now - start)) if now > start else "?"
            print(f"{row:10s} {line:52s} | all rows: {clock(elapsed)} gone, {left} left", flush=True)


def table(results: dict[str, Result]) -> str:
    """Ours beside the paper's, with what a reader must know to compare them."""
    lines = [f"{'':11s} Icons-R, T={len(results['LoRA'].accuracy):<2d}, ours      violation   ImageNet-R, T=10, the paper's",
             f"{'row':11s}   ACC    MAA     BWT                    ACC    MAA     BWT"]
    for row, r in results.items():
        moves = row not in ("frozen", "joint")
        score = r.violation["mean"]["all"] if moves else None
        ours = f"{r.acc:6.2f} {_number(r.maa if row != 'joint' else None, 6)} {_number(r.bwt, 7)}"
        leak = f"{'–':>9s}" if score is None else f"{score:9.2f}" if score >= 0.005 else f"{score:9.0e}"
        paper = " ".join(_number(v, w) for v, w in zip(PAPER.get(row, (None,) * 3), (6, 6, 7)))
        lines.append(f"{row:11s}{ours}  {leak}       {paper}")
    some = results["LoRA"]
    lines += [
        "",
        "LoRA to OE+GR+DML: the paper's seven ablation rows (one pair of factors for the whole stream). exact: null-space",
        "restart; frozen: heads only; joint: all classes at once. Icons-R is not ImageNet-R, nor its backbone a ViT-B/16:",
        "compare orders, not numbers. ACC, MAA, BWT in per cent; violation: the share of a task's weight change that acts",
        "on past inputs, mean over layers and tasks.",
        f"One seed, {some.hardware['cpu']}, {some.hardware['threads']} thread a run, torch {some.versions['torch']}, "
        f"{'float32' if (amp := some.config['training']['amp']) == 'off' else amp}.",
        "More seeds, as far as they were run: README.md and benchmarks/results/.",
    ]
    return "\n".join(lines)


def _number(value: float | None, width: int) -> str:
    return f"{'–':>{width}s}" if value is None else f"{value:{width}.2f}"


def _short(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # ends the rows' processes too
    sys.exit(main())
