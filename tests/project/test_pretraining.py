"""The wide vocabulary's rules on made-up icons, and a pre-training that is killed and goes on."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

SCRIPTS = Path(__file__).parents[2] / "data" / "scripts"


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The scripts by name; they import each other, so their folder is on the path while they load."""
    if not hasattr(np, "bitwise_count"):
        pytest.skip("the scripts that draw the data need NumPy 2")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        return {
            name: importlib.import_module(name)
            for name in ("iconify", "drawings", "build_vocabulary", "stepwise")
        }


# ---- names ------------------------------------------------------------
@pytest.fixture
def stream(scripts):
    spec = json.loads((SCRIPTS / "concepts.json").read_text())
    otherwise = json.loads((SCRIPTS / "otherwise.json").read_text())
    return scripts["build_vocabulary"].StreamNames(spec["stream"], otherwise["words"], otherwise["names"])


SEEN = "anchor user-plus floppy-disk stars keys thumb cameraswitch settings dark-mode message-circle near-me"


@pytest.mark.parametrize("concept", SEEN.split())
def test_what_names_a_class_of_the_stream_is_seen(stream, concept) -> None:
    assert stream.name(concept)


@pytest.mark.parametrize("concept", ["owl", "snowflake", "steering-wheel", "gas-station", "yin-yang", "bee"])
def test_what_names_none_is_not(stream, concept) -> None:
    assert not stream.name(concept)


def test_other_words_are_for_classes_of_the_stream_and_for_no_concept_of_the_small_vocabulary() -> None:
    spec = json.loads((SCRIPTS / "concepts.json").read_text())
    otherwise = json.loads((SCRIPTS / "otherwise.json").read_text())
    assert set(otherwise["words"]) <= set(spec["stream"])
    words = {w for words in otherwise["words"].values() for w in words}
    assert not [c for c in spec["vocabulary"] if set(c.split("-")) & words or c in otherwise["names"]]


def icon(scripts, style: str, name: str):
    return name, scripts["iconify"].Icon(style, f"{name}-{style}", f"{style} {name}")


def test_candidates_have_drawings_and_sets_enough_and_come_from_the_right_group(scripts) -> None:
    groups = {"t1": "train", "t2": "train", "t3": "train", "t4": "train", "v1": "val", "x1": "test"}
    sets = ("t1", "t2", "t3", "t4", "v1", "x1")
    made = [icon(scripts, style, name) for name in ("owl", "bird-of-night", "star", "tern") for style in sets]
    made = [m for m in made if not (m[0] == "tern" and m[1].style == "t4")]  # three drawings
    made += [icon(scripts, style, "two-sets") for style in ("t1", "t1", "t1", "t2")]
    made += [icon(scripts, "t1", "owl")]  # left out by name
    stream = scripts["build_vocabulary"].StreamNames({"star": []}, {})
    vocabulary = scripts["build_vocabulary"]
    found = vocabulary.candidates(made, {"owl": ["bird-of-night"]}, stream, groups, {"t1:owl"})
    # with its synonym; too few terns, too few sets, a class of the stream
    assert list(found["train"]) == ["owl"]
    assert sorted(i.style for i in found["train"]["owl"]) == ["t1", "t2", "t2", "t3", "t3", "t4", "t4"]
    assert [i.style for i in found["val"]["owl"]] == ["v1", "v1"]


# ---- drawings ------------------------------------------------------------
def picture(seed: int) -> np.ndarray:
    """A blotchy mask, uint8 (32, 32), far from those of other seeds."""
    blocks = np.random.default_rng(seed).integers(0, 2, (8, 8)) * 255
    return np.kron(blocks, np.ones((4, 4))).astype(np.uint8)


@pytest.fixture
def choose(scripts, monkeypatch):
    """choose(found by concept, the stream's pictures): icons are drawn as the picture of their svg."""
    monkeypatch.setattr(scripts["drawings"], "mask", lambda svg: picture(int(svg)))

    def call(train: dict[str, list[int]], val: dict[str, list[int]], stream: list[tuple[int, int]]):
        make = scripts["iconify"].Icon
        found = {
            split: {
                c: [make(f"set{i % 3}", f"{c}{n}", str(n)) for i, n in enumerate(by.get(c, []))]
                for c in train
            }
            for split, by in (("train", train), ("val", val))
        }
        codes = scripts["drawings"].perceptual_hash(np.stack([picture(n) for n, _ in stream]))
        return scripts["build_vocabulary"].choose(found, codes, np.array([c for _, c in stream]))

    return call


def test_drawings_near_the_stream_fall_out_and_with_them_small_concepts(choose) -> None:
    train = {"kept": [0, 1, 2, 3, 4, 0], "few": [10, 11, 12, 90], "class": [20, 21, 22, 91, 92, 93]}
    val = {"kept": [50, 0, 95], "few": [51], "class": [52]}
    stream = [(90, 0), (91, 1), (92, 1), (93, 1), (95, 2)]
    concepts, chosen, out = choose(train, val, stream)
    assert concepts == ["kept"] and out == {"show a class of the stream": 1, "too few drawings left": 1}
    assert sorted(e.icon.svg for e in chosen["train"]) == ["0", "1", "2", "3", "4"]  # one drawing once
    assert [e.icon.svg for e in chosen["val"]] == ["50"]  # not a training drawing, not one of the stream's


