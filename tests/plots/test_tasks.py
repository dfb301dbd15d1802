"""Whose head wins: the shares add up, agree with the run's accuracy, and stand in the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("plotly")

import janus
from janus.plots import tasks as plots
from janus.train import build_stream

SHARES = [[70.0, 20.0, 10.0], [5.0, 80.0, 15.0], [1.0, 2.0, 97.0]]
EXACT = [[90.0, 6.0, 4.0], [3.0, 92.0, 5.0], [2.0, 2.0, 96.0]]


def test_shares_of_a_finished_run(tmp_path: Path, with_toy_backbone: None, settings: Any) -> None:
    result = janus.run(tmp_path / "run", **settings("exact"))
    learner = janus.load(tmp_path / "run").learner
    stream = build_stream(learner.config)
    shares = plots.winning_heads(learner, stream)
    for task, row in zip(stream.tasks, shares):
        scores = learner.method.scores(learner.features(task.evaluation).to(learner.device)).cpu()
        heads = [
            scores[:, span.start : span.stop].amax(1) for span in (other.positions for other in stream.tasks)
        ]
        winner = torch.stack(heads).argmax(0)  # the head with the highest of its own highest scores
        assert row == pytest.approx([100 * (winner == j).float().mean().item() for j in range(3)])
        assert row[task.index] >= result.accuracy[-1][task.index] - 1e-4  # a right answer is the right head's


def test_what_later_heads_win_is_right_of_the_outline() -> None:
    assert plots.stolen(SHARES) == pytest.approx(
        (20 + 10 + 15) / 2
    )  # tasks 1 and 2; the last has no later head
    assert plots.stolen(EXACT) == pytest.approx((6 + 4 + 5) / 2)


def test_the_figure_has_a_panel_a_run_and_its_numbers() -> None:
    figure = plots.task_confusion({"LoRA": SHARES, "exact": EXACT})
    layout = figure.plotly.layout
    assert len(figure.plotly.data) == 2 and layout.title.text.endswith("LoRA 22 %, exact 8 %")
    first = figure.plotly.data[0]
    assert first.z[0][0] is None and list(first.z[0][1:]) == [20.0, 10.0]  # the right head has no colour
    assert layout.coloraxis.cmax == 20
    written = [(note.xref, note.x, note.y, note.text) for note in layout.annotations]
    assert ("x", 1, 0, "20") in written and ("x2", 0, 2, "2") in written and ("x2", 1, 1, "92") in written
    assert sum(shape.type == "rect" for shape in layout.shapes) == 6
    assert {"LoRA", "exact", plots.KEY} <= {note.text for note in layout.annotations}
    assert "of task 1 70, 20, 10" in figure.alt


def test_own_titles_many_tasks_and_a_stream_of_one() -> None:
    many = [[100.0 / 12] * 12] * 12
    figure = plots.task_confusion({"many": many}, title="Mine")
    assert figure.plotly.layout.title.text == "Mine" and "later heads win 50 per cent" in figure.alt
    assert {note.text for note in figure.plotly.layout.annotations} == {
        "many",
        plots.KEY,
    }  # no number could be read
    assert plots.task_confusion({"one": [[100.0]]}).plotly.data[0].z[0][0] is None
