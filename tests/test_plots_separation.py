"""Figures and knobs of the lessons on feature separation and on the ablation: their numbers are those put in."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch

pytest.importorskip("plotly")

from janus import separation
from janus.plots import results
from janus.plots import separation as plots

POINTS = [(0.9, 0.2), (0.6, 0.8), (0.4, 0.9), (0.1, 0.5)]


def words(figure: Any) -> str:
    """Every text a figure draws."""
    return " | ".join([figure.layout.title.text, *(note.text for note in figure.layout.annotations)])


def test_cosines_are_to_the_nearest_old_prototype_and_to_the_own_centre() -> None:
    torch.manual_seed(0)
    z, old, own, labels = torch.randn(6, 4), torch.randn(3, 4), torch.randn(2, 4), torch.tensor([0, 1, 0, 1, 1, 0])
    points = plots.cosines(3 * z, labels, old, own)
    assert fmean(x for x, _ in points) == pytest.approx(separation.danger(z, old), abs=1e-6)
    expected = torch.nn.functional.cosine_similarity(z, own[labels])
    assert [y for _, y in points] == pytest.approx(expected.tolist(), abs=1e-6)


def test_danger_plot_draws_its_points_and_their_mean() -> None:
    figure = plots.danger_plot({"without": POINTS, "with": POINTS[2:]})
    assert list(zip(figure.plotly.data[0].x, figure.plotly.data[0].y)) == POINTS
    assert "danger 0.500" in words(figure.plotly) and "danger 0.250" in words(figure.plotly)
    assert {"without", "with", "danger zone", "ideal zone"} <= {note.text for note in figure.plotly.layout.annotations}
    assert plots.share(POINTS, "danger") == 0.5 and plots.share(POINTS, "ideal") == plots.share(POINTS, "crowded") == 0.25


def test_the_slider_of_the_map_shows_tasks_up_to_the_new_one() -> None:
    tasks, places = [0, 0, 1, 2], [(0.0, 1.0), (2.0, 3.0), (4.0, 5.0), (6.0, 7.0)]
    figure = plots.task_map({"a": places, "b": places}, tasks, {"a": ["", "x1", "x2"], "b": ["", "y1", "y2"]})
    steps = figure.plotly.layout.sliders[0].steps
    assert [step.label for step in steps] == ["2", "3"]
    restyle, texts = steps[0].args
    assert restyle["visible"] == [True, True, False] * 2
    assert restyle["marker.color"][1] == plots.NEW != restyle["marker.color"][0]
    assert texts["annotations[0].text"].endswith("x1") and texts["annotations[1].text"].endswith("y1")
    assert not figure.static.layout.sliders and len(figure.static.data) == 2 * (2 + 3)  # tasks 2 and 3 of two panels


def test_arrows_start_at_the_points_and_point_down_the_loss() -> None:
    points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    step = torch.tensor([[0.0, 2.0], [0.0, 0.0]])
    figure = plots.circles({"push": step}, points, points[:1], points[1], length=0.5)
    still, arrows = (next(trace for trace in figure.plotly.data if trace.name == name) for name in ("no gradient", "step"))
    assert (list(arrows.x[:2]), list(arrows.y[:2])) == ([1.0, 1.0], [0.0, 0.5])
    assert (list(still.x), list(still.y)) == ([0.0], [1.0])
    assert "1 of 2 points move" in figure.alt


def test_margins_draw_the_loss_that_is_trained() -> None:
    figure = plots.margins(push_margin=0.4, pull_margin=0.6, weight=0.5, points=POINTS)
    push, pull = figure.plotly.data[0], figure.plotly.data[2]
    for x, loss_push, loss_pull in zip(push.x, push.y, pull.y):
        z, axis = torch.tensor([[x, (1 - x * x) ** 0.5]]), torch.tensor([[1.0, 0.0]])
        values = [float(separation.decoupled_margin_loss(z, torch.tensor([0]), axis, axis, push_margin=0.4, pull_margin=0.6,
                                                         push_weight=a, pull_weight=b)) for a, b in ((0.5, 0.0), (0.0, 0.5))]
        assert values == pytest.approx([loss_push, loss_pull], abs=1e-5)
    assert "acts on 50% of the features" in words(figure.plotly)


def test_a_knob_moves_the_figure() -> None:
    pytest.importorskip("ipywidgets")
    from janus.widgets import explore_margins

    box = explore_margins(POINTS)
    *knobs, screen = box.children
    before = screen.outputs[0]["data"]
    knobs[0].value = 0.85
    after = screen.outputs[0]["data"]
    assert "Push margin 0.30" in json.dumps(before) and "Push margin 0.85" in json.dumps(after)
    assert "acts on 75% of the features" in before["text/plain"] and "acts on 25% of the features" in after["text/plain"]


# ── the ablation ────────────────────────────────────────────────────────────────────────────────────────────────────────

ROWS = {"LoRA": {0: 20.0, 1: 24.0}, "OE+GR": {0: 22.0, 1: 27.0, 2: 25.0}, "frozen": {0: 21.0, 1: 24.0}, "joint": {0: 40.0}}


def result(seed: int, acc: float, joint: bool) -> dict[str, Any]:
    """What the figures read of a result: two tasks, learned at `acc` + 10."""
    return {"config": {"seed": seed}, "acc": acc, "maa": acc + 5, "bwt": None if joint else -20.0, "learning_acc": acc + 10,
            "task_aware_acc": 50.0, "accuracy": [[1.0]] if joint else [[1.0], [1.0, 1.0]],
            "danger": {"mean": None if joint else 0.6}, "violation": {"mean": {"all": 0.1}}}


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, dict[int, dict[str, Any]]]:
    for row, seeds in ROWS.items():
        for seed, acc in seeds.items():
            name = f"{row.replace('+', '-')}__seed={seed}.json"
            (tmp_path / name).write_text(json.dumps(result(seed, acc, row == "joint")))
    return results.read_rows(tmp_path)


def test_rows_are_read_by_seed_and_paired_by_it(runs: dict[str, dict[int, dict[str, Any]]]) -> None:
    assert {row: list(seeds) for row, seeds in runs.items()} == {row: list(seeds) for row, seeds in ROWS.items()}
    assert results.paired(runs, "frozen", "OE+GR") == [1.0, 3.0]
    assert results.paired(runs, "frozen", "joint", "bwt") == [] == results.paired(runs, "frozen", "GPM")


def test_no_results_are_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(results.NoResults, match="come with the repository") as caught:
        results.read_rows(tmp_path)
    assert caught.value._render_traceback_() == [str(caught.value)]


def test_the_interval_is_students() -> None:
    pytest.importorskip("scipy")
    assert results.interval([1.0, 3.0, 2.0]) == pytest.approx(4.302653 / 3**0.5, rel=1e-5)  # t of two degrees of freedom, s = 1
    assert results.interval([1.0]) != results.interval([1.0])  # NaN: one seed says nothing


def test_the_ablation_shows_every_seed_the_mean_and_the_floor(runs: dict[str, dict[int, dict[str, Any]]]) -> None:
    figure = results.ablation(runs).plotly
    traces = {trace.name: trace for trace in figure.data}
    assert list(traces["OE+GR, seeds"].x) == [22.0, 27.0, 25.0]
    assert traces["OE+GR"].x[0] == pytest.approx(fmean([22, 27, 25]))
    assert traces["OE+GR"].error_x.array[0] == pytest.approx(stdev([22, 27, 25])) and traces["joint"].error_x.array is None
    assert "frozen 22.5" in words(figure) and "(n = 3)" in words(figure) and list(figure.layout.yaxis.ticktext) == list(ROWS)


def test_the_plane_and_the_two_orders_are_of_common_seeds(runs: dict[str, dict[int, dict[str, Any]]]) -> None:
    plane = {trace.name: trace for trace in results.stability_plasticity(runs).plotly.data}
    assert (plane["OE+GR"].x[0], plane["OE+GR"].y[0], plane["frozen"].x[0]) == (2.0, 0.0, 0.0) and "joint" not in plane
    flat = plane["ACC +0"]
    assert flat.y[0] == pytest.approx(-2 * flat.x[0])  # two tasks: ACC = learning + BWT / 2
    assert results.order(runs, "acc") == (["LoRA", "OE+GR"], [64.24, 74.39], [-0.5, 2.0])
    beside = results.paper_beside_ours(runs).plotly
    assert list(beside.data[0].x) == [64.24, 74.39] and {"<b>the paper's, ImageNet-R</b>", "<b>ours, Icons-R</b>"} <= {
        note.text for note in beside.layout.annotations}


def test_differences_mark_what_is_clear_of_zero(runs: dict[str, dict[int, dict[str, Any]]]) -> None:
    pytest.importorskip("scipy")
    figure = results.differences(runs, [("frozen", "OE+GR"), ("frozen", "joint"), ("frozen", "GPM")])
    assert "one seed" in words(figure.plotly) and "+2.0 ± 12.7" in words(figure.plotly) and "Clear of zero: none" in figure.alt
    assert list(figure.plotly.layout.yaxis.ticktext) == ["frozen → OE+GR", "frozen → joint"]
