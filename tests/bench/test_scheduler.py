"""`janus bench`: a grid file is expanded and judged as a whole; its runs go to workers that may die."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import nbformat
import psutil
import pytest
import yaml
from helpers.made_results import result_values

from janus import methods, train
from janus.bench import clusters, grids, plan, scheduler, states, store, variants, worker
from janus.cli.commands import main
from janus.config import Config
from janus.configure import config_hash, flat, make
from janus.data import datasets, icons, registry
from janus.errors import JanusError, UsageError
from janus.models import backbones
from janus.runtime import assets, checkpoint

ROOT = Path(__file__).parents[2]
GRIDS = sorted(assets.benchmarks("grids").rglob("*.yaml"))
TINY = dict(weights="random", augment="icons", tasks=2, epochs=1, per_class=4, batch_size=64, threads=1)
SAME = ("accuracy", "task_aware", "violation", "drift", "danger", "basis_rank")  # of broken and whole runs

Write = Callable[..., Path]
Capture, Patch, Log = pytest.CaptureFixture[str], pytest.MonkeyPatch, pytest.LogCaptureFixture


@pytest.fixture
def write(tmp_path: Path, image_folder: Path) -> Write:
    """Write a grid file on the toy data, with its protocol beside it; keywords replace what is in them."""

    def _write(name: str = "grid", settings: dict | None = None, **change: object) -> Path:
        stated = {"dataset": str(image_folder)} | TINY | (settings or {})
        sourced = {key: {"value": value, "source": "ours"} for key, value in stated.items()}
        (tmp_path / "toy.yaml").write_text(yaml.safe_dump({"title": "toy", "settings": sourced}))
        grid = {"title": "toys", "protocol": "toy.yaml", "variants": ["LoRA", "frozen"], "seeds": [0, 1]}
        grid = {key: value for key, value in (grid | change).items() if value is not None}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(grid, sort_keys=False))
        return path

    return _write


def finish(grid: grids.Grid, out: Path) -> None:
    """Stand-in results for all runs of a grid: only what a state is read from."""
    for run in grid.runs:
        (out / run.name).mkdir(parents=True)
        found = {"variant": run.variant, "config": run.config.to_dict(), "hash": run.hash, "acc": 22.4}
        checkpoint.write_json(out / run.name / "result.json", result_values() | found)


# ── grid files ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_grid_is_the_product_of_seeds_rows_and_values(write: Write) -> None:
    rows = ["OE+GR", {"mine": {"method": "gpm", "gr": "tangent"}}]
    runs = grids.load(write(variants=rows, grid={"lr": ["1e-3", 0.01]})).runs
    assert [run.name for run in runs] == [
        f"{row}__lr={lr}__seed={seed}"
        for seed in (0, 1)
        for row in ("OE-GR", "mine")
        for lr in ("0.001", "0.01")
    ]
    assert [run.variant for run in runs[:4]] == ["OE+GR", "OE+GR", "mine", "mine"]
    first, third = runs[0].config.method, runs[2].config.method
    assert (first.gr, third.name, third.gr) == ("tangent", "gpm", "tangent")
    assert runs[5].config.training.lr == 0.01
    assert runs[0].config.training.seed == 0 and runs[-1].config.training.seed == 1
    assert len({run.hash for run in runs}) == 8 and runs[0].hash == config_hash(runs[0].config)


def test_a_setting_comes_from_the_grid_then_set_then_the_row_then_the_protocol(write: Write) -> None:
    def rate(**change: object) -> float:
        path = write(settings={"lr": 0.1}, variants=[{"mine": {"method": "gpm"}}], **change)
        return grids.load(path).runs[0].config.training.lr

    assert rate() == 0.1
    path = write(settings={"lr": 0.1}, variants=[{"mine": {"method": "gpm", "lr": 0.2}}], seeds=[0])
    (run,) = grids.load(path).runs
    assert run.config.training.lr == 0.2
    assert rate(set={"lr": 0.3}) == 0.3
    assert rate(set={"lr": 0.3}, grid={"lr": [0.4]}) == 0.4


def test_rows_bring_what_validation_chose_only_where_the_protocol_says_so(write: Write) -> None:
    for row in variants.ROWS | variants.CROSS:
        (run,) = grids.load(write(protocol="icons_r", variants=[row], seeds=[3])).runs
        assert run.hash == config_hash(make(variants.settings(row), seed=3)), row
    (run,) = grids.load(write(protocol="imagenet_r", variants=["exact"], seeds=[0])).runs
    assert run.config.training.lr == 5e-4 != variants.settings("exact")["training.lr"]
    assert (run.config.backbone.rank, run.config.training.epochs, run.config.method.gr) == (10, 50, "exact")


def test_a_protocol_says_what_its_data_ask_of_a_row(write: Write, tmp_path: Path) -> None:
    text = "title: toy\nsettings:\n  lr: {value: 0.1, source: us}\nvariants:\n"
    path = write(variants=["OE", "LoRA-DRS"], seeds=[0])
    row = "  LoRA-DRS: {margin: {value: 2.0, source: them}, lr: {value: 0.3, source: them}}\n"
    (tmp_path / "toy.yaml").write_text(text + row)
    plain, drs = (run.config for run in grids.load(path).runs)
    assert (plain.training.lr, drs.training.lr, drs.method.margin) == (0.1, 0.3, 2.0)
    for row, message in (
        ("LoRA-DSR: {}", "protocol toy: unknown variant 'LoRA-DSR': did you mean 'LoRA-DRS'"),
        ("OE: {lr: 0.3}", "protocol toy, OE: lr needs `value` and `source`"),
    ):
        (tmp_path / "toy.yaml").write_text(f"{text}  {row}\n")
        with pytest.raises(UsageError, match=message):
            grids.load(path)


@pytest.mark.parametrize(
    "name, ends, margin",
    [
        ("imagenet_r", (0.98, 0.998), 2.0),
        ("imagenet_r_t4", (0.98, 0.998), 2.0),
        ("cifar100", (0.95, 0.995), 1.0),
        ("cifar100_t4", (0.95, 0.995), 1.0),
        ("imagenet100", (0.95, 0.995), 1.0),
        ("domainnet", (0.95, 0.99), 1.0),
    ],
)
def test_on_the_papers_data_a_method_of_the_field_has_its_authors_settings_for_them(
    name: str, ends: tuple[float, float], margin: float, write: Write
) -> None:
    drs = ["LoRA-DRS", "LoRA-DRS+GR", "LoRA-DRS, class means"]
    runs = grids.load(write(protocol=name, variants=["InfLoRA", *drs], seeds=[0])).runs
    inflora, *others = (run.config for run in runs)
    assert (inflora.method.energy, inflora.method.energy_end) == ends
    assert {c.method.margin for c in others} == {margin}
    assert {c.method.penalty for c in others} == {0.2 if margin == 2.0 else 0.05}
    assert {c.backbone.normalise for c in (inflora, *others)} == {"none"}


def test_what_validation_chose_may_stand_in_a_file_and_the_grid_has_the_last_word(
    write: Write, tmp_path: Path
) -> None:
    path = write(variants=["OE", "ncm"], seeds=[0], chosen="mine.json")
    with pytest.raises(UsageError, match="protocol toy: cannot read what validation chose from .*mine.json"):
        grids.load(path)
    checkpoint.write_json(tmp_path / "mine.json", {"OE": {"lr": 0.25}})
    assert [run.config.training.lr for run in grids.load(path).runs] == [0.25, make(method="ncm").training.lr]
    checkpoint.write_json(tmp_path / "mine.json", {"GPM": {"lr": 0.25}})
    with pytest.raises(UsageError, match="OE__seed=0: no settings were chosen for 'OE' yet"):
        grids.load(path)
    assert grids.load(write(variants=["OE"], seeds=[0], chosen=False)).runs[0].config.training.lr != 0.25
    with pytest.raises(UsageError, match="chosen takes true, false, or the name of a JSON file, got 3"):
        grids.load(write(chosen=3))


def test_a_variant_of_the_file_itself_takes_what_was_chosen_under_its_name_unless_it_states_it(
    write: Write, tmp_path: Path
) -> None:
    checkpoint.write_json(tmp_path / "mine.json", {"mine": {"training.lr": 0.5}})
    mine = {"method": "gpm", "gr": "tangent"}
    for variant, lr in (
        ({"mine": mine}, 0.5),
        ({"mine": mine | {"lr": 0.125}}, 0.125),
        ({"another": mine}, make(method="gpm").training.lr),
    ):
        (run,) = grids.load(write(variants=[variant], seeds=[0], chosen="mine.json")).runs
        assert run.config.training.lr == lr and run.config.method.gr == "tangent"


def test_several_protocols_and_options_of_the_data_are_told_apart_by_name(write: Write) -> None:
    runs = grids.load(write(protocol=["cifar100", "domainnet"], variants=["OE"], seeds=[0])).runs
    assert [run.name for run in runs] == ["OE__protocol=cifar100__seed=0", "OE__protocol=domainnet__seed=0"]
    path = write(
        settings={"dataset": "icons-r"}, variants=["OE"], seeds=[0], grid={"data.strength": [0.5, 1]}
    )
    runs = grids.load(path).runs
    assert [run.name for run in runs] == ["OE__data.strength=0.5__seed=0", "OE__data.strength=1__seed=0"]
    assert runs[0].config.data.options == {"strength": 0.5}


def test_the_fields_methods_are_rows_with_the_energy_of_their_authors_and_are_all_tuned(write: Write) -> None:
    runs = {run.variant: run for run in grids.load("icons_r/tune_methods").runs}
    assert runs.keys() == variants.PUBLISHED.keys() - set(variants.UNTRAINED)
    for row, run in runs.items():
        usual = flat(make(method=run.config.method.name))
        for path in ("method.energy", "method.energy_end", "backbone.scale"):
            if run.config.method.name in ("inflora", "drs", "bilora"):
                assert flat(run.config)[path] == usual[path], (row, path)
    field = {run.config.method.name for run in runs.values()} | {"ranpac"}
    others = {"frozen", "ncm", "gpm", "janus", "joint", "finetune", "probe", "lorafa"}
    assert field | others == methods.all_methods().keys()
    with pytest.raises(UsageError, match="no settings were chosen for 'merged free OE gr=none' yet"):
        grids.load(write(protocol="photographs", variants=["merged free OE gr=none"], seeds=[0]))
    assert variants.PUBLISHED.keys() - set(variants.UNTRAINED) <= variants.chosen().keys()
    assert len({variants.slug(row) for row in variants.KNOWN}) == len(variants.KNOWN)


@pytest.mark.parametrize("name", ["imagenet_r", "cifar100"])
def test_a_preset_for_the_t4_is_the_papers_protocol_with_fewer_epochs(name: str, write: Write) -> None:
    def config(protocol: str) -> Config:
        return grids.load(write(protocol=protocol, variants=["OE+GR"], seeds=[0])).runs[0].config

    full, small = config(name), config(f"{name}_t4")
    assert small.training.epochs == full.training.epochs / 10 and small.data.options == {"cache": "disk"}
    assert small.training.amp == "auto"
    assert flat(full) | {"training.epochs": small.training.epochs, "data.cache": "disk"} == flat(small)
    counted = assets.measurement("memory")["counted"].values()
    halves = [case["half precision"] for case in counted]
    most = max(half["fixed"] + small.training.batch_size * half["image"] for half in halves) / 1e3
    assert grids.load(f"t4/{name}").runs[0].config.training.epochs == small.training.epochs
    assert f"at most {most:.1f} GB" in (assets.benchmarks("protocols") / f"{name}_t4.yaml").read_text()


FAULTS: list[tuple[dict, str]] = [  # what is changed in the grid, and the parts of the answer
    ({"variants": None, "seeds": None}, "2 faults | no 'variants' | no 'seeds'"),
    ({"protocl": "x"}, "unknown key 'protocl' | 'protocol'"),
    ({"protocol": "icons-r"}, "unknown protocol 'icons-r' | 'icons_r'"),
    ({"protocol": []}, "protocol is empty"),
    ({"variants": ["OEE", "frozn"]}, "unknown variant 'OEE' | 'OE' | unknown variant 'frozn' | 'frozen'"),
    ({"variants": []}, "variants is empty"),
    ({"variants": ["OE", "OE"]}, "variant 'OE' is there twice"),
    ({"variants": [{"OE": {"oe": False}}]}, "'OE' is a variant of janus already"),
    ({"variants": [{"mine": {"epoch": 1}}]}, "variant 'mine': unknown setting 'epoch' | 'epochs'"),
    ({"variants": [3]}, "variants takes names | got 3"),
    ({"seeds": 0}, "seeds takes a list of whole numbers | got 0"),
    ({"seeds": [0, "one"]}, "from 0 on, got 'one'"),
    ({"seeds": [0, 0]}, "2 runs have the name LoRA__seed=0 | 2 runs have the name frozen__seed=0"),
    ({"set": {"seed": 1}}, "seed is not set here"),
    (
        {"set": {"batch_sze": 1, "epochs": "few"}},
        "2 faults | 'batch_size' | set: training.epochs takes a whole number, got",
    ),
    ({"grid": {"lr": []}}, "lr is empty"),
    ({"grid": {"lr": 1e-3}}, "lr takes a list of values"),
    ({"grid": {"lr": ["fast"]}, "variants": ["OEE"]}, "2 faults | lr takes a number, got 'fast' | 'OEE'"),
    (
        {"grid": {"gr": ["none", "exact"]}},
        "LoRA__gr=exact__seed=0 | requires adapter=merged | gr=exact does not go with",
    ),
    ({"set": {"epochs": 0}}, "grid.yaml: set: training.epochs must be at least 1, got 0"),
    (
        {"variants": ["GPM", {"mine": {"method": "gpm"}}], "seeds": [0]},
        "GPM__seed=0, mine__seed=0 are the same run",
    ),
    ({"variants": [{"mine": {"method": "jnaus"}}]}, "unknown method 'jnaus' | 'janus'"),
    ({"protocol": ["toy.yaml", "toy.yaml"]}, "protocol 'toy.yaml' is there twice"),
    (
        {"variants": ["LoRA", {"m" * 300: {"method": "gpm"}}]},
        "names of 2 runs | longer than the 255 bytes",
    ),
    (
        {"set": {"dataset": "icon-r", "model": "vit_base_patch16_24", "targets": []}},
        "3 faults | unknown dataset 'icon-r' | 'icons-r' | unknown model 'vit_base_patch16_24' | "
        "'vit_base_patch16_224' | set: backbone.targets needs at least 1, got none",
    ),
    (
        {
            "set": {"dataset": "icons-r", "data.strenght": 0.5}
            | {"tasks": 101, "rank": 400, "targets": ["k", "w"], "epochs": "few"}
        },
        "5 faults | 'data.strenght' | 'data.strength' | data.tasks=101 is more than icons-r has classes | "
        "backbone.rank=400 does not fit icons-vit | unknown value for backbone.targets: 'w' | "
        "epochs takes a whole number",
    ),
    (
        {
            "set": {"rank": 0, "energy": 2, "init": "nullspace"}
            | {"adapter": "shared", "epochs": "few", "oe_epochs": "lst"},
            "variants": [{"mine": {"method": "janus", "gr": "exact"}}],
        },
        "5 faults | rank must be at least 1 | energy must be at most 1 | gr=exact requires | epochs takes | "
        "mean 'last'",
    ),
    (
        {
            "variants": [
                {"pool": {"method": "l2p", "pool": 2}},
                {"parts": {"method": "coda", "components": 1}},
            ]
        },
        "2 faults | method.top=5 prompts cannot be chosen from method.pool=2 | "
        "method.components=1 are too few for data.tasks=2",
    ),
    (
        {"set": {"dataset": "icons-r", "data.strength": "lots", "data.vocabulary": "perhaps"}},
        "2 faults | data.strength takes a number, got 'lots' | "
        "data.vocabulary takes true or false, got 'perhaps'",
    ),
    (
        {"variants": [{"pool": {"method": "l2p", "pool": 2, "lr": -1.0}}]},
        "2 faults | method.top=5 prompts | lr must be positive",
    ),
    (
        {"set": {"dataset": "icons-r", "data": {"strength": "5,1", "vocabulary": "Yes"}}},
        "2 faults | data.strength takes a number, got '5,1' | data.vocabulary takes true or false, got 'Yes'",
    ),
    (
        {"set": {"margin": 2}},
        "LoRA__seed=0, LoRA__seed=1: margin is a setting of method=drs | "
        "frozen__seed=0, frozen__seed=1: margin",
    ),
    (
        {"set": {"dataset": "cifar-100", "data.val_fraction": 7, "data.class_list": 3}},
        "2 faults | data.val_fraction must be less than 1, got 7 | data.class_list takes a text, got 3",
    ),
    (
        {"set": {"dataset": "imagenet-100"}},
        "LoRA__seed=0, frozen__seed=0, LoRA__seed=1 and 1 more: imagenet-100 is not one set",
    ),
    (
        {"set": {"weights": "mine.pth"}},
        "LoRA__seed=0, frozen__seed=0, LoRA__seed=1 and 1 more: weights=mine.pth is not a",
    ),
]


@pytest.mark.parametrize(("change", "words"), [(change, said.split(" | ")) for change, said in FAULTS])
def test_what_is_wrong_is_said_before_anything_runs_all_of_it_at_once(
    write: Write, tmp_path: Path, capsys: Capture, change: dict, words: list[str]
) -> None:
    assert main(["bench", str(write(**change)), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and all(word in err for word in words), err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: [\n", "line 2: not YAML"),
        ("title: a\ntitle: b", "'title' is there twice"),
        ("- a", "a mapping is expected"),
        ("title: !!python/object/apply:os.getcwd []", "not YAML"),  # nothing in a file is executed
    ],
)
def test_a_file_that_is_no_grid_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        grids.load(tmp_path / "g.yaml")


def test_each_setting_of_a_protocol_states_its_source(write: Write, tmp_path: Path) -> None:
    path = write()
    (tmp_path / "toy.yaml").write_text("title: toy\nsettings:\n  lr: {value: 0.1}\n")
    with pytest.raises(UsageError, match="protocol toy: lr needs `value` and `source`"):
        grids.load(path)


def test_all_that_is_wrong_with_a_protocol_is_said_at_once(write: Write, tmp_path: Path) -> None:
    path = write()
    (tmp_path / "toy.yaml").write_text(
        "title: toy\nsettings:\n  lr: {value: 0.1}\n  epochs: 3\n  rank: {value: 0, source: us}\n"
        "variants:\n  OEE: {}\n  GPMM: {}\n"
    )
    words = "5 faults: .*variant 'OEE'.*variant 'GPMM'.*lr needs.*epochs needs.*rank must"
    with pytest.raises(UsageError, match=words):
        grids.load(path)


def test_options_of_the_data_are_read_as_on_the_command_line(write: Write) -> None:
    path = write(settings={"dataset": "icons-r"}, variants=["LoRA"], seeds=[0])
    path.write_text(path.read_text() + "set: {data.strength: 5e-1}\n")  # a text in YAML
    assert grids.load(path).runs[0].config.data.options == {"strength": 0.5}
    texts = {"data.revision": "1.0", "data.config": "2017", "data.label_column": "0"}
    settings = {"dataset": "hf:someone/photographs"} | texts
    (run,) = grids.load(write(settings=settings, variants=["LoRA"], seeds=[0])).runs
    assert set(run.config.data.options.values()) == {"1.0", "2017", "0"}


def test_what_is_known_of_data_and_backbones_without_opening_them_is_true() -> None:
    known = [entry for entry in registry.DATASETS.values() if entry.classes]
    assert all(entry.summary.startswith(f"{entry.classes} ") for entry in known)
    assert registry.DATASETS.keys() == datasets.LOADERS.keys()
    assert registry.IconsOptions().strength == icons.DEFAULT_STRENGTH
    widths = {name: backbones.create(name, "random")[0].num_features for name in registry.EMBEDDED}
    assert set(widths.values()) == {registry.WIDTH} and all(name in backbones.models() for name in widths)
    assert not any(registry.model_fault(name) for name in backbones.models())


def test_names_that_only_the_run_can_judge_are_left_to_it_and_so_is_what_merges(
    write: Write, tmp_path: Path
) -> None:
    models = "icons-vit vit_base_patch16_224.augreg_in21k vit_base_patch16_224_in21k hf-hub:timm/mine".split()
    assert len(grids.load(write(variants=["LoRA"], seeds=[0], grid={"model": models})).runs) == len(models)
    for dataset in ("hf:someone/photographs", "folder/that/comes", "photographs-*.parquet", "cifar-100"):
        grids.load(write(settings={"dataset": dataset}))
    path = write()
    path.write_text(path.read_text() + "set: &a {lr: 0.25}\ngrid:\n  scale: [1.0]\n")
    path.write_text(path.read_text().replace("grid:\n", "grid:\n  <<: &b {rank: [2]}\n"))
    found = {(run.config.training.lr, run.config.backbone.rank) for run in grids.load(path).runs}
    assert found == {(0.25, 2)}


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_grid_that_comes_with_janus_is_sound(path: Path) -> None:
    grid = grids.load(path)
    assert grid.runs and all(make(run.config.to_dict()) == run.config for run in grid.runs)
    if path.parent.name == "icons_r":
        assert {run.config.data.dataset for run in grid.runs} == {"icons-r"}
    if path.stem.startswith("tune"):
        assert {run.config.data.evaluate for run in grid.runs} == {"val"}


def test_each_grid_has_a_twin_on_icons_and_is_found_by_name() -> None:
    folder = assets.benchmarks("grids")
    alone = "capacity cross dml energy strength tune tune_dml tune_energy tune_heads tune_methods"
    everywhere = {p.stem for p in folder.glob("*.yaml")}
    assert {p.stem for p in (folder / "icons_r").glob("*.yaml")} == everywhere | set(alone.split())
    assert len(list(folder.glob("*.yaml"))) == 8
    assert grids.find("icons_r/table1_ablation") == folder / "icons_r" / "table1_ablation.yaml"
    with pytest.raises(UsageError, match="did you mean 'icons_r/table1_ablation'"):
        grids.find("icons_r/table1_ablaton")


def test_grids_on_the_same_data_can_share_a_folder() -> None:
    for part in ("", "icons_r"):
        seen: dict[str, str] = {}
        paths = [p for p in GRIDS if p.parent.name == (part or "grids") and p.stem != "table3_cross_dataset"]
        for path in paths:
            for run in grids.load(path).runs:
                assert seen.setdefault(run.name, run.hash) == run.hash, (path, run.name)


def test_the_first_benchmarks_results_are_the_runs_of_its_grids() -> None:
    runs = store.read(assets.results(), detail=False)
    for group, files in {
        "tune": ("tune", "tune_heads", "tune_dml"),
        "dml": ("dml",),
        "strength": ("strength",),
        "rows": ("table1_ablation",),
        "cross": ("cross",),
    }.items():
        planned = {run.hash for file in files for run in grids.load(f"icons_r/{file}").runs}
        assert planned == set(runs.loc[runs["group"] == group, "hash"]), group


# ── plan and states ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_dry_run_shows_each_run_and_an_estimate_from_finished_ones(
    write: Write, tmp_path: Path, capsys: Capture
) -> None:
    path, out = write(variants=["LoRA", "GPM"]), tmp_path / "out"
    argv = ["bench", str(path), "--out", str(out), "--dry-run"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert text.count("unknown") == 5 and text.count("to do") == 5 and not out.exists()
    finish(grids.load(write("other", variants=["GPM"], seeds=[0])), out)
    grid = grids.load(path)
    (out / "LoRA__seed=0").mkdir()
    note = {"hash": grid.runs[0].hash, "error": "no data"}
    checkpoint.write_json(out / "LoRA__seed=0" / "failed.json", note)
    assert main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "failed: no data" in lines[1] and "finished, acc 22.40" in lines[2]
    assert lines[3].split()[3] == "unknown"
    assert lines[4].split()[:3] == ["GPM__seed=1", "gpm", "1"]
    assert lines[4].split()[3] == lines[2].split()[3] != "unknown"
    assert "1 failed, 1 finished, 2 to do" in lines[-1] and "1 runs whose time is unknown" in lines[-1]


def test_the_time_of_a_row_on_icons_r_is_known_from_the_runs_that_come_with_janus(tmp_path: Path) -> None:
    lines = plan.plan(grids.load("icons_r/table1_ablation"), tmp_path)
    assert len(lines) == 39 + 2 and "unknown" not in "".join(lines)


def test_a_plan_does_not_wait_for_timm() -> None:
    code = (
        "import sys; from pathlib import Path; from janus.bench import grids, plan; "
        "plan.plan(grids.load('icons_r/methods'), Path('none')); "
        "print('torch' in sys.modules, 'timm' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "True False\n", done.stderr


def test_a_stopped_run_says_where_it_stands(write: Write, tmp_path: Path, monkeypatch: Patch) -> None:
    (run,) = grids.load(write(variants=["LoRA"], seeds=[0])).runs

    def stop(self: train.Run, task: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train.Run, "report", stop)  # the first task has been saved then
    with pytest.raises(KeyboardInterrupt):
        train.execute(run.config, tmp_path / run.name)
    state = states.state(run, tmp_path)
    assert (state.kind, state.text, state.done) == ("stopped", "stopped at task 2 of 2", 0.5)


def test_a_result_that_is_cut_off_is_not_finished(write: Write, tmp_path: Path) -> None:
    grid = grids.load(write(variants=["LoRA"], seeds=[0]))
    finish(grid, tmp_path)
    result = tmp_path / grid.runs[0].name / "result.json"
    assert states.state(grid.runs[0], tmp_path).kind == "finished"
    result.write_bytes(result.read_bytes()[:-100])
    assert states.state(grid.runs[0], tmp_path).kind == "to do"


def test_a_run_is_known_by_its_config_whatever_it_is_called(
    write: Write, tmp_path: Path, capsys: Capture
) -> None:
    path, mine, other = write(variants=["LoRA"]), tmp_path / "mine", tmp_path / "other"
    finish(grids.load(write("a", variants=[{"first": {"method": "finetune"}}])), mine)
    # `LoRA` is a Janus run with all switches off
    finish(grids.load(write("b", variants=["LoRA"], seeds=[0])), other)
    argv = ["bench", str(path), "--out", str(mine), "--dry-run"]
    assert main(argv) == 0
    assert "2 to do" in capsys.readouterr().out  # another method's runs, of whatever settings, are other runs
    assert main([*argv, "--known", str(other)]) == 0
    out = capsys.readouterr().out
    assert "1 finished, 1 to do" in out and "other/LoRA__seed=0/result.json" in out.splitlines()[1]
    assert main(["report", "--collect", str(other), "--into", str(tmp_path / "tables")]) == 0
    capsys.readouterr()
    assert main([*argv, "--known", str(tmp_path / "tables")]) == 0  # and in tables
    out = capsys.readouterr().out
    assert "finished, acc 22.40, in " in out and "runs.parquet: other/LoRA/" in out
    (mine / "first__seed=1").rename(mine / "elsewhere")
    renamed = grids.load(write("c", variants=[{"second": {"method": "finetune"}}]))
    assert "2 finished" in plan.plan(renamed, mine)[-1]
    assert main([*argv, "--known", str(tmp_path / "none")]) == 2
    assert f"no folder {tmp_path / 'none'} of results" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change", [{"seconds": {}}, {"acc": None}, {"hash": 3}, {"format": 999}, {"stream": None}, "["]
)
def test_a_result_that_cannot_be_read_is_absent_and_named(
    change: dict | str, write: Write, tmp_path: Path, capsys: Capture
) -> None:
    grid, out, other = grids.load(write(variants=["LoRA"])), tmp_path / "out", tmp_path / "other"
    finish(grid, out), finish(grid, other)
    for file in (out / "LoRA__seed=0" / "result.json", other / "LoRA__seed=0" / "result.json"):
        if isinstance(change, str):
            file.write_text(change)
        else:
            values = json.loads(file.read_text()) | change
            checkpoint.write_json(file, {key: value for key, value in values.items() if value is not None})
    assert main(["bench", str(grid.path), "--out", str(out), "--known", str(other), "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "1 to do, 1 finished" in said.out
    note = [line for line in said.err.splitlines() if "count as absent" in line]
    assert len(note) == 1 and note[0].startswith("janus: note: 2 files")
    assert str(out / "LoRA__seed=0" / "result.json") in note[0]


def test_a_result_of_another_format_is_moved_aside_before_its_run_is_made_again(
    write: Write, tmp_path: Path, monkeypatch: Patch
) -> None:
    grid = grids.load(write(variants=["LoRA"], seeds=[0]))
    finish(grid, tmp_path)
    (run,), file = grid.runs, tmp_path / "LoRA__seed=0" / "result.json"
    checkpoint.write_json(file, json.loads(file.read_text()) | {"format": 999})
    monkeypatch.setattr("janus.bench.papermill.execute", lambda *_, **__: None)
    assert worker.work(run.name, str(file.parent), run.hash, {}, str(tmp_path)) is None
    assert not file.exists()
    assert json.loads((file.parent / "result.json.damaged").read_text())["format"] == 999


def test_a_run_with_a_result_has_not_failed_whatever_came_after_it(write: Write, tmp_path: Path) -> None:
    grid = grids.load(write(variants=["LoRA"], seeds=[0]))
    finish(grid, tmp_path / "a"), finish(grid, tmp_path / "b")
    (run,), failure = grid.runs, {"hash": grid.runs[0].hash, "error": "no space for the notebook"}
    checkpoint.write_json(tmp_path / "a" / run.name / "failed.json", failure)
    (tmp_path / "c" / run.name).mkdir(parents=True)
    checkpoint.write_json(tmp_path / "c" / run.name / "failed.json", failure)
    assert states.states(grid, tmp_path / "a")[run.name].kind == "finished"
    assert states.states(grid, tmp_path / "c")[run.name].kind == "failed"
    assert states.states(grid, tmp_path / "c", [tmp_path / "b"])[run.name].kind == "finished"


def test_a_failure_is_told_even_if_no_file_can_keep_it(
    write: Write, tmp_path: Path, monkeypatch: Patch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise JanusError("no space")

    (run,) = grids.load(write(variants=["LoRA"], seeds=[0])).runs
    monkeypatch.setattr("janus.bench.papermill.execute", full)
    monkeypatch.setattr(checkpoint, "write_json", full)
    assert worker.work(run.name, str(tmp_path / run.name), run.hash, {}, str(tmp_path)) == "no space"


def test_now_and_then_it_is_said_how_far_each_run_is(
    write: Write, tmp_path: Path, monkeypatch: Patch, caplog: Log
) -> None:
    grid = grids.load(write(variants=["LoRA"]))
    caplog.set_level("INFO", "janus")
    found = {run.name: states.State("to do", "to do") for run in grid.runs}
    every = scheduler.Bench(None, lambda: None, grid, tmp_path, found)
    every.running = {
        Future(): scheduler.Running(run, f"tcp://worker:{run.config.training.seed}", time.monotonic() - 70)
        for run in grid.runs
    }
    every.status()
    every.status()
    assert caplog.messages == ["0 done, 2 running, 0 failed, 0 left, time left unknown"]  # nothing new
    monkeypatch.setattr(scheduler, "WAITING", -1)
    (tmp_path / "LoRA__seed=1").mkdir()
    saved = {"stream": {"tasks": [0, 1, 2]}, "task": 1}
    checkpoint.save(tmp_path / "LoRA__seed=1" / "checkpoint.safetensors", saved)
    every.status()
    expected = zip(caplog.messages[2:], (0, 1), ("no checkpoint yet", "task 2 of 3"), strict=True)
    for line, seed, far in expected:
        assert re.fullmatch(rf"  LoRA__seed={seed}  1:1\d  {far}", line), line


def test_a_note_of_a_failure_that_does_not_say_why_is_none(write: Write, tmp_path: Path) -> None:
    (run,) = grids.load(write(variants=["LoRA"], seeds=[0])).runs
    (tmp_path / run.name).mkdir()
    checkpoint.write_json(tmp_path / run.name / "failed.json", {"hash": run.hash})
    assert states.state(run, tmp_path).kind == "to do"


def test_a_result_of_other_weights_than_those_that_are_there_does_not_count(
    write: Write, tmp_path: Path, capsys: Capture
) -> None:
    embedded = str(assets.path("backbone/icons-vit.safetensors"))
    grid = grids.load(write(variants=["LoRA"], set={"weights": embedded}))
    out, other = tmp_path / "out", tmp_path / "other"
    finish(grid, other)
    now = states._fingerprint("icons-vit", embedded)
    assert now == backbones.fingerprint(backbones.create("icons-vit", embedded)[0])
    for seed, fingerprint in enumerate((now, "beefbeefbeef")):
        file = other / f"LoRA__seed={seed}" / "result.json"
        checkpoint.write_json(file, json.loads(file.read_text()) | {"backbone": fingerprint})
    argv = ["bench", str(grid.path), "--out", str(out), "--dry-run"]
    assert main([*argv, "--known", str(other)]) == 0
    said = capsys.readouterr()
    assert "1 finished, 1 to do" in said.out
    assert "1 results do not count" in said.err and f"(fingerprint beefbeefbeef, not {now})" in said.err
    assert main(["bench", str(grid.path), "--out", str(other), "--dry-run"]) == 2
    assert "LoRA__seed=1 holds this run with other weights of icons-vit" in capsys.readouterr().err


def test_finished_runs_whose_backbones_had_other_weights_are_named(
    write: Write, tmp_path: Path, capsys: Capture
) -> None:
    grid = grids.load(write(variants=["LoRA"]))  # random weights: nobody knows which they should be
    finish(grid, tmp_path / "out")
    for seed, fingerprint in enumerate(("aaaa", "bbbb")):
        file = tmp_path / "out" / f"LoRA__seed={seed}" / "result.json"
        checkpoint.write_json(file, json.loads(file.read_text()) | {"backbone": fingerprint})
    assert main(["bench", str(grid.path), "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    assert "fingerprint aaaa: LoRA__seed=0; fingerprint bbbb: LoRA__seed=1" in capsys.readouterr().err


def test_folders_of_other_runs_are_refused_all_at_once(write: Write, tmp_path: Path) -> None:
    finish(grids.load(write(variants=["LoRA"])), tmp_path)
    words = "LoRA__seed=0 holds another run.*LoRA__seed=1 holds another run.*--out"
    with pytest.raises(UsageError, match=words):
        scheduler.execute(grids.load(write(variants=["LoRA"], set={"lr": 0.5})), tmp_path)


def test_cluster_options_that_cannot_be_met_are_refused_in_one_line(
    write: Write, tmp_path: Path, monkeypatch: Patch
) -> None:
    grid = grids.load(write())
    with pytest.raises(UsageError, match="--scheduler goes with neither"):
        scheduler.execute(grid, tmp_path, scheduler="tcp://a:1", workers=2)
    with pytest.raises(UsageError, match="--workers must be at least 1"):
        scheduler.execute(grid, tmp_path, workers=0)
    with pytest.raises(UsageError, match="no file .*s.yaml for --slurm"):
        scheduler.execute(grid, tmp_path, slurm=tmp_path / "s.yaml")
    for wrong in (
        ["--workers", "0"],
        ["--scheduler", "tcp://a:1", "--workers", "2"],
        ["--slurm", str(tmp_path / "s.yaml")],
    ):
        assert main(["bench", str(grid.path), "--out", str(tmp_path / "out"), "--dry-run", *wrong]) == 2
    (tmp_path / "s.yaml").write_text("queue: gpu\n")
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(JanusError, match=r"--slurm needs dask-jobqueue: pip install 'janus-lora\[slurm\]'"):
        scheduler.execute(grid, tmp_path, slurm=tmp_path / "s.yaml")


def test_each_local_worker_sees_one_gpu(monkeypatch: Patch) -> None:
    import distributed

    made: dict[str, dict] = {}
    monkeypatch.setattr(distributed, "SpecCluster", lambda workers, **_: made.update(workers))
    monkeypatch.setattr(clusters, "gpus", lambda: ["2", "5"])
    clusters.local(runs=9, workers=None)
    assert [spec["options"]["env"]["CUDA_VISIBLE_DEVICES"] for spec in made.values()] == ["2", "5"]
    assert all(spec["options"]["nthreads"] == 1 for spec in made.values())
    made.clear(), monkeypatch.setattr(clusters, "gpus", lambda: [])
    clusters.local(runs=2, workers=5)
    assert len(made) == 2 and "CUDA_VISIBLE_DEVICES" not in made[0]["options"]["env"]


# ── execution ───────────────────────────────────────────────────────────────────────────────────────────────


def undisturbed(run: grids.PlannedRun) -> dict[str, object]:
    result = train.execute(run.config).to_dict()
    return {key: result[key] for key in SAME}


@pytest.mark.slow
def test_a_grid_runs_through_the_notebook_keeps_what_failed_and_repeats_nothing(
    write: Write, tmp_path: Path, image_folder: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # of the kernels, in a checkout that is not installed
    monkeypatch.setenv("JANUS_FAST", "1")  # of the lessons: must not reach the runs
    missing, out = tmp_path / "late folder", tmp_path / "out"  # a space: what `--set` text cannot hold
    path = write(variants=["LoRA", {"late": {"method": "ncm", "dataset": str(missing)}}], seeds=[0])
    argv, (good, late) = ["bench", str(path), "--out", str(out)], grids.load(path).runs
    assert main(argv) == 1
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith(f"{good.name}: finished") for line in lines)
    assert "1 done, 0 running, 1 failed, 0 left" in lines[-3]
    assert lines[-2].startswith(f"failed: {late.name}: ")
    assert "late folder" in lines[-2] and "UsageError" in lines[-2]
    assert lines[-1].startswith("janus: 1 of 2 runs failed") and "--retry" in lines[-1]
    result = json.loads((out / good.name / "result.json").read_text())
    assert result["hash"] == good.hash and {key: result[key] for key in SAME} == undisturbed(good)
    assert nbformat.read(out / good.name / "notebook.ipynb", 4).cells[-2].execution_count
    assert "late folder" in (out / late.name / "notebook.ipynb").read_text()
    assert "late folder" in json.loads((out / late.name / "failed.json").read_text())["error"]

    monkeypatch.setattr(scheduler, "connect", None)  # nothing is left to run, so no cluster is asked for
    assert main(argv) == 1
    assert f"failed: {late.name}" in capsys.readouterr().err
    monkeypatch.undo()

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    missing.symlink_to(image_folder)
    stamp = (out / good.name / "result.json").stat().st_mtime_ns
    assert main([*argv, "--retry"]) == 0
    assert not (out / late.name / "failed.json").exists() and states.state(late, out).kind == "finished"
    assert (out / good.name / "result.json").stat().st_mtime_ns == stamp


def kernels(process: psutil.Process) -> list[psutil.Process]:
    """Without a kernel's own children: between fork and exec they have its command line."""
    found = []
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            lines = [" ".join(one.cmdline()) for one in (child, psutil.Process(child.ppid()))]
            found += [child] if ["ipykernel_launcher" in line for line in lines] == [True, False] else []
    return found


