"""What validation chose: benchmarks/choose.py, and the parquet files of data/scripts/build_tin100.py."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.made_results import result_values
from helpers.scripts import load_script
from PIL import Image

from janus.bench import store, variants
from janus.bench.variants import slug
from janus.data import datasets
from janus.errors import JanusError, UsageError
from janus.runtime.checkpoint import write_json

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path: Path):
    """Write runs of (row, rate, accuracy), judged on validation."""

    def write(*found: tuple[str, float, float], evaluate: str = "val") -> Path:
        for row, rate, acc in found:
            folder = tmp_path / "runs" / f"{slug(row)}__lr={rate}"
            folder.mkdir(parents=True)
            values = result_values(100, variant=row, lr=rate, evaluate=evaluate) | {"acc": acc}
            write_json(folder / "result.json", values)
        return tmp_path / "runs"

    return write


def test_the_rate_with_the_highest_validation_accuracy_is_chosen_row_by_row(runs) -> None:
    folder = runs(("OE", 0.1, 20.0), ("OE", 0.2, 30.0), ("OE+GR", 0.1, 25.0), ("OE+GR", 0.2, 24.0))
    assert load_script("benchmarks/choose.py").choose(folder, ["lr", "head_lr"]) == {
        "OE": {"training.lr": 0.2},
        "OE+GR": {"training.lr": 0.1},
    }


def test_a_row_for_which_nothing_was_chosen_takes_what_was_chosen_for_the_same_training() -> None:
    choices = {"OE": {"training.lr": 0.2}, "exact": {"training.lr": 0.1}, "OE+DML": {"training.lr": 0.3}}
    assert variants.choice("exact, RanPAC head", choices) == {"training.lr": 0.1}
    assert variants.choice("exact, aligned heads", choices) == {"training.lr": 0.1}
    assert variants.choice("exact+DML", choices) == {"training.lr": 0.1}
    assert variants.choice("OE+DML", choices) == {"training.lr": 0.3}
    assert variants.choice("DML", {"LoRA": {"training.lr": 0.2}}) == {"training.lr": 0.2}  # LoRA+DML
    with pytest.raises(JanusError, match="no settings were chosen for 'LoRA, RanPAC head' yet"):
        variants.choice("LoRA, RanPAC head", choices)


def test_a_group_of_the_tables_is_as_good_as_a_folder_and_keys_may_be_paths(runs, tmp_path: Path) -> None:
    store.collect([runs(("OE", 0.1, 20.0), ("OE", 0.2, 30.0)).rename(tmp_path / "tune")], tmp_path / "tables")
    store.collect([runs(("OE", 0.3, 40.0), evaluate="test").rename(tmp_path / "test")], tmp_path / "tables")
    choose = load_script("benchmarks/choose.py").choose
    assert choose(tmp_path / "tables", ["training.lr"], group="tune")["OE"] == {"training.lr": 0.2}
    with pytest.raises(UsageError, match="no group 'tuned' in .*tables; there are test, tune"):
        choose(tmp_path / "tables", ["lr"], group="tuned")


def test_what_was_chosen_for_other_rows_stays(runs, tmp_path) -> None:
    folder, out = runs(("InfLoRA", 0.1, 20.0), ("InfLoRA", 0.2, 30.0)), tmp_path / "chosen.json"
    write_json(out, {"OE": {"training.lr": 0.5}, "InfLoRA": {"training.lr": 0.7}})
    subprocess.run(
        [sys.executable, ROOT / "benchmarks/choose.py", folder, "--key", "lr", "--out", out], check=True
    )
    assert json.loads(out.read_text()) == {
        "OE": {"training.lr": 0.5},
        "InfLoRA": {"training.lr": 0.2},
    }


def test_a_choice_on_test_or_with_unequal_budgets_is_refused(runs) -> None:
    choose = load_script("benchmarks/choose.py").choose
    folder = runs(("OE", 0.1, 20.0), ("OE", 0.2, 30.0), ("GPM", 0.1, 25.0))
    with pytest.raises(UsageError, match="not every row had as many trials"):
        choose(folder, ["lr"])
    with pytest.raises(UsageError, match="judged on test"):
        choose(runs(("exact", 0.3, 1.0), evaluate="test"), ["lr"])


@pytest.fixture
def tiny_imagenet(tmp_path: Path) -> Path:
    """Tiny-ImageNet as its zip unpacks: two numbers that are kept, one that is not, a test image a class."""
    classes = json.loads((ROOT / "data/scripts/tin100.json").read_text())
    root, lines = tmp_path / "tiny-imagenet-200", []
    for i, wnid in enumerate([*classes, "n99999999"]):  # one class that the stream has not
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for number in (0, 3, 110):
            Image.new("RGB", (8, 8), (i, number, 0)).save(folder / f"{wnid}_{number}.JPEG")
        (root / "val" / "images").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (i, 0, 255)).save(root / "val" / "images" / f"val_{i}.JPEG")
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t0\t7\t7\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def test_the_photographs_are_cut_out_of_tiny_imagenet_as_it_unpacks(
    tiny_imagenet: Path, tmp_path: Path
) -> None:
    load_script("data/scripts/build_tin100.py").build(tiny_imagenet, tmp_path / "out")
    stream = datasets.load(tmp_path / "out" / "tin100-*.parquet")
    assert (len(stream.classes), stream.classes[0]) == (100, "espresso")
    assert (len(stream.train), len(stream.test)) == (200, 100)
    assert stream.train.labels.tolist() == [i for i in range(100) for _ in range(2)]
    ordered = stream.train.batch(stream.train.labels.argsort(stable=True))
    red = ordered[:, 0].float().mean((1, 2))  # the class's number
    assert abs(red[::2] - red.new_tensor(range(100))).max() < 6


def test_a_folder_that_is_not_all_of_tiny_imagenet_is_named(tiny_imagenet: Path, tmp_path: Path) -> None:
    build = load_script("data/scripts/build_tin100.py").build
    with pytest.raises(UsageError, match="has no val/val_annotations.txt"):
        build(tmp_path / "nothing", tmp_path / "out")
    (tiny_imagenet / "train" / "n07920052").rename(tmp_path / "away")
    with pytest.raises(UsageError, match="n07920052"):
        build(tiny_imagenet, tmp_path / "out")
