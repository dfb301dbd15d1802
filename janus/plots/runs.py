"""Figures about finished runs: where updates leak, and what a leak predicts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, FONT, MARKERS, WIDE, Figure

KINDS = {"k": "keys (K)", "v": "values (V)"}
TITLE = 88  # characters of a title that stand on one line
FLOOR = 1e-9  # where an exact zero is drawn on a logarithmic axis

Scores = Sequence[Mapping[str, float]]  # of each task 2…T: matrix name → score
Values = Sequence[float | None]  # one a run


def violation(rows: Mapping[str, Scores]) -> Figure:
    """Null-space violation per layer, K and V apart: linear above, and below on a log axis what is near zero.

    rows: label → scores of each task (`Result.violation["tasks"]`; several seeds one after the other). A
    layer's point is the mean over tasks.
    """
    tiny = set()
    for label, tasks in rows.items():
        if all(max(per_layer(tasks, kind), default=0) < 1e-3 for kind in KINDS):
            tiny.add(label)
    heights = [0.68, 0.32] if tiny else [1.0]
    layout = dict(vertical_spacing=0.1, horizontal_spacing=0.22, shared_xaxes=True)
    titles = list(KINDS.values())
    figure = make_subplots(len(heights), 2, row_heights=heights, subplot_titles=titles, **layout)
    for column, kind in enumerate(KINDS, 1):
        _layers(figure, rows, kind, 1, column)
        if tiny:
            _near_zero(
                figure, {label: rows[label] for label in rows if label in tiny}, list(rows), kind, column
            )
    figure.update_yaxes(title="violation (0 to 1)", row=1, col=1)
    figure.update_yaxes(range=_both(rows), row=1)  # one scale: K and V are compared
    title = _with_means("Share of a task's change that acts on the past", rows)
    figure.update_layout(title=title, height=640 if tiny else 460, width=WIDE)
    figure.update_layout(margin={"l": 100, "r": _room(rows), "t": 110})
    return Figure(figure, f"Violation per layer for keys and values. {_means(rows)}")


def _near_zero(
    figure: go.Figure, rows: Mapping[str, Scores], order: list[str], kind: str, column: int
) -> None:
    """The second row of `violation`: on a log axis what cannot be seen on the linear one."""
    below = {"row": 2, "col": column}
    for label, tasks in rows.items():
        shown, place = per_layer(tasks, kind), order.index(label)
        raised = [max(v, FLOOR) for v in shown]
        figure.add_trace(_over_layers(label, raised, shown, COLOURS[place], MARKERS[place]), 2, column)
    figure.update_xaxes(title=None, row=1, col=column)
    figure.update_xaxes(title="layer", dtick=1, range=figure.layout.xaxis.range, **below)
    figure.update_yaxes(type="log", exponentformat="power", dtick=1, range=[-9.2, -4.5], **below)
    figure.update_yaxes(title="near zero (log)", row=2, col=1)


def _with_means(text: str, rows: Mapping[str, Scores]) -> str:
    """A title that ends with each row's mean, on a second line where one is too short for all."""
    means = ", ".join(f"{label} {_overall(tasks):.2g}" for label, tasks in rows.items())
    return f"{text}:{' ' if len(text) + len(means) < TITLE else '<br>'}{means}"


def _overall(tasks: Scores) -> float:
    """Mean over layers, K and V, and tasks; 0 where there is none."""
    values = [value for kind in KINDS for value in per_layer(tasks, kind)]
    return fmean(values) if values else 0.0


def absolute_score(rows: Mapping[str, Scores]) -> Figure:
    """The paper's score `‖ΔW·X_past‖` per layer, K and V apart: root mean square over past inputs, in units
    of the layer's output.

    rows: label → scores of each task (`Result.past_output_norm["tasks"]`). A layer's point is the mean over
    tasks.
    """
    figure = make_subplots(1, 2, horizontal_spacing=0.22, subplot_titles=list(KINDS.values()))
    for column, kind in enumerate(KINDS, 1):
        _layers(figure, rows, kind, 1, column)
    figure.update_yaxes(range=_both(rows))  # one scale: K and V are compared
    figure.update_yaxes(title="‖ΔW·X<sub>past</sub>‖ (units of the output)", row=1, col=1)
    title = _with_means("The paper's absolute score, how far past outputs move", rows)
    figure.update_layout(title=title, height=470, width=WIDE, margin={"r": _room(rows), "t": 110})
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
    ends = []
    for (label, values), colour, marker in zip(series.items(), COLOURS, MARKERS):
        figure.add_trace(_over_layers(label, values, values, colour, marker), row, column)
        ends.append((values[-1] if values else 0.0, label, colour))
    end_labels(figure, ends, count + 0.2, 0.08 * (high - low), row=row, col=column)
    figure.update_xaxes(title="layer", dtick=1, range=[0.7, count + 0.3], row=row, col=column)


