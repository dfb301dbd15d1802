"""Tasks of one class: cross-entropy over the classes of a task is 0 where there is one and trains nothing."""

from __future__ import annotations

import warnings
from dataclasses import replace

from .. import methods
from ..config import Config
from ..data.stream import Stream


def with_notes(stream: Stream, config: Config, done: int) -> Stream:
    """The stream, with a note on tasks of one class that its heads cannot learn.

    It is said in a warning, too, while any is to come. done: tasks that are finished. An extension that
    changed the classifier, which is one of the cures, is noted as well.
    """
    lone, notes = tasks_without_training(stream, config), list(stream.notes)
    if lone:
        notes.append(explanation(stream, lone, config))
        if lone[-1] >= done:
            warnings.warn(notes[-1], stacklevel=2)
    if old := getattr(config.classifier, "replaces", None):
        notes.append(
            f"accuracies up to an extension are those of classifier={old}, later ones those of "
            f"classifier={config.classifier.name}: bwt, forgetting and maa mix the two"
        )
    return replace(stream, notes=tuple(notes))


def tasks_without_training(stream: Stream, config: Config) -> list[int]:
    """The tasks of one class, where each head is trained on its own task's classes alone and classifies."""
    method = methods.get(config.method.name)
    local = config.classifier.name == "linear" and method.trains_heads and method.local_heads
    if not local or stream.num_classes == 1:
        return []
    return [task.index for task in stream.tasks if len(task.positions) == 1]


def explanation(stream: Stream, lone: list[int], config: Config) -> str:
    """One line: which tasks, what will come of them, and what to do."""
    names = [stream.class_names[stream.tasks[t].positions.start] for t in lone]
    which = f"task {lone[0] + 1} has one class ({names[0]})"
    if len(lone) > 1:
        first = f"the first: task {lone[0] + 1}, {names[0]}"
        which = f"{len(lone)} of {len(stream)} tasks have one class each ({first})"
    choice = "choose classifier=ncm, ranpac or aligned when a run begins, or fewer tasks"
    if lone[-1] >= len(stream) - len(config.data.extended):
        choice = "extend the run with classifier=ncm, which compares with class means"
    what = "cross-entropy over one class is 0, so no head learns to name it with classifier=linear"
    return f"{which}: {what}; {choice}"