def end(process: psutil.Popen) -> None:
    """A process and its children, the parent first: Dask's would start them again."""
    family = [process, *process.children(recursive=True)] if process.is_running() else []
    for one in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(family, timeout=20)


def until(done: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.15)


@pytest.mark.slow
def test_a_worker_that_is_killed_in_mid_run_loses_nothing_and_leaves_no_kernel(
    write: Write, tmp_path: Path
) -> None:
    settings = {"epochs": 12, "per_class": 8, "batch_size": 8, "save_every": 0.1}
    log, seen = tmp_path / "log", set()
    path = write(variants=["OE+GR"], seeds=[0, 1], settings=settings)
    runs = grids.load(path).runs
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "janus", "bench", str(path), "--out", str(tmp_path), "--workers", "2"]
    with log.open("w") as stderr:
        process = psutil.Popen(argv, env=environment, stderr=stderr, stdout=subprocess.DEVNULL)
    until(lambda: list(tmp_path.glob("*/checkpoint.safetensors")) or process.poll() is not None)
    victim = next(k for k in kernels(process) if any(f.path.endswith("/.lock") for f in k.open_files()))
    os.kill(victim.ppid(), signal.SIGKILL)
    assert not psutil.wait_procs([victim], timeout=20)[1]  # the kernel follows its worker
    until(lambda: seen.update(kernels(process)) or process.poll() is not None)
    assert process.returncode == 0, log.read_text()
    assert len(seen) == 2 and not psutil.wait_procs(seen, timeout=20)[1]
    assert "its worker or its kernel died" in log.read_text() and log.read_text().count(": resumed") == 1
    for run in runs:
        result = json.loads((tmp_path / run.name / "result.json").read_text())
        assert {key: result[key] for key in SAME} == undisturbed(run)


