"""What `runtime.micro_batch` saves and costs: peak memory and seconds of a training step on 128 images, whole
and in slices.

    python benchmarks/micro_batch.py    # Janus (exact, margin loss), plain LoRA; ViT-S/16 at 224 px, any CPU

Each case is a process of its own, which makes one step of task 2 on random images. Memory is its largest
resident set (`ru_maxrss`) less the one before the step, when the model and the batch are there. Not a
measurement on a card; the seconds are of that one step, on a machine that may do other things.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from janus.configure import make
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions
from janus.runtime.updates import Updates
from janus.train import Run, step

METHODS = {"LoRA": {"method": "finetune"}, "Janus (exact, margin loss)": {"method": "janus"}}
SLICES = (None, 16)
OUT = Path(__file__).parent / "results" / "measurements" / "micro_batch.json"


def measured(model: str, batch: int, micro_batch: int | None, method: str, threads: int) -> dict[str, float]:
    """Megabytes that a step takes at its peak, and its seconds."""
    with tempfile.TemporaryDirectory() as place:
        for c in range(4):  # the stream needs images; the steps do not see them
            for split in ("train", "test"):
                folder = Path(place, split, str(c))
                folder.mkdir(parents=True)
                Image.new("RGB", (32, 32), (60 * c, 0, 0)).save(folder / "0.png")
        config = make(
            dataset=place,
            model=model,
            weights="random",
            tasks=2,
            epochs=1,
            batch_size=batch,
            threads=threads,
            device="cpu",
            micro_batch=micro_batch,
            **METHODS[method],
        )
        run = Run(config, None)
        run.learn(run.stream.tasks[0])
        learner, task = run.learner, run.stream.tasks[1]
        learner.begin_task(task)
        size, generator = learner.preprocess.size, torch.Generator().manual_seed(0)
        images = torch.randn(batch, 3, size, size, generator=generator)
        labels = torch.randint(len(task.positions), (batch,), generator=generator)
        updates, before = Updates(learner, task, run.seconds), peak()
        updates.begin(0.0, batch, batch)
        start = time.perf_counter()
        step(learner, images, labels, updates)
    return {"megabytes": peak() - before, "seconds": time.perf_counter() - start}


def peak() -> float:
    """The process's largest resident set so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--case", help=argparse.SUPPRESS)  # one case, in a process of its own
    args = parser.parse_args()
    if args.case:
        print(json.dumps(measured(args.model, args.batch, threads=args.threads, **json.loads(args.case))))
        return
    found: dict[str, list[dict[str, Any]]] = {}
    for method in METHODS:
        for size in SLICES:
            case = json.dumps({"micro_batch": size, "method": method})
            words = ["--model", args.model, "--batch", args.batch, "--threads", args.threads, "--case", case]
            command = [sys.executable, __file__, *map(str, words)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            took = {"micro_batch": size} | json.loads(done.stdout.splitlines()[-1])
            found.setdefault(method, []).append(took)
            print(method, took, flush=True)
    record = {
        "model": args.model,
        "batch": args.batch,
        "steps": found,
        "threads": args.threads,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    write_json(args.out, record)


if __name__ == "__main__":
    main()
