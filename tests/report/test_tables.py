"""Tables and figures over results: their numbers are the files'."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

import pandas as pd
import pytest
from helpers.made_results import frame, result_values, results
from PIL import Image

from janus import plots
from janus.bench import store
from janus.report import tables
from janus.runtime.result import Result


def in_group(folder: Path, group: str) -> pd.DataFrame:
    runs = store.read(folder)
    return runs[runs["group"] == group]


def column(table: tables.Table, name: str) -> list[str]:
    return [str(row[list(table.header).index(name)]) for row in table.rows]


def test_overview_has_mean_spread_seeds_and_the_papers_values_apart(results_folder: Path) -> None:
    table = tables.overview(in_group(results_folder, "rows"))
    accs = [(2 * last + 40) / 3 for last in (20, 30, 10)]
    assert column(table, "row") == ["OE+GR", "frozen", "mine"] and column(table, "seeds") == ["3", "2", "1"]
    assert column(table, "ACC")[0] == f"**{fmean(accs):.1f} ± {stdev(accs):.1f}**"
    assert "±" not in column(table, "ACC")[2]
    assert "**" not in column(table, "ACC")[1]  # the best alone is bold
    assert not any("paper" in name for name in table.header)  # it has no stream of two tasks
    assert "| OE+GR | 3 |" in table._repr_mimebundle_()["text/markdown"]


def test_plain_tables_are_aligned() -> None:
    table = tables.Table(["name", "n", "what"], [["a", 10, "long text"], ["longer", "—", ""]])
    assert table.plain() == "name    n   what\na       10  long text\nlonger  —"


def test_the_papers_values_are_of_the_same_number_of_tasks_and_say_whose_they_are() -> None:
    for tasks, value in ((10, "74.39 / 80.47 / -4.43"), (20, "")):
        rows = results({"OE+GR": {0: 20.0}, "GPM": {0: 19.0}, "frozen": {0: 18.0}}, tasks=tasks)
        table = tables.overview(rows)
        assert table.header[-1] == f"the paper's, ImageNet-R, T={tasks}: ACC / MAA / BWT"
        assert column(table, table.header[-1])[0] == value and column(table, table.header[-1])[2] == ""


@pytest.mark.parametrize(
    ("config", "label", "value"),
    [
        ({"epochs": 1}, "ImageNet-R, T=10, one epoch", "38.79 / 42.48 / -5.36"),
        ({"epochs": 1, "dataset": "cifar-100"}, "CIFAR-100, T=10, one epoch", "74.84 / 83.30 / -7.70"),
        # the strength that it has anyway
        ({"data": {"strength": 1.0}}, "ImageNet-R, T=10", "71.56 / 79.34 / -10.95"),
        ({"evaluate": "val"}, None, None),
        ({"per_class": 5}, None, None),
        ({"data": {"strength": 0.5}}, None, None),
        ({"data": {"vocabulary": True}}, None, None),
        ({"dataset": "some/folder"}, None, None),
    ],
)
def test_the_papers_values_stand_beside_runs_of_their_kind_only(
    config: dict, label: str | None, value: str | None
) -> None:
    table = tables.overview(results({"GPM": {0: 19.0}, "frozen": {0: 18.0}}, tasks=10, **config))
    if label is None:
        assert not any("paper" in name for name in table.header)
    else:
        assert table.header[-1] == f"the paper's, {label}: ACC / MAA / BWT"
        assert column(table, table.header[-1]) == [value, ""]


def test_gr_on_another_methods_basis_stands_beside_figure_6() -> None:
    table = tables.overview(results({"GPM": {0: 19.0}, "GPM+GR": {0: 18.0}}, tasks=10))
    assert table.header[-1] == "the paper's, ImageNet-R, T=10, figure 6: ACC / MAA / BWT"
    assert column(table, table.header[-1]) == ["71.89 / 79.82 / -11.48", "74.14 / 80.12 / -4.55"]
    more = tables.overview(results({"GPM": {0: 19.0}, "GPM+GR": {0: 18.0}, "InfLoRA": {0: 17.0}}, tasks=10))
    # table 2 has more of these
    assert column(more, more.header[-1]) == ["71.56 / 79.34 / -10.95", "", "73.90 / 80.01 / -6.33"]


def test_joint_does_not_compete_for_the_best() -> None:
    table = tables.overview(results({"LoRA": {0: 20.0}, "joint": {0: 40.0}}))
    assert column(table, "ACC") == ["**20.0**", "40.0"] and column(table, "MAA")[1] == "—"


def test_tables_are_written_for_every_page() -> None:
    table = tables.Table(["row", "a_b"], [["x & y", "**1 ± 2**"], ["<z>", "50 %"]])
    assert str(table).splitlines()[2] == "| x & y | **1 ± 2** |"
    assert "<td>x &amp; y</td><td><b>1 ± 2</b></td>" in table.html() and "<td>&lt;z&gt;</td>" in table.html()
    assert r"x \& y & \textbf{1 $\pm$ 2} \\" in table.tex()
    assert r"a\_b" in table.tex() and r"50 \%" in table.tex()


def test_differences_are_of_the_same_seed(results_folder: Path) -> None:
    rows = in_group(results_folder, "rows")
    figure = plots.differences(rows, [("frozen", "OE+GR"), ("frozen", "absent")])
    seeds, mean = figure.plotly.data
    half = 12.706 * (10 - 10 / 3) / 2  # Student, one degree of freedom: t · s / √2, s = |difference| / √2
    assert list(seeds.x) == pytest.approx([10 / 3, 10.0]) and mean.x[0] == pytest.approx(20 / 3)
    assert mean.error_x.array[0] == pytest.approx(half, rel=1e-4) and "Clear of zero: none" in figure.alt
    assert tables.difference_table(rows, [("frozen", "OE+GR")]).rows == [
        ["frozen → OE+GR", "+3.3, +10.0", f"+6.7 ± {half:.1f}"]
    ]


def test_trajectories_show_means_seeds_and_labels(results_folder: Path) -> None:
    figure = plots.trajectories(in_group(results_folder, "rows"))
    lines = {t.name: t for t in figure.plotly.data if t.yaxis == "y"}
    assert list(lines["OE+GR"].y) == pytest.approx([60.0, 80 / 3])
    assert list(lines["OE+GR, seed 1"].y) == pytest.approx([60.0, 100 / 3])
    assert {"OE+GR", "frozen", "mine"} <= {note.text for note in figure.plotly.layout.annotations}
    assert "OE+GR 26.7" in figure.alt


def test_capacity_shows_mean_ranks_and_gains_over_the_floor_in_the_same_seed() -> None:
    grown = {"basis_rank": [{"a": 2, "b": 4}, {"a": 5, "b": 7}]}
    lasts = {"exact": [(0, 20.0), (1, 35.0)], "frozen": [(0, 14.0), (1, 20.0), (2, 0.0)]}
    rows = {}
    for row, found in lasts.items():
        rows[row] = [result_values(seed, last) | grown for seed, last in found]
    figure = plots.capacity(frame(rows))
    shown = {(line.name, line.yaxis): list(line.y) for line in figure.plotly.data}
    assert shown["exact", "y"] == [3.0, 6.0] and ("frozen", "y") not in shown
    assert shown["exact, seed 0", "y2"] == pytest.approx([0, 4])
    assert shown["exact", "y2"] == pytest.approx([0, 7])
    assert "exact rank 6, +7.0 points" in figure.alt


def test_cost_adds_up(results_folder: Path) -> None:
    rows = in_group(results_folder, "rows")
    bars = [t for t in plots.accuracy_over_cost(rows).plotly.data if t.type == "bar"]
    assert sum(t.x[list(t.y).index("OE+GR")] for t in bars) == pytest.approx(12.0)  # GR is a part of training
    assert column(tables.seconds_table(rows), "together")[2] == "12.0"
    assert "of it waiting for data" not in tables.seconds_table(rows).header  # results older than that clock
    waited = rows.assign(**{"seconds.data": 0.5})
    assert column(tables.seconds_table(waited), "of it waiting for data") == ["0.5 ± 0.0", "0.5 ± 0.0", "0.5"]


def test_rates_have_a_curve_a_row_and_a_line_for_the_floor(results_folder: Path) -> None:
    tune = in_group(results_folder, "tune")
    figure = plots.rates(tune)
    (line,) = [t for t in figure.plotly.data if t.name == "OE+GR"]
    assert list(line.x) == [1e-4, 1e-3] and list(line.y) == pytest.approx([50 / 3, 30.0])
    assert figure.plotly.layout.shapes[0].y0 == pytest.approx(64 / 3)
    assert tables.rate_table(tune).rows[0] == ["OE+GR", "16.7", "**30.0**", "—"]


def test_step_cost_shows_median_and_quarter_points() -> None:
    case = {
        "model": "m",
        "batch": 4,
        "threads": 2,
        "variants": {
            "peft": {"ratio": 1.0, "low": 1.0, "high": 1.0, "ms": 10.0},
            "exact": {"ratio": 0.9, "low": 0.8, "high": 1.2, "ms": 9.0},
        },
    }
    figure = plots.step_cost(
        {"cases": [case], "hardware": {"card": None, "cpu": "Abacus"}, "versions": {"torch": "9.9"}}
    )
    (trace,) = figure.plotly.data
    assert list(trace.x) == [1.0, 0.9] and list(trace.error_x.array) == pytest.approx([0.0, 0.3])
    assert "Abacus, torch 9.9" in figure.plotly.layout.title.text
    half = case | {"amp": True}
    assert [row[0] for row in tables.step_table({"cases": [case, half]}).rows] == [
        "m, 4, 2",
        "m, 4, 2, half precision",
    ]
    assert tables.step_table({"cases": [case]}).rows == [
        ["m, 4, 2", "1.00 (1.00 … 1.00)", "0.90 (0.80 … 1.20)"]
    ]


def test_provenance_names_machine_seeds_and_dates(results_folder: Path) -> None:
    row = tables.provenance(store.read(results_folder)).rows[0]
    assert row[:2] == ["rows", 6] and row[3] == "0; 1; 2"
    assert row[4] == "Abacus, 3 thread(s)" and row[-1] == "2026-01-01 … 2026-01-03"


def test_one_run_in_two_tables(results_folder: Path) -> None:
    run = Result.load(results_folder / "rows" / "c")
    scores = tables.scores(run)
    assert dict(zip(column(scores, "score"), column(scores, "value")))["BWT"] == "-40.0"
    assert column(tables.parts(run), "part") == ["train", "eval", "oe", "gr"]


def test_predictions_stand_below_their_image_with_the_truth() -> None:
    images = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    answers = [[("rose", 0.75), ("sky", 0.25)], [("rose", 0.6), ("sky", 0.4)]]
    figure = plots.predictions(images, answers, ["rose", "sky"])
    texts = [note.text for note in figure.plotly.layout.annotations]
    assert "✓ <b>rose  0.75</b>" in texts[0] and "✗ rose  0.60" in texts[1] and "<i>sky</i>" in texts[1]
    assert len(figure.plotly.layout.images) == 2 and "sky: rose 0.60" in figure.alt
