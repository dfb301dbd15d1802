"""Figures with images in them: what a stream looks like, what a model says."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from PIL import Image

from .figure import Figure

if TYPE_CHECKING:
    from torch import Tensor

    from ..data.images import Images
    from ..data.stream import Stream


def stream_images(stream: Stream, tasks: int = 5, classes: int = 7, side: int = 64) -> Figure:
    """A row a task, a column a class: a training image (left) beside a test image (right), the name below.

    The first `tasks` tasks and the first `classes` classes of each; `side`: the edge of one image in pixels.
    """
    shown = stream.tasks[:tasks]
    step_x, step_y, left, top = 2 * side + 12, side + 44, 90, 78
    width, height = left + classes * step_x, top + len(shown) * step_y
    figure = go.Figure(go.Scatter(x=[], y=[]))
    figure.update_xaxes(visible=False, range=[0, width]).update_yaxes(visible=False, range=[height, 0])
    look = dict(xref="x", yref="y", xanchor="left", yanchor="top", sizing="stretch")
    names = []
    for row, task in enumerate(shown):
        y, label = top + row * step_y, f"task {task.index + 1}"
        figure.add_annotation(text=label, x=8, y=y + side / 2, xanchor="left", showarrow=False)
        for column, position in enumerate(list(task.positions)[:classes]):
            x, name = left + column * step_x, stream.class_names[position]
            source = _beside(_first(task.train, position), _first(task.evaluation, position), side)
            figure.add_layout_image(source=source, x=x, y=y, sizex=2 * side + 2, sizey=side, **look)
            figure.add_annotation(text=name, x=x + side + 1, y=y + side + 12, showarrow=False)
            names.append(f"{name} ({label})")
    rest = len(shown[0].positions) - classes
    more = f" ({rest} more a task are not shown)" if rest > 0 else ""
    figure.update_layout(
        title=f"New classes in each task{more}: left a training image, right a test image",
        width=width,
        height=height,
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        title_y=1 - 30 / height,
    )
    return Figure(
        figure,
        f"A grid of small images, a row for each of {len(shown)} tasks, a training and a test image of each "
        f"class: {', '.join(names)}.",
    )


def _first(images: Images, label: int) -> Tensor:
    """uint8 (3, S, S): the first image with that label."""
    return images.batch((images.labels == label).nonzero().flatten()[:1])[0]


def _beside(a: Tensor, b: Tensor, side: int) -> str:
    """Two images (3, S, S), enlarged to `side` without smoothing, beside one another: a PNG as a data URI."""
    both = Image.new("RGB", (2 * side + 2, side), "white")
    for place, pixels in ((0, a), (side + 2, b)):
        both.paste(picture(pixels).resize((side, side), Image.Resampling.NEAREST), (place, 0))
    return data_uri(both)


def picture(pixels: Tensor) -> Image.Image:
    """uint8 (3, S, S) as an image."""
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def predictions(
    images: Sequence[str | Path | Image.Image],
    answers: Sequence[Sequence[tuple[str, float]]],
    truth: Sequence[str] | None = None,
    title: str = "What the model says",
    columns: int = 4,
) -> Figure:
    """Images, each with what `Predictor.predict` answered: the true name, if given, then classes and scores.

    A right first answer is bold and has a tick, a wrong one a cross.
    """
    lines = max(map(len, answers), default=0) + (truth is not None)
    rows = math.ceil(len(images) / columns)
    side, text = 110, 23  # pixels: of an image, of a line
    cell = side + text * lines + 26
    height, width = rows * cell + 60, 220 * columns + 20
    sizes = {"sizex": side / (220 * columns), "sizey": side / (rows * cell)}
    place = {"xref": "paper", "yref": "paper", "xanchor": "center", "yanchor": "top"}
    figure = go.Figure()
    for i, (image, answer) in enumerate(zip(images, answers)):
        x = (i % columns + 0.5) / columns
        y = 1 - (i // columns) * cell / (rows * cell)
        figure.add_layout_image(source=data_uri(_enlarged(image, side)), x=x, y=y, **sizes, **place)
        written = [f"{name}  {score:.2f}" for name, score in answer]
        if truth is not None:
            first = f"✓ <b>{written[0]}</b>" if answer[0][0] == truth[i] else f"✗ {written[0]}"
            written = [f"<i>{truth[i]}</i>", first, *written[1:]]
        below = y - (side + 4) / (rows * cell)
        words = {"text": "<br>".join(written), "showarrow": False, "align": "center"}
        figure.add_annotation(x=x, y=below, **words, **place)
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    figure.update_layout(title=title, height=height, width=width, margin={"l": 10, "r": 10, "t": 55, "b": 5})
    names = truth if truth is not None else ["an image"] * len(answers)
    told = "; ".join(f"{name}: {answer[0][0]} {answer[0][1]:.2f}" for name, answer in zip(names, answers))
    return Figure(figure, f"Images with the first answer and its score. {told}.")


def _enlarged(image: str | Path | Image.Image, side: int) -> Image.Image:
    """At least `side` pixels, its pixels kept sharp, and not much more."""
    picture = (image if isinstance(image, Image.Image) else Image.open(image)).convert("RGB")
    factor = max(1, side // max(picture.size))
    large = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    large.thumbnail((2 * side, 2 * side))
    return large


def data_uri(image: Image.Image) -> str:
    """The image as a PNG inside the figure itself."""
    image.save(file := io.BytesIO(), "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
