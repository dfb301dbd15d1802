"""What a finished run takes for what: its accuracy on labelled images, class by class."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import configure, metrics
from ..data import datasets, folders, registry
from ..data.images import Images, from_paths
from ..data.restore import MissingImages
from ..errors import JanusError, UsageError, first_few
from ..learner import Learner
from ..predict import Predictor, finished
from ..runtime import checkpoint
from ..runtime.device import pick_device
from ..train import build_stream
from .tables import Table

HEADER = ("class", "images", "correct", "accuracy", "most often taken for", "times")


@dataclass(frozen=True)
class Confusion:
    """run: its folder. data: what the images are. classes: every class the run knows, in the order it met
    them. matrix: (C, C) int64, images of class i that were taken for class j. accuracy: in per cent, over
    images. notes: what was left out, and why."""

    run: str
    data: str
    classes: tuple[str, ...]
    matrix: Tensor
    accuracy: float
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """The result in one line."""
        counts = self.matrix.sum(1)
        right, classes = int(self.matrix.trace()), int((counts > 0).sum())
        of = f"{right} of {int(counts.sum())} images, {classes} of {len(self.classes)} classes"
        return f"{self.run} on {self.data}: accuracy {self.accuracy:.2f} % ({of})"

    def rows(self) -> list[tuple[str, int, int, float | None, str, int]]:
        """Of each class: its name, images, how many of them were named rightly, that in per cent (None: no
        images), the other class they were most often taken for ("" where none was), and how often."""
        found = []
        for i, (name, row) in enumerate(zip(self.classes, self.matrix.tolist())):
            others = [0 if j == i else count for j, count in enumerate(row)]
            most = max(others)
            right = 100 * row[i] / sum(row) if sum(row) else None
            other = self.classes[others.index(most)] if most else ""
            found.append((name, sum(row), row[i], right, other, most))
        return found

    def table(self) -> Table:
        """`rows` as a table."""
        cells = [
            (name, images, right, "" if share is None else f"{share:.1f}", other, times or "")
            for name, images, right, share, other, times in self.rows()
        ]
        return Table(HEADER, cells)

    def save(self, folder: str | Path) -> list[Path]:
        """Write classes.csv (`rows`), confusion.csv (`matrix`: a row a class, a column for what it was taken
        for) and the figure confusion.html (.json, and .png where there is a Chrome); what was written.
        JanusError: it cannot be written."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise JanusError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
        matrix = [(name, *row) for name, row in zip(self.classes, self.matrix.tolist())]
        files = {"classes.csv": [HEADER, *self.rows()], "confusion.csv": [("class", *self.classes), *matrix]}
        for name, lines in files.items():
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(lines)
            data = text.getvalue().encode()
            checkpoint.write_atomic(folder / name, lambda place, data=data: Path(place).write_bytes(data))
        written = [folder / name for name in files]
        try:
            from ..plots import confusion_matrix
        except JanusError as error:  # the tables are of use without it
            warnings.warn(f"confusion.html was not written: {error}", stacklevel=2)
            return written
        return written + confusion_matrix(self.matrix.tolist(), self.classes).save(folder / "confusion")


