"""Comparing runs: what does not belong together is not averaged, and seeds are compared with themselves."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import pytest
from helpers.made_results import frame, result_values, results

from janus.bench import store
from janus.report import compare

ROWS = results(
    {"LoRA": {0: 20.0, 1: 24.0}, "OE+GR": {0: 22.0, 1: 27.0, 2: 25.0}, "frozen": {0: 21.0, 1: 24.0}}
)


def counts(tables: dict[str, pd.DataFrame]) -> dict[str, dict[str, int]]:
    return {title: runs["variant"].value_counts(sort=False).to_dict() for title, runs in tables.items()}


def runs(*changes: dict[str, Any], **config: Any) -> pd.DataFrame:
    """Runs of LoRA, one a seed, each with some values of its result replaced."""
    return frame({"LoRA": [result_values(seed, **config) | change for seed, change in enumerate(changes)]})


def test_a_curve_weighs_test_images_and_its_mean_is_maa(results_folder: Path) -> None:
    run = store.read(results_folder / "rows").iloc[0]
    assert (run["variant"], run["training.seed"]) == ("OE+GR", 0)
    assert compare.curve(run) == pytest.approx([60.0, (4 * 20 + 2 * 40) / 6])
    assert fmean(compare.curve(run)) == pytest.approx(run["maa"])


def test_rows_are_picked_in_the_order_asked_for() -> None:
    assert list(compare.by_variant(compare.pick(ROWS, ["frozen", "GPM", "LoRA"]))) == ["frozen", "LoRA"]
    assert list(compare.by_variant(ROWS)["LoRA"]["acc"]) == [20.0, 24.0]


def test_numbers_that_would_round_to_zero_keep_their_size() -> None:
    assert [compare.number(v, 2) for v in (5e-8, 0.0, 0.126, None)] == ["5e-08", "0.00", "0.13", "—"]
    assert compare.spread([1e-9, 3e-9], 2) == "2e-09" and compare.spread([None]) == "—"


def test_one_task_has_neither_bwt_nor_maa() -> None:
    both = results({"joint": {0: 40.0}, "frozen": {0: 15.0}})
    assert compare.values(both, "joint", "maa") == compare.values(both, "joint", "bwt") == []
    assert compare.values(both, "frozen", "maa") == [20.0]
    keys = ("violation", "past_output_norm", "danger")
    assert [compare.values(both, "frozen", key) for key in keys] == [[0.25], [0.1], [0.6]]


def test_rows_are_compared_at_the_same_seed() -> None:
    # seed 2 has no floor
    assert compare.paired(ROWS, "frozen", "OE+GR").to_dict() == {(0, 0): 1.0, (1, 1): 3.0}
    assert compare.paired(ROWS, "OE+GR", "frozen", "maa").to_dict() == {(0, 0): -1.0, (1, 1): -3.0}
    assert compare.paired(ROWS, "frozen", "GPM").empty


def test_rows_are_compared_at_the_same_class_order() -> None:
    rows = frame(
        {
            row: [result_values(0, last, class_seed=order) for order, last in ((0, first), (7, second))]
            for row, first, second in (("frozen", 20.0, 44.0), ("LoRA", 23.0, 50.0))
        }
    )
    assert compare.paired(rows, "frozen", "LoRA").to_dict() == pytest.approx({(0, 0): 2.0, (0, 7): 4.0})


def test_the_rank_correlation_gets_gains_over_the_floor() -> None:
    assert compare.order(ROWS, "acc") == (["LoRA", "OE+GR"], [64.24, 74.39], [-0.5, 2.0])


def test_the_interval_is_students() -> None:
    pytest.importorskip("scipy")
    # t of two degrees of freedom, s = 1
    assert compare.interval([1.0, 3.0, 2.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-5)
    assert compare.interval([1.0]) != compare.interval([1.0])  # NaN: one seed says nothing


def test_runs_of_different_protocols_come_into_different_tables() -> None:
    five = results({"LoRA": {0: 20.0}, "frozen": {0: 18.0}}, tasks=5)
    ten = results({"LoRA": {0: 15.0, 1: 16.0}}, tasks=10)
    assert counts(compare.by_protocol(pd.concat([five, ten]))) == {
        "tasks=5": {"LoRA": 1, "frozen": 1},
        "tasks=10": {"LoRA": 2},
    }


def test_options_of_the_data_tell_tables_apart() -> None:
    half, full = (results({"LoRA": {0: 20.0}}, data={"strength": strength}) for strength in (0.5, 1.0))
    assert counts(compare.by_protocol(pd.concat([half, full]))) == {
        "strength=0.5": {"LoRA": 1},
        "strength=—": {"LoRA": 1},
    }


def test_weights_of_one_name_that_differ_come_into_different_tables() -> None:
    photos = {"model": "vit_small_patch14_dinov2", "weights": "mine.safetensors"}
    found = compare.by_protocol(runs({"backbone": "aaaa"}, {"backbone": "bbbb"}, **photos))
    assert list(found) == ["backbone=aaaa", "backbone=bbbb"]
    # the last one is older than fingerprints
    known = runs({"backbone": "aaaa"}, {"backbone": "aaaa"}, {}, **photos)
    assert counts(compare.by_protocol(known)) == {"": {"LoRA": 3}}


def test_images_of_one_name_that_differ_come_into_different_tables() -> None:
    data = {"dataset": "imagenet-100", "data": {"class_list": "own"}}
    stream = result_values(**data)["stream"]
    same = [{"stream": stream | {"class_names": names}} for names in (["cat", "dog"], ["dog", "cat"])]
    assert len(compare.by_protocol(runs(*same, **data))) == 1  # another order of the same classes
    found = compare.by_protocol(runs(*same, {"stream": stream | {"class_names": ["cat", "cow"]}}, **data))
    assert [len(table) for table in found.values()] == [2, 1]
    assert all(title.startswith("images=") for title in found)
    stray = {"stream": stream | {"notes": ["1 files without an image extension ignored"]}}
    assert len(compare.by_protocol(runs({}, stray, **data))) == 1
    split = [{"stream": stream | {"notes": [note]}} for note in ("no split", "a list (sha256 a1b2)")]
    assert len(compare.by_protocol(runs(*split, **data))) == 2


def test_a_run_older_than_fingerprints_is_taken_for_its_own_protocols() -> None:
    ten, twenty = runs({"backbone": "aaaa"}, {}, tasks=10), runs({"backbone": "bbbb"}, tasks=20)
    assert [len(table) for table in compare.by_protocol(pd.concat([ten, twenty])).values()] == [2, 1]


def test_titles_say_nothing_of_a_backbone_that_is_the_same_as_far_as_anybody_knows() -> None:
    older = runs({}, {}, tasks=10)  # than fingerprints, as all of its protocol
    twenty, five = runs({"backbone": "aaaa"}, tasks=20), runs({"backbone": "bbbb"}, tasks=5)
    assert list(compare.by_protocol(pd.concat([older, twenty]))) == ["tasks=10", "tasks=20"]
    assert list(compare.by_protocol(pd.concat([older, twenty, five]))) == [  # two that differ: nobody knows
        "tasks=10, backbone=None",
        "tasks=20, backbone=aaaa",
        "tasks=5, backbone=bbbb",
    ]


def test_runs_of_one_row_with_other_settings_are_other_rows() -> None:
    slow, fast = results({"LoRA": {0: 20.0, 1: 21.0}}, lr=1e-4), results({"LoRA": {0: 15.0}}, lr=1e-2)
    assert counts(compare.by_protocol(pd.concat([slow, fast]))) == {
        "": {"LoRA, lr=0.0001": 2, "LoRA, lr=0.01": 1}
    }


def test_a_setting_has_its_full_path_where_its_name_is_not_unique() -> None:
    rates = [
        frame({"SLCA": [result_values(0, method="slca", lr=lr, **{"classifier.lr": own})]})
        for lr, own in ((0.1, 0.2), (0.3, 0.4))
    ]
    assert counts(compare.by_protocol(pd.concat(rates))) == {
        "": {"SLCA, training.lr=0.1, classifier.lr=0.2": 1, "SLCA, training.lr=0.3, classifier.lr=0.4": 1}
    }
