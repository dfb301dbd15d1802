"""Does a long stream get slower or larger? A hundred tiny tasks: seconds of a training step and memory, task
by task.

    python benchmarks/many_tasks.py --out benchmarks/results/measurements/many_tasks.json

With --out it writes figures/many_tasks, too.

The images are coloured noise: what is measured is time and memory, and no accuracy. Each method has a run of
its own process, one after the other. What must grow with the tasks is listed apart: heads, basis, prototypes,
and the test features of each task that the drift is measured with.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import torch
from PIL import Image

from janus import plots
from janus.configure import make
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions
from janus.train import Run

METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"method": "finetune"},
    "tangent": {"method": "janus", "gr": "tangent", "adapter": "shared", "init": "free", "dml": True},
    "exact": {"method": "janus", "gr": "exact", "dml": True},
}
TEST_IMAGES = 2  # a class
KEPT = ("heads", "basis", "prototypes", "test features")  # these must grow


def write_images(folder: Path, classes: int, train: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for c in range(classes):
        ink = torch.randint(40, 216, (3, 1, 1), generator=generator)
        for split, count in (("train", train), ("test", TEST_IMAGES)):
            place = folder / split / f"{c:03d}"
            place.mkdir(parents=True)
            for i in range(count):
                pixels = (ink + torch.randint(-40, 40, (3, 32, 32), generator=generator)).to(torch.uint8)
                Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(place / f"{i}.png")


class Watched(Run):
    """A run that notes after every task what its steps took and what the process holds."""

    rows: list[dict[str, float]]
    steps = 0
    spent = 0.0

    def train(self, task: Any) -> None:
        super().train(task)
        gc.collect()
        give_back()
        steps, spent = self.step, self.seconds["train"]
        kept = {
            "heads": list(self.learner.heads.parameters()),
            "basis": list(self.learner.history.basis.values()),
            "prototypes": [self.learner.prototypes.old],
            "test features": self.evaluation.learned,
        }
        row = {
            "ms": 1e3 * (spent - self.spent) / steps,
            "resident": psutil.Process().memory_info().rss,
        }
        for name, tensors in kept.items():
            row[name] = sum(t.numel() * t.element_size() for t in tensors)
        self.rows.append(row)
        self.spent = spent


def give_back() -> None:
    """What was freed goes back to the system, if the C library can be asked; else it counts as resident."""
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: 0)(0)


def one(name: str, folder: Path, tasks: int, threads: int) -> list[dict[str, float]]:
    config = make(
        dataset=str(folder),
        augment="icons",
        tasks=tasks,
        epochs=3,
        batch_size=16,
        threads=threads,
        save_every=1e9,
        energy=0.9,
        **METHODS[name],
    )
    run = Watched(config, None)
    run.rows = []
    # decoded images are kept: all of them from the beginning, or the process would grow by them
    for task in run.stream.tasks:
        for images in (task.train, task.evaluation):
            images.batch(torch.arange(len(images)))
    run.finish()
    return run.rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    what = "a single method, as JSON (used by itself)"
    parser.add_argument("--one", nargs=2, metavar=("METHOD", "FOLDER"), help=what)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(one(args.one[0], Path(args.one[1]), args.tasks, args.threads)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder), classes=2 * args.tasks, train=16)
        rows = {}
        for name in METHODS:
            words = ["--tasks", str(args.tasks), "--threads", str(args.threads), "--one", name, folder]
            command = [sys.executable, __file__, *words]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows[name] = json.loads(done.stdout.splitlines()[-1])
            fifth = max(1, len(rows[name]) // 5)
            first, last = rows[name][fifth : 2 * fifth], rows[name][-fifth:]
            ratio = statistics.median(r["ms"] for r in last) / statistics.median(r["ms"] for r in first)
            grown = (last[-1]["resident"] - first[0]["resident"]) / 1e6
            kept = sum(last[-1][k] - first[0][k] for k in KEPT) / 1e6
            print(
                f"{name}: a step {ratio:.2f} x at the end; resident {grown:+.0f} MB, "
                f"of it told apart {kept:+.1f} MB",
                flush=True,
            )
    result = {
        "methods": rows,
        "versions": versions(),
        "hardware": hardware(torch.device("cpu")) | {"threads": args.threads},
    }
    if args.out:
        write_json(args.out, result)
        plots.over_tasks(result).save(Path(__file__).parents[1] / "figures" / "many_tasks")


if __name__ == "__main__":
    main()
