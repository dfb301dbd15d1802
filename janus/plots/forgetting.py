"""Figures about forgetting: the accuracy matrix, its curves, and where accuracy went."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, FONT, MARKERS, WIDE, Figure
from .runs import end_labels, task_step

Matrix = Sequence[
    Sequence[float | None]
]  # R[t][i]: accuracy (per cent) on task i after task t, i ≤ t; None: not evaluated

WRITTEN = 20  # tasks: numbers in the cells of more could not be read
BLACK = 6  # black and its star are kept for means
SERIES = [(colour, marker) for i, (colour, marker) in enumerate(zip(COLOURS, MARKERS)) if i != BLACK]


def accuracy_matrix(
    R: Matrix, title: str = "Accuracy on each task after each task", top: float | None = None
) -> Figure:
    """R[t][i] as a heat map: a row t after task t, a column i for task i. Up to 20 tasks its values are written in, outlined where
    t = i.

    Above the diagonal nothing is drawn: those tasks had not been met. `top` (per cent) is the end of the colour scale; give
    two matrices the same one to compare them.
    """
    T = len(R)
    z = [[R[t][i] if i <= t else None for i in range(T)] for t in range(T)]
    known = [v for row in z for v in row if v is not None]
    top = (max(known) or 1.0) if top is None else top
    ticks, step, gap = list(range(1, T + 1)), task_step(T), 2 if T <= WRITTEN else 0
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
            colorbar={
                "title": {"text": "accuracy (%)", "side": "right", "font": {"size": FONT}},
                "thickness": 18,
            },
        )
    )
    if T <= WRITTEN:  # all at once: plotly checks every annotation again whenever one is added
        figure.update_layout(
            annotations=[
                {
                    "text": f"{value:.0f}",
                    "x": i + 1,
                    "y": t + 1,
                    "showarrow": False,
                    "font": {"size": FONT + 2, "color": "white" if value < 0.48 * top else "black"},
                }  # dark on light
                for t, row in enumerate(z)
                for i, value in enumerate(row)
                if value is not None
            ],
            shapes=[
                {
                    "type": "rect",
                    "x0": t + 0.52,
                    "x1": t + 1.48,
                    "y0": t + 0.52,
                    "y1": t + 1.48,
                    "line": {"color": "black", "width": 4},
                }
                for t in range(T)
            ],
        )
    figure.update_xaxes(
        title="accuracy on the test images of task …", dtick=step, range=[0.45, T + 0.55], showgrid=False
    )
    figure.update_yaxes(title="after task …", dtick=step, range=[T + 0.55, 0.45], showgrid=False)
    figure.update_layout(title=title, width=760, height=180 + 75 * min(T, 6))
    rows = "; ".join(
        f"after task {t + 1}: " + ", ".join("unknown" if v is None else f"{v:.0f}" for v in row[: t + 1])
        for t, row in enumerate(z)
        if T <= WRITTEN or t == T - 1
    )
    return Figure(figure, f"Accuracy matrix in per cent, tasks 1 to {T} from left to right. {rows}.")


def accuracy_curves(R: Matrix, title: str = "Each task's accuracy from the moment it was learned") -> Figure:
    """One line a task (its own colour and marker), from its own task on; in black the mean over the tasks seen so far."""
    T = len(R)
    series = {f"task {i + 1}": [(t + 1, R[t][i]) for t in range(i, T)] for i in range(T)}
    series["mean of tasks so far"] = [(t + 1, _mean(R[t][: t + 1])) for t in range(T)]
    looks = [*(SERIES[i % len(SERIES)] for i in range(T)), (COLOURS[BLACK], MARKERS[BLACK])]
    figure = go.Figure()
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
    highest = max((y for points in series.values() for _, y in points if y is not None), default=1.0) or 1.0
    ends = sorted(
        (points[-1][1], label, colour)
        for (label, points), (colour, _) in zip(series.items(), looks)
        if points[-1][1] is not None
    )
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

    R[t][i] by argmax over all heads, aware[t][i] within task i's own head (per cent). The first part is the mean change of
    `aware` over old tasks, the second that of `R − aware`. NaN for a stream of one task, or where nothing old is known.
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
    names = (
        "within the right task<br>(features drifted)",
        "between the heads<br>(competition)",
        "both together = BWT",
    )
    values = [[within, between, within + between] for within, between in parts.values()]
    low, high = (max((sign * v for row in values for v in row), default=0.0) for sign in (-1, 1))
    room = (10 * max(map(len, parts)) + 75) / 740  # what a label takes of the plot's width, on either side
    low, high = max(low, 0.0), max(high, 0.0)
    margin = ((low + high) or 1.0) * room / (1 - 2 * room)
    thick = 0.74 / len(rows)
    figure = go.Figure()
    for k, (label, row, (colour, _), pattern) in enumerate(
        zip(parts, values, SERIES, ("", "/", "x", ".", "-"))
    ):
        places = [group + (k - (len(rows) - 1) / 2) * thick for group in range(len(names))]
        figure.add_trace(
            go.Bar(
                y=places,
                x=row,
                orientation="h",
                width=0.9 * thick,
                name=label,
                showlegend=False,
                marker={"color": colour, "pattern": {"shape": pattern}},
                customdata=[name.replace("<br>", " ") for name in names],
                hovertemplate=f"{label}, %{{customdata}}: %{{x:+.2f}} points<extra></extra>",
            )
        )
        for y, value in zip(places, row):
            figure.add_annotation(
                text=f"{label} {signed(value)}",
                x=value,
                y=y,
                xanchor="left" if value >= 0 else "right",
                xshift=6 if value >= 0 else -6,
                showarrow=False,
                font={"color": colour},
            )
    figure.update_xaxes(
        title="change of old tasks' accuracy, from just learned to the end (points)",
        range=[-low - margin, high + margin],
        zeroline=True,
        zerolinecolor="#222222",
    )
    figure.update_yaxes(
        range=[len(names) - 0.5, -0.5],
        tickvals=list(range(len(names))),
        ticktext=list(names),
        ticks="",
        showgrid=False,
    )
    figure.update_layout(title=title, width=WIDE, height=230 + 85 * len(rows), margin={"l": 220})
    said = "; ".join(
        f"{label} within the task {signed(row[0])}, between the heads {signed(row[1])}, together {signed(row[2])}"
        for label, row in zip(parts, values)
    )
    return Figure(figure, f"Bars of backward transfer in two parts, in points: {said}.")


def split_curves(rows: dict[str, tuple[Matrix, Matrix]], task: int = 0, title: str | None = None) -> Figure:
    """One task's accuracy over the stream, a panel a row: within its own head and over all heads. The gap is competition.

    rows: label → (R, task-aware R), per cent; `task` counts from 0.
    """
    figure = make_subplots(
        1, len(rows), subplot_titles=list(rows), shared_yaxes=True, horizontal_spacing=0.06
    )
    kinds = ("within the right task", "over all heads")
    highest = (
        max((row[task] or 0.0 for _, aware in rows.values() for row in aware[task:]), default=0.0) or 1.0
    )
    falls = []
    for column, (label, (R, aware)) in enumerate(rows.items(), 1):
        ticks = list(range(task + 1, len(R) + 1))
        lines = [[M[t][task] for t in range(task, len(M))] for M in (aware, R)]
        for kind, values, (colour, marker), fill in zip(
            kinds, lines, ((COLOURS[1], MARKERS[1]), (COLOURS[0], MARKERS[0])), (None, "tonexty")
        ):
            figure.add_trace(
                go.Scatter(
                    x=ticks,
                    y=values,
                    mode="lines+markers",
                    name=kind,
                    showlegend=False,
                    fill=fill,
                    fillcolor="rgba(127,127,127,0.18)",
                    line={"color": colour},
                    marker={"color": colour, "symbol": marker, "size": 12},
                    hovertemplate=f"{label}, {kind}, after task %{{x}}: %{{y:.1f}} %<extra></extra>",
                ),
                1,
                column,
            )
            known = [v for v in values if v is not None]
            falls.append(f"{label}, {kind}: {known[0]:.0f} to {known[-1]:.0f}")
            end = {
                "x": ticks[-1],
                "y": known[-1],
                "showarrow": False,
                "font": {"color": colour},
                "row": 1,
                "col": column,
            }
            figure.add_annotation(text=f"{known[-1]:.0f} %", xanchor="left", xshift=10, **end)
            if column == 1:  # which line is which; the other panels have the same colours and markers
                figure.add_annotation(
                    text=kind, xanchor="right", yshift=20 if kind == kinds[0] else -20, **end
                )
        figure.update_xaxes(
            title="after task …",
            tickvals=ticks,
            range=[ticks[0] - 0.2, ticks[-1] + 0.22 * len(ticks)],
            row=1,
            col=column,
        )
    figure.update_yaxes(range=[-0.02 * highest, 1.25 * highest])
    figure.update_yaxes(title=f"accuracy on task {task + 1} (%)", row=1, col=1)
    figure.update_annotations(font_size=FONT)
    figure.update_layout(
        title=title or f"Task {task + 1}: the grey gap is what other heads take away", width=WIDE, height=480
    )
    return Figure(
        figure,
        f"Accuracy of task {task + 1} over the stream, by argmax within its own head and over all heads. "
        f"{'; '.join(falls)}.",
    )


def _mean(row: Sequence[float | None]) -> float | None:
    known = [v for v in row if v is not None]
    return fmean(known) if known else None


def signed(value: float) -> str:
    """A change with its sign, to a tenth: +0.0, −12.2."""
    return f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")
