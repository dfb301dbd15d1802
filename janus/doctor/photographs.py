"""Made photographs as JPEG files, and whether training steps wait for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import train

WIDTH, HEIGHT, CLASSES = 500, 375, 10


def photograph(rng: np.random.Generator, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """A gradient between two colours under noise at four scales."""
    across = np.linspace(0, 1, width)[None, :, None] * rng.uniform()
    across = across + np.linspace(0, 1, height)[:, None, None] * rng.uniform()
    picture = rng.uniform(60, 200, 3) + across * rng.uniform(-80, 80, 3)  # (H, W, 3)
    for cells, strength in ((4, 40), (16, 25), (64, 15), (256, 8)):
        small = Image.fromarray(rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8))
        large = small.resize((width, height), Image.Resampling.BICUBIC)
        picture += (np.asarray(large, np.float64) / 127.5 - 1) * strength
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def write_photographs(
    root: Path, count: int, classes: int = CLASSES, width: int = WIDTH, height: int = HEIGHT
) -> int:
    """`count` files `root/train/<class>/<n>.jpg`, and a test image a class; returns the bytes in train."""
    rng = np.random.default_rng(0)
    for i in range(count + classes):
        file = root / ("train" if i < count else "test") / f"class{i % classes}" / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        photograph(rng, width, height).save(file, quality=90)
    return sum(f.stat().st_size for f in (root / "train").rglob("*.jpg"))


def waiting(folder: Path, images: int, **settings: Any) -> dict[str, float]:
    """A run of two tasks on the photographs in a folder, of which `images` are in train: images a second of
    its training loop, and the share of that loop's time in which it waited for a batch, in per cent (the
    first batch of each task included). settings: of the run; `epochs` among them."""
    fixed = {"dataset": str(folder), "data": {"cache": "disk"}, "tasks": 2, "augment": "photo"}
    seconds = train.run(**settings | fixed).seconds
    return {
        "images_per_second": settings["epochs"] * images / seconds["train"],
        "waiting_percent": 100 * seconds["data"] / seconds["train"],
    }
