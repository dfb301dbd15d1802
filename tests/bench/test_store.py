"""The results store: what goes in comes out, equal runs make equal bytes, collecting twice adds nothing."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from helpers.made_results import result_values
from pyarrow import parquet

from janus.bench import store, store_files
from janus.cli.commands import main
from janus.configure import config_hash
from janus.errors import JanusError, UsageError
from janus.runtime import assets

FILES = (store_files.RUNS, store_files.ACCURACY, store_files.LAYERS, store_files.TEXT)


def write_run(folder: Path, values: dict[str, Any]) -> Path:
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps(values))
    return folder


def hashes(folder: Path) -> list[str]:
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES]


def whole(seed: int = 0, **config: Any) -> dict[str, Any]:
    """A result with every kind of score: per layer, per task, unknown accuracies, none at all."""
    matrix = {"blocks.0.attn.k": 0.25 + seed, "blocks.0.attn.v": 0.125}
    return result_values(seed, **config) | {
        "accuracy": [[60.0], [None, 40.0]],
        "task_aware": [[70.0], [None, 1 / 3]],
        "drift": None,
        "backbone": "feedfeed",
        "violation": {"tasks": [matrix], "mean": {"all": 0.1 + seed, "k": 0.3, "v": None}},
        "violation_step": {"tasks": [0.5], "mean": 0.5},
        "basis_rank": [{"blocks.0.attn": 3}, {"blocks.0.attn": 4}],
    }


# ── settings ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"method": "slca", "classifier.lr": 0.2},
        {"method": "drs", "classifier": "ncm", "energy_end": 0.5},
        {"dml": False},
        {"method": "inflora", "energy_end": None},
        {"method": "ranpac"},
        {"method": "ewc", "method.lambda": 7, "amp": "bf16"},
        {"data": {"strength": 0.5, "vocabulary": True}, "per_class": 9, "targets": ["v"]},
    ],
)
def test_a_line_gives_its_config_back(config: dict[str, Any]) -> None:
    run = store.frame([store.line(result_values(**config))]).iloc[0]
    assert config_hash(store.create(run)) == run["hash"]


def test_a_lines_settings_are_those_that_decide_its_numbers_by_full_path() -> None:
    values = result_values(3, method="finetune", data={"strength": 0.5}, targets="k,v,q", threads=2)
    lora = store.settings_of(store.line(values))
    names = {"method.name": "finetune", "classifier.name": "linear", "backbone.targets": "k,v,q"}
    numbers = {"data.strength": 0.5, "method.energy": 0.95, "training.lr": 1e-3, "data.class_seed": 3}
    assert lora.items() >= (names | numbers).items()
    assert not {"method.gr", "method.oe", "classifier.dim", "data.per_class", "runtime.threads"} & lora.keys()
    on, off = (store.settings_of(store.line(result_values(dml=dml))) for dml in (True, False))
    assert on["method.loss.push"] == 0.5 and not [key for key in off if key.startswith("method.loss.")]


# ── tables ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_written_is_read(tmp_path: Path) -> None:
    runs = [store.line(whole(seed), "group", "mine") for seed in (0, 1)]
    store_files.write(runs, tmp_path)
    read = store.read(tmp_path)
    pd.testing.assert_frame_equal(read, store.frame(runs))
    run = read.iloc[0]
    assert run["accuracy"] == [[60.0], [None, 40.0]] and run["task_aware"] == [[70.0], [None, 1 / 3]]
    assert run["layers"] == {
        "violation": [{"blocks.0.attn.k": 0.25, "blocks.0.attn.v": 0.125}],
        "violation_step": [0.5],
        "danger": [pytest.approx(0.6)],
        "basis_rank": [{"blocks.0.attn": 3}, {"blocks.0.attn": 4}],
    }
    assert (run["variant"], run["stage"], run["violation.k"], run["seconds"]) == ("mine", "test", 0.3, 12.0)
    assert run["stream"] == whole()["stream"] and pd.isna(run["drift"]) and pd.isna(run["own_similarity"])
    runs = store.read(tmp_path, detail=False)
    assert "accuracy" not in runs and len(runs) == 2


def test_the_tables_are_long_and_name_tasks_from_one(tmp_path: Path) -> None:
    store_files.write([store.line(whole(), "group", "mine")], tmp_path)
    accuracy = pd.read_parquet(tmp_path / store_files.ACCURACY)
    rows = accuracy.drop(columns="run").fillna(-1).values.tolist()
    assert rows == [[1, 1, 60, 70], [2, 1, -1, -1], [2, 2, 40, 1 / 3]]
    layers = pd.read_parquet(tmp_path / store_files.LAYERS)
    violation = layers[layers["score"] == "violation"]
    assert set(violation["task"]) == {2}  # of two tasks the second one has a past
    assert list(layers[layers["score"] == "basis_rank"]["task"]) == [1, 2]
    assert set(accuracy["run"]) == set(layers["run"]) == {f"group/mine/{whole()['hash']}/feedfeed"}


def test_the_same_runs_make_the_same_bytes_in_whatever_order_they_come(tmp_path: Path) -> None:
    runs = [
        store.line(whole(seed, lr=lr), group, "mine")
        for seed in (0, 1)
        for lr in (0.1, 0.01)
        for group in ("a", "b")
    ]
    for name, found in (("one", runs), ("two", runs[::-1])):
        (tmp_path / name).mkdir()
        store_files.write(found, tmp_path / name)
    store_files.write(store_files.load(tmp_path / "one"), tmp_path / "two")  # and as they are read
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")
    # settings that the others do not have
    later = [store.line(whole(seed, method="ewc"), "a", "ewc") for seed in (0, 1)]
    store_files.write([*runs, *later], tmp_path / "one")
    assert hashes(tmp_path / "one") != hashes(tmp_path / "two")
    store_files.write([*later, *store_files.load(tmp_path / "two")], tmp_path / "two")
    assert hashes(tmp_path / "one") == hashes(tmp_path / "two")


def test_values_of_several_types_are_text(tmp_path: Path) -> None:
    line = store.line(whole(), "group")
    store_files.write([line | {"data.other": 1}, line | {"data.other": "all", "run": "another"}], tmp_path)
    assert set(store.read(tmp_path)["data.other"]) == {"1", "all"}


def test_the_text_beside_the_tables_shows_in_what_runs_differ(tmp_path: Path) -> None:
    store_files.write([store.line(whole(seed), "group", "mine") for seed in (0, 1)], tmp_path)
    header, *rows = (tmp_path / store_files.TEXT).read_text().splitlines()
    assert header.startswith("run,group,variant,stage,data.class_seed,training.seed,violation,")
    assert len(rows) == 2
    assert "data.tasks" not in header and ",0.1," in rows[0] and ",1.1," in rows[1]


def test_a_damaged_table_is_named(tmp_path: Path) -> None:
    store_files.write([store.line(whole(), "group")], tmp_path)
    for name in (store_files.RUNS, store_files.LAYERS):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
        with pytest.raises(JanusError, match=f"{store_files.RUNS}: not a readable table of results"):
            store.read(tmp_path)


# ── folders of runs ───────────────────────────────────────────────────────────────────────────────────────


def test_every_run_is_read_by_group_and_variant_and_nothing_else(results_folder: Path) -> None:
    runs = store.read(results_folder)
    assert runs.groupby(["group", "variant"], sort=False).size().to_dict() == {
        ("rows", "OE+GR"): 3,
        ("rows", "frozen"): 2,
        ("rows", "mine"): 1,
        ("tune", "OE+GR"): 2,
        ("tune", "frozen"): 1,
    }
    assert list(runs["training.seed"])[:3] == [0, 1, 2]  # and the paper's rows come first, in its order
    write_run(results_folder / "rows" / "seed=9", {})
    with pytest.raises(JanusError, match="seed=9"):
        store.read(results_folder)


@pytest.mark.parametrize("name", ["nothing", "file.json"])
def test_without_results_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=f"^no results in .*{name}: [^\n]*$"):
        store.read(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [{"violation": None}, {"stream": 3, "config": {}}, {"format": 1}, {"variant": None}, {"acc": "x"}],
)
def test_a_result_that_is_not_complete_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = write_run(tmp_path / "run", whole() | change)
    with pytest.raises(JanusError, match=f"^{folder}/result.json: [^\n]*run[^\n]* again$"):
        store.read(tmp_path)


def test_a_run_is_called_what_its_result_says_whatever_its_folder_is_called(tmp_path: Path) -> None:
    write_run(tmp_path / "grid" / "OE-GR__seed=0", whole(variant="mine"))
    assert store.read(tmp_path / "grid")[["group", "variant"]].values.tolist() == [[".", "mine"]]
    assert list(store.read(tmp_path)["group"]) == ["grid"]


def test_tables_stand_beside_folders_of_runs(tmp_path: Path) -> None:
    (tmp_path / "tables").mkdir()
    store_files.write([store.line(whole(), "rows", "mine")], tmp_path / "tables")
    write_run(tmp_path / "grid" / "run", whole(1))
    assert list(store.read(tmp_path)["group"]) == ["grid", "tables/rows"]


def test_a_run_that_is_there_twice_counts_once_and_one_of_other_weights_is_another(tmp_path: Path) -> None:
    for name, change in (("a", {}), ("b", {}), ("c", {"backbone": "beefbeef"})):
        write_run(tmp_path / name, whole() | change)
    with pytest.warns(UserWarning, match="there twice count once: .*b/result.json is .*a/result.json"):
        assert list(store.read(tmp_path)["fingerprint"]) == ["beefbeef", "feedfeed"]


# ── collecting ────────────────────────────────────────────────────────────────────────────────────────────


def test_collecting_adds_what_is_new_and_the_second_time_nothing(
    results_folder: Path, tmp_path: Path, capsys
) -> None:
    into = tmp_path / "tables"
    argv = ["report", "--collect", str(results_folder / "rows"), str(results_folder / "tune")]
    assert main([*argv, "--into", str(into)]) == 0
    assert capsys.readouterr().out == f"9 runs added to {into}, 0 known already, 0 refused\n"
    before = hashes(into)
    assert main([*argv, "--into", str(into)]) == 0 and hashes(into) == before
    assert capsys.readouterr().out == f"0 runs added to {into}, 9 known already, 0 refused\n"
    write_run(results_folder / "rows" / "new", result_values(9, variant="new"))
    # the groups are the same, by their folders
    assert store.collect([results_folder], into) == store.Collected(1, 9)
    pd.testing.assert_frame_equal(store.read(into), store.read(results_folder / "tables"))
    assert list(store.read(into).groupby("group").size()) == [7, 3]


def test_other_numbers_of_a_known_run_and_damaged_results_are_refused(tmp_path: Path, capsys) -> None:
    into, run = tmp_path / "tables", write_run(tmp_path / "grid" / "run", whole())
    assert store.collect([tmp_path / "grid"], into).added == 1
    before = hashes(into)
    (run / "result.json").write_text(json.dumps(whole() | {"acc": 99.0}))
    write_run(tmp_path / "grid" / "broken", {"accuracy": [], "config": {}})
    assert main(["report", "--collect", str(tmp_path / "grid"), "--into", str(into)]) == 1
    said = capsys.readouterr()
    assert "0 runs added" in said.out and "0 known already, 2 refused" in said.out and hashes(into) == before
    assert "with other numbers (acc 26.6667, not 99.0000)" in said.err
    assert "broken/result.json: result format None" in said.err


def test_tables_do_not_collect_themselves(tmp_path: Path) -> None:
    write_run(tmp_path / "grid" / "run", whole())
    for known in (0, 1):
        assert store.collect([tmp_path], tmp_path / "tables") == store.Collected(1 - known, known)
    assert list(store.read(tmp_path / "tables")["group"]) == ["grid"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["report"], "report takes folders of results"),
        (["report", "x", "--into", "y"], "--into goes with --collect"),
        (["report", "x", "--collect", "y"], "it goes with neither RESULTS nor --out"),
        (["report", "--collect", "nothing", "--into", "y"], "no results in nothing"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(
    argv: list[str], words: str, capsys, monkeypatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert words in (said := capsys.readouterr().err) and said.count("\n") == 1


def test_the_tables_of_an_installed_janus_are_left_alone(tmp_path: Path, capsys, monkeypatch) -> None:
    write_run(tmp_path / "run", whole())
    monkeypatch.setattr(assets, "PACKAGE", tmp_path)
    monkeypatch.setattr(assets, "RESULTS", (tmp_path,))
    assert main(["report", "--collect", str(tmp_path)]) == 2
    assert "--collect needs --into DIR here" in capsys.readouterr().err


# ── the committed tables ──────────────────────────────────────────────────────────────────────────────────


def test_the_committed_tables_are_as_written_now_and_small(tmp_path: Path) -> None:
    committed = assets.results()
    assert sum(path.stat().st_size for path in committed.rglob("*") if path.is_file()) < 4e6
    store_files.write(store_files.load(committed), tmp_path)
    assert (tmp_path / store_files.TEXT).read_bytes() == (committed / store_files.TEXT).read_bytes()
    for name in (store_files.RUNS, store_files.ACCURACY, store_files.LAYERS):
        made, there = (parquet.ParquetFile(folder / name) for folder in (tmp_path, committed))
        assert made.read().equals(there.read())
        if made.metadata.created_by == there.metadata.created_by:  # another pyarrow may write other bytes
            assert (tmp_path / name).read_bytes() == (committed / name).read_bytes()


def test_pandas_is_not_imported_before_it_is_needed() -> None:
    code = "import sys, janus, janus.__main__; print('pandas' in sys.modules, 'pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout == "False False\n", done.stderr