def _over_layers(
    label: str, y: Sequence[float], told: Sequence[float], colour: str, marker: str
) -> go.Scatter:
    """A line over the layers; `told` are the values that are said of its points."""
    layers, text = range(1, len(y) + 1), "layer %{x}: %{customdata:.3g}"
    return marked_line(label, layers, y, colour, marker, text, customdata=list(told), showlegend=False)


def _both(rows: Mapping[str, Scores]) -> list[float]:
    """The range of an axis that K and V share."""
    values = (v for tasks in rows.values() for kind in KINDS for v in per_layer(tasks, kind))
    top = max(values, default=0) or 1.0
    return [-0.04 * top, 1.1 * top]


def _room(rows: Mapping[str, Scores]) -> int:
    """Pixels for the labels at line ends."""
    return 50 + 10 * max(map(len, rows), default=0)


def _means(rows: Mapping[str, Scores]) -> str:
    both = {label: per_layer(tasks, "k") + per_layer(tasks, "v") for label, tasks in rows.items()}
    means = ", ".join(f"{label} {fmean(values):.2g}" for label, values in both.items() if values)
    return f"Mean over layers and tasks: {means}."


def predictors(names: Sequence[str], scores: Mapping[str, Values], outcomes: Mapping[str, Values]) -> Figure:
    """Does a score predict an outcome? Scatter plots, a column a score, a row an outcome; one point a run.

    names: each run's row; the colour and the marker tell how that row is protected. scores, outcomes: axis
    title → a value a run. Runs that lack one of them are left out.
    """
    numbers = (*scores.values(), *outcomes.values())
    whole = [i for i in range(len(names)) if None not in [values[i] for values in numbers]]
    found = {label: [i for i in whole if protection(names[i]) == label] for label in PROTECTIONS}
    groups = {label: members for label, members in found.items() if members}
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
                points = go.Scatter(
                    x=[x[i] for i in members],
                    y=[y[i] for i in members],
                    mode="markers",
                    name=label,
                    legendgroup=label,
                    showlegend=row == column == 1,
                    marker={"color": colour, "symbol": marker, "size": 11},
                    text=[names[i] for i in members],
                    hovertemplate="%{text}: %{x:.3g}, %{y:.3g}<extra></extra>",
                )
                figure.add_trace(points, row, column)
            figure.update_xaxes(title=x_name if row == len(outcomes) else None, row=row, col=column)
        figure.update_yaxes(title=y_name, row=row, col=1)
    height = 200 + 280 * len(outcomes)
    place = {"y": -85 / (height - 195), "yanchor": "top", "x": 0.5, "xanchor": "center"}
    figure.update_layout(
        title=f"Does a score predict what happens to the past? {len(whole)} runs, by what protects them",
        height=height,
        width=WIDE,
        margin={"b": 125},
        legend={"orientation": "h", **place},
    )
    return Figure(
        figure,
        f"Scatter plots of {len(whole)} runs, coloured by protection ({', '.join(groups)}): "
        f"{' and '.join(outcomes)}, each over {' and over '.join(scores)}.",
    )


PROTECTIONS = ("nothing", "GPM", "OE + GR", "exact", "GR", "OE")  # in the order of COLOURS, as in `violation`


def protection(row: str) -> str:
    """What protects a row's updates, from its name ("OE-GR-DML", "merged_nullspace_OE_gr-none", …)."""
    parts = re.split(r"[^A-Za-z]+", row)
    if "exact" in parts or "GPM" in parts:
        return "exact" if "exact" in parts else "GPM"
    both = (["OE"] if "OE" in parts else []) + (["GR"] if "GR" in parts or "tangent" in parts else [])
    return " + ".join(both) or "nothing"


_OWN = {"frozen": 6, "ncm": 7, "joint": 8, "probe": 9}


def style(row: str) -> tuple[str, str, str]:
    """(colour, marker, dash) of a row: by what protects it, as in the other figures; open and dashed with the
    margin loss."""
    index = _OWN.get(row, PROTECTIONS.index(protection(row)))
    with_dml = "DML" in row
    return COLOURS[index], MARKERS[index] + ("-open" if with_dml else ""), "dash" if with_dml else "solid"


def marked_line(
    label: str, x: Sequence[float], y: Sequence[float], colour: str, marker: str, told: str, **more: Any
) -> go.Scatter:
    """A line with marks. told: what it says of a point, after its label. more: other arguments for plotly."""
    return go.Scatter(
        x=list(x),
        y=list(y),
        mode="lines+markers",
        name=label,
        line={"color": colour},
        marker={"symbol": marker, "color": colour},
        hovertemplate=f"{label}, {told}<extra></extra>",
        **more,
    )


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

    On a logarithmic axis x and y are powers of ten. where: the subplot (`row`, `col`), or a shift in pixels
    (`xshift`).
    """
    ends = sorted(ends)
    placed = apart([end[0] for end in ends], gap)
    for y, (_, label, colour) in zip(placed, ends):
        look = {"xanchor": "left", "showarrow": False, "font": {"color": colour, "size": FONT}}
        figure.add_annotation(text=label, x=x, y=y, **look, **where)
    return placed
