"""What a run starts from: its folder, its settings (those it had, if it resumes), its stream."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .. import configure
from ..config import Config
from ..data import datasets, restore, stream
from ..errors import JanusError, UsageError
from . import paths
from .device import HALF, pick_device, resolve


def lock(folder: Path) -> FileLock:
    """Hold a run's folder; made if it is not there. Let go by the operating system when the process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = FileLock(folder / ".lock")
        guard.acquire(timeout=0)
    except Timeout:
        raise JanusError(
            f"{folder} is in use by another janus process; wait for it, or choose another --out"
        ) from None
    except OSError as error:
        raise JanusError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    return guard


def build_stream(
    config: Config, size: int | None = None, state: dict[str, Any] | None = None
) -> stream.Stream:
    """The config's data set, cut into tasks; then the new classes of an extended run.

    For the joint upper bound it is one task of all classes. New classes are one task for each data set.
    `size`: the input side photographs are prepared for; `state`: the checkpoint that is resumed, whose
    finished tasks need no images.
    """
    config = paths.resolved(config)
    c, tasks = config.data, 1 if config.method.joint else config.data.tasks
    order = config.training.seed if c.class_seed is None else c.class_seed

    def first() -> stream.Stream:
        images = datasets.load(c.dataset, root=config.runtime.root, **({"size": size} | c.options))
        return stream.class_incremental(images, tasks, order, per_class=c.per_class, evaluate=c.evaluate)

    skip = bool(c.options.get("skip_corrupt"))
    later = [partial(datasets.load, name, size=size, skip_corrupt=skip) for name in c.extended]
    record, done = (state["stream"], state["task"]) if state else (None, 0)
    return restore.grow(first, tasks, later, record, done)


def settled(config: Config, before: dict[str, Any], device: torch.device | None = None) -> Config:
    """The config with where relative paths start from (`runtime.paths`) and what `amp=auto` means.

    Both are as in the resumed run.
    """
    before = configure.flat(before)
    config = paths.with_folder(config, before)
    if config.training.amp != "auto":
        return config
    was = before.get("training.amp")
    meant = was if was in ("off", *HALF) else resolve("auto", device or pick_device(config.runtime.device))
    return configure.changed(config, {"training.amp": meant})


def check_same_run(config: Config, other: dict[str, Any], folder: Path) -> None:
    """UsageError: the config differs from the `other` one, which the run in `folder` has, in what decides."""
    mine, other = configure.deciding(config), configure.deciding(configure.restore(other, folder))
    differs = sorted(path for path in {*mine, *other} if mine.get(path) != other.get(path))
    belongs = {"method.name": "method.", "classifier.name": "classifier.", "method.dml": "method.loss."}
    for whole, part in belongs.items():
        if whole in differs:  # what belongs to it goes with it
            differs = [path for path in differs if path == whole or not path.startswith(part)]
    if differs:
        raise UsageError(
            f"{folder} holds another run (it differs in {', '.join(differs)}); choose another --out"
        )
