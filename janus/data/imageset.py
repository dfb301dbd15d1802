"""An image set, and how what was read from a source becomes one: its own splits, or those that are cut."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import UsageError
from .images import Encoded, FileImages, Images
from .sources import Source

logger = logging.getLogger(__name__)

SPLIT_SEED = 1_000_003  # splits made here are the same for every run
TEST_FRACTION, VAL_FRACTION = 0.2, 0.1  # data without splits: 70 % train, 10 % validation, 20 % test


@dataclass
class ImageSet:
    """Labelled images in splits.

    `classes[label]` is a name; `styles[style]` too where the set records styles. `transform` is the kind of
    augmentation that suits the images (see `janus.data.transforms`); `notes` say how the splits came about
    and what was left out. Every image is given out at one `side`, whatever its own.
    """

    name: str
    classes: list[str]
    train: Images
    val: Images | None
    test: Images
    styles: list[str] | None = None
    transform: str = "photo"
    notes: list[str] = field(default_factory=list)

    @property
    def side(self) -> int:
        """In pixels; the images of all splits have it."""
        return self.train.side

    def at(self, side: int) -> ImageSet:
        """The same set, held at another side."""
        if side == self.side:
            return self
        notes = [note for note in self.notes if not note.startswith(HELD)]
        train, val = self.train.at(side), None if self.val is None else self.val.at(side)
        return replace(self, train=train, val=val, test=self.test.at(side), notes=[*notes, held(side)])


HELD = "images held at "


def held(side: int) -> str:
    """What is noted of the side."""
    return f"{HELD}{side} x {side} pixels"


def assemble(
    name: str,
    source: Source,
    size: int | None = None,
    skip_corrupt: bool = False,
    val_fraction: float | None = None,
    test_fraction: float | None = None,
    cache: str = "auto",
) -> ImageSet:
    """Split a source's images.

    Its own splits stand; a missing one is carved out, deterministically and class by class. One split only:
    `test_fraction` (0.2) and `val_fraction` (0.1) of all its images. Train and test: `val_fraction` (none) of
    the training images. Train and validation: validation serves as the test split.
    """
    notes = list(source.notes)
    for note in notes:
        logger.info(f"{name}: {note}")
    if not source.labels:
        raise UsageError(f"{name} holds no images")
    hint = ", or set skip_corrupt=true to leave such images out"
    store = Encoded(
        len(source.labels),
        source.fetch,
        source.name,
        size,
        hint=hint,
        identity=source.identity,
        cache=cache,
        label=name,
    )
    labels = torch.tensor(source.labels)
    styles = None if source.style_of is None else torch.tensor(source.style_of)
    rows = torch.arange(len(labels))
    if skip_corrupt:
        rows, bad = store.readable()
        if bad:
            listed = ", ".join(bad[:10]) + (f" and {len(bad) - 10} more" if len(bad) > 10 else "")
            notes.append(f"{len(bad)} corrupt images skipped: {listed}")
            warnings.warn(f"{name}: {notes[-1]}", stacklevel=2)
    labels, classes = _used(labels, source.classes, notes)
    marks = {split: [source.splits[i] == split for i in rows.tolist()] for split in set(source.splits)}
    own = {split: rows[torch.tensor(here)] for split, here in marks.items()}
    own = {split: own[split] for split in ("train", "val", "test", "") if len(own.get(split, ()))}
    if len(own) > 1 and "" in own:
        raise UsageError(f"{name}: only some of the files say which split they belong to; name all of them")
    parts = dict(_divide(name, own, labels, classes, val_fraction, test_fraction, notes, source.by_key))
    everything = FileImages(store, labels, styles)
    images = {split: everything.subset(r) for split, r in parts.items()}
    notes.append(held(store.side))
    train, val, test = images["train"], images.get("val"), images["test"]
    return complete(ImageSet(name, classes, train, val, test, source.styles, notes=notes))


def _divide(
    name: str,
    own: dict[str, Tensor],
    labels: Tensor,
    classes: list[str],
    val: float | None,
    test: float | None,
    notes: list[str],
    by_key: Callable[[list[int]], list[int]],
) -> Iterator[tuple[str, Tensor]]:
    """(split, rows) of train, test and perhaps val; `by_key` orders a class's rows before the shuffle."""
    if len(own) == 1:  # one folder, or one published split whatever it is called
        (train,) = own.values()
        test = checked_fraction("test_fraction", TEST_FRACTION if test is None else test)
        val = VAL_FRACTION if val is None else val
        val = checked_fraction("val_fraction", val) if val else 0.0
        if test + val >= 1:
            raise UsageError(f"test_fraction {test} and val_fraction {val} leave nothing to train on")
        rest, tested = carve(train, labels, test, classes, by_key)
        yield "test", tested
        if val:
            rest, validated = carve(rest, labels, val / (1 - test), classes, by_key)
            yield "val", validated
        yield "train", rest
        shares = f"{1 - test - val:.0%} train, {val:.0%} validation, {test:.0%} test"
        notes.append(
            f"no splits of its own: cut class by class into {shares} (janus's own rule, seed {SPLIT_SEED})"
        )
        return
    if "train" not in own:
        raise UsageError(f"{name} has no training split, only {' and '.join(own)}")
    if "test" not in own:
        own["test"] = own.pop("val")
        notes.append("its validation split serves as the test split")
    else:
        notes.append(f"its own splits: {', '.join(own)}")
    if test is not None:
        raise UsageError(f"{name} has a test split of its own; test_fraction has no use")
    if val and "val" in own:
        raise UsageError(f"{name} has a validation split of its own; val_fraction has no use")
    if val:
        share = checked_fraction("val_fraction", val)
        own["train"], own["val"] = carve(own["train"], labels, share, classes, by_key)
        notes.append(share_note(val))
    yield from own.items()


