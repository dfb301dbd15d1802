"""Online Estimation's basis against GPM's, at the same ε, on the same run: ranks and principal angles, layer by layer.

    python benchmarks/oe_vs_gpm.py --out benchmarks/results/oe_vs_gpm.json

One LoRA-GPM run on Icons-R. GPM's second moments come from its own pass after each task (test transform, final weights);
Online Estimation's from the last training epoch (augmented images, weights still moving). After every task both bases exist.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from janus.ablation import settings
from janus.checkpoint import write_json
from janus.config import Config
from janus.history import precise
from janus.result import hardware, versions
from janus.train import Run, print_progress


def cosines(U: Tensor, V: Tensor) -> Tensor:
    """Cosines of the principal angles between span(U) and span(V), largest first; U (n, k), V (n, l) orthonormal."""
    return torch.linalg.svdvals(precise(U).T @ precise(V)).clamp(max=1.0)


class Watched(Run):
    """A run that compares the two bases after every task."""

    compared: list[dict[str, Any]]

    def save(self) -> None:
        layers = {}
        for key, V in self.method.basis().items():
            W = self.history.basis[key]
            c = cosines(V, W)
            angles = torch.rad2deg(torch.arccos(c))
            layers[key] = {"rank_gpm": V.shape[1], "rank_oe": W.shape[1], "largest_angle": float(angles.max()),
                           "mean_angle": float(angles.mean()), "shared": float((c**2).sum()) / min(V.shape[1], W.shape[1])}
        self.compared.append(layers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    config = Config.create(**settings("GPM"), seed=args.seed, threads=args.threads, save_every=1e9)
    run = Watched(config, None, print_progress)
    run.compared = []
    result = run.finish()
    last = run.compared[-1]
    for key, row in last.items():
        print(f"{key:16s} rank {row['rank_gpm']:3d} (GPM) {row['rank_oe']:3d} (OE)   "
              f"principal angles: mean {row['mean_angle']:.1f}°, "
              f"largest {row['largest_angle']:.1f}°; shared {100 * row['shared']:.1f} %")
    if args.out:
        write_json(args.out, {"config": result.config, "acc": result.acc, "tasks": run.compared, "versions": versions(),
                              "hardware": hardware(torch.device("cpu"))})


if __name__ == "__main__":
    main()
