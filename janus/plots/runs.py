"""Figures about finished runs: where updates leak, and what a leak predicts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, FONT, MARKERS, Figure

KINDS = {"k": "keys (K)", "v": "values (V)"}
FLOOR = 1e-9  # where an exact zero is drawn on a logarithmic axis

Violations = Sequence[dict[str, float]]  # of each task 2…T: matrix name → score


def violation(rows: dict[str, Violations]) -> Figure:
    """Null-space violation per layer, K and V apart: linear above, and below on a log axis what is near zero.

    rows: label → scores of each task (`Result.violation["tasks"]`; several seeds one after the other). A layer's point is the
    mean over tasks.
    """
    series = {kind: {label: per_layer(tasks, kind) for label, tasks in rows.items()} for kind in KINDS}
    tiny = {label for label in rows if all(max(series[kind][label], default=0) < 1e-3 for kind in KINDS)}
    figure = make_subplots(2, 2, row_heights=[0.68, 0.32], vertical_spacing=0.1, horizontal_spacing=0.22, shared_xaxes=True,
                           subplot_titles=list(KINDS.values()))
    for column, kind in enumerate(KINDS, 1):
        top = max((max(v, default=0) for v in series[kind].values()), default=0) or 1.0
        count = max((len(v) for v in series[kind].values()), default=1)
        for (label, values), colour, marker in zip(series[kind].items(), COLOURS, MARKERS):
            for row in (1, 2) if label in tiny else (1,):
                shown = [max(v, FLOOR) for v in values] if row == 2 else values
                figure.add_trace(go.Scatter(
                    x=list(range(1, len(values) + 1)), y=shown, mode="lines+markers", name=label, line={"color": colour},
                    marker={"symbol": marker, "color": colour}, customdata=values, showlegend=False,
                    hovertemplate=f"{label}, layer %{{x}}: %{{customdata:.3g}}<extra></extra>"), row, column)
        ends = sorted((values[-1] if values else 0.0, label, colour)
                      for (label, values), colour in zip(series[kind].items(), COLOURS))
        end_labels(figure, ends, count + 0.15, 0.09 * top, row=1, col=column)
        figure.update_xaxes(dtick=1, range=[0.7, count + 0.3], row=1, col=column)
        figure.update_xaxes(title="layer", dtick=1, range=[0.7, count + 0.3], row=2, col=column)
        figure.update_yaxes(range=[-0.04 * top, 1.1 * top], row=1, col=column)
        figure.update_yaxes(type="log", exponentformat="power", dtick=1, range=[-9.2, -4.5], row=2, col=column)
    figure.update_yaxes(title="violation (0 to 1)", row=1, col=1)
    figure.update_yaxes(title="near zero (log)", row=2, col=1)
    figure.update_layout(title="How much of a task's weight change acts on the inputs of past tasks", height=640, width=1050,
                         margin={"r": 150})
    means = ", ".join(f"{label} {fmean(series['k'][label] + series['v'][label]):.2g}" for label in rows if series["k"][label])
    return Figure(figure, f"Violation per layer for keys and values. Mean over layers and tasks: {means}.")


def per_layer(tasks: Violations, kind: str) -> list[float]:
    """Mean over tasks of one kind of matrix (`k`, `v`), in the order of the layers."""
    names = [name for name in (tasks[0] if tasks else ()) if name.rpartition(".")[2] == kind]
    return [fmean(task[name] for task in tasks) for name in names]


def predictors(names: Sequence[str], violation: Sequence[float | None], drift: Sequence[float],
               bwt: Sequence[float | None]) -> Figure:
    """Does violation predict drift, and drift BWT? One point a run, coloured by how the run is protected. names: its row."""
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if None not in (violation[i], drift[i], bwt[i]):
            groups.setdefault(protection(name), []).append(i)
    groups = {label: groups[label] for label in PROTECTIONS if label in groups}
    panels = (("violation", violation, "drift of old features", drift),
              ("drift of old features", drift, "BWT (points)", bwt))
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    for column, (x_name, x, y_name, y) in enumerate(panels, 1):
        for (label, members), colour, marker in zip(groups.items(), COLOURS, MARKERS):
            figure.add_trace(go.Scatter(
                x=[x[i] for i in members], y=[y[i] for i in members], mode="markers", name=label, legendgroup=label,
                showlegend=column == 1, marker={"color": colour, "symbol": marker, "size": 11},
                text=[names[i] for i in members], hovertemplate="%{text}: %{x:.3g}, %{y:.3g}<extra></extra>"), 1, column)
        figure.update_xaxes(title=x_name, row=1, col=column)
        figure.update_yaxes(title=y_name, row=1, col=column)
    figure.update_layout(title="Does violation predict drift, and drift forgetting?", height=520, width=1100,
                         margin={"b": 110}, legend={"orientation": "h", "y": -0.22, "x": 0.5, "xanchor": "center"})
    count = sum(map(len, groups.values()))
    return Figure(figure, f"Two scatter plots of {count} runs, coloured by protection ({', '.join(groups)}): drift over "
                          "violation, and BWT over drift.")


PROTECTIONS = ("nothing", "GPM", "OE + GR", "exact", "GR", "OE")  # in the order of COLOURS, as in `violation`


def protection(row: str) -> str:
    """What protects a row's updates, from its name ("OE-GR-DML", "merged_nullspace_OE_gr-none", …)."""
    parts = row.replace("+", " ").replace("-", " ").replace("_", " ").replace("=", " ").split()
    if "exact" in parts or "GPM" in parts:
        return "exact" if "exact" in parts else "GPM"
    both = (["OE"] if "OE" in parts else []) + (["GR"] if "GR" in parts or "tangent" in parts else [])
    return " + ".join(both) or "nothing"


def apart(values: list[float], gap: float) -> list[float]:
    """Ascending positions near `values` that keep `gap` between them: where labels at line ends go."""
    placed = list(values)
    for _ in range(100):
        for i in range(len(placed) - 1):
            short = gap - (placed[i + 1] - placed[i])
            if short > 1e-12:
                placed[i], placed[i + 1] = placed[i] - short / 2, placed[i + 1] + short / 2
    return placed


def end_labels(figure: go.Figure, ends: Sequence[tuple[float, str, str]], x: float, gap: float, **where: Any) -> None:
    """Names beside line ends (y, name, colour), kept `gap` apart; on a logarithmic axis x and y are powers of ten.

    where: the subplot (`row`, `col`), or a shift in pixels (`xshift`).
    """
    ends = sorted(ends)
    for y, (_, label, colour) in zip(apart([end[0] for end in ends], gap), ends):
        figure.add_annotation(text=label, x=x, y=y, xanchor="left", showarrow=False, font={"color": colour, "size": FONT}, **where)