def checked_fraction(option: str, value: object) -> float:
    """An option's value as a share. UsageError: it is not between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        raise UsageError(f"{option} must be a number between 0 and 1, not {value!r}")
    return float(value)


def share_note(fraction: float) -> str:
    """What is noted of a validation split that was cut off the training images."""
    return f"validation is {fraction:.0%} of the training images, class by class"


def carve(
    rows: Tensor,
    labels: Tensor,
    fraction: float,
    classes: list[str],
    by_key: Callable[[list[int]], list[int]] | None = None,
) -> tuple[Tensor, Tensor]:
    """(kept, taken): of each class `fraction` of its rows, at least one, never all; both in their old order.
    UsageError: a class of fewer than two."""
    taken = []
    for label in labels[rows].unique().tolist():
        mine = rows[labels[rows] == label]
        if len(mine) < 2:
            raise UsageError(
                f"class {classes[label]!r} has too few images to split ({len(mine)} left to train on)"
            )
        if by_key is not None:
            mine = torch.tensor(by_key(mine.tolist()))
        count = min(max(1, round(fraction * len(mine))), len(mine) - 1)
        shuffle = torch.randperm(len(mine), generator=torch.Generator().manual_seed(SPLIT_SEED + label))
        taken.append(mine[shuffle[:count]])
    away = torch.cat(taken).sort().values if taken else rows[:0]
    return rows[~torch.isin(rows, away)], away


def _used(labels: Tensor, classes: list[str], notes: list[str]) -> tuple[Tensor, list[str]]:
    """Drop class names that no image has (a subset that kept its parent's list of names), and say so."""
    present = torch.bincount(labels, minlength=len(classes)) > 0
    if present.all():
        return labels, list(classes)
    notes.append(
        f"{int((~present).sum())} of {len(classes)} class names have no images at all and are left out"
    )
    return (present.cumsum(0) - 1)[labels], [c for c, there in zip(classes, present.tolist()) if there]


def complete(built: ImageSet) -> ImageSet:
    """The set itself. UsageError: a class has no training or no test images; it is named."""
    for split, images in (("training", built.train), ("test", built.test)):
        counts = torch.bincount(images.labels, minlength=len(built.classes))
        empty = (counts == 0).nonzero().flatten().tolist()
        if empty:
            more = f" (nor have {len(empty) - 1} others)" if len(empty) > 1 else ""
            name = built.classes[empty[0]]
            raise UsageError(
                f"class {name!r} of {built.name} has no {split} images{more}; add some or remove it"
            )
    return built
