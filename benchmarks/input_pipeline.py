"""Images a second and core that reach the model: decoded cache and batched augmentation, beside a plain
DataLoader.

    python benchmarks/input_pipeline.py     # 500 photographs, one thread;
                                            # results/measurements/input_pipeline.json

Both read the same JPEG files (made here: 500 x 375 pixels, gradients under noise at several scales, about as
large as photographs of that size are) and give float32 (B, 3, 224, 224), randomly cropped, flipped and
normalised. The plain pipeline is the usual one: `torchvision.datasets.ImageFolder`, RandomResizedCrop,
RandomHorizontalFlip, ToTensor, Normalize, in a DataLoader of this process. Ours is what a run does:
`datasets.load` with its disk cache, read ahead, `train_transform("photo")`. One round is one pass over all
images by each, in changing order, so a machine whose speed drifts does not matter; the ratio is taken round
by round. Time is the processor time of all threads, so a rate is one core's and other programs do not count.
Making the cache is timed apart: it is paid once a data set. The files and the cache are in the operating
system's memory, so nobody waits for a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision import transforms as vision
from torchvision.datasets import ImageFolder

from janus.data import datasets
from janus.data.prefetch import Prefetcher
from janus.data.transforms import train_transform
from janus.doctor.photographs import CLASSES, HEIGHT, WIDTH, write_photographs
from janus.models.backbones import PreprocessConfig
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions

SIZE = 224
OUT = Path(__file__).parent / "results" / "measurements" / "input_pipeline.json"


def plain(root: Path, batch: int, preprocess: PreprocessConfig) -> Callable[[], int]:
    """The usual DataLoader."""
    steps = [
        vision.RandomResizedCrop(SIZE, interpolation=vision.InterpolationMode(preprocess.interpolation)),
        vision.RandomHorizontalFlip(),
        vision.ToTensor(),
        vision.Normalize(preprocess.mean, preprocess.std),
    ]
    data = ImageFolder(str(root / "train"), vision.Compose(steps))
    loader = DataLoader(data, batch_size=batch, shuffle=True)
    return lambda: sum(len(images) for images, _ in loader)


def ours(root: Path, batch: int, preprocess: PreprocessConfig) -> tuple[Callable[[], int], float, int]:
    """One pass over the training images as a run makes it; the seconds to make the cache, and its bytes."""
    data = datasets.load(root, size=SIZE, cache="disk")
    begun = time.process_time()
    data.train.batch(torch.arange(1))
    seconds = time.process_time() - begun
    augment, generator = train_transform("photo", preprocess), torch.Generator().manual_seed(0)

    def go() -> int:
        order = torch.randperm(len(data.train), generator=generator)
        with Prefetcher(data.train, order.split(batch), torch.device("cpu")) as loader:
            return sum(len(augment(images, generator)) for _, images in loader)

    return go, seconds, data.train.store.disk.path.stat().st_size


def measure(count: int, batch: int, rounds: int, interpolation: str) -> dict:
    """Rates of both by round, and their ratios."""
    preprocess = PreprocessConfig(SIZE, (0.5,) * 3, (0.5,) * 3, interpolation)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JANUS_CACHE"] = str(Path(folder) / "cache")
        size = write_photographs(Path(folder) / "photographs", count)
        go, seconds, cached = ours(Path(folder) / "photographs", batch, preprocess)
        variants = {"dataloader": plain(Path(folder) / "photographs", batch, preprocess), "cache": go}
        rates: dict[str, list[float]] = {name: [] for name in variants}
        for turn in range(-1, rounds):  # the first pass warms up
            for name in sorted(variants, reverse=turn % 2 == 0):
                begun = time.process_time()
                seen = variants[name]()
                if turn >= 0:
                    rates[name].append(seen / (time.process_time() - begun))
    ratios = [a / b for a, b in zip(rates["cache"], rates["dataloader"])]
    middle = {name: round(statistics.median(values), 1) for name, values in rates.items()}
    spread = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {
        "images": count,
        "photograph": [WIDTH, HEIGHT],
        "jpeg_bytes_each": round(size / count),
        "size": SIZE,
        "batch": batch,
        "interpolation": interpolation,
        "rounds": rounds,
        "cache_bytes_each": round(cached / (count + CLASSES)),
        "core_seconds_to_make_the_cache": round(seconds, 2),
        "images_per_core_second": middle,
        "ratio": {name: round(value, 2) for name, value in spread.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    what = "bilinear or bicubic (what ViT-B/16 is used with)"
    parser.add_argument("--interpolation", default="bicubic", help=what)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # torchvision's transforms and the DataLoader draw from the global generator
    case = measure(args.images, args.batch, args.rounds, args.interpolation)
    print(json.dumps(case, indent=1))
    installed = versions() | {name: version(name) for name in ("torchvision", "pillow")}
    write_json(args.out, {"case": case, "hardware": hardware(torch.device("cpu")), "versions": installed})


if __name__ == "__main__":
    main()
