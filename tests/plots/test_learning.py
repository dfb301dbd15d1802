"""Figures about learning show the runs' own numbers: losses pass by pass, and each stop of the slider."""

from __future__ import annotations

import pandas as pd
import pytest
from helpers.made_results import frame, result_values

from janus.plots import learning
from janus.runtime.result import Result

LOSSES = {"LoRA": [[2.0, 1.0], [3.0, 0.5], [2.0, 0.25]], "exact": [[2.0, 1.5], [2.5, 1.0], [1.5, 0.5]]}


def run(loss: list[list[float]]) -> Result:
    return Result(**result_values(), loss=loss)


def texts(figure: learning.Figure) -> list[str]:
    return [annotation.text for annotation in figure.plotly.layout.annotations]


# ── how the loss falls ──────────────────────────────────────────────────────────────────────────────────────


def test_losses_stand_pass_by_pass_with_a_gap_where_a_task_begins() -> None:
    figure = learning.learning_curves({row: run(loss) for row, loss in LOSSES.items()})
    for trace, (row, tasks) in zip(figure.plotly.data, LOSSES.items(), strict=True):
        drawn = [(x, y) for x, y in zip(trace.x, trace.y, strict=True) if y is not None]
        assert trace.name == row and drawn == list(enumerate(sum(tasks, []), 1))
        assert [x for x, y in zip(trace.x, trace.y) if y is None] == [0.5, 2.5, 4.5]
    assert [shape.x0 for shape in figure.plotly.layout.shapes] == [0.5, 2.5, 4.5]
    assert texts(figure) == ["LoRA", "exact", "task 1", "task 2", "task 3"]
    first, second = figure.plotly.data
    assert first.line.dash != second.line.dash and first.marker.symbol != second.marker.symbol


def test_the_title_states_the_loss_at_the_end_of_tasks_that_have_a_past() -> None:
    figure = learning.learning_curves({row: run(loss) for row, loss in LOSSES.items()})
    title = figure.plotly.layout.title.text
    assert title == "Loss in the last pass of tasks 2 to 3: LoRA 0.38; exact 0.75"
    assert "LoRA from 2.50 to 0.38; exact from 2.00 to 0.75" in figure.alt
    alone = learning.learning_curves({"LoRA": run([[2.0, 1.0]])}).plotly.layout.title.text
    assert alone == "Loss in the last pass of the task: LoRA 1.00"


def test_small_differences_are_seen_on_a_log_axis_where_there_is_one() -> None:
    figure = learning.learning_curves({"LoRA": run([[100.0, 0.1]]), "exact": run([[100.0, 1.0]])}).plotly
    assert (
        figure.layout.yaxis.type == "log"
        and figure.layout.yaxis.range[0] < -1 < 2 < figure.layout.yaxis.range[1]
    )
    labels = {a.text: a.y for a in figure.layout.annotations}
    assert labels["LoRA"] == -1 and labels["exact"] == 0  # beside the lines' ends, in powers of ten
    figure = learning.learning_curves({"LoRA": run([[2.0, -0.5]])}).plotly
    assert figure.layout.yaxis.type is None and figure.layout.yaxis.range[0] < -0.5
    assert figure.layout.annotations[0].y == -0.5


def test_a_longer_row_sets_where_tasks_begin() -> None:
    figure = learning.learning_curves({"LoRA": run([[2.0], [1.0]]), "exact": run([[4.0, 3.0, 2.0], [1.0]])})
    short, long = ([x for x, y in zip(t.x, t.y) if y is not None] for t in figure.plotly.data)
    assert short == [1, 4] and long == [1, 2, 3, 4]


def test_runs_without_losses_are_left_out_and_named() -> None:
    figure = learning.learning_curves({"ncm": run([]), "LoRA": run(LOSSES["LoRA"])})
    assert [trace.name for trace in figure.plotly.data] == ["LoRA"]
    assert figure.plotly.layout.title.text.endswith("LoRA 0.38 (no loss recorded: ncm)")
    old = learning.learning_curves({"LoRA": run([])})
    assert old.plotly.layout.title.text == learning.OLD and learning.OLD in old.alt


# ── what a rate learns and loses ────────────────────────────────────────────────────────────────────────────

