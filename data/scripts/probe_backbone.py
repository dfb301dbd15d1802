"""What the frozen embedded backbone is worth on Icons-R's validation, at several strengths of the renditions.

    python data/scripts/probe_backbone.py --out benchmarks/results/measurements/probe.json

All 100 classes at once, no adaptation: the nearest class mean by cosine, and a ridge classifier
(scikit-learn; its penalty from leave-one-out on the training images). Test images are not read.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import RidgeClassifierCV
from sklearn.preprocessing import StandardScaler

from janus.data import icons
from janus.models import backbones
from janus.runtime.checkpoint import write_json
from janus.separation import class_means


@torch.no_grad()
def features(model: torch.nn.Module, images: np.ndarray) -> torch.Tensor:
    """uint8 (N, 3, 32, 32) -> (N, d)."""
    parts = np.array_split(images, len(images) // 250)
    return torch.cat([model(torch.from_numpy(part).float() / 127.5 - 1) for part in parts])


def probe(model: torch.nn.Module, strengths: Iterable[float]) -> dict[str, dict[str, float]]:
    """By strength of the renditions, per cent of Icons-R's validation icons named rightly by each classifier.

    model: gives features, (B, 3, 32, 32) in [-1, 1] -> (B, d), in eval mode.
    """
    found = {}
    for strength in strengths:
        parts = {split: icons.load(strength, split) for split in ("train", "val")}  # never the test split
        classes, (x, y, _) = parts["train"][0], parts["train"][1]["train"]
        v, z, _ = parts["val"][1]["val"]
        train, val = features(model, x), features(model, v)
        means = torch.nn.functional.normalize(class_means(train, torch.from_numpy(y), len(classes)), dim=1)
        nearest = (torch.nn.functional.normalize(val, dim=1) @ means.T).argmax(1).numpy()
        scale = StandardScaler().fit(train)
        ridge = RidgeClassifierCV(alphas=np.logspace(0, 4, 9)).fit(scale.transform(train), y)
        found[f"{strength:g}"] = {
            "nearest_mean": round(100 * float((nearest == z).mean()), 1),
            "ridge": round(100 * float(ridge.score(scale.transform(val), z)), 1),
        }
        print(f"strength {strength:g}: {found[f'{strength:g}']}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.0, 0.5, 1.0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    model, _ = backbones.create(backbones.EMBEDDED)
    found = probe(model, args.strengths)
    if args.out:
        write_json(args.out, found)


if __name__ == "__main__":
    main()
