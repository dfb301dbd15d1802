"""Tables and figures over results: their numbers are the files', and nothing that is in a folder is lost or invented."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from PIL import Image

from janus.config import Config
from janus.errors import JanusError
from janus.plots import tables


def values(seed: int = 0, last: float = 20.0, method: str = "janus", **config: Any) -> dict[str, Any]:
    """A result.json of two tasks: 60 % on the first one, then `last` and 40 %."""
    accuracy = [[60.0], [last, 40.0]]
    full = Config.create(method=method, tasks=2, seed=seed, **config)
    return {
        "config": full.to_dict(), "hash": full.hash(), "acc": (2 * last + 40) / 3, "maa": (60 + (2 * last + 40) / 3) / 2,
        "bwt": last - 60, "forgetting": 60 - last, "learning_acc": 50.0, "acc_task_mean": (last + 40) / 2, "task_aware_acc": 70.0,
        "accuracy": accuracy, "task_aware": accuracy, "violation": {"tasks": [{"blocks.0.attn.k": 0.25}], "mean": {"all": 0.25}},
        "violation_step": {"tasks": [], "mean": None}, "past_output_norm": {"tasks": [], "mean": {"all": 0.1}}, "drift": 0.5,
        "danger": {"tasks": [0.6], "mean": 0.6}, "basis_rank": [], "seconds": {"train": 8.0, "eval": 3.0, "oe": 1.0, "gr": 2.0},
        "stream": {"evaluate": full.evaluate, "tasks": [{"train": 9, "val": 2, "test": 4}, {"train": 9, "val": 2, "test": 2}]},
        "versions": {"torch": "9.9", "timm": "1.1"}, "hardware": {"card": None, "cpu": "Abacus", "threads": 3},
        "date": f"2026-01-0{seed + 1}T10:00:00+00:00", "format": 1,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {f"rows/OE-GR__seed={seed}": values(seed, last) for seed, last in ((1, 30.0), (0, 20.0), (2, 10.0))}
    files |= {f"rows/frozen__seed={seed}": values(seed, 15.0, "frozen") for seed in (0, 1)}
    files |= {f"rows/mine__seed={seed}": values(seed) for seed in (0,)}  # a row that no table knows
    files |= {f"tune/OE-GR__lr={lr:g}": values(7, last, lr=lr, evaluate="val") for lr, last in ((1e-3, 25.0), (1e-4, 5.0))}
    files |= {"tune/frozen__head_lr=0.01": values(7, 12.0, "frozen", head_lr=0.01, evaluate="val")}
    files |= {"step_cost": {"cases": []}, "probe": [1, 2]}
    for name, content in files.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


def column(table: tables.Table, name: str) -> list[str]:
    return [str(row[list(table.header).index(name)]) for row in table.rows]


def test_every_run_is_read_by_group_and_row_and_nothing_else(folder: Path) -> None:
    groups = tables.read(folder)
    assert {group: {row: len(runs) for row, runs in rows.items()} for group, rows in groups.items()} == {
        "rows": {"OE+GR": 3, "frozen": 2, "mine": 1}, "tune": {"OE+GR": 2, "frozen": 1}}
    assert [run.config["seed"] for run in groups["rows"]["OE+GR"]] == [0, 1, 2]
    (folder / "rows" / "OE-GR__seed=9.json").write_text("{")
    with pytest.raises(JanusError, match="seed=9"):
        tables.read(folder)


@pytest.mark.parametrize("name", ["nothing", "file.json"])
def test_without_results_there_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(JanusError, match=f"^no results in .*{name}: [^\n]*$"):
        tables.read(tmp_path / name)


def test_a_curve_weighs_test_images_and_its_mean_is_maa(folder: Path) -> None:
    run = tables.read(folder)["rows"]["OE+GR"][0]
    assert tables.curve(run) == pytest.approx([60.0, (4 * 20 + 2 * 40) / 6])
    assert fmean(tables.curve(run)) == pytest.approx(run.maa)


def test_overview_has_mean_spread_seeds_and_the_papers_values_apart(folder: Path) -> None:
    table = tables.overview(tables.read(folder)["rows"])
    accs = [(2 * last + 40) / 3 for last in (20, 30, 10)]
    assert column(table, "row") == ["OE+GR", "frozen", "mine"] and column(table, "seeds") == ["3", "2", "1"]
    assert column(table, "ACC")[0] == f"{fmean(accs):.1f} ± {stdev(accs):.1f}" and "±" not in column(table, "ACC")[2]
    assert column(table, table.header[-1]) == ["74.39 / 80.47 / -4.43", "", ""] and "the paper's" in table.header[-1]
    assert "| OE+GR | 3 |" in table._repr_mimebundle_()["text/markdown"]


def test_numbers_that_would_round_to_zero_keep_their_size() -> None:
    assert [tables.number(v, 2) for v in (5e-8, 0.0, 0.126, None)] == ["5e-08", "0.00", "0.13", "—"]
    assert tables.spread([1e-9, 3e-9], 2) == "2e-09" and tables.spread([None]) == "—"


def test_rows_are_compared_at_the_same_seed(folder: Path) -> None:
    rows = tables.read(folder)["rows"]
    assert tables.paired(rows, "OE+GR") == pytest.approx({0: 10 / 3, 1: 10.0})  # seed 2 has no floor
    traces = [t for t in tables.above(rows).plotly.data if t.name == "OE+GR"]
    assert list(traces[0].x) == pytest.approx([10 / 3, 10.0])


def test_trajectories_show_means_seeds_and_labels(folder: Path) -> None:
    figure = tables.trajectories(tables.read(folder)["rows"])
    lines = {t.name: t for t in figure.plotly.data if t.yaxis == "y"}
    assert list(lines["OE+GR"].y) == pytest.approx([60.0, 80 / 3])
    assert list(lines["OE+GR, seed 1"].y) == pytest.approx([60.0, 100 / 3])
    assert {"OE+GR", "frozen", "mine"} <= {note.text for note in figure.plotly.layout.annotations}
    assert "OE+GR 26.7" in figure.alt


def test_cost_adds_up(folder: Path) -> None:
    rows = tables.read(folder)["rows"]
    bars = [t for t in tables.accuracy_over_cost(rows).plotly.data if t.type == "bar"]
    assert sum(t.x[list(t.y).index("OE+GR")] for t in bars) == pytest.approx(12.0)  # GR is a part of training
    assert column(tables.seconds_table(rows), "together")[2] == "12.0"


def test_rates_have_a_curve_a_row_and_a_line_for_the_floor(folder: Path) -> None:
    tune = tables.read(folder)["tune"]
    figure = tables.rates(tune)
    (line,) = [t for t in figure.plotly.data if t.name == "OE+GR"]
    assert list(line.x) == [1e-4, 1e-3] and list(line.y) == pytest.approx([50 / 3, 30.0])
    assert figure.plotly.layout.shapes[0].y0 == pytest.approx(64 / 3)
    assert tables.rate_table(tune).rows[0] == ["OE+GR", "16.7", "**30.0**", "—"]


def test_step_cost_shows_median_and_quarter_points() -> None:
    case = {"model": "m", "batch": 4, "variants": {"peft": {"ratio": 1.0, "low": 1.0, "high": 1.0, "ms": 10.0},
                                                   "exact": {"ratio": 0.9, "low": 0.8, "high": 1.2, "ms": 9.0}}}
    (trace,) = tables.step_cost({"cases": [case]}).plotly.data
    assert list(trace.x) == [1.0, 0.9] and list(trace.error_x.array) == pytest.approx([0.0, 0.3])
    assert tables.step_table({"cases": [case]}).rows[1][2:4] == ["0.90", "0.80 … 1.20"]


def test_provenance_names_machine_seeds_and_dates(folder: Path) -> None:
    row = tables.provenance(tables.read(folder)).rows[0]
    assert row[:2] == ["rows", 6] and row[3] == "0; 1; 2"
    assert row[4] == "Abacus, 3 thread(s)" and row[-1] == "2026-01-01 … 2026-01-03"


def test_one_run_in_two_tables(folder: Path) -> None:
    run = tables.read(folder)["rows"]["mine"][0]
    assert dict(zip(column(tables.scores(run), "score"), column(tables.scores(run), "value")))["BWT"] == "-40.0"
    assert column(tables.parts(run), "part") == ["train", "eval", "oe", "gr"]


def test_predictions_stand_below_their_image_with_the_truth() -> None:
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    answers = [[("rose", 0.75), ("sky", 0.25)], [("rose", 0.6), ("sky", 0.4)]]
    figure = tables.predictions(images, answers, ["rose", "sky"])
    texts = [note.text for note in figure.plotly.layout.annotations]
    assert "✓ <b>rose  0.75</b>" in texts[0] and "✗ rose  0.60" in texts[1] and "<i>sky</i>" in texts[1]
    assert len(figure.plotly.layout.images) == 2 and "sky: rose 0.60" in figure.alt
