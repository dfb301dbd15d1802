"""Online Estimation's basis against GPM's, at the same ε, on the same run: ranks and principal angles, layer
by layer.

    python benchmarks/oe_vs_gpm.py --out benchmarks/results/measurements/oe_vs_gpm.json

One LoRA-GPM run on Icons-R. GPM's second moments come from its own pass after each task (test transform,
final weights); Online Estimation's from the last training epoch (augmented images, weights still moving).
After every task both bases exist.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from janus.bench.variants import settings
from janus.configure import layered
from janus.linalg import principal_angles
from janus.runtime.checkpoint import write_json
from janus.runtime.progress import forwarded, print_progress
from janus.runtime.result import hardware, versions
from janus.train import Run


class Watched(Run):
    """A run that compares the two bases after every task."""

    compared: list[dict[str, Any]]

    def save(self) -> None:
        layers = {}
        for key, V in self.learner.method.basis().items():
            W = self.learner.history.basis[key]
            angles = principal_angles(V, W)
            layers[key] = {
                "rank_gpm": V.shape[1],
                "rank_oe": W.shape[1],
                "largest_angle": max(angles),
                "mean_angle": fmean(angles),
                "shared": fmean(math.cos(math.radians(angle)) ** 2 for angle in angles),
            }
        self.compared.append(layers)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = layered(settings("GPM"), {"seed": args.seed, "threads": args.threads, "save_every": 1e9})
    run = Watched(config, None)
    run.compared = []
    with forwarded(print_progress):
        result = run.finish()
    last = run.compared[-1]
    for key, row in last.items():
        print(
            f"{key:16s} rank {row['rank_gpm']:3d} (GPM) {row['rank_oe']:3d} (OE)   "
            f"principal angles: mean {row['mean_angle']:.1f}°, "
            f"largest {row['largest_angle']:.1f}°; shared {100 * row['shared']:.1f} %"
        )
    if args.out:
        record = {
            "config": result.config,
            "acc": result.acc,
            "tasks": run.compared,
            "versions": versions(),
            "hardware": hardware(torch.device("cpu")),
        }
        write_json(args.out, record)


if __name__ == "__main__":
    main()
