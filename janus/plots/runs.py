"""Figures about finished runs: where updates leak, and what a leak predicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, FONT, MARKERS, WIDE, Figure

KINDS = {"k": "keys (K)", "v": "values (V)"}
FLOOR = 1e-9  # where an exact zero is drawn on a logarithmic axis

Scores = Sequence[Mapping[str, float]]  # of each task 2…T: matrix name → score
Values = Sequence[float | None]  # one a run


def violation(rows: Mapping[str, Scores]) -> Figure:
    """Null-space violation per layer, K and V apart: linear above, and below on a log axis what is near zero.

    rows: label → scores of each task (`Result.violation["tasks"]`; several seeds one after the other). A layer's point is the
    mean over tasks.
    """
    tiny = {
        label
        for label, tasks in rows.items()
        if all(max(per_layer(tasks, kind), default=0) < 1e-3 for kind in KINDS)
    }
    figure = make_subplots(
        2,
        2,
        row_heights=[0.68, 0.32],
        vertical_spacing=0.1,
        horizontal_spacing=0.22,
        shared_xaxes=True,
        subplot_titles=list(KINDS.values()),
    )
    for column, kind in enumerate(KINDS, 1):
        _layers(figure, rows, kind, 1, column)
        for (label, tasks), colour, marker in zip(rows.items(), COLOURS, MARKERS):
            if label in tiny:
                shown = per_layer(tasks, kind)
                _line(figure, label, [max(v, FLOOR) for v in shown], shown, colour, marker, 2, column)
        figure.update_xaxes(title=None, row=1, col=column)
        figure.update_xaxes(title="layer", dtick=1, range=figure.layout.xaxis.range, row=2, col=column)
        figure.update_yaxes(
            type="log", exponentformat="power", dtick=1, range=[-9.2, -4.5], row=2, col=column
        )
    figure.update_yaxes(title="violation (0 to 1)", row=1, col=1)
    figure.update_yaxes(range=_both(rows), row=1)  # one scale: K and V are compared
    figure.update_yaxes(title="near zero (log)", row=2, col=1)
    figure.update_layout(
        title="How much of a task's weight change acts on the inputs of past tasks",
        height=640,
        width=WIDE,
        margin={"l": 100, "r": _room(rows)},
    )
    return Figure(figure, f"Violation per layer for keys and values. {_means(rows)}")


def absolute_score(rows: Mapping[str, Scores]) -> Figure:
    """The paper's score `‖ΔW·X_past‖` per layer, K and V apart: root mean square over past inputs, in units of the layer's output.

    rows: label → scores of each task (`Result.past_output_norm["tasks"]`). A layer's point is the mean over tasks.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.22, subplot_titles=list(KINDS.values()))
    for column, kind in enumerate(KINDS, 1):
        _layers(figure, rows, kind, 1, column)
    figure.update_yaxes(range=_both(rows))  # one scale: K and V are compared
    figure.update_yaxes(title="‖ΔW·X<sub>past</sub>‖ (units of the output)", row=1, col=1)
    figure.update_layout(
        title="The paper's absolute score: how far a task moves past outputs",
        height=460,
        width=WIDE,
        margin={"r": _room(rows), "t": 100},
    )
    return Figure(figure, f"The absolute score per layer for keys and values. {_means(rows)}")


def per_layer(tasks: Scores, kind: str) -> list[float]:
    """Mean over tasks of one kind of matrix (`k`, `v`), in the order of the layers."""
    names = [name for name in (tasks[0] if tasks else ()) if name.rpartition(".")[2] == kind]
    return [fmean(task[name] for task in tasks) for name in names]


def _layers(figure: go.Figure, rows: Mapping[str, Scores], kind: str, row: int, column: int) -> None:
    """A line over the layers for each label, which stands at its end."""
    series = {label: per_layer(tasks, kind) for label, tasks in rows.items()}
    low, high = _both(rows)
    count = max((len(v) for v in series.values()), default=1)
    for (label, values), colour, marker in zip(series.items(), COLOURS, MARKERS):
        _line(figure, label, values, values, colour, marker, row, column)
    ends = [
        (values[-1] if values else 0.0, label, colour)
        for (label, values), colour in zip(series.items(), COLOURS)
    ]
    end_labels(figure, ends, count + 0.2, 0.08 * (high - low), row=row, col=column)
    figure.update_xaxes(title="layer", dtick=1, range=[0.7, count + 0.3], row=row, col=column)


def _line(
    figure: go.Figure,
    label: str,
    y: Sequence[float],
    told: Sequence[float],
    colour: str,
    marker: str,
    row: int,
    column: int,
) -> None:
    figure.add_trace(
        go.Scatter(
            x=list(range(1, len(y) + 1)),
            y=list(y),
            mode="lines+markers",
            name=label,
            line={"color": colour},
            showlegend=False,
            marker={"symbol": marker, "color": colour},
            customdata=list(told),
            hovertemplate=f"{label}, layer %{{x}}: %{{customdata:.3g}}<extra></extra>",
        ),
        row,
        column,
    )


def _both(rows: Mapping[str, Scores]) -> list[float]:
    """The range of an axis that K and V share."""
    top = (
        max((v for tasks in rows.values() for kind in KINDS for v in per_layer(tasks, kind)), default=0)
        or 1.0
    )
    return [-0.04 * top, 1.1 * top]


