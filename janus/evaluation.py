"""What a run measures as it goes: accuracies, violation, drift, danger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import metrics
from .data.restore import MissingImages
from .data.stream import Task
from .learner import Learner
from .separation import danger, own_similarity

Factors = list[tuple[Tensor, Tensor]]


class Evaluation:
    """The scores of a learner on its stream.

    records: name → numbers, as they came; `janus.Result` says what they are. learned: test features of each
    task when it ended, for drift.
    """

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self.records: dict[str, Any] = {
            "accuracy": [],
            "task_aware": [],
            "violation": [],
            "violation_step": [],
            "past_output_norm": [],
            "danger": [],
            "own_similarity": [],
            "drift": None,
            "basis_rank": [],
        }
        self.learned: list[Tensor] = []

    def displacement(self, t: int) -> None:
        """A task's whole displacement against the past (tasks 2…T)."""
        if t == 0:
            return
        learner, relative, absolute = self.learner, {}, {}
        bases = learner.protected()
        for pair, before, after in zip(learner.pairs, learner.start_factors, learner.factors()):
            dW = metrics.displacement(before, after, pair.scale)
            relative[pair.name] = metrics.violation(dW, bases[pair.input_key])
            absolute[pair.name] = metrics.past_output_norm(dW, learner.history.mean[pair.input_key])
        self.records["violation"].append(relative)
        self.records["past_output_norm"].append(absolute)

    def step(self, t: int, before: Factors) -> None:
        """The violation of the training step just made from the factors `before`; a running sum a task."""
        bases, steps, scores = self.learner.protected(), self.records["violation_step"], []
        for pair, old in zip(self.learner.pairs, before):
            dW = metrics.displacement(old, (pair.A.detach(), pair.B.detach()), pair.scale)
            scores.append(metrics.violation(dW, bases[pair.input_key]))
        while len(steps) < t:
            steps.append({"sum": 0.0, "steps": 0})
        steps[-1]["sum"] += sum(scores) / len(scores)
        steps[-1]["steps"] += 1

    def ranks(self) -> None:
        """How many directions are protected, once a task has joined the past."""
        self.records["basis_rank"].append({key: V.shape[1] for key, V in self.learner.protected().items()})

    def accuracy(self, seen: Sequence[Task], old_prototypes: Tensor) -> None:
        """Accuracy on every task seen so far, by argmax over all heads and within the right one.

        Also danger; at the end, drift. old_prototypes: (old classes, d), those of the tasks before the last
        of `seen`.
        """
        row, aware, moved = [], [], []
        for past in seen:
            if isinstance(past.evaluation, MissingImages):  # an extended run without its old images
                row.append(None), aware.append(None)
                continue
            features = self.features(past, new=past is seen[-1])
            right, right_aware = self.hits(past, features)
            row.append(right), aware.append(right_aware)
            if past is not seen[-1]:
                moved.append(metrics.drift(self.learned[past.index], features))
                continue
            self.learned.append(features)
            if past.index > 0:
                self.crowding(past, features.to(self.learner.device), old_prototypes)
        self.records["accuracy"].append(row)
        self.records["task_aware"].append(aware)
        if len(seen) == self.learner.tasks:
            self.records["drift"] = sum(moved) / len(moved) if moved else None

    def crowding(self, task: Task, features: Tensor, old_prototypes: Tensor) -> None:
        """The two means of the paper's danger plot.

        How near new features (N, d) are to old prototypes, and to their own.
        """
        span, labels = task.positions, task.evaluation.labels.to(features.device)
        own = self.learner.prototypes.old[span.start : span.stop]
        self.records["danger"].append(danger(features, old_prototypes))
        self.records["own_similarity"].append(own_similarity(features, labels - span.start, own))

    def features(self, task: Task, new: bool) -> Tensor:
        """(N, d) of a task's evaluation images.

        Where features never change, an old task's are what they were.
        """
        fixed = not new and not self.learner.method.trains_features
        return self.learned[task.index] if fixed else self.learner.features(task.evaluation)

    @torch.no_grad()
    def hits(self, task: Task, features: Tensor) -> tuple[float, float]:
        """Accuracy in per cent among all classes seen, and among the task's own."""
        scores = self.learner.method.scores(features.to(self.learner.device)).cpu()  # (N, classes seen)
        span, labels = task.positions, task.evaluation.labels
        own = scores[:, span.start : span.stop].argmax(1) + span.start
        return tuple(100 * (found == labels).float().mean().item() for found in (scores.argmax(1), own))

    def state(self) -> dict[str, Any]:
        return {"records": self.records, "learned": self.learned}

    def load_state(self, state: dict[str, Any]) -> None:
        self.records, self.learned = state["records"], state["learned"]

    def summary(self, sizes: Sequence[int]) -> dict[str, Any]:
        """The scores of a finished run, named as in `janus.runtime.result.Result`.

        sizes: evaluation images of each task.
        """
        r = self.records
        steps = [s["sum"] / s["steps"] for s in r["violation_step"] if s["steps"]]
        return {
            **metrics.summary(r["accuracy"], sizes),
            "task_aware_acc": metrics.over_samples(r["task_aware"][-1], sizes),
            "accuracy": r["accuracy"],
            "task_aware": r["task_aware"],
            "violation": by_matrix(r["violation"]),
            "past_output_norm": by_matrix(r["past_output_norm"]),
            "violation_step": {"tasks": steps, "mean": mean(steps)},
            "drift": r["drift"],
            **{name: {"tasks": r[name], "mean": mean(r[name])} for name in ("danger", "own_similarity")},
            "basis_rank": r["basis_rank"],
        }


def mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def by_matrix(tasks: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Scores of each task by matrix name, and their means over tasks and layers: all, and apart (k, v, …)."""
    means: dict[str, float | None] = {"all": mean([v for task in tasks for v in task.values()])}
    for kind in sorted({name.rpartition(".")[2] for task in tasks for name in task}):
        scores = [v for task in tasks for name, v in task.items() if name.rpartition(".")[2] == kind]
        means[kind] = mean(scores)
    return {"tasks": list(tasks), "mean": means}
