"""A stream as a checkpoint remembers it.

What was learned stays usable when the images it was learned from are gone: a finished run is extended by new
classes without its old data, and only the accuracy on old tasks is then unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch
from torch import Tensor

from ..errors import JanusError
from .stream import ImageSet, Stream, Task
from .walk import nfc


class MissingImages:
    """Images of a finished task that cannot be read any more; only their number is known."""

    styles = None

    def __init__(self, count: int) -> None:
        self.count = count
        self.labels = torch.zeros(0, dtype=torch.long)

    def __len__(self) -> int:
        return self.count

    def batch(self, index: Tensor) -> NoReturn:
        raise JanusError("these images are not there any more; only their number is known")

    def subset(self, index: Tensor, labels: Tensor | None = None) -> NoReturn:
        self.batch(index)


def grow(
    first: Callable[[], Stream],
    count: int,
    later: Sequence[Callable[[], ImageSet]],
    record: dict[str, Any] | None,
    done: int,
) -> Stream:
    """The stream of `count` tasks that `first()` cuts, then all classes of each of `later` as one more task.

    Args:
        record: `Stream.to_json()` of a checkpoint, None for a run that begins. done: how many of its tasks
            are finished.

    Finished tasks whose data set cannot be loaded, or is not what it was, are recalled from the record
    without images; the stream's note says so and why.

    Raises:
        JanusError: an unfinished task's data set cannot be loaded, or is not the one the run began with.
    """
    stream = _take(first, record, 0, count, done)
    if isinstance(stream, str):
        stream = _restored(record, 0, count, stream)
    for t, load in enumerate(later, count):
        grown = _take(lambda s=stream, f=load: s.with_new_classes(f()), record, t, t + 1, done)
        if isinstance(grown, str):
            lost = _restored(record, t, t + 1, grown)
            grown = replace(
                stream,
                tasks=stream.tasks + lost.tasks,
                classes=stream.classes + lost.classes,
                class_names=stream.class_names + lost.class_names,
                note=f"{stream.note}; then {lost.note}",
            )
        stream = grown
    return stream


def _take(
    make: Callable[[], Stream], record: dict[str, Any] | None, start: int, stop: int, done: int
) -> Stream | str:
    """`make()`, if its tasks start…stop are those of the record; else, where they need not be, the reason."""
    try:
        stream = make()
    except JanusError as error:
        if stop <= done:
            return str(error)
        raise
    known = record and start < len(record["tasks"])
    differs = _difference(stream.to_json(), record, start, stop) if known else ""
    if differs and stop > done:
        raise JanusError(
            f"the data changed since this run began: {differs}; bring the old data back, "
            "or start again with another --out"
        )
    return differs or stream


def _difference(now: dict[str, Any], record: dict[str, Any], start: int, stop: int) -> str:
    if record.get("side") not in (None, now["side"]):
        return f"images were held at {record['side']} pixels a side, and now are at {now['side']}"
    for t in range(start, stop):
        if t >= len(now["tasks"]):
            return f"there is no task {t + 1} any more"
        one, other = now["tasks"][t], record["tasks"][t]
        span = slice(*other["positions"])
        names = [[nfc(name) for name in names[span]] for names in (now["class_names"], record["class_names"])]
        if one["positions"] != other["positions"] or names[0] != names[1]:
            return f"task {t + 1} has other classes"
        for part in ("train", record["evaluate"]):
            if one[part] != other[part]:
                return f"task {t + 1} had {other[part]} {part} images and now has {one[part]}"
    return ""


def _restored(record: dict[str, Any], start: int, stop: int, why: str) -> Stream:
    """Tasks start…stop of a record, without images.

    JanusError: an older record, which does not say their side.
    """
    if record.get("side") is None:
        raise JanusError(
            "this run was made by an older janus, which did not keep the size of its images; its old data is "
            f"needed to go on ({why})"
        )
    tasks = []
    for task in record["tasks"][start:stop]:
        counts = {name: task[name] for name in ("train", "val", "test")}
        part = {name: None if count is None else MissingImages(count) for name, count in counts.items()}
        part["evaluation"] = part[record["evaluate"]]
        tasks.append(Task(task["index"], tuple(task["classes"]), range(*task["positions"]), **part))
    span = slice(tasks[0].positions.start, tasks[-1].positions.stop)
    note = (
        f"{span.stop - span.start} classes in {len(tasks)} task{'s' if len(tasks) > 1 else ''} whose images "
        f"cannot be read any more and which are not evaluated again ({why})"
    )
    return Stream(
        record["dataset"],
        tuple(record["class_order"][span]),
        tuple(record["class_names"][span]),
        tuple(tasks),
        record["seed"],
        record["per_class"],
        record["evaluate"],
        note,
        tuple(record["notes"]),
        record["side"],
    )