FOUND = {  # row → rate → (learning accuracy, ACC, BWT)
    "LoRA": {1e-4: (60.0, 55.0, -6.0), 1e-3: (80.0, 30.0, -55.0), 1e-2: (90.0, 10.0, -88.0)},
    "exact": {1e-4: (61.0, 56.0, -5.5), 1e-3: (70.0, 65.0, -5.6)},
}


def search(floor: tuple[float, ...] = (50.0, 52.0)) -> pd.DataFrame:
    """A search with those numbers, and `frozen` at some rates of its heads."""
    rows = {
        row: [
            result_values(lr=lr, evaluate="val") | {"learning_acc": learned, "acc": acc, "bwt": bwt}
            for lr, (learned, acc, bwt) in found.items()
        ]
        for row, found in FOUND.items()
    }
    rows["frozen"] = [
        result_values(0, method="frozen", head_lr=0.01 * (i + 1), evaluate="val") | {"acc": acc}
        for i, acc in enumerate(floor)
    ]
    return frame({row: found for row, found in rows.items() if found})


def test_each_stop_of_the_slider_shows_the_runs_of_its_rate() -> None:
    figure = learning.learned_and_kept(search())
    (slider,) = figure.plotly.layout.sliders
    assert [step.label for step in slider.steps] == ["0.0001", "0.001", "0.01"]
    for step, rate in zip(slider.steps, (1e-4, 1e-3, 1e-2)):
        restyle, relayout = step.args
        found = [FOUND[row].get(rate) for row in ("LoRA", "exact")]
        lost, learned, kept = restyle["x"]
        assert list(zip(learned, kept)) == [run[:2] if run else (None, None) for run in found]
        assert list(lost) == [run and run[0] - run[1] for run in found]
        assert restyle["base"][0] == kept and restyle["text"][2][0].strip() == f"{found[0][1]:.1f}"
        told = [relayout[f"annotations[{i}].text"] for i in range(2)]
        assert told == [f"{run[2]:.1f}".replace("-", "−") if run else "not tried" for run in found]
    titles = [step.args[1]["title.text"] for step in slider.steps]
    assert titles == [
        "Rate 0.0001: exact learns most (61.0 %) and keeps most (56.0 %)",
        "Rate 0.001: LoRA learns most (80.0 %) but exact keeps most (65.0 %)",
        "Rate 0.01: LoRA learns most (90.0 %) and keeps most (10.0 %)",
    ]
    assert all(title in figure.alt for title in titles)


@pytest.mark.parametrize(("start", "rate"), [(None, 1e-3), (1e-4, 1e-4), (1e-2, 1e-2)])
def test_it_starts_where_told_or_at_the_largest_rate_that_suits_a_row(start, rate) -> None:
    figure = learning.learned_and_kept(search(), start=start)
    slider = figure.plotly.layout.sliders[0]
    step = slider.steps[slider.active]
    assert step.label == f"{rate:g}" and not figure.static.layout.sliders
    for shown in (figure.plotly, figure.static):  # what it shows before it is moved, and a page without code
        assert [list(trace.x) for trace in shown.data] == [list(x) for x in step.args[0]["x"]]
        assert list(shown.data[0].base) == list(step.args[0]["base"][0])
        assert all(list(trace.y) == ["LoRA", "exact"] for trace in shown.data)
        assert shown.layout.title.text == step.args[1]["title.text"]
        beside = [shown.layout.annotations[i] for i in range(2)]
        assert [(a.y, a.text) for a in beside] == [
            (row, step.args[1][f"annotations[{i}].text"]) for i, row in enumerate(FOUND)
        ]


def test_all_stops_have_one_scale_and_the_floor_is_a_line_at_its_best() -> None:
    figure = learning.learned_and_kept(search()).plotly
    low, high = figure.layout.xaxis.range
    assert low < 10 and 90 < high
    assert [shape.x0 for shape in figure.layout.shapes] == [52] and figure.layout.annotations[
        -1
    ].text == "frozen 52.0"
    assert not learning.learned_and_kept(search(floor=())).plotly.layout.shapes


def test_a_stream_of_one_task_has_no_bwt() -> None:
    values = result_values(lr=1e-3, evaluate="val") | {"accuracy": [[50.0]], "bwt": None}
    figure = learning.learned_and_kept(frame({"LoRA": [values]}))
    assert figure.plotly.layout.annotations[0].text == "–"
