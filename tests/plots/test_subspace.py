"""Figures of lessons 03 and 04 and the explorer of ε: their numbers are those of janus's own functions."""

from __future__ import annotations

import json
import math

import pytest
import torch

from janus.history import extend_basis
from janus.linalg import principal_angles
from janus.plots import rectification, subspace
from janus.widgets.energy import explore_energy


def moment(n: int, seed: int = 0, decay: float = 0.6) -> torch.Tensor:
    """A second moment (n, n) whose eigenvalues fall by `decay`."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    return (Q * decay ** torch.arange(n)) @ Q.T


MOMENTS = {f"blocks.{i}.attn": moment(24, i, 0.5 + 0.1 * i) for i in range(3)}


def texts(figure: subspace.Figure) -> list[str]:
    return [a.text for a in figure.plotly.layout.annotations]


@pytest.mark.parametrize(
    "C", [*MOMENTS.values(), moment(10, decay=0.01), torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]))]
)
def test_directions_are_the_columns_that_extend_basis_would_take(C: torch.Tensor) -> None:
    held = subspace.shares(C)
    for energy in (0.0, 0.1, 0.5, 0.75, 0.9, 0.95, 0.999, 1.0):
        assert subspace.directions(held, energy) == extend_basis(torch.zeros(len(C), 0), C, energy).shape[1]


def test_held_and_principal_angles() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    assert subspace.held(eye[:, :1], torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0]))) == pytest.approx(0.75)
    tilted = torch.stack([eye[:, 0], (eye[:, 1] + eye[:, 2]) / math.sqrt(2)], dim=1)
    assert principal_angles(eye[:, :2], tilted) == pytest.approx([0, 45], abs=1e-5)


def test_footprint_of_vit_b_16() -> None:
    b = subspace.footprint(width=768, layers=12, tokens=197, side=224, directions=100)
    assert b == {
        "second moments": 28_311_552,
        "basis": 3_686_400,
        "image": 150_528,
        "inputs of an image": 7_262_208,
    }
    sizes = [subspace.size(size) for size in (b["second moments"], 999, 3.6e9)]
    assert sizes == ["28.3 MB", "999 B", "3.6 GB"]


def test_ranks_and_growth_show_their_numbers() -> None:
    figure = subspace.ranks(MOMENTS, 0.95)
    at = subspace.ENERGIES.index(0.95)
    wanted = [extend_basis(torch.zeros(24, 0), C, 0.95).shape[1] for C in MOMENTS.values()]
    assert [trace.y[at] for trace in figure.plotly.data] == wanted
    assert {"block 1", "block 2", "block 3"} <= set(texts(figure))
    ranks = [{"blocks.0.attn": 3, "blocks.1.attn": 5}, {"blocks.0.attn": 4, "blocks.1.attn": 5}]
    grown = subspace.growth(ranks, most=20)
    assert [list(trace.y) for trace in grown.plotly.data] == [[3, 4], [5, 5]]
    assert "block 1: 3 → 4" in texts(grown)


def test_a_full_layer_keeps_2r_free() -> None:
    row = subspace.rows_from(
        {"blocks.0.attn": subspace.shares(moment(24, decay=0.99))}, {"blocks.0.attn": 24}, 1.0, rank=4
    )[0]
    assert (row["rank"], row["left"], row["share_left"]) == (16, 0, 0)


def test_memory_is_in_images() -> None:
    lines = subspace.memory({"small": subspace.footprint(8, 2, 5, 4, 3)}).plotly.data
    assert lines[1].name == "images" and list(lines[1].y[:2]) == [48, 480]
    assert lines[2].name == "second moments" and set(lines[2].y) == {512}


def test_rectification_figures_show_their_numbers() -> None:
    figure = rectification.residual([0, 45, 90], {"rectified": [0.0, 0.4, 0.0]}, {"OE+GR": [50.0, 70.0]})
    assert list(figure.plotly.data[0].y) == [0.0, 0.4, 0.0] and list(figure.plotly.data[1].x) == [50.0, 70.0]
    assert {"rectified", "OE+GR"} <= set(texts(figure)) and "0.40 at most" in figure.alt
    figure = rectification.second_step([1e-4, 1.0], {"free": [1e3, 0.1]}, {"free": [1e2, 0.01]}, first=0.05)
    assert [list(trace.y) for trace in figure.plotly.data] == [[1e3, 0.1], [1e2, 0.01]]
    figure = rectification.along({"exact": [0.0, 1e-7], "LoRA": [0.5, 0.6]})
    # log axis: no zero
    assert figure.plotly.data[0].y[0] == rectification.FLOOR and figure.plotly.data[2].y[1] == 0.6


def test_figures_hold_plain_lists() -> None:
    for figure in (subspace.ranks(MOMENTS, 0.95), subspace.growth([{"blocks.0.attn": 3}], most=20)):
        # packed arrays need a newer plotly.js
        assert "bdata" not in json.dumps(json.loads(figure.plotly.to_json()))


def test_the_knob_changes_the_view() -> None:
    pytest.importorskip("ipywidgets")
    knob, view = explore_energy(MOMENTS, rank=2, energy=0.95).children
    before = view.value
    rank = extend_basis(torch.zeros(24, 0), MOMENTS["blocks.2.attn"], 0.95).shape[1]
    assert f"{rank} of 24" in before
    knob.value = 0.5
    rank = extend_basis(torch.zeros(24, 0), MOMENTS["blocks.2.attn"], 0.5).shape[1]
    assert view.value != before and f"{rank} of 24" in view.value
