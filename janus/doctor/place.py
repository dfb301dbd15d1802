"""Where the doctor's checks are made, and what one of them sees."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..configure import make
from .cost import Case
from .photographs import write_photographs

VIT_B, VIT_TI = "vit_base_patch16_224", "vit_tiny_patch16_224"


class SkippedError(Exception):
    """A check cannot be made here; says why."""


@dataclass(frozen=True)
class Finding:
    """What a check saw: numbers by name, and the largest that some of them may be."""

    values: dict[str, Any]
    bounds: dict[str, float]


@dataclass(frozen=True)
class Place:
    """Where the checks are made.

    folder: a temporary one, for images and runs. methods: those whose step is compared (names in `STEPS`;
    None: all).
    """

    device: torch.device
    quick: bool
    folder: Path
    methods: tuple[str, ...] | None = None

    @property
    def large(self) -> bool:
        """Whether it is worth measuring ViT-B/16."""
        return self.device.type == "cuda" and not self.quick

    def case(self, batch: int | None = None, half: torch.dtype | None = None) -> Case:
        """What steps are measured on: ViT-B/16, batch 32, on a GPU, else a ViT-Ti at 64 px, batch 16 (8)."""
        small = (VIT_TI, 64, 8 if self.quick else 16, 64)
        model, size, images, basis = (VIT_B, None, 32, 256) if self.large else small
        return Case(model, batch or images, 8, basis, torch.get_num_threads(), self.device, half, size)


PlannedChecks = Iterator[tuple[str, Callable[[], Finding]]]


def config(place: Place, device: torch.device, **settings: Any) -> Config:
    """A run of three tasks of two classes on small made images, in one epoch of two steps a task."""
    folder, batch = place.folder / "images", 16 if place.device.type == "cuda" else 8
    if not folder.exists():
        write_photographs(folder, 6 * batch, classes=6, width=64, height=48)
    fixed = dict(dataset=str(folder), tasks=3, epochs=1, batch_size=batch, augment="none", amp="off")
    fixed["save_every"] = 0.0
    return make(fixed | settings, device=str(device))


@contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Inside, float32 products and convolutions are as precise as `set_float32_matmul_precision` says."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision(precision)
    torch.backends.cudnn.allow_tf32 = precision != "highest"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
