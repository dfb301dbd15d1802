"""The geometry figures and their explorer: heights, angles and scores are those of the matrices given."""

from __future__ import annotations

import math

import pytest
import torch

from janus.metrics import violation
from janus.plots import geometry
from janus.widgets.geometry import OPTIMISERS, B, G, Plane, V, explore_geometry


def named(figure: geometry.go.Figure) -> dict:
    return {trace.name: trace for trace in figure.data if trace.name}


def test_an_arrows_height_is_its_product_with_V() -> None:
    frame = torch.tensor(geometry.plane_frame(V), dtype=V.dtype)
    assert torch.allclose(frame @ frame.T, torch.eye(3, dtype=V.dtype))
    assert torch.allclose(frame[2], V.flatten())
    figure = geometry.safe_plane({"": {"safe": G - G @ V @ V.T, "G": G}}, V, "title")
    traces = named(figure.plotly)
    assert traces["G"].customdata[1::3] == pytest.approx((G @ V).flatten().tolist())
    assert traces["safe"].customdata[1::3] == pytest.approx([0.0, 0.0])
    assert [text for text in traces["G"].text if text] == ["G"] and "G 1.67" in figure.alt  # 5/3


def test_the_view_keeps_V_upright_and_turns_about_it() -> None:
    for turn in (0.0, 50.0, -130.0):
        x, y = geometry.seen((0.0, 0.0, 1.0), turn)
        assert x == 0 and y > 0.9
    assert geometry.seen((1.0, 0.0, 0.0), 0.0)[0] == pytest.approx(1.0)
    assert geometry.seen((1.0, 0.0, 0.0), 90.0)[0] == pytest.approx(0.0)


def test_a_slider_has_a_frame_for_each_position_and_a_static_twin() -> None:
    factors = {"1": 0.1, "2": 0.2, "3": 0.3, "4": 0.4}
    positions = {mark: {"ΔW": factor * G} for mark, factor in factors.items()}
    figure = geometry.safe_plane(positions, V, "title", "times")
    assert [frame.name for frame in figure.plotly.frames] == ["1", "2", "3", "4"]
    for frame, factor in zip(figure.plotly.frames, (0.1, 0.2, 0.3, 0.4)):
        arrows = next(trace for trace in frame.data if trace.name)
        assert arrows.customdata[1::3] == pytest.approx((factor * G @ V).flatten().tolist())
        count = len(figure.plotly.data)
        assert list(frame.traces) == list(range(count - len(frame.data), count))
    assert {note.text for note in figure.static.layout.annotations} == {"times: 1", "times: 3", "times: 4"}


def test_names_of_arrows_that_end_together_go_to_different_sides() -> None:
    tips = {"ΔW": (0.5, 0.3), "ΔB·A": (0.52, 0.31)}
    sides = geometry._sides(tips, list(tips.values()), 1.0)
    assert len(set(sides.values())) == 2


def test_violation_by_angle_shows_the_numbers_and_names_the_curves() -> None:
    angles = list(range(10, 171, 10))
    curves = {"one": [abs(math.cos(math.radians(a))) for a in angles], "two": [0.0 for _ in angles]}
    figure = geometry.violation_by_angle(angles, curves)
    expected = {k: tuple(v) for k, v in curves.items()}
    assert {name: trace.y for name, trace in named(figure.plotly).items()} == expected
    assert {"one", "two", "A V = 0"} <= {note.text for note in figure.plotly.layout.annotations}


@pytest.mark.parametrize("angle", [0, 30, 60, 90, 150, 180])
def test_exact_stays_in_the_plane_and_projected_gradients_leave_it(angle: float) -> None:
    planes = {name: Plane(name, angle, 0.3) for name in OPTIMISERS}
    for plane in planes.values():
        for _ in range(5):
            plane.step()
    assert planes["exact"].violation < 1e-12 and planes["exact"].violation_step < 1e-12
    if angle == 90:  # A V = 0: the step of SGD and the closed form stay; Adam's sign does not
        assert planes[OPTIMISERS[0]].violation < 1e-12 and planes["tangent"].violation < 1e-12
    else:
        assert planes[OPTIMISERS[0]].violation > 0.01
    assert planes[OPTIMISERS[1]].violation > 0.01
    for plane in planes.values():
        assert 0.5 * float((G + plane.moved).square().sum()) < 0.5 * float(G.square().sum())  # it learns


def test_a_step_of_the_explorer_is_the_lessons_step() -> None:
    plane = Plane(OPTIMISERS[0], 60, 0.6)
    A, P = plane.A.detach().clone(), torch.eye(3, dtype=V.dtype) - V @ V.T
    plane.step()
    dA, dB = -0.6 * B.T @ G @ P, -0.6 * G @ P @ A.T
    assert torch.allclose(plane.moved, B @ dA + dB @ A + dB @ dA)
    assert torch.allclose(plane.moved @ V, dB @ A @ V)
    assert plane.violation == pytest.approx(violation(plane.moved, V))
    assert f"{plane.violation:.3f}" in plane.line()


def test_every_knob_of_the_explorer_changes_its_figure() -> None:
    pytest.importorskip("ipywidgets")
    box = explore_geometry()
    angle, lr, optimiser, buttons, words, turn, screen = box.children
    plotly = "application/vnd.plotly.v1+json"

    def shown() -> tuple[str, str]:
        return str(screen.outputs[0]["data"][plotly]["data"]), words.value

    seen = [shown()]
    for change in (
        lambda: setattr(angle, "value", 90.0),
        lambda: setattr(lr, "value", 0.2),
        lambda: buttons.children[0].click(),
        lambda: setattr(optimiser, "value", "exact"),
        lambda: setattr(optimiser, "value", "tangent"),
    ):
        change()
        seen.append(shown())
    assert len(set(seen)) == len(seen)
    turn.value = 100.0
    assert shown()[0] != seen[-1][0] and shown()[1] == seen[-1][1]  # another view of the same step
    buttons.children[0].click()
    buttons.children[1].click()
    assert words.value == seen[-1][1]
