"""Icons drawn anew in every epoch, and several fixed renditions to be judged on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import toy_backbone

from janus import configure, train
from janus.data import datasets, icons, stream
from janus.data.renditions import in_epoch
from janus.models import backbones
from janus.runtime import checkpoint
from janus.train import CHECKPOINT, Run

SETTINGS: dict[str, Any] = {"dataset": "icons-r", "renditions": "fresh", "tasks": 2, "per_class": 4}
SETTINGS |= {"epochs": 3, "batch_size": 13, "rank": 2, "lr": 3e-3, "device": "cpu", "threads": 1}


@pytest.fixture(scope="module")
def fresh():
    return datasets.load("icons-r", renditions="fresh", copies=3)


@pytest.fixture(scope="module")
def fixed():
    return datasets.load("icons-r")


def test_outside_of_epochs_the_renditions_are_the_fixed_ones(fresh, fixed):
    index = torch.tensor([5, 0, 5000, 17])
    assert torch.equal(fresh.train.batch(index), fixed.train.batch(index))
    assert torch.equal(fresh.train.labels, fixed.train.labels)
    assert torch.equal(fresh.train.styles, fixed.train.styles)


def test_an_epoch_draws_every_icon_anew_by_its_row_alone(fresh):
    index = torch.tensor([5, 0, 5000, 17])
    one, other = fresh.train.epoch(1), fresh.train.epoch(2)
    first = one.batch(index)
    assert not any(torch.equal(a, b) for a, b in zip(first, fresh.train.batch(index)))
    assert not any(torch.equal(a, b) for a, b in zip(first, other.batch(index)))
    assert torch.equal(first, fresh.train.epoch(1).batch(index))
    assert torch.equal(first.flip(0), one.batch(index.flip(0)))  # whatever the batch, and the place in it
    few = fresh.train.subset(torch.tensor([17, 5000]), torch.tensor([0, 1]))
    assert torch.equal(few.epoch(1).batch(torch.tensor([1])), first[2:3])
    assert few.epoch(1).labels.tolist() == [0, 1]
    assert few.epoch(1).epoch(2).batch(torch.tensor([0])).equal(other.batch(index[3:]))


def test_fresh_renditions_are_renditions_of_the_same_ink(fresh):
    """Ink against ground at least 72 apart in luma, as the data card says of every rendition.

    So the mask can be read off.
    """
    index = torch.arange(40)
    images = fresh.train.epoch(9).batch(index).long()
    luma = (images * torch.tensor([77, 150, 29])[:, None, None]).sum(1) >> 8  # (N, 32, 32)
    masks = torch.from_numpy(icons.training_masks()[:40])
    for row, mask in zip(luma, masks):
        ink, ground = row[mask >= 254], row[mask == 0]
        if len(ink) and len(ground):
            # 72, but for the last level of ink
            assert max(ground.min() - ink.max(), ink.min() - ground.max()) >= 70
    assert sum(bool((mask >= 254).any()) for mask in masks) > 30


def test_seeds_of_fresh_renditions_do_not_meet():
    rows = torch.arange(6000).numpy()
    seeds = [seed for draw in (0, 1, 2, 2**55 + 3) for seed in icons.fresh_seeds(rows, draw).tolist()]
    assert len(set(seeds)) == len(seeds) and max(seeds) > 2**63


def test_images_of_other_kinds_are_the_same_in_every_epoch(fixed):
    assert in_epoch(fixed.train, 3) is fixed.train


def test_copies_are_further_renditions_of_the_same_icons(fresh, fixed):
    for split in ("val", "test"):
        many, one = getattr(fresh, split), getattr(fixed, split)
        n = len(one)
        assert len(many) == 3 * n and torch.equal(many.labels, one.labels.repeat(3))
        assert torch.equal(many.styles, one.styles.repeat(3))
        index = torch.arange(8)
        assert torch.equal(many.batch(index), one.batch(index))
        assert not any(torch.equal(a, b) for a, b in zip(many.batch(index), many.batch(index + n)))
        assert not any(torch.equal(a, b) for a, b in zip(many.batch(index + n), many.batch(index + 2 * n)))
    built = stream.class_incremental(fresh, 2, seed=0)
    assert sum(len(task.evaluation) for task in built.tasks) == 3 * len(fixed.test)


def test_the_settings_decide_the_hash_and_are_not_in_it_by_default():
    plain, *others = (
        configure.config_hash(configure.make({"dataset": "icons-r", **more}))
        for more in ({}, {"renditions": "fixed"}, {"renditions": "fresh"}, {"copies": 4})
    )
    assert others[0] == plain and len({plain, *others}) == 3


# ── in a run ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def seen(monkeypatch) -> list[tuple[int, torch.Tensor]]:
    """(step, batch) of every training step of a toy run, before augmentation."""
    monkeypatch.setattr(backbones, "create", toy_backbone)
    found: list[tuple[int, torch.Tensor]] = []
    begin = Run.__init__

    def watched(self: Run, *args: Any, **more: Any) -> None:
        begin(self, *args, **more)
        augment = self.augment
        self.augment = lambda batch, *rest: found.append((self.step, batch.clone())) or augment(batch, *rest)

    monkeypatch.setattr(Run, "__init__", watched)
    return found


def test_training_sees_other_renditions_in_every_epoch_and_evaluation_does_not(seen):
    run = Run(configure.make(SETTINGS), None)
    task = run.stream.tasks[0]
    before = run.learner.features(task.train)
    run.learner.begin_task(task)
    run.train(task)
    steps = -(-len(task.train) // 13)
    batches = [[b for step, b in seen if step // steps == epoch] for epoch in range(3)]
    pixels = [{image.numpy().tobytes() for batch in epoch for image in batch} for epoch in batches]
    assert [len(p) for p in pixels] == [len(task.train)] * 3  # each image once
    assert not pixels[0] & pixels[1] and not pixels[1] & pixels[2]
    again = Run(configure.make(SETTINGS), None)
    assert torch.equal(again.learner.features(again.stream.tasks[0].train), before)


class Broken(BaseException):
    """The power went out."""


def test_a_run_broken_inside_an_epoch_ends_with_the_numbers_of_an_uninterrupted_one(
    seen, tmp_path: Path, monkeypatch
):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = train.run(whole, **SETTINGS)
    images = [batch for _, batch in seen]
    seen.clear()
    save = Run.save

    def dies(self: Run) -> None:
        save(self)
        if (self.task, self.step) == (1, 20):
            raise Broken

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", dies)
        with pytest.raises(Broken):
            train.run(parts, save_every=0, **SETTINGS)
    found = train.run(parts, **SETTINGS)
    assert found.accuracy == expected.accuracy and found.drift == expected.drift
    assert len(seen) == len(images) and all(torch.equal(a, b) for (_, a), b in zip(seen, images))
    a, b = (checkpoint.load(folder / CHECKPOINT)["model"] for folder in (whole, parts))
    assert all(torch.equal(tensor, b[key]) for key, tensor in a.items())
