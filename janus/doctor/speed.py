"""What a device costs: time and memory of training steps, and whether they wait for images."""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from typing import Any

import torch

from ..data import datasets
from ..runtime.device import half_precision
from . import cost
from .cost import LORA, PEFT
from .photographs import waiting, write_photographs
from .place import VIT_B, Finding, Place, PlannedChecks, SkippedError

MEASURED = {LORA: "LoRA", PEFT: "PEFT's LoRA"} | {name: name for name in ("exact", "tangent", "exact + DML")}
SLOWER, LARGER = 2.0, 1.5  # × plain LoRA's: beyond that something is wrong (1.05 is what we want)
WAITING = 10.0  # per cent (3 is what we want)


def costs(place: Place) -> PlannedChecks:
    """Time and memory of a step of each variant, as multiples of plain LoRA's: ours, and PEFT's if it is
    installed."""
    halves = [None, half_precision(place.device)] if place.large else [None]
    for batch in (32, 128) if place.large else (None,):
        for half in halves:
            yield from _cost(place, place.case(batch, half))


def _cost(place: Place, case: cost.Case) -> PlannedChecks:
    """The checks of one batch size and precision; what they tell is measured when the first of them asks."""
    precision = {None: "float32", torch.bfloat16: "bf16", torch.float16: "fp16"}[case.half]
    missing = _no_peft()
    names = [name for name in MEASURED if name != PEFT or not missing]
    memory = cost.peak if case.device.type == "cuda" else cost.counted

    @cache
    def measured() -> dict[str, dict[str, Any]] | Exception:
        rounds, seconds = (4, 4.0) if place.quick else (20, 15.0)
        try:
            return cost.measure(case, names, rounds, base=LORA, seconds=seconds, memory=memory, progress=None)
        except Exception as error:  # noqa: BLE001 - the same for each of the checks
            return error.with_traceback(None)  # which would hold the models

    def look(name: str) -> Finding:
        if name not in names:
            raise SkippedError(missing)
        rows = measured()
        if isinstance(rows, Exception):
            raise rows
        row = rows[name]
        found = {key: row[key] for key in ("ms", "images_per_second", "megabytes")}
        for base, other in (("lora", LORA), ("peft", PEFT)):
            if name != other and other in rows:
                found[f"time_to_{base}"] = row["ratio"] / rows[other]["ratio"]
                found[f"memory_to_{base}"] = row["megabytes"] / rows[other]["megabytes"]
        base = {LORA: "peft", PEFT: None}.get(name, "lora")
        bounds = {f"time_to_{base}": SLOWER, f"memory_to_{base}": LARGER}
        return Finding(found, {key: limit for key, limit in bounds.items() if key in found})

    for name, called in MEASURED.items():
        yield f"cost: {called}, batch {case.batch}, {precision}", lambda name=name: look(name)


def _no_peft() -> str:
    """Why PEFT cannot be measured; empty if it can."""
    if not importlib.util.find_spec("peft"):
        return "peft is not installed"
    try:
        import peft  # noqa: F401
    except Exception as error:  # noqa: BLE001 - it imports what may not fit the torch that is here
        return f"peft cannot be imported ({type(error).__name__})"
    return ""


def waits(place: Place) -> PlannedChecks:
    """How long a run stands still because its next batch of photographs is not there yet."""

    def look() -> Finding:
        images, epochs = (512, 6) if place.large else (64, 2) if place.quick else (160, 3)
        model, batch, size, amp = (VIT_B, 32, 224, "auto") if place.large else ("icons-vit", 8, 32, "off")
        folder, before = place.folder / "photographs", os.environ.get("JANUS_CACHE")
        write_photographs(folder, images)
        os.environ["JANUS_CACHE"] = str(place.folder / "cache")
        try:
            datasets.load(folder, size=size, cache="disk").train.batch(torch.arange(1))  # decodes all of them
            settings = dict(model=model, weights="random", epochs=epochs, batch_size=batch, amp=amp)
            found = waiting(folder, images, **settings, device=place.device.type)
        finally:
            os.environ.pop("JANUS_CACHE") if before is None else os.environ.update(JANUS_CACHE=before)
        return Finding(found, {"waiting_percent": WAITING})

    yield "waiting for data", look
