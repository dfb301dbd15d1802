"""What a device costs: time and memory of training steps, and whether they wait for images."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

import torch

from .. import datasets
from ..device import half_precision
from . import cost
from .cost import LORA, PEFT
from .photographs import waiting, write_photographs
from .place import VIT_B, Finding, Place, Planned, SkippedError

MEASURED = {LORA: "LoRA", PEFT: "PEFT's LoRA", "exact": "exact", "tangent": "tangent", "exact + DML": "exact + DML"}
SLOWER, LARGER = 2.0, 1.5  # × plain LoRA's: beyond that something is wrong (wanted is 1.05)


def costs(place: Place) -> Planned:
    """Time and memory of a step of each variant, as multiples of plain LoRA's: ours, and PEFT's if it is installed."""
    halves = [None, half_precision(place.device)] if place.large else [None]
    for batch in (32, 128) if place.large else (16,):
        for half in halves:
            yield from _cost(place, place.case(batch, half))


def _cost(place: Place, case: cost.Case) -> Planned:
    """The checks of one batch size and precision; what they tell is measured when the first of them asks."""
    precision = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}[case.half]
    names = [name for name in MEASURED if name != PEFT or importlib.util.find_spec("peft")]
    memory = cost.peak if case.device.type == "cuda" else cost.counted

    @cache
    def measured() -> dict[str, dict[str, Any]]:
        rounds, seconds = (5, 6.0) if place.quick else (20, 15.0)
        return cost.measure(case, names, rounds, base=LORA, seconds=seconds, memory=memory, tell=lambda line: None)

    def look(name: str) -> Finding:
        if name not in names:
            raise SkippedError("peft is not installed")
        rows, bounds = measured(), {}
        row, found = rows[name], {}
        for key in ("ms", "images_per_second", "megabytes"):
            if row[key] is not None:
                found[key] = row[key]
        for base, other in (("lora", LORA), ("peft", PEFT)):
            if name == other or other not in rows:
                continue
            found[f"time_to_{base}"] = row["ratio"] if other == LORA else row["ms"] / rows[other]["ms"]
            bounds[f"time_to_{base}"] = SLOWER
            if row["megabytes"] and rows[other]["megabytes"]:
                found[f"memory_to_{base}"] = row["megabytes"] / rows[other]["megabytes"]
                bounds[f"memory_to_{base}"] = LARGER
        return Finding(found, bounds if name != PEFT else {})

    for name, called in MEASURED.items():
        yield f"cost: {called}, batch {case.batch}, {precision}", lambda name=name: look(name)


def waits(place: Place) -> Planned:
    """How long a run stands still because its next batch of photographs is not there yet."""

    def look() -> Finding:
        images, epochs, batch = (1024, 4, 32) if place.large else (64, 2, 8) if place.quick else (160, 2, 8)
        model = {"model": VIT_B, "batch_size": batch} if place.large else {"model": "photos-vit", "batch_size": batch}
        folder, before = place.folder / "photographs", os.environ.get("JANUS_CACHE")
        write_photographs(folder, images)
        os.environ["JANUS_CACHE"] = str(place.folder / "cache")
        try:
            size = 224 if place.large else 64
            datasets.load(folder, size=size, cache="disk").train.batch(torch.arange(1))  # decodes all of them
            found = waiting(folder, images, **model, weights="random", epochs=epochs, device=place.device.type,
                            amp="auto" if place.large else "off")
        finally:
            os.environ.pop("JANUS_CACHE") if before is None else os.environ.update(JANUS_CACHE=before)
        return Finding(found, {"waiting_percent": 5.0})

    yield "waiting for data", look
