"""Figures that tell the whole: what old tasks keep, and where the parts of Janus act in the network."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .. import metrics
from .figure import COLOURS, FONT, WIDE, Figure
from .forgetting import SERIES, Matrix, signed
from .runs import end_labels

INK, QUIET, WATCH, ACT, PUSH = "#222222", "#777777", COLOURS[1], COLOURS[0], COLOURS[2]
PAPER = "#F7F7F5"
ESTIMATION = (
    "<b>Online Estimation</b> watches x:<br>Σ x xᵀ in training's own passes;<br>"
    "after the task a basis V of it"
)
RECTIFICATION = (
    "<b>Gradient Rectification</b> picks<br>the steps of A and B whose<br>product stays off V: ΔW V = 0"
)
SEPARATION = (
    "<b>Decoupled Margin Loss</b> pushes z off<br>the nearest old prototype, and pulls<br>"
    "it to the centre of its own class"
)
OVERVIEW = (
    "An image goes through six ViT blocks to a feature, and from there to one linear head a task. In each "
    "block K and V have a pair of factors B A. Online Estimation watches the tokens x that enter K and V, "
    "Gradient Rectification acts on the steps of B and A, the Decoupled Margin Loss on the feature and the "
    "old prototypes."
)


def kept(runs: Mapping[str, Matrix], title: str | None = None) -> Figure:
    """Each task's accuracy from the moment it was learned, a panel a method, on one scale.

    runs: label → R, R[t][i] the accuracy (per cent) on task i after task t. A title that is not given says by
    how much old tasks fell, on average (the BWT of each run).
    """
    T = max(map(len, runs.values()))
    figure = make_subplots(
        1, len(runs), subplot_titles=list(runs), shared_yaxes=True, horizontal_spacing=0.13
    )
    values = [value for R in runs.values() for row in R for value in row if value is not None]
    low, high = min(values, default=0.0), max(values, default=1.0)
    room = 0.08 * ((high - low) or 1.0)
    for column, R in enumerate(runs.values(), 1):
        for i, (colour, marker) in zip(range(len(R)), SERIES * T):
            x, y = list(range(i + 1, len(R) + 1)), [R[t][i] for t in range(i, len(R))]
            figure.add_trace(
                go.Scatter(
                    x=x, y=y, mode="lines+markers", name=f"task {i + 1}", showlegend=False,
                    line={"color": colour, "width": 4 if i == 0 else 2.5},
                    marker={"color": colour, "symbol": marker, "size": 12},
                    hovertemplate=f"task {i + 1}, after task %{{x}}: %{{y:.1f}} %<extra></extra>",
                ), 1, column,
            )  # fmt: skip
        ends = [
            (R[-1][i], f"task {i + 1}", SERIES[i % len(SERIES)][0])
            for i in range(len(R))
            if R[-1][i] is not None
        ]
        end_labels(figure, sorted(ends), len(R), 0.9 * room, xshift=12, row=1, col=column)
        figure.update_xaxes(title="after task …", dtick=1, range=[0.8, T + 0.15], row=1, col=column)
    figure.update_yaxes(range=[max(0.0, low - room), high + room])
    figure.update_yaxes(title="accuracy on a task's test images (%)", row=1, col=1)
    figure.update_annotations(font_size=FONT)
    falls = {label: metrics.summary(R)["bwt"] or 0.0 for label, R in runs.items()}
    said = ", ".join(f"{signed(fall)} under {label}" for label, fall in falls.items())
    figure.update_layout(
        title=title or f"Old tasks change by so many points: {said}",
        width=WIDE, height=520, margin={"t": 110, "r": 95},
    )  # fmt: skip
    told = "Accuracy of each task over the stream, a panel a method. Mean change of old tasks in points"
    return Figure(figure, f"{told}: {said}.")


class _Drawing:
    """Boxes, words and arrows in a plane of 101 × 60."""

    def __init__(self) -> None:
        self.figure = go.Figure()
        self.figure.update_xaxes(range=[-1, 101], visible=False, fixedrange=True)
        self.figure.update_yaxes(range=[0, 60], visible=False, fixedrange=True)

    def box(self, x: float, y: float, w: float, h: float, text: str, colour: str = INK, fill: str = PAPER,
            dash: str = "solid") -> None:  # fmt: skip
        line = {"color": colour, "width": 2, "dash": dash}
        self.figure.add_shape(type="rect", x0=x, x1=x + w, y0=y, y1=y + h, fillcolor=fill, line=line)
        self.words(x + w / 2, y + h / 2, text, colour)

    def words(self, x: float, y: float, text: str, colour: str = INK) -> None:
        font = {"color": colour, "size": FONT - 2}
        self.figure.add_annotation(x=x, y=y, text=text, showarrow=False, font=font)

    def arrow(self, x: float, y: float, to_x: float, to_y: float, colour: str = INK) -> None:
        start = {"ax": x, "ay": y, "axref": "x", "ayref": "y", "xref": "x", "yref": "y", "text": ""}
        head = {"showarrow": True, "arrowhead": 2, "arrowwidth": 2, "arrowcolor": colour}
        self.figure.add_annotation(x=to_x, y=to_y, **head, **start)


def overview() -> Figure:
    """The network from the image to the answer, and where each part of Janus acts.

    Online Estimation watches inputs, Gradient Rectification chooses steps, the margin loss moves features.
    """
    draw = _Drawing()
    draw.box(0, 34, 11, 14, "image<br>of the<br>new task")
    draw.arrow(11, 41, 15, 41)
    draw.box(15, 24, 48, 34, "", fill="white")
    draw.words(39, 55.2, "a ViT block, one of six: W is frozen, only A and B are trained")
    draw.box(17, 36, 10, 10, "tokens x")
    draw.box(31, 45.5, 14, 6, "queries: W", QUIET)
    draw.box(31, 37.5, 14, 6, "keys: W + B A", INK, "#FFF3EA")
    draw.box(31, 29.5, 14, 6, "values: W + B A", INK, "#FFF3EA")
    for y in (48.5, 40.5, 32.5):
        draw.arrow(27, 41, 31, y)
        draw.arrow(45, y, 49, 41)
    draw.box(49, 36, 12, 10, "attention,<br>MLP", QUIET)
    draw.arrow(63, 41, 67, 41)
    draw.box(67, 36, 10, 10, "feature z")
    draw.arrow(77, 41, 82, 51)
    draw.box(82, 46, 18, 10, "one linear head<br>a task")
    draw.box(82, 29, 18, 10, "prototypes: means<br>of old classes")
    draw.box(3, 2, 28, 13, ESTIMATION, WATCH, "#EAF3FA", dash="dot")
    draw.arrow(21, 15, 22, 36, WATCH)
    draw.box(35, 2, 28, 13, RECTIFICATION, ACT, "#FDF0E6")
    draw.arrow(42, 15, 39, 29.5, ACT)
    draw.box(67, 2, 33, 13, SEPARATION, PUSH, "#E9F6F1", dash="dash")
    draw.arrow(76, 15, 72, 36, PUSH)
    draw.arrow(90, 15, 90.5, 29, PUSH)
    title = "Where the three parts act: on inputs, on steps, on features"
    draw.figure.update_layout(
        title=title, width=WIDE, height=560, margin={"l": 10, "r": 10, "t": 60, "b": 10}
    )
    return Figure(draw.figure, OVERVIEW)