@pytest.fixture
def heard() -> Iterator[None]:
    """Ctrl-C reaches what a test starts: tests in a shell's background ignore it, and pass that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.usefixtures("heard")
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_bench_that_is_stopped_in_mid_run_leaves_no_kernel_and_the_same_command_goes_on(
    by: signal.Signals, write: Write, tmp_path: Path
) -> None:
    settings = {"epochs": 24, "per_class": 8, "batch_size": 8, "save_every": 0.1}
    path = write(variants=["OE+GR"], seeds=[0], settings=settings)
    (run,) = grids.load(path).runs
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    argv = [sys.executable, "-m", "janus", "bench", str(path), "--out", str(tmp_path)]
    process = psutil.Popen(
        argv, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    try:
        until(lambda: list(tmp_path.glob("*/checkpoint.safetensors")) or process.poll() is not None)
        family = process.children(recursive=True)
        assert kernels(process)
        process.send_signal(by)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == (130 if by == signal.SIGINT else -signal.SIGKILL), said
        assert not psutil.wait_procs(family, timeout=60)[1]
    finally:
        end(process)
    state = states.state(run, tmp_path).kind
    # Dask waits some seconds for what a worker does
    assert state == "stopped" or by == signal.SIGINT and state == "finished"
    assert by == signal.SIGKILL or "the same command resumes from the last checkpoint" in said
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert state == "finished" or f"{run.name}: resumed" in done.stderr, done.stderr
    result = json.loads((tmp_path / run.name / "result.json").read_text())
    assert {key: result[key] for key in SAME} == undisturbed(run)


def test_a_kernel_that_is_killed_is_no_failure_of_the_run(
    write: Write, tmp_path: Path, monkeypatch: Patch
) -> None:
    """Batch systems end all processes of a job: the kernel may be gone before its worker."""
    from nbclient.exceptions import DeadKernelError

    def die(*_: object, **__: object) -> None:
        raise DeadKernelError("Kernel died")

    (run,) = grids.load(write(variants=["LoRA"], seeds=[0])).runs
    monkeypatch.setattr("janus.bench.papermill.execute", die)
    assert worker.work(run.name, str(tmp_path / run.name), run.hash, {}, str(tmp_path)) == worker.DIED
    assert states.state(run, tmp_path).kind == "to do"


def test_a_run_that_kills_three_workers_counts_as_failed(write: Write, tmp_path: Path, caplog: Log) -> None:
    """On a cluster that loses each worker as soon as it has something to do."""

    class Gone:
        status = "cancelled"
        cancel = done = lambda self: True  # noqa: E731

        def result(self, timeout: float) -> None:
            raise TimeoutError

    class Client:
        started = 0

        def nthreads(self) -> dict[str, int]:
            self.started += 1
            return {f"tcp://worker:{self.started}": 1}  # a new address each time: the last worker is dead

        def submit(self, *_: object, **__: object) -> Gone:
            return Gone()

    grid = grids.load(write(variants=["LoRA"], seeds=[0]))
    caplog.set_level("INFO", "janus")
    (run,), found = grid.runs, {grid.runs[0].name: states.State("to do", "to do")}
    (tmp_path / run.name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distributed.wait", lambda *_, **__: None)
        failed = scheduler.Bench(Client(), lambda: None, grid, tmp_path, found).finish([run], {})
    assert failed == {run.name: "its worker or its kernel died 3 times (out of memory?)"}
    assert states.state(run, tmp_path).kind == "failed"
    assert sum("died; the run waits" in line for line in caplog.messages) == 2


def test_a_run_that_comes_further_with_each_worker_that_it_loses_does_not_fail(
    write: Write, tmp_path: Path
) -> None:
    """Jobs that end at their time limit, and a run that is longer than they are."""
    (run,) = grids.load(write(variants=["LoRA"], seeds=[0])).runs
    found, ends = {run.name: states.State("to do", "to do")}, iter((0.0, 0.1, 0.1, 0.2, 0.2, 0.3))
    every = scheduler.Bench(None, lambda: None, grids.load(tmp_path / "grid.yaml"), tmp_path, found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "state", lambda *_: states.State("stopped", "", next(ends)))
        for _ in range(6):
            every.worker_died(scheduler.Running(run, "tcp://worker:1", 0.0))
            assert not every.failed and every.queue.popleft() is run


def test_a_run_on_which_another_process_works_waits_and_has_not_failed(
    write: Write, tmp_path: Path, monkeypatch: Patch, caplog: Log
) -> None:
    """On a cluster that runs on, a kernel outlives the bench that was stopped with Ctrl-C.

    The same command meets it again.
    """
    grid = grids.load(write(variants=["LoRA"], seeds=[0]))
    caplog.set_level("INFO", "janus")
    (run,), found = grid.runs, {grid.runs[0].name: states.State("to do", "to do")}
    monkeypatch.setattr(worker, "HANDOVER", 0)
    with train.lock(tmp_path / run.name):
        said = worker.work(run.name, str(tmp_path / run.name), run.hash, {}, str(tmp_path))
    assert said == worker.BUSY and states.state(run, tmp_path).kind == "to do"
    every, future = scheduler.Bench(None, lambda: None, grid, tmp_path, found), Future()
    future.set_result(said)
    every.end(future, scheduler.Running(run, "tcp://worker:1", 0.0))
    assert caplog.messages == [f"{run.name}: another process works in its folder; the run waits"]
    assert list(every.queue) == [run] and not every.failed and not every.kills


def test_a_scheduler_that_is_lost_is_one_line_and_no_failure_of_a_run(write: Write, tmp_path: Path) -> None:
    class Client:
        def nthreads(self) -> dict[str, int]:
            raise OSError("Timed out trying to connect")

    grid = grids.load(write(variants=["LoRA"], seeds=[0]))
    every = scheduler.Bench(Client(), lambda: None, grid, tmp_path, states.states(grid, tmp_path))
    with pytest.raises(JanusError, match=r"does not answer any more \(Timed out.*the same command resumes"):
        every.finish(grid.runs, {})
    assert not every.failed and states.state(grid.runs[0], tmp_path).kind == "to do"


SBATCH = """#!/bin/bash
# SLURM as far as Dask asks it: a job is a session of its own, its number that of its first process
if [ "$1" = --test-only ]; then
  grep -q wanted || { echo "sbatch: error: no partition" >&2; exit 1; }
  exit 0
