"""Figures about forgetting: the numbers in them are the matrices' own."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from janus import metrics
from janus.data.datasets import ImageSet
from janus.data.images import TensorImages
from janus.data.stream import class_incremental
from janus.plots import forgetting, stream_images

R = [[60.0], [40.0, 50.0], [20.0, 45.0, 70.0]]
AWARE = [[60.0], [58.0, 66.0], [54.0, 64.0, 80.0]]


def texts(figure: forgetting.Figure) -> list[str]:
    return [annotation.text for annotation in figure.plotly.layout.annotations]


def test_the_matrix_shows_every_value_and_nothing_above_the_diagonal() -> None:
    figure = forgetting.accuracy_matrix(R)
    assert figure.plotly.data[0].z == ([60, None, None], [40, 50, None], [20, 45, 70])
    assert texts(figure) == ["60", "40", "50", "20", "45", "70"] and "after task 3: 20, 45, 70" in figure.alt
    place = figure.plotly.layout.annotations[3]
    assert (place.x, place.y) == (1, 3)  # on task 1, after task 3
    assert figure.plotly.data[0].zmax == 70
    assert forgetting.accuracy_matrix(R, top=90).plotly.data[0].zmax == 90


def test_the_matrix_leaves_out_what_is_not_there() -> None:
    # a zero-shot entry above the diagonal, and an old task without images
    square = [[60.0, 1.0], [None, 50.0]]
    figure = forgetting.accuracy_matrix(square)
    assert texts(figure) == ["60", "50"] and "unknown" in figure.alt
    assert forgetting.accuracy_matrix([[0.0]]).plotly.data[0].zmax > 0


def test_a_long_streams_matrix_has_no_numbers_in_its_cells_and_a_short_text():
    written, bare = (forgetting.accuracy_matrix([[float(i)] * (i + 1) for i in range(T)]) for T in (20, 21))
    assert len(written.plotly.layout.annotations) == 210 and len(written.plotly.layout.shapes) == 20
    assert not bare.plotly.layout.annotations and bare.alt.count("after task") == 1
    assert list(bare.plotly.data[0].z[20][:2]) == [20.0, 20.0]
    numbered = []
    for T in (20, 60):
        curves = forgetting.accuracy_curves([[0.0] * (t + 1) for t in range(T)])
        numbered.append(curves.plotly.layout.xaxis.dtick)
    assert numbered == [1, 3]  # or the numbers would lie on one another


def test_each_task_is_a_line_of_its_own_that_starts_on_the_diagonal() -> None:
    figure = forgetting.accuracy_curves(R)
    lines = {trace.name: (list(trace.x), list(trace.y)) for trace in figure.plotly.data}
    assert lines["task 1"] == ([1, 2, 3], [60, 40, 20]) and lines["task 3"] == ([3], [70])
    assert lines["mean of tasks so far"][1] == [60, 45, 45]
    assert len({(trace.line.color, trace.marker.symbol) for trace in figure.plotly.data}) == len(lines)
    assert sorted(texts(figure)) == sorted(lines)


def test_the_curves_go_on_without_what_was_not_evaluated() -> None:
    figure = forgetting.accuracy_curves([[60.0], [None, 50.0]])
    assert "task 1" not in texts(figure) and figure.plotly.data[-1].y == (60, 50)


def test_the_two_parts_add_up_to_bwt() -> None:
    within, between = forgetting.split(R, AWARE)
    assert within == pytest.approx(((54 - 60) + (64 - 66)) / 2)
    assert within + between == pytest.approx(metrics.summary(R)["bwt"])
    assert all(part != part for part in forgetting.split(R[:1], AWARE[:1]))  # nothing is old yet: NaN


def test_the_bars_are_the_parts() -> None:
    still = [[50.0], [50.0, 40.0]], [[50.0], [50.0, 60.0]]
    figure = forgetting.split_bars({"LoRA": (R, AWARE), "still": still})
    assert [list(bar.x) for bar in figure.plotly.data] == [pytest.approx([-4, -18.5, -22.5]), [0, 0, 0]]
    assert texts(figure) == ["LoRA −4.0", "LoRA −18.5", "LoRA −22.5", *["still +0.0"] * 3]
    assert "LoRA within the task −4.0, between the heads −18.5, together −22.5" in figure.alt
    assert forgetting.signed(-0.04) == "+0.0"


def test_one_task_within_its_head_and_over_all() -> None:
    figure = forgetting.split_curves({"a": (R, AWARE), "b": (AWARE, AWARE)}, task=1)
    curves = [(list(trace.x), list(trace.y)) for trace in figure.plotly.data[:2]]
    assert curves == [([2, 3], [66, 64]), ([2, 3], [50, 45])]
    assert {"a", "b", "within the right task", "over all heads", "64 %", "45 %"} <= set(texts(figure))


def test_the_grid_shows_each_class_by_its_own_images() -> None:
    # two images a class, in the shade 40 × class
    shades = torch.arange(6, dtype=torch.uint8).repeat_interleave(2)
    pixels = (40 * shades)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    images = TensorImages(pixels, shades.long())
    stream = class_incremental(ImageSet("shades", list("abcdef"), images, None, images), tasks=3, seed=1)
    figure = stream_images(stream, tasks=2, classes=2)
    assert texts(figure) == ["task 1", *stream.class_names[:2], "task 2", *stream.class_names[2:4]]
    for picture, label in zip(figure.plotly.layout.images, stream.classes, strict=False):
        shown = Image.open(io.BytesIO(base64.b64decode(picture.source.partition(",")[2])))
        # train, test
        assert shown.getpixel((0, 0)) == shown.getpixel((shown.width - 1, 0)) == (40 * label,) * 3
    assert len(figure.plotly.layout.images) == 4 and "more a task" not in figure.plotly.layout.title.text
    assert "(1 more a task" in stream_images(stream, classes=1).plotly.layout.title.text
