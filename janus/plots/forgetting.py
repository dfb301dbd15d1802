"""Figures about forgetting: the accuracy matrix, its curves, and where accuracy went."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, FONT, MARKERS, WIDE, Figure
from .runs import end_labels, task_step

# R[t][i]: accuracy (per cent) on task i after task t, i ≤ t; None: not evaluated
Matrix = Sequence[Sequence[float | None]]

WRITTEN = 20  # tasks: numbers in the cells of more could not be read
BLACK = 6  # black and its star are kept for means
SERIES = [(colour, marker) for i, (colour, marker) in enumerate(zip(COLOURS, MARKERS)) if i != BLACK]
PATTERNS = ("", "/", "x", ".", "-")  # of bars, beside their colours
PARTS = (  # of BWT, see `split`
    "within the right task<br>(features drifted)",
    "between the heads<br>(competition)",
    "both together = BWT",
)


def accuracy_matrix(
    R: Matrix, title: str = "Accuracy on each task after each task", top: float | None = None
) -> Figure:
    """R[t][i] as a heat map: a row t after task t, a column i for task i. Up to 20 tasks its values are
    written in, outlined where t = i.

    Above the diagonal nothing is drawn: those tasks had not been met. `top` (per cent) is the end of the
    colour scale; give two matrices the same one to compare them.
    """
    T = len(R)
    z = [[R[t][i] if i <= t else None for i in range(T)] for t in range(T)]
    known = [v for row in z for v in row if v is not None]
    top = (max(known) or 1.0) if top is None else top
    ticks, step, gap = list(range(1, T + 1)), task_step(T), 2 if T <= WRITTEN else 0
    bar = {"text": "accuracy (%)", "side": "right", "font": {"size": FONT}}
    figure = go.Figure(
        go.Heatmap(
            x=ticks,
            y=ticks,
            z=z,
            zmin=0,
            zmax=top,
            xgap=gap,
            ygap=gap,
            hoverongaps=False,
            hovertemplate="after task %{y}, on task %{x}: %{z:.1f} %<extra></extra>",
            colorbar={"title": bar, "thickness": 18},
        )
    )
    if T <= WRITTEN:  # all at once: plotly checks every annotation again whenever one is added
        figure.update_layout(annotations=_written(z, top), shapes=[_outline(t) for t in range(T)])
    span = [0.45, T + 0.55]
    figure.update_xaxes(title="accuracy on the test images of task …", dtick=step, range=span, showgrid=False)
    figure.update_yaxes(title="after task …", dtick=step, range=span[::-1], showgrid=False)
    figure.update_layout(title=title, width=760, height=180 + 75 * min(T, 6))
    rows = "; ".join(
        f"after task {t + 1}: " + ", ".join("unknown" if v is None else f"{v:.0f}" for v in row[: t + 1])
        for t, row in enumerate(z)
        if T <= WRITTEN or t == T - 1
    )
    return Figure(figure, f"Accuracy matrix in per cent, tasks 1 to {T} from left to right. {rows}.")


def _written(z: Matrix, top: float) -> list[dict[str, Any]]:
    """The known values as texts in their cells, white on dark ones."""
    texts = []
    for t, row in enumerate(z):
        for i, value in enumerate(row):
            if value is not None:
                font = {"size": FONT + 2, "color": "white" if value < 0.48 * top else "black"}
                place = {"x": i + 1, "y": t + 1, "showarrow": False}
                texts.append({"text": f"{value:.0f}", **place, "font": font})
    return texts


def _outline(t: int) -> dict[str, Any]:
    """A frame around cell (t, t) of the matrix."""
    low, high = t + 0.52, t + 1.48
    line = {"color": "black", "width": 4}
    return {"type": "rect", "x0": low, "x1": high, "y0": low, "y1": high, "line": line}


def accuracy_curves(R: Matrix, title: str = "Each task's accuracy from the moment it was learned") -> Figure:
    """One line a task (its own colour and marker) from its own task on; in black the mean of tasks so far."""
    T = len(R)
    series = {f"task {i + 1}": [(t + 1, R[t][i]) for t in range(i, T)] for i in range(T)}
    series["mean of tasks so far"] = [(t + 1, _mean(R[t][: t + 1])) for t in range(T)]
    looks = [*(SERIES[i % len(SERIES)] for i in range(T)), (COLOURS[BLACK], MARKERS[BLACK])]
    figure = go.Figure()
    ends = []
    for (label, points), (colour, marker) in zip(series.items(), looks):
        mean = colour == COLOURS[BLACK]
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in points],
                y=[y for _, y in points],
                mode="lines+markers",
                name=label,
                showlegend=False,
                line={"color": colour, "width": 4 if mean else 2.5, "dash": "dot" if mean else "solid"},
                marker={"symbol": marker, "color": colour, "size": 13},
                hovertemplate=f"{label}, after task %{{x}}: %{{y:.1f}} %<extra></extra>",
            )
        )
        if points[-1][1] is not None:
            ends.append((points[-1][1], label, colour))
    highest = max((y for points in series.values() for _, y in points if y is not None), default=1.0) or 1.0
    end_labels(figure, ends, T, 0.065 * highest, xshift=16)
    figure.update_xaxes(title="after task …", dtick=task_step(T), range=[0.85, T + 0.1])
    figure.update_yaxes(title="accuracy (%)", range=[-0.03 * highest, 1.08 * highest])
    figure.update_layout(title=title, width=900, height=520, margin={"r": 215})
    falls = ", ".join(
        f"task {i + 1} from {R[i][i]:.0f} to {R[-1][i]:.0f}" for i in range(T) if R[-1][i] is not None
    )
    return Figure(figure, f"A line for each task over the stream, accuracy in per cent: {falls}.")


def split(R: Matrix, aware: Matrix) -> tuple[float, float]:
    """BWT as a sum of two parts, in points: (within the right task, between the heads).

    R[t][i] by argmax over all heads, aware[t][i] within task i's own head (per cent). The first part is the
    mean change of `aware` over old tasks, the second that of `R − aware`. NaN for a stream of one task, or
    where nothing old is known.
    """
    old = [i for i in range(len(R) - 1) if R[-1][i] is not None]
    if not old:
        return float("nan"), float("nan")
    within = fmean(aware[-1][i] - aware[i][i] for i in old)
    return within, fmean(R[-1][i] - R[i][i] for i in old) - within


def split_bars(
    rows: dict[str, tuple[Matrix, Matrix]], title: str = "Where did the accuracy of old tasks go?"
) -> Figure:
    """BWT of each row in its two parts (`split`), as bars from zero with the values beside them.

    rows: label → (R, task-aware R), per cent.
    """
    parts = {label: split(*matrices) for label, matrices in rows.items()}
    values = [[within, between, within + between] for within, between in parts.values()]
    low, high = (max((sign * v for row in values for v in row), default=0.0) for sign in (-1, 1))
    room = (10 * max(map(len, parts)) + 75) / 740  # what a label takes of the plot's width, on either side
    low, high = max(low, 0.0), max(high, 0.0)
    margin = ((low + high) or 1.0) * room / (1 - 2 * room)
    thick = 0.74 / len(rows)
    figure = go.Figure()
    for k, (label, row, (colour, _), shape) in enumerate(zip(parts, values, SERIES, PATTERNS)):
        places = [group + (k - (len(rows) - 1) / 2) * thick for group in range(len(PARTS))]
        figure.add_trace(
            go.Bar(
                y=places,
                x=row,
                orientation="h",
                width=0.9 * thick,
                name=label,
                showlegend=False,
                marker={"color": colour, "pattern": {"shape": shape}},
                customdata=[name.replace("<br>", " ") for name in PARTS],
                hovertemplate=f"{label}, %{{customdata}}: %{{x:+.2f}} points<extra></extra>",
            )
        )
        for y, value in zip(places, row):
            side = {"xanchor": "left", "xshift": 6} if value >= 0 else {"xanchor": "right", "xshift": -6}
            text, font = f"{label} {signed(value)}", {"color": colour}
            figure.add_annotation(text=text, x=value, y=y, showarrow=False, font=font, **side)
    figure.update_xaxes(
        title="change of old tasks' accuracy, from just learned to the end (points)",
        range=[-low - margin, high + margin],
        zeroline=True,
        zerolinecolor="#222222",
    )
    ticks, span = list(range(len(PARTS))), [len(PARTS) - 0.5, -0.5]
    figure.update_yaxes(range=span, tickvals=ticks, ticktext=list(PARTS), ticks="", showgrid=False)
    figure.update_layout(title=title, width=WIDE, height=230 + 85 * len(rows), margin={"l": 220})
    said = "; ".join(
        f"{label} within the task {signed(within)}, between the heads {signed(between)}, "
        f"together {signed(together)}"
        for label, (within, between, together) in zip(parts, values)
    )
    return Figure(figure, f"Bars of backward transfer in two parts, in points: {said}.")


def split_curves(rows: dict[str, tuple[Matrix, Matrix]], task: int = 0, title: str | None = None) -> Figure:
    """A task's accuracy over the stream, a panel a row: within its head, over all. The gap is competition.

    rows: label → (R, task-aware R), per cent; `task` counts from 0.
    """
    panels = dict(subplot_titles=list(rows), shared_yaxes=True, horizontal_spacing=0.06)
    figure = make_subplots(1, len(rows), **panels)
    values = [row[task] or 0.0 for _, aware in rows.values() for row in aware[task:]]
    highest = max(values, default=0.0) or 1.0
    falls = []
    for column, (label, (R, aware)) in enumerate(rows.items(), 1):
        ticks = list(range(task + 1, len(R) + 1))
        lines = {"within the right task": aware, "over all heads": R}
        for i, (kind, M) in enumerate(lines.items()):
            y = [M[t][task] for t in range(task, len(M))]
            _panel_line(figure, label, kind, ticks, y, column, upper=i == 0)
            known = [v for v in y if v is not None]
            falls.append(f"{label}, {kind}: {known[0]:.0f} to {known[-1]:.0f}")
        span = [ticks[0] - 0.2, ticks[-1] + 0.22 * len(ticks)]
        figure.update_xaxes(title="after task …", tickvals=ticks, range=span, row=1, col=column)
    figure.update_yaxes(range=[-0.02 * highest, 1.25 * highest])
    figure.update_yaxes(title=f"accuracy on task {task + 1} (%)", row=1, col=1)
    figure.update_annotations(font_size=FONT)
    title = title or f"Task {task + 1}: the grey gap is what other heads take away"
    figure.update_layout(title=title, width=WIDE, height=480)
    return Figure(
        figure,
        f"Accuracy of task {task + 1} over the stream, by argmax within its own head and over all heads. "
        f"{'; '.join(falls)}.",
    )


def _panel_line(
    figure: go.Figure,
    label: str,
    kind: str,
    x: list[int],
    y: Sequence[float | None],
    column: int,
    upper: bool,
) -> None:
    """A line of `split_curves` in one panel, with its last value beside it. The lower of a panel's two lines
    fills the gap to the upper one; in the first panel each has its name."""
    colour, marker = (COLOURS[1], MARKERS[1]) if upper else (COLOURS[0], MARKERS[0])
    line = go.Scatter(
        x=x,
        y=y,
        mode="lines+markers",
        name=kind,
        showlegend=False,
        fill=None if upper else "tonexty",
        fillcolor="rgba(127,127,127,0.18)",
        line={"color": colour},
        marker={"color": colour, "symbol": marker, "size": 12},
        hovertemplate=f"{label}, {kind}, after task %{{x}}: %{{y:.1f}} %<extra></extra>",
    )
    figure.add_trace(line, 1, column)
    last = [v for v in y if v is not None][-1]
    end = {"x": x[-1], "y": last, "showarrow": False, "font": {"color": colour}, "row": 1, "col": column}
    figure.add_annotation(text=f"{last:.0f} %", xanchor="left", xshift=10, **end)
    if column == 1:  # which line is which; the other panels have the same colours and markers
        figure.add_annotation(text=kind, xanchor="right", yshift=20 if upper else -20, **end)


def _mean(row: Sequence[float | None]) -> float | None:
    known = [v for v in row if v is not None]
    return fmean(known) if known else None


def signed(value: float) -> str:
    """A change with its sign, to a tenth: +0.0, −12.2."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
