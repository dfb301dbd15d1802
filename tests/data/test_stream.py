"""Streams: disjoint, complete, deterministic, and labelled by position."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from janus.data import stream
from janus.data.datasets import ImageSet
from janus.data.images import TensorImages
from janus.errors import UsageError


def images(per_class: list[int], seed: int = 0) -> TensorImages:
    """Images that carry their class in pixel [0, 0, 0] and a serial number in the rest of the first row."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(per_class)), torch.tensor(per_class))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    pixels = torch.zeros(len(labels), 3, 4, 4, dtype=torch.uint8)
    pixels[:, 0, 0, 0] = labels.byte()
    serial = torch.arange(len(labels))
    pixels[:, 0, 0, 1], pixels[:, 0, 0, 2] = (serial % 256).byte(), (serial // 256).byte()
    return TensorImages(pixels, labels)


def image_set(classes: int, train: int = 6, val: int | None = 2, test: int = 3, name: str = "toy"):
    return ImageSet(
        name,
        [f"{name}-{c}" for c in range(classes)],
        images([train] * classes),
        None if val is None else images([val] * classes),
        images([test] * classes),
        notes=["split by hand"],
    )


def everything(part) -> torch.Tensor:
    return part.batch(torch.arange(len(part)))


def serials(part) -> list[int]:
    pixels = everything(part)
    return (pixels[:, 0, 0, 1].int() + 256 * pixels[:, 0, 0, 2].int()).tolist()


cuts = st.integers(1, 23).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


@settings(max_examples=40, deadline=None)
@given(cuts, st.one_of(st.none(), st.integers(0, 10_000)))
def test_tasks_are_disjoint_complete_contiguous_and_balanced(cut, seed):
    classes, tasks = cut
    data = image_set(classes)
    built = stream.class_incremental(data, tasks, seed)
    assert len(built) == tasks and built.num_classes == classes
    met = [c for task in built.tasks for c in task.classes]
    # each class once, in stream order
    assert sorted(met) == list(range(classes)) and tuple(met) == built.classes
    assert [p for task in built.tasks for p in task.positions] == list(range(classes))
    sizes = [len(task.classes) for task in built.tasks]
    # the first tasks are the larger ones
    assert max(sizes) - min(sizes) <= 1 and sizes == sorted(sizes, reverse=True)
    assert ("uneven" in built.note) == (classes % tasks != 0)
    for split in ("train", "val", "test"):
        parts = [getattr(task, split) for task in built.tasks]
        assert sorted(s for part in parts for s in serials(part)) == list(range(len(getattr(data, split))))


@settings(max_examples=15, deadline=None)
@given(cuts, st.integers(0, 100))
def test_labels_are_positions_and_follow_the_pixels(cut, seed):
    built = stream.class_incremental(image_set(cut[0]), cut[1], seed)
    for task in built.tasks:
        assert set(task.train.labels.tolist()) == set(task.positions)
        for part in (task.train, task.val, task.test):
            classes = everything(part)[:, 0, 0, 0].long()  # the class each image was made with
            assert torch.equal(torch.tensor(built.classes)[part.labels], classes)
    assert [int(n.rsplit("-")[1]) for n in built.class_names] == list(built.classes)


def test_the_seed_alone_decides_the_order():
    data = image_set(20)
    torch.manual_seed(1)
    first = stream.class_incremental(data, 5, seed=3)
    torch.manual_seed(2)
    assert stream.class_incremental(data, 5, seed=3).classes == first.classes
    assert stream.class_incremental(data, 5, seed=4).classes != first.classes
    assert stream.class_incremental(data, 4, seed=3).classes == first.classes  # cut elsewhere, same order
    assert stream.class_incremental(data, 5, seed=None).classes == tuple(range(20))


def test_the_order_of_seed_0_never_changes():
    # Committed results rest on it.
    assert stream.class_incremental(image_set(10), 2, seed=0).classes == ORDER_OF_SEED_0


ORDER_OF_SEED_0 = (4, 1, 7, 5, 3, 9, 0, 8, 6, 2)


def test_per_class_caps_training_images_only_whatever_the_seed():
    data = image_set(7, train=9)
    kept = {}
    for cap in (2, 5, 100):
        for seed in (0, 1):
            torch.manual_seed(seed + cap)
            built = stream.class_incremental(data, 3, seed, per_class=cap)
            counts = torch.cat([t.train.labels for t in built.tasks]).bincount()
            assert counts.tolist() == [min(cap, 9)] * 7
            assert sum(len(t.test) for t in built.tasks) == len(data.test)
            kept[cap, seed] = {s for t in built.tasks for s in serials(t.train)}
        assert kept[cap, 0] == kept[cap, 1]
    assert kept[2, 0] < kept[5, 0] < kept[100, 0]  # a smaller cap is a subset of a larger one
    first = {s for c in range(7) for s in [s for s in range(63) if data.train.labels[s] == c][:2]}
    assert kept[2, 0] != first  # shuffled: not merely the first images in the file


def test_evaluate_picks_the_split_and_withholds_test_when_validating():
    data = image_set(6)
    on_test = stream.class_incremental(data, 2, 0)
    on_val = stream.class_incremental(data, 2, 0, evaluate="val")
    for a, b in zip(on_test.tasks, on_val.tasks):
        assert a.evaluation is a.test and len(a.evaluation) == 9
        assert b.evaluation is b.val and len(b.evaluation) == 6 and b.test is None
    with pytest.raises(UsageError, match="no validation split; set val_fraction"):
        stream.class_incremental(image_set(6, val=None), 2, 0, evaluate="val")
    with pytest.raises(UsageError, match="'test' or 'val', not 'train'"):
        stream.class_incremental(data, 2, 0, evaluate="train")


def test_a_class_without_evaluation_images_is_named():
    data = image_set(4)
    data.val = images([2, 0, 2, 2])
    stream.class_incremental(data, 2, 0)  # judged on test: nothing is missing
    with pytest.raises(UsageError, match="'toy-1' of toy has no val images"):
        stream.class_incremental(data, 2, 0, evaluate="val")


@pytest.mark.parametrize("tasks", [0, -1, 5, 2.0, "2"])
def test_an_impossible_number_of_tasks_is_refused(tasks):
    with pytest.raises(UsageError, match="between 1 and 4"):
        stream.class_incremental(image_set(4), tasks, 0)


@pytest.mark.parametrize("cap", [0, -3, 1.5])
def test_an_impossible_cap_is_refused(cap):
    with pytest.raises(UsageError, match="per_class"):
        stream.class_incremental(image_set(4), 2, 0, per_class=cap)


def test_take_keeps_the_first_tasks_and_their_classes():
    whole = stream.class_incremental(image_set(11), 3, 0)  # 4 + 4 + 3
    short = whole.take(2)
    assert short.tasks == whole.tasks[:2] and short.classes == whole.classes[:8]
    assert len(short.class_names) == 8
    assert "first 2 of 3" in short.note and whole.take(3).note == whole.note
    for count in (0, 4):
        with pytest.raises(UsageError, match="3 tasks"):
            whole.take(count)


def test_new_classes_become_one_more_task():
    old = stream.class_incremental(image_set(5), 2, 0)
    new = image_set(3, name="later")
    grown = old.with_new_classes(new)
    task = grown.tasks[-1]
    assert len(grown) == 3 and task.index == 2 and task.positions == range(5, 8)
    assert grown.class_names == old.class_names + ("later-0", "later-1", "later-2")
    assert torch.equal(task.train.labels - 5, everything(task.train)[:, 0, 0, 0].long())
    assert task.evaluation is task.test and set(task.test.labels.tolist()) == {5, 6, 7}
    assert len(old) == 2  # the old stream stays as it was
    assert json.loads(json.dumps(grown.to_json()))["tasks"][2]["positions"] == [5, 8]


def test_a_known_class_name_is_refused_by_name():
    old = stream.class_incremental(image_set(5), 2, 0)
    new = image_set(3, name="later")
    new.classes[1] = "toy-4"
    with pytest.raises(UsageError, match="'toy-4' of later is already known"):
        old.with_new_classes(new)


def test_json_says_what_was_met_when():
    built = stream.class_incremental(image_set(7), 3, seed=5, per_class=4)
    record = json.loads(json.dumps(built.to_json()))
    assert record["class_order"] == list(built.classes) and record["seed"] == 5 and record["per_class"] == 4
    assert record["class_names"] == list(built.class_names) and record["notes"] == ["split by hand"]
    assert [t["train"] for t in record["tasks"]] == [12, 8, 8]
    assert [t["test"] for t in record["tasks"]] == [9, 6, 6]
    assert [t["classes"] for t in record["tasks"]] == [list(t.classes) for t in built.tasks]