def _room(rows: Mapping[str, Scores]) -> int:
    """Pixels for the labels at line ends."""
    return 50 + 10 * max(map(len, rows), default=0)


def _means(rows: Mapping[str, Scores]) -> str:
    means = ", ".join(
        f"{label} {fmean(both):.2g}"
        for label, tasks in rows.items()
        if (both := per_layer(tasks, "k") + per_layer(tasks, "v"))
    )
    return f"Mean over layers and tasks: {means}."


def predictors(names: Sequence[str], scores: Mapping[str, Values], outcomes: Mapping[str, Values]) -> Figure:
    """Does a score predict an outcome? A grid of scatter plots, a column a score, a row an outcome; one point a run.

    names: each run's row; the colour and the marker tell how that row is protected. scores, outcomes: axis title → a value a run.
    Runs that lack one of them are left out.
    """
    whole = [
        i
        for i in range(len(names))
        if None not in [values[i] for values in (*scores.values(), *outcomes.values())]
    ]
    groups = {
        label: found
        for label in PROTECTIONS
        if (found := [i for i in whole if protection(names[i]) == label])
    }
    figure = make_subplots(
        len(outcomes),
        len(scores),
        horizontal_spacing=0.05,
        vertical_spacing=0.06,
        shared_xaxes=True,
        shared_yaxes=True,
    )
    for row, (y_name, y) in enumerate(outcomes.items(), 1):
        for column, (x_name, x) in enumerate(scores.items(), 1):
            for (label, members), colour, marker in zip(groups.items(), COLOURS, MARKERS):
                figure.add_trace(
                    go.Scatter(
                        x=[x[i] for i in members],
                        y=[y[i] for i in members],
                        mode="markers",
                        name=label,
                        legendgroup=label,
                        showlegend=row == column == 1,
                        marker={"color": colour, "symbol": marker, "size": 11},
                        text=[names[i] for i in members],
                        hovertemplate="%{text}: %{x:.3g}, %{y:.3g}<extra></extra>",
                    ),
                    row,
                    column,
                )
            figure.update_xaxes(title=x_name if row == len(outcomes) else None, row=row, col=column)
        figure.update_yaxes(title=y_name, row=row, col=1)
    height = 200 + 280 * len(outcomes)
    figure.update_layout(
        title=f"Does a score predict what happens to the past? {len(whole)} runs, by what protects them",
        height=height,
        width=WIDE,
        margin={"b": 125},
        legend={
            "orientation": "h",
            "y": -85 / (height - 195),
            "yanchor": "top",
            "x": 0.5,
            "xanchor": "center",
        },
    )
    return Figure(
        figure,
        f"Scatter plots of {len(whole)} runs, coloured by protection ({', '.join(groups)}): "
        f"{' and '.join(outcomes)}, each over {' and over '.join(scores)}.",
    )


PROTECTIONS = ("nothing", "GPM", "OE + GR", "exact", "GR", "OE")  # in the order of COLOURS, as in `violation`


def protection(row: str) -> str:
    """What protects a row's updates, from its name ("OE-GR-DML", "merged_nullspace_OE_gr-none", …)."""
    parts = row.replace("+", " ").replace("-", " ").replace("_", " ").replace("=", " ").split()
    if "exact" in parts or "GPM" in parts:
        return "exact" if "exact" in parts else "GPM"
    both = (["OE"] if "OE" in parts else []) + (["GR"] if "GR" in parts or "tangent" in parts else [])
    return " + ".join(both) or "nothing"


_OWN = {"frozen": 6, "ncm": 7, "joint": 8}


def style(row: str) -> tuple[str, str, str]:
    """(colour, marker, dash) of a row: by what protects it, as in the other figures; open and dashed with the margin loss."""
    index = _OWN.get(row, PROTECTIONS.index(protection(row)))
    with_dml = "DML" in row
    return COLOURS[index], MARKERS[index] + ("-open" if with_dml else ""), "dash" if with_dml else "solid"


def apart(values: list[float], gap: float) -> list[float]:
    """Ascending positions near `values` that keep `gap` between them: where labels at line ends go."""
    placed = list(values)
    for _ in range(100):
        for i in range(len(placed) - 1):
            short = gap - (placed[i + 1] - placed[i])
            if short > 1e-12:
                placed[i], placed[i + 1] = placed[i] - short / 2, placed[i + 1] + short / 2
    return placed


def task_step(tasks: int) -> int:
    """From one number to the next on an axis of tasks: there is room for about twenty."""
    return max(1, tasks // 20)


def end_labels(
    figure: go.Figure, ends: Sequence[tuple[float, str, str]], x: float, gap: float, **where: Any
) -> list[float]:
    """Names beside line ends (y, name, colour), kept `gap` apart; returns where they stand, ascending.

    On a logarithmic axis x and y are powers of ten. where: the subplot (`row`, `col`), or a shift in pixels (`xshift`).
    """
    ends = sorted(ends)
    placed = apart([end[0] for end in ends], gap)
    for y, (_, label, colour) in zip(placed, ends):
        figure.add_annotation(
            text=label,
            x=x,
            y=y,
            xanchor="left",
            showarrow=False,
            font={"color": colour, "size": FONT},
            **where,
        )
    return placed