def test_near_drawings_of_several_classes_do_not_make_a_class(choose) -> None:
    concepts, chosen, _ = choose({"c": [1, 2, 3, 4, 90, 91, 92]}, {}, [(90, 0), (91, 1), (92, 2)])
    assert concepts == ["c"] and len(chosen["train"]) == 4


def test_files_are_read_as_they_were_written(scripts, tmp_path) -> None:
    drawings = scripts["drawings"]
    entries = [
        drawings.Entry(n % 2, scripts["iconify"].Icon("s", f"i{n}", ""), picture(n), np.uint64(0))
        for n in range(5)
    ]
    drawings.write(tmp_path / "a.parquet", entries, ["x", "y"])
    classes, images, labels = drawings.read(tmp_path / "a.parquet")
    assert classes == ["x", "y"] and labels.tolist() == [0, 1, 0, 1, 0]
    assert np.array_equal(images, np.stack([picture(n) for n in range(5)]))


# ---- training ------------------------------------------------------------
def toy(scripts, **changes):
    """40 steps on 30 random images.

    With noise in every step, running statistics in the model and kernels that lie channels last.
    """
    stepwise = scripts["stepwise"]
    data = torch.randn(30, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(30) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    model = model.to(memory_format=torch.channels_last)

    def loss_of(batch: Tensor, generator: torch.Generator) -> Tensor:
        return F.cross_entropy(
            model(data[batch] + 0.1 * torch.randn(len(batch), 2, 5, 5, generator=generator)), labels[batch]
        )

    plan = stepwise.Plan(
        **{"images": 30, "passes": 160, "data": "d", "start": "s", "batch": 4, "lr": 0.01} | changes
    )
    return stepwise.Training(model, plan, loss_of)


def weight_sum(training) -> dict[str, float]:
    return {"sum": float(sum(p.detach().double().sum() for p in training.model.parameters()))}


def test_a_training_that_was_killed_ends_as_one_that_was_not(scripts, tmp_path) -> None:
    whole = toy(scripts)
    scripts["stepwise"].run(whole, tmp_path / "whole.safetensors", lambda: weight_sum(whole), every=50)
    for stops in (1, 13, 29):  # a kill in between: what was after the last save is lost
        first = toy(scripts)
        for _ in range(stops):
            first.advance()
        first.save(tmp_path / "state.safetensors")
        first.advance()
        second = toy(scripts)
        second.load(tmp_path / "state.safetensors")
        assert second.step == stops
        while second.step < second.plan.steps:
            second.advance()
        for name, value in whole.model.state_dict().items():
            assert torch.equal(value, second.model.state_dict()[name]), name


def test_the_curve_survives_a_kill(scripts, tmp_path) -> None:
    whole = toy(scripts)
    scripts["stepwise"].run(whole, tmp_path / "whole.safetensors", lambda: weight_sum(whole), every=50)
    assert [p["passes"] for p in whole.curve] == [0, 52, 100, 152, 160]

    class Killed(Exception):
        pass

    cut = toy(scripts)

    def until_100() -> dict[str, float]:
        if cut.passes == 100:
            raise Killed
        return weight_sum(cut)

    with pytest.raises(Killed):
        scripts["stepwise"].run(cut, tmp_path / "cut.safetensors", until_100, every=50)
    again = toy(scripts)
    again.load(tmp_path / "cut.safetensors")
    assert again.passes == 52
    scripts["stepwise"].run(again, tmp_path / "cut.safetensors", lambda: weight_sum(again), every=50)
    assert again.curve == whole.curve


@pytest.mark.parametrize("change", [{"passes": 320}, {"lr": 0.02}, {"data": "other"}, {"seed": 1}])
def test_another_plan_is_refused(scripts, tmp_path, change) -> None:
    first = toy(scripts)
    first.advance()
    first.save(tmp_path / "state.safetensors")
    with pytest.raises(SystemExit, match=f"another training .{next(iter(change))} "):
        toy(scripts, **change).load(tmp_path / "state.safetensors")


def test_each_epoch_shows_every_image_once_in_another_order(scripts) -> None:
    plan = toy(scripts).plan
    batch_at, per_epoch = scripts["stepwise"].batch_at, 30 // 4
    epochs = [
        torch.cat([batch_at(plan, e * per_epoch + i) for i in range(per_epoch)]).tolist() for e in range(2)
    ]
    assert all(len(set(e)) == 28 for e in epochs) and epochs[0] != epochs[1]


def test_the_rate_warms_up_and_ends_at_zero_with_the_planned_passes(scripts) -> None:
    plan = toy(scripts, passes=4000).plan
    rates = [plan.rate(i) for i in range(plan.steps + 1)]
    assert max(rates) == pytest.approx(plan.lr) and rates.index(max(rates)) == pytest.approx(
        0.05 * plan.steps, abs=1
    )
    assert rates[plan.steps] == pytest.approx(0, abs=1e-9) and rates[0] < plan.lr / 10


def test_a_loss_that_is_no_number_stops_it(scripts) -> None:
    training = toy(scripts)
    training.loss_of = lambda batch, generator: training.model(torch.zeros(2, 2, 5, 5)).sum() * float("nan")
    with pytest.raises(SystemExit, match="diverged"):
        training.advance()
