"""Reading and comparing results: nothing that is in a folder is lost or invented, and seeds are compared with themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
from made_results import results

from janus import compare
from janus.errors import JanusError

ROWS = results({"LoRA": {0: 20.0, 1: 24.0}, "OE+GR": {0: 22.0, 1: 27.0, 2: 25.0}, "frozen": {0: 21.0, 1: 24.0}})


def test_every_run_is_read_by_group_and_row_and_nothing_else(results_folder: Path) -> None:
    groups = compare.read(results_folder)
    assert {group: {row: len(runs) for row, runs in rows.items()} for group, rows in groups.items()} == {
        "rows": {"OE+GR": 3, "frozen": 2, "mine": 1}, "tune": {"OE+GR": 2, "frozen": 1}}
    assert [run.config["training"]["seed"] for run in groups["rows"]["OE+GR"]] == [0, 1, 2]
    (results_folder / "rows" / "OE-GR__seed=9.json").write_text("{")
    with pytest.raises(JanusError, match="seed=9"):
        compare.read(results_folder)


@pytest.mark.parametrize("name", ["nothing", "file.json"])
def test_without_results_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(JanusError, match=f"^no results in .*{name}: [^\n]*$"):
        compare.read(tmp_path / name)


def test_a_curve_weighs_test_images_and_its_mean_is_maa(results_folder: Path) -> None:
    run = compare.read(results_folder)["rows"]["OE+GR"][0]
    assert compare.curve(run) == pytest.approx([60.0, (4 * 20 + 2 * 40) / 6])
    assert fmean(compare.curve(run)) == pytest.approx(run.maa)


def test_numbers_that_would_round_to_zero_keep_their_size() -> None:
    assert [compare.number(v, 2) for v in (5e-8, 0.0, 0.126, None)] == ["5e-08", "0.00", "0.13", "—"]
    assert compare.spread([1e-9, 3e-9], 2) == "2e-09" and compare.spread([None]) == "—"


def test_one_task_has_neither_bwt_nor_maa(results_folder: Path) -> None:
    run = compare.read(results_folder)["rows"]["frozen"][0]
    alone = replace(run, accuracy=[[60.0]], bwt=None)
    assert compare.values([run, alone], "maa") == [run.maa] and compare.values([alone], "bwt") == []
    assert [compare.score(run, key) for key in ("violation", "past_output_norm", "danger")] == [0.25, 0.1, 0.6]


def test_rows_are_compared_at_the_same_seed() -> None:
    assert compare.paired(ROWS, "frozen", "OE+GR") == {(0, 0): 1.0, (1, 1): 3.0}  # seed 2 has no floor
    assert compare.paired(ROWS, "OE+GR", "frozen", "maa") == {(0, 0): -1.0, (1, 1): -3.0}
    assert compare.paired(ROWS, "frozen", "GPM") == {}


def test_the_rank_correlation_gets_gains_over_the_floor() -> None:
    assert compare.order(ROWS, "acc") == (["LoRA", "OE+GR"], [64.24, 74.39], [-0.5, 2.0])


def test_the_interval_is_students() -> None:
    pytest.importorskip("scipy")
    assert compare.interval([1.0, 3.0, 2.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t of two degrees of freedom, s = 1
    assert compare.interval([1.0]) != compare.interval([1.0])  # NaN: one seed says nothing


def test_runs_of_different_protocols_come_into_different_tables() -> None:
    five, ten = results({"LoRA": {0: 20.0}, "frozen": {0: 18.0}}, tasks=5), results({"LoRA": {0: 15.0, 1: 16.0}}, tasks=10)
    found = compare.by_protocol({row: [*five.get(row, ()), *ten.get(row, ())] for row in ("LoRA", "frozen")})
    assert {title: {row: len(runs) for row, runs in rows.items()} for title, rows in found.items()} == {
        "tasks=5": {"LoRA": 1, "frozen": 1}, "tasks=10": {"LoRA": 2}}


def test_weights_of_one_name_that_differ_come_into_different_tables() -> None:
    a, b, old = results({"LoRA": {0: 20.0, 1: 21.0, 2: 22.0}}, model="photos-vit", weights="photos-vit.safetensors")["LoRA"]
    rows = {"LoRA": [replace(a, backbone="aaaa"), replace(b, backbone="bbbb")]}
    assert list(compare.by_protocol(rows)) == ["backbone=aaaa", "backbone=bbbb"]
    known = {"LoRA": [replace(a, backbone="aaaa"), replace(b, backbone="aaaa"), old]}  # the last one is older than fingerprints
    assert {title: len(found["LoRA"]) for title, found in compare.by_protocol(known).items()} == {"": 3}


def test_images_of_one_name_that_differ_come_into_different_tables() -> None:
    a, b, c = results({"LoRA": {0: 20.0, 1: 21.0, 2: 22.0}}, dataset="imagenet-100", data={"class_list": "own"})["LoRA"]
    same = [replace(run, stream=run.stream | {"class_names": names}) for run, names in ((a, ["cat", "dog"]), (b, ["dog", "cat"]))]
    assert len(compare.by_protocol({"LoRA": same})) == 1  # another order of the same classes
    other = replace(c, stream=c.stream | {"class_names": ["cat", "cow"]})
    found = compare.by_protocol({"LoRA": [*same, other]})
    assert [len(rows["LoRA"]) for rows in found.values()] == [2, 1] and all(title.startswith("images=") for title in found)
    stray = [a, replace(b, stream=b.stream | {"notes": ["1 files without an image extension ignored"]})]
    assert len(compare.by_protocol({"LoRA": stray})) == 1
    split = [replace(run, stream=run.stream | {"notes": [note]}) for run, note in ((a, "no split"), (b, "a list (sha256 a1b2)"))]
    assert len(compare.by_protocol({"LoRA": split})) == 2


def test_rows_are_compared_at_the_same_class_order() -> None:
    rows = {row: [*results({row: {0: first}}, class_seed=0)[row], *results({row: {0: second}}, class_seed=7)[row]]
            for row, first, second in (("frozen", 20.0, 44.0), ("LoRA", 21.0, 46.0))}
    assert compare.paired(rows, "frozen", "LoRA") == {(0, 0): 1.0, (0, 7): 2.0}


def test_a_run_older_than_fingerprints_is_taken_for_its_own_protocols() -> None:
    ten, old = results({"LoRA": {0: 20.0, 1: 21.0}}, tasks=10)["LoRA"]
    twenty = results({"LoRA": {0: 15.0}}, tasks=20)["LoRA"][0]
    rows = {"LoRA": [replace(ten, backbone="aaaa"), old, replace(twenty, backbone="bbbb")]}
    assert [len(found["LoRA"]) for found in compare.by_protocol(rows).values()] == [2, 1]


def test_titles_say_nothing_of_a_backbone_that_is_the_same_as_far_as_anybody_knows() -> None:
    older = results({"LoRA": {0: 20.0, 1: 21.0}}, tasks=10)["LoRA"]  # than fingerprints, as all of its protocol
    twenty = replace(results({"LoRA": {0: 15.0}}, tasks=20)["LoRA"][0], backbone="aaaa")
    assert list(compare.by_protocol({"LoRA": [*older, twenty]})) == ["tasks=10", "tasks=20"]
    five = replace(results({"LoRA": {0: 30.0}}, tasks=5)["LoRA"][0], backbone="bbbb")  # two that differ: nobody knows
    assert list(compare.by_protocol({"LoRA": [*older, twenty, five]})) == [
        "tasks=10, backbone=None", "tasks=20, backbone=aaaa", "tasks=5, backbone=bbbb"]


def test_runs_of_one_row_with_other_settings_are_other_rows() -> None:
    slow, fast = results({"LoRA": {0: 20.0, 1: 21.0}}, lr=1e-4)["LoRA"], results({"LoRA": {0: 15.0}}, lr=1e-2)["LoRA"]
    assert {row: len(runs) for row, runs in compare.by_protocol({"LoRA": slow + fast})[""].items()} == {
        "LoRA, lr=0.0001": 2, "LoRA, lr=0.01": 1}


def test_folders_of_runs_are_read_by_their_names(results_folder: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        folder = tmp_path / "grid" / f"OE-GR__tasks=2__seed={seed}"
        folder.mkdir(parents=True)
        (results_folder / "rows" / f"OE-GR__seed={seed}.json").rename(folder / "result.json")
    (folder / "failed.json").write_text('{"error": "no"}')
    assert {row: len(runs) for row, runs in compare.read(tmp_path / "grid")["."].items()} == {"OE+GR": 2}


def test_a_run_that_is_there_twice_counts_once(results_folder: Path) -> None:
    rows = results_folder / "rows"
    (rows / "OE-GR__tasks=2__seed=0.json").write_bytes((rows / "OE-GR__seed=0.json").read_bytes())
    with pytest.warns(UserWarning, match="there twice count once: .*OE-GR__tasks=2__seed=0.json is .*OE-GR__seed=0.json"):
        found = compare.read(rows)["."]["OE+GR"]
    assert len(found) == len({run.hash for run in found}) == 3


def test_a_copy_that_is_older_than_fingerprints_is_no_seed_and_other_weights_are(results_folder: Path) -> None:
    rows, values = results_folder / "rows", json.loads((results_folder / "rows" / "mine__seed=0.json").read_text())
    (rows / "mine__new.json").write_text(json.dumps(values | {"backbone": "aaaa"}))
    with pytest.warns(UserWarning, match="there twice count once"):
        assert len(compare.read(rows)["."]["mine"]) == 1
    (rows / "mine__seed=0.json").write_text(json.dumps(values | {"backbone": "bbbb"}))
    assert len(compare.read(rows)["."]["mine"]) == 2
