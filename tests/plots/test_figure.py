"""Figures: what they show, and that they show it live, static and in words."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import plotly.graph_objects as go
import pytest

from janus import plots
from janus.plots import figure as module
from janus.plots import runs


def line() -> plots.Figure:
    return plots.Figure(go.Figure(go.Scatter(x=[1, 2], y=[3, 5])), "a line that\n   rises")


@pytest.fixture
def no_chrome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_kaleido", lambda: None)


def test_a_figure_shows_itself_live_and_in_words(no_chrome: None) -> None:
    data, _ = line()._repr_mimebundle_()
    assert data["text/plain"] == "a line that rises" and "image/png" not in data
    assert data["application/vnd.plotly.v1+json"]["data"][0]["y"] == [3, 5]
    assert "plotly" in data["text/html"]  # so that a page without plotly's own type is not empty
    json.dumps(data)


def test_with_chrome_there_is_a_png() -> None:
    if module._kaleido() is None:
        pytest.skip("no Chrome on this machine")
    data, metadata = line()._repr_mimebundle_()
    assert base64.b64decode(data["image/png"]).startswith(b"\x89PNG") and "text/html" not in data
    assert metadata["image/png"] == {"alt": "a line that rises", "width": 900}


def test_saving_without_chrome_says_what_is_missing(
    no_chrome: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = line().save(tmp_path / "new" / "rise")
    assert [path.name for path in written] == ["rise.html", "rise.json"]
    assert all(path.exists() for path in written)
    assert "rise.png was not written" in capsys.readouterr().err


def test_violation_per_layer_is_the_mean_over_tasks() -> None:
    tasks = [
        {"blocks.0.attn.k": 0.1, "blocks.0.attn.v": 0.5, "blocks.1.attn.k": 0.2, "blocks.1.attn.v": 0.6},
        {"blocks.0.attn.k": 0.3, "blocks.0.attn.v": 0.7, "blocks.1.attn.k": 0.6, "blocks.1.attn.v": 0.8},
    ]
    assert runs.per_layer(tasks, "k") == pytest.approx([0.2, 0.4])
    assert runs.per_layer(tasks, "v") == pytest.approx([0.6, 0.7])
    assert runs.per_layer([], "k") == []


def test_what_protects_a_row() -> None:
    names = {
        "LoRA": "nothing",
        "merged_free_gr-none": "nothing",
        "OE-DML": "OE",
        "GR": "GR",
        "OE-GR-DML": "OE + GR",
        "GPM": "GPM",
        "merged_nullspace_OE_gr-tangent": "OE + GR",
        "merged_nullspace_OE_gr-none": "OE",
        "exact-DML": "exact",
    }
    assert {name: runs.protection(name) for name in names} == names


def test_labels_are_kept_apart() -> None:
    placed = runs.apart([0.0, 0.01, 0.5], 0.1)
    assert placed[1] - placed[0] >= 0.1 - 1e-6 and placed[2] == 0.5


def test_the_absolute_score_is_the_mean_over_tasks_per_layer() -> None:
    tasks = [
        {"blocks.0.attn.k": 1.0, "blocks.0.attn.v": 5.0, "blocks.1.attn.k": 2.0, "blocks.1.attn.v": 6.0},
        {"blocks.0.attn.k": 3.0, "blocks.0.attn.v": 7.0, "blocks.1.attn.k": 6.0, "blocks.1.attn.v": 8.0},
    ]
    figure = plots.absolute_score({"LoRA": tasks, "frozen": [dict.fromkeys(task, 0.0) for task in tasks]})
    shown = [(trace.name, trace.y) for trace in figure.plotly.data]
    assert shown == [
        ("LoRA", (2.0, 4.0)),
        ("frozen", (0.0, 0.0)),
        ("LoRA", (6.0, 7.0)),
        ("frozen", (0.0, 0.0)),
    ]
    assert "LoRA 4.8, frozen 0" in figure.alt  # (2 + 4 + 6 + 7) / 4


def test_a_zero_violation_is_drawn_on_both_axes() -> None:
    figure = plots.violation(
        {
            "GPM": [{"blocks.0.attn.k": 0.5, "blocks.0.attn.v": 0.5}],
            "exact": [{"blocks.0.attn.k": 0.0, "blocks.0.attn.v": 1e-8}],
        }
    )
    by_axis = {
        axis: [(t.name, t.y[0]) for t in figure.plotly.data if t.yaxis == axis] for axis in ("y", "y3", "y4")
    }
    assert by_axis["y"] == [("GPM", 0.5), ("exact", 0.0)]
    assert by_axis["y3"] == [("exact", runs.FLOOR)] and by_axis["y4"] == [("exact", 1e-8)]


def test_every_score_meets_every_outcome_and_runs_without_one_are_left_out() -> None:
    scores = {"violation": [0.4, 0.0, 0.3, None], "absolute": [0.1, 0.2, 0.3, 0.4]}
    outcomes = {"drift": [0.5, 0.6, 0.7, 0.8], "BWT": [-1.0, -2.0, -3.0, -4.0]}
    data = plots.predictors(["LoRA", "exact", "GPM", "joint"], scores, outcomes).plotly.data
    panels = [[(t.name, t.x[0], t.y[0]) for t in data[i : i + 3]] for i in range(0, 12, 3)]
    assert panels == [
        [(name, x[i], y[i]) for name, i in (("nothing", 0), ("GPM", 2), ("exact", 1))]
        for y in outcomes.values()
        for x in scores.values()
    ]
    assert len({t.marker.color for t in data}) == len({t.marker.symbol for t in data}) == 3


def test_jupyterlab_is_told_a_figures_height() -> None:
    assert plots.Figure(go.Figure(), "nothing").plotly.layout.height == 480
    assert plots.Figure(go.Figure(layout={"height": 333}), "nothing").plotly.layout.height == 333
