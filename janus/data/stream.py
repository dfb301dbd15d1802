"""Task streams: the classes of one image set, met a few at a time and never again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import UsageError
from .datasets import ImageSet
from .images import Images
from .walk import nfc

# which images `per_class` keeps: one choice for all class orders, so that runs share their data
CAP_SEED = 20_240_601


@dataclass(frozen=True)
class Task:
    """One task.

    Its images' labels are *positions* in the stream's class order: `positions` is their contiguous range.
    `evaluation` is the split the stream was built to be judged on. In a stream judged on validation `test` is
    None, so that nothing can look at test images by mistake while hyper-parameters are chosen.
    """

    index: int
    classes: tuple[int, ...]  # the data set's own class ids, in stream order
    positions: range
    train: Images
    evaluation: Images
    val: Images | None
    test: Images | None


@dataclass(frozen=True)
class Stream:
    """A sequence of tasks; `classes[p]` is the data set's class id at position p, `class_names[p]` its name.

    side: at which all images are held, those of new classes too, and to which images to predict are brought.
    """

    dataset: str
    classes: tuple[int, ...]
    class_names: tuple[str, ...]
    tasks: tuple[Task, ...]
    seed: int | None
    per_class: int | None
    evaluate: str
    note: str  # one sentence: how the tasks were cut
    notes: tuple[str, ...] = ()  # what the data set says about its splits
    side: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.tasks)

    def take(self, count: int) -> Stream:
        """The first `count` tasks and the classes met in them."""
        if not 1 <= count <= len(self.tasks):
            raise UsageError(f"the stream has {len(self.tasks)} tasks, so {count} of them cannot be taken")
        stop = self.tasks[count - 1].positions.stop
        cut = f"; only the first {count} of {len(self.tasks)} tasks" if count < len(self.tasks) else ""
        return replace(
            self,
            tasks=self.tasks[:count],
            classes=self.classes[:stop],
            class_names=self.class_names[:stop],
            note=self.note + cut,
        )

    def with_new_classes(self, dataset: ImageSet) -> Stream:
        """This stream with all classes of `dataset` as one more task, its images held at the stream's side.

        A name already known is refused.
        """
        dataset = dataset if self.side is None else dataset.at(self.side)
        task = new_task(dataset, self.class_names, len(self.tasks), self.evaluate, self.per_class)
        return replace(
            self,
            classes=self.classes + task.classes,
            class_names=self.class_names + tuple(dataset.classes),
            tasks=self.tasks + (task,),
            note=f"{self.note}; then {len(dataset.classes)} new classes from {dataset.name}",
            notes=self.notes + tuple(dataset.notes),
        )

    def to_json(self) -> dict:
        """What a result records: which class was met when, on how many images, and how they were split."""
        return {
            "dataset": self.dataset,
            "seed": self.seed,
            "per_class": self.per_class,
            "evaluate": self.evaluate,
            "side": self.side,
            "class_order": list(self.classes),
            "class_names": list(self.class_names),
            "note": self.note,
            "notes": list(self.notes),
            "tasks": [
                {
                    "index": task.index,
                    "positions": [task.positions.start, task.positions.stop],
                    "classes": list(task.classes),
                    "train": len(task.train),
                    "val": None if task.val is None else len(task.val),
                    "test": None if task.test is None else len(task.test),
                }
                for task in self.tasks
            ],
        }


def class_incremental(
    dataset: ImageSet, tasks: int, seed: int | None = 0, per_class: int | None = None, evaluate: str = "test"
) -> Stream:
    """Cut the classes into `tasks` disjoint groups in an order drawn from `seed`.

    Without a seed the order is the data set's own. Where T does not divide the number of classes the first
    tasks are larger by one, and `note` says so. `per_class` caps the training images of each class: the first
    so many of one shuffle that is the same for every seed, so a smaller cap is a subset of a larger one.
    `evaluate` is "test" or "val". UsageError: more tasks than classes, no validation split, a class without
    images to evaluate.
    """
    count = len(dataset.classes)
    if not isinstance(tasks, int) or not 1 <= tasks <= count:
        raise UsageError(
            f"tasks must be a whole number between 1 and {count}, the classes of {dataset.name}; "
            f"not {tasks!r}"
        )
    order = _order(count, seed)
    sizes = [count // tasks + (t < count % tasks) for t in range(tasks)]
    stops = [sum(sizes[: t + 1]) for t in range(tasks)]
    cut = [range(stop - size, stop) for size, stop in zip(sizes, stops)]
    train = _cap(dataset.train, count, per_class)
    val, test, evaluation = _evaluation(dataset, evaluate)
    _covered(evaluation, dataset, evaluate)

    position = torch.empty(count, dtype=torch.long)
    position[torch.tensor(order)] = torch.arange(count)  # position[class id]
    parts = {"train": train, "val": val, "test": test}
    split = {name: _by_task(images, position, cut) for name, images in parts.items()}
    built = tuple(
        Task(
            index=t,
            classes=tuple(order[p] for p in positions),
            positions=positions,
            train=split["train"][t],
            evaluation=split[evaluate][t],
            val=split["val"][t],
            test=split["test"][t],
        )
        for t, positions in enumerate(cut)
    )
    note = f"{count} classes in {tasks} tasks of {sizes[0]}"
    if count % tasks:
        larger = f"the first {count % tasks} of {sizes[0]}"
        note = f"{count} classes in {tasks} uneven tasks: {larger}, the rest of {sizes[-1]}"
    return Stream(
        dataset=dataset.name,
        classes=tuple(order),
        class_names=tuple(dataset.classes[c] for c in order),
        tasks=built,
        seed=seed,
        per_class=per_class,
        evaluate=evaluate,
        note=note,
        notes=tuple(dataset.notes),
        side=dataset.side,
    )


def new_task(
    dataset: ImageSet, known: Sequence[str], index: int, evaluate: str = "test", per_class: int | None = None
) -> Task:
    """All classes of `dataset` as task number `index` after the `known` class names.

    A known one is refused by name.
    """
    refuse_known(dataset, known)
    count, start = len(dataset.classes), len(known)
    positions = range(start, start + count)
    position = torch.arange(start, start + count)
    val, test, evaluation = _evaluation(dataset, evaluate)
    _covered(evaluation, dataset, evaluate)
    parts = _cap(dataset.train, count, per_class), val, test
    train, val, test = (_by_task(images, position, [positions])[0] for images in parts)
    return Task(index, tuple(positions), positions, train, val if evaluate == "val" else test, val, test)


def refuse_known(dataset: ImageSet, known: Sequence[str]) -> None:
    """Raise UsageError if a class of the data set is among the `known` names."""
    met = {nfc(name) for name in known}  # an older run's may be stored otherwise
    again = [name for name in dataset.classes if nfc(name) in met]
    if again:
        raise UsageError(
            f"class {again[0]!r} of {dataset.name} is already known to this run"
            + (f" (and {len(again) - 1} more)" if len(again) > 1 else "")
            + "; rename it, or leave it out of the new data"
        )


def _order(count: int, seed: int | None) -> list[int]:
    if seed is None:
        return list(range(count))
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _evaluation(dataset: ImageSet, evaluate: str) -> tuple[Images | None, Images | None, Images]:
    """(val, test, the split to evaluate); test is withheld where validation judges."""
    if evaluate not in ("test", "val"):
        raise UsageError(f"evaluate must be 'test' or 'val', not {evaluate!r}")
    if evaluate == "test":
        return dataset.val, dataset.test, dataset.test
    if dataset.val is None:
        raise UsageError(
            f"{dataset.name} has no validation split; "
            "set val_fraction (0.1, say) to take one from its training images"
        )
    return dataset.val, None, dataset.val


def _covered(evaluation: Images, dataset: ImageSet, evaluate: str) -> None:
    seen = torch.bincount(evaluation.labels, minlength=len(dataset.classes))
    empty = (seen == 0).nonzero().flatten().tolist()
    if empty:
        raise UsageError(
            f"class {dataset.classes[empty[0]]!r} of {dataset.name} has no {evaluate} images to evaluate on"
        )


def _by_task(images: Images | None, position: Tensor, cut: Sequence[range]) -> list[Images | None]:
    """One subset a task, labels turned into positions; the images keep their order."""
    if images is None:
        return [None] * len(cut)
    labels = position[images.labels]  # (N,)
    rows = [((labels >= p.start) & (labels < p.stop)).nonzero().flatten() for p in cut]
    return [images.subset(r, labels[r]) for r in rows]


def _cap(images: Images, count: int, per_class: int | None) -> Images:
    """At most `per_class` images of each class.

    The first of a shuffle that depends on the class's own images only.
    """
    if per_class is None:
        return images
    if not isinstance(per_class, int) or per_class < 1:
        raise UsageError(f"per_class must be a whole number of at least 1, not {per_class!r}")
    kept = []
    for label in range(count):
        rows = (images.labels == label).nonzero().flatten()
        shuffle = torch.randperm(len(rows), generator=torch.Generator().manual_seed(CAP_SEED + label))
        kept.append(rows[shuffle[:per_class]])
    return images.subset(torch.cat(kept).sort().values)
