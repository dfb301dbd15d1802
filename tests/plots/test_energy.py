"""The slider over ε agrees with `extend_basis` at each stop; differences of runs agree with their scores."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from janus.history import extend_basis
from janus.plots import energy


def moment(n: int, decay: float) -> torch.Tensor:
    """A diagonal second moment (n, n) whose eigenvalues fall by `decay`."""
    return torch.diag(decay ** torch.arange(n, dtype=torch.float64))


MOMENTS = {"blocks.0.attn": moment(24, 0.5), "blocks.1.attn": moment(24, 0.9)}


def test_the_slider_has_a_stop_for_each_threshold_and_shows_the_rank_there() -> None:
    figure = energy.room_slider(MOMENTS, rank=4, energy=0.93)
    slider, frames = (
        figure.plotly.layout.sliders[0],
        {frame.name: frame.data for frame in figure.plotly.frames},
    )
    assert [step.label for step in slider.steps] == list(frames) and set(frames) == {
        f"{e:g}" for e in (*energy.MARKS, 0.93)
    }
    assert slider.steps[slider.active].label == "0.93"
    for mark, (taken, left, never, _) in frames.items():
        wanted = [
            extend_basis(torch.zeros(24, 0), C, float(mark), max_rank=16).shape[1] for C in MOMENTS.values()
        ]
        assert list(taken.x) == wanted and list(never.x) == [8, 8]  # 2r
        assert [a + b + c for a, b, c in zip(taken.x, left.x, never.x)] == [24, 24]
    assert list(figure.plotly.data[0].x) == list(frames["0.93"][0].x)


def test_every_rank_is_written_once_and_the_page_without_code_shows_three_stops() -> None:
    figure = energy.room_slider(MOMENTS, rank=4)
    for frame in figure.plotly.frames:
        taken, _, _, beside = frame.data
        assert [a + b for a, b in zip(taken.text, beside.text)] == [str(k) for k in taken.x]
    assert [a.text for a in figure.static.layout.annotations] == ["ε = 0.8", "ε = 0.95", "ε = 0.99"]
    assert len(figure.static.data) == 12 and sum(bool(trace.showlegend) for trace in figure.static.data) == 3
    assert "at ε = 0.8 block 1" in figure.alt


@pytest.mark.parametrize(("start", "stops"), [(0.5, ["0.5", "0.99"]), (0.999, ["0.8", "0.999"])])
def test_a_start_outside_the_usual_stops_is_shown_too(start: float, stops: list[str]) -> None:
    figure = energy.room_slider(MOMENTS, rank=4, energy=start)
    assert [a.text for a in figure.static.layout.annotations] == [f"ε = {stop}" for stop in stops]


def runs(**scores: list[float]) -> pd.DataFrame:
    """`exact`, three seeds at 0.9 (all scores 10) and 0.99 (10 + the difference); a `frozen` beside them."""
    rows = [
        {
            "variant": "exact",
            "method.energy": e,
            "data.tasks": 20,
            "training.seed": seed,
            "data.class_seed": seed,
            **{key: 10 + (difference[seed] if e == 0.99 else 0) for key, difference in scores.items()},
        }
        for e in (0.9, 0.99)
        for seed in range(3)
    ]
    return pd.DataFrame([*rows, {**rows[0], "variant": "frozen", "acc": 99.0}])


def test_differences_are_paired_by_seed_and_marked_where_they_are_clear_of_zero() -> None:
    figure = energy.more_energy(
        runs(learning_acc=[-1.0, -1.1, -0.9], bwt=[2.0, 2.1, 2.2], acc=[1.0, -1.0, 0.1]), 0.9, 0.99
    )
    seeds, means = figure.plotly.data[0::2], figure.plotly.data[1::2]
    assert list(seeds[1].x) == pytest.approx([2.0, 2.1, 2.2])
    assert [trace.x[0] for trace in means] == pytest.approx([-1.0, 2.1, 0.1 / 3])
    assert [trace.marker.symbol for trace in means] == ["square", "square", "circle"]  # clear, clear, not
    assert figure.plotly.layout.title.text.startswith(
        "From ε = 0.9 to 0.99: learns less, forgets less, no clear change of ACC"
    )
    assert "BWT" in figure.alt and "20 tasks +2.1" in figure.alt
