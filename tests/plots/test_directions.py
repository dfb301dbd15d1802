"""What the first directions of V answer to, and what bases hold: the numbers are those of the tensors."""

from __future__ import annotations

import pytest
import torch

from janus.plots import directions, subspace


def texts(figure: directions.Figure) -> list[str]:
    return [a.text for a in figure.plotly.layout.annotations]


@pytest.fixture
def tokens() -> torch.Tensor:
    """(50 images, 4 patches, 3): the same everywhere along x, by place along y, by image along z."""
    x = torch.zeros(50, 4, 3)
    x[..., 0] = -5.0
    x[..., 1] = torch.tensor([1.0, -1.0, 2.0, -1.0])
    x[..., 2] = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    return x


def test_answers_are_turned_to_a_positive_mean(tokens: torch.Tensor) -> None:
    answers = directions.responses(tokens, torch.eye(3))
    assert torch.equal(answers[..., 0], torch.full((50, 4), 5.0, dtype=torch.float64))
    assert (answers.mean((0, 1)) > 0).all() and torch.equal(answers.abs(), tokens.double().abs())


def test_what_is_the_same_in_all_images_and_what_is_one_constant(tokens: torch.Tensor) -> None:
    answers = directions.responses(tokens, torch.eye(3))
    same, flat = directions.alike(answers), directions.even(answers)
    assert same[:2] == pytest.approx([1, 1]) and same[2] < 0.1
    assert flat[0] == pytest.approx(1) and flat[1] == pytest.approx(0.25**2 / 1.75) and flat[2] < 0.1


def test_maps_stand_beside_their_images(tokens: torch.Tensor) -> None:
    answers = directions.responses(tokens, torch.eye(3))
    figure = directions.token_maps(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), answers, [0.8, 0.15, 0.05])
    kinds = [trace.type for trace in figure.plotly.data]
    assert kinds == ["image", "heatmap", "heatmap", "heatmap"] * 2
    assert [list(row) for row in figure.plotly.data[2].z] == [
        [0.5, -0.5],
        [1.0, -0.5],
    ]  # of the column's largest
    assert [list(row) for row in figure.plotly.data[2].customdata] == [[1, -1], [2, -1]]
    assert texts(figure)[1] == "v₁: 80 % of energy<br>100 % alike"
    title = figure.plotly.layout.title.text
    assert title == "v₁ answers alike everywhere; v₂ answers mostly by place; v₃ answers mostly by content"
    assert "v₂ 15 % of the energy" in figure.alt


def test_a_map_of_nothing_is_white() -> None:
    figure = directions.token_maps(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4, 1), [0.0])
    assert [list(row) for row in figure.plotly.data[1].z] == [[0, 0], [0, 0]]


def test_shares_held_are_drawn_block_by_block_beside_the_threshold() -> None:
    eye, C = torch.eye(4), torch.diag(torch.tensor([6.0, 2.0, 1.0, 1.0]))
    moments = {"blocks.0.attn": C, "blocks.1.attn": C}
    found = directions.held_in_blocks({"blocks.0.attn": eye[:, :1], "blocks.1.attn": eye[:, :2]}, moments)
    assert found == {"block 1": pytest.approx(0.6), "block 2": pytest.approx(0.8)}
    figure = directions.shares_held(
        {"own": {"OE": found}, "final": {"OE": found, "frozen": found}}, 0.7, "A title"
    )
    first, second, third = figure.plotly.data
    assert list(first.y) == pytest.approx([60, 80]) and list(second.x) == [1, 2]
    assert (
        second.line.color == first.line.color != third.line.color
        and second.marker.symbol != third.marker.symbol
    )
    assert {"OE", "frozen", "ε = 0.7", "own", "final"} <= set(texts(figure))
    assert (
        figure.plotly.layout.title.text == "A title"
        and "own, OE: block 1 60.0 %, block 2 80.0 %" in figure.alt
    )
    assert subspace.held(eye[:, :2], C) == pytest.approx(0.8)