fi
cp "$1" "$JOBS/$$.sh"  # Dask deletes its own
setsid bash "$JOBS/$$.sh" > "$JOBS/$$.log" 2>&1 &
touch "$JOBS/$!"
echo "Submitted batch job $!"
"""


@pytest.mark.slow
@pytest.mark.skipif(
    sys.platform != "linux", reason="SLURM is Linux's, and so are setsid and the name of the loopback"
)
def test_a_slurm_job_that_ends_in_mid_run_is_replaced_and_one_that_is_refused_is_named(
    write: Write, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    log, jobs, programs = tmp_path / "log", tmp_path / "jobs", tmp_path / "bin"
    jobs.mkdir(), programs.mkdir()
    for name, text in (("sbatch", SBATCH), ("scancel", '#!/bin/bash\nkill -- "-$1"\n')):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    file = tmp_path / "slurm.yaml"
    options = {"cores": 1, "memory": "2GB", "interface": "lo", "queue": "wanted"}
    file.write_text(yaml.safe_dump(options))
    settings = {"epochs": 12, "per_class": 8, "batch_size": 8, "save_every": 0.1}
    path = write(variants=["OE+GR"], seeds=[0], settings=settings)
    argv = ["bench", str(path), "--out", str(tmp_path / "out"), "--slurm", str(file)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JOBS": str(jobs)}
    environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    with log.open("w") as stderr, contextlib.ExitStack() as stack:
        process = psutil.Popen(
            [sys.executable, "-m", "janus", *argv], env=environment, stderr=stderr, stdout=subprocess.DEVNULL
        )
        stack.callback(end, process)  # if it hangs
        until(lambda: list(tmp_path.glob("out/*/checkpoint.safetensors")) or process.poll() is not None)
        (first,) = (int(job.name) for job in jobs.iterdir() if job.name.isdigit())
        os.killpg(first, signal.SIGKILL)
        assert process.wait(120) == 0, log.read_text()
    assert len([job for job in jobs.iterdir() if job.name.isdigit()]) == 2
    assert "its worker or its kernel died" in log.read_text() and log.read_text().count(": resumed") == 1
    (run,) = grids.load(path).runs
    result = json.loads((tmp_path / "out" / run.name / "result.json").read_text())
    assert {key: result[key] for key in SAME} == undisturbed(run)

    monkeypatch.setenv("PATH", environment["PATH"])
    file.write_text(yaml.safe_dump(options | {"queue": "other"}))
    path = write(variants=["LoRA"], seeds=[0])
    argv = ["bench", str(path), "--out", str(tmp_path / "other"), "--slurm", str(file)]
    assert main(argv) == 1
    assert f"SLURM takes no job from {file} (sbatch: error: no partition)" in capsys.readouterr().err
    monkeypatch.setenv("PATH", "")
    assert main(argv) == 1
    said = capsys.readouterr().err
    assert "No such file or directory: sbatch; start the bench where jobs are submitted" in said


@pytest.mark.slow
def test_the_runs_go_to_the_workers_of_a_cluster_that_is_there_already(write: Write, tmp_path: Path) -> None:
    path, file, out = write(variants=["LoRA"], seeds=[0]), tmp_path / "scheduler.json", tmp_path / "out"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    dask = [sys.executable, "-m", "dask"]
    with contextlib.ExitStack() as stack:
        for command in (["scheduler", "--host", "127.0.0.1", "--port", "0"], ["worker", "--nthreads", "1"]):
            argv = [*dask, *command, "--no-dashboard", "--scheduler-file", str(file)]
            process = psutil.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
            stack.callback(end, process)
            until(file.exists)
        address = json.loads(file.read_text())["address"]
        assert main(["bench", str(path), "--out", str(out), "--scheduler", address]) == 0
        assert process.is_running()  # the cluster is not ours to end
    (run,) = grids.load(path).runs
    result = json.loads((out / run.name / "result.json").read_text())
    assert {key: result[key] for key in SAME} == undisturbed(run)


def test_no_scheduler_at_the_address_is_one_line(
    write: Write, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    import distributed

    def silence(address: str, timeout: str) -> None:
        raise TimeoutError(f"timed out after {timeout}\nlong trace")

    monkeypatch.setattr(distributed, "Client", silence)
    assert main(["bench", str(write()), "--out", str(tmp_path / "out"), "--scheduler", "tcp://a:1"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "janus: no Dask scheduler answers at tcp://a:1 (timed out after 10s)"