def evaluate(
    run: str | Path,
    data: str | Path | None = None,
    *,
    root: str | Path | None = None,
    skip_unknown: bool = False,
    device: str = "auto",
) -> Confusion:
    """What a finished run takes labelled images for.

    Args:
        run: its folder.
        data: an image folder (of one with `train/`, `val/`, `test/` the test images, or those of the only
            split; else all), or any data set of `janus.data.datasets` (its test split). None: the images that
            the run itself was judged on, with which the accuracy is the run's own.
        root: where the data set's local files are; without `data`, those of the run's.
        skip_unknown: leave out classes that the run has not met; otherwise they are refused.

    Raises:
        UsageError: unknown data, classes that the run has not met, by name.
        JanusError: no finished run in `run`; its own images are not there any more; an image that cannot be
            read.
    """
    folder = Path(run)
    state = finished(folder)
    config = configure.restore(state["config"], folder)
    if root is not None:
        config = configure.changed(config, {"runtime.root": str(root)})
    predictor = Predictor(config, state, pick_device(device))
    learner, classes = predictor.learner, tuple(predictor.class_names)
    if data is None:
        stream = build_stream(config, learner.preprocess.size, state)
        parts = [task.evaluation for task in stream.tasks if not isinstance(task.evaluation, MissingImages)]
        if not parts:
            gone = f"the images it was judged on are not there any more ({stream.note})"
            raise JanusError(f"{folder}: {gone}; give others by --data")
        lost = len(stream.tasks) - len(parts)
        notes = (f"{lost} of {len(stream.tasks)} tasks are left out: {stream.note}",) if lost else ()
        what = f"its own {config.data.evaluate} images"
    else:
        what, images, names = labelled(data, learner.preprocess.size, predictor.side, root)
        parts, notes = known(what, images, names, classes, skip_unknown)
    found = [named(learner, images) for images in parts]
    right = [100 * (taken == images.labels).float().mean().item() for taken, images in zip(found, parts)]
    matrix = torch.zeros(len(classes), len(classes), dtype=torch.long)
    for taken, images in zip(found, parts):
        matrix.index_put_((images.labels, taken), torch.ones_like(taken), accumulate=True)
    accuracy = metrics.over_samples(right, [len(images) for images in parts])
    return Confusion(str(folder), what, classes, matrix, accuracy, notes)


@torch.no_grad()
def named(learner: Learner, images: Images) -> Tensor:
    """(N,) positions of the classes that images are taken for: as in a run's own evaluation, whatever their
    labels."""
    return learner.method.scores(learner.features(images).to(learner.device)).cpu().argmax(1)


def labelled(
    data: str | Path, size: int, side: int, root: str | Path | None = None
) -> tuple[str, Images, list[str]]:
    """(what they are, the images, the names of their labels), see `evaluate`. size: input side of the
    backbone. side: at which the run holds its images."""
    place, name = Path(data).expanduser(), str(data)
    is_name = name in registry.DATASETS or name.startswith("hf:")
    if is_name or root is not None or not place.is_dir() or folders.kind(place, {}) == "parquet":
        built = datasets.load(data, root=root, size=size).at(side)
        return f"the test images of {built.name}", built.test, built.classes
    source = folders.folder(place)
    split = next((split for split in ("test", "val", "train") if split in source.splits), "")
    rows = [i for i, part in enumerate(source.splits) if part == split]
    labels = torch.tensor([source.labels[i] for i in rows])
    images = from_paths([source.fetch(i) for i in rows], labels, side=side)
    return (f"the {split} images of {name}" if split else name), images, source.classes


def known(
    what: str, images: Images, names: Sequence[str], classes: Sequence[str], skip: bool
) -> tuple[list[Images], tuple[str, ...]]:
    """The images under the run's own labels, in one part; those of other classes left out with a note.
    UsageError: there are such and they are not to be skipped, or there are no others."""
    position = {name: i for i, name in enumerate(classes)}
    there = [names[label] for label in images.labels.unique().tolist()]
    foreign = [name for name in there if name not in position]
    verb = "is" if len(foreign) == 1 else "are"
    share = f"{len(foreign)} of the {len(there)} classes of {what}"
    listed = f"{share} {verb} unknown to this run ({first_few(foreign)})"
    if foreign and (not skip or len(foreign) == len(there)):
        choice = "" if len(foreign) == len(there) else ", or leave them out by --skip-unknown"
        ours = first_few(list(classes))
        raise UsageError(f"{listed}; name the class folders as the run does (it knows {ours}){choice}")
    labels = torch.tensor([position.get(name, -1) for name in names])[images.labels]  # (N,)
    rows = (labels >= 0).nonzero().flatten()
    return [images.subset(rows, labels[rows])], ((f"left out: {listed}",) if foreign else ())
