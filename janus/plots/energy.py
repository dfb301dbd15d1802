"""Figures about the threshold ε: the room it leaves, and what it did to finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ..report.compare import interval, is_clear, paired
from .figure import COLOURS, FONT, MARKERS, WIDE, Figure
from .subspace import rows_from, shares

MARKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)  # where the slider stops
PARTS = (("in V: protected", COLOURS[0]), ("left for later tasks", "#BBD7EA"), ("never taken", "#8FB6D3"))
NARROW = 0.1  # of a bar: too narrow for a number
SCORES = {"learning_acc": "learning accuracy", "bwt": "BWT (right: forgets less)", "acc": "ACC"}


def room_slider(
    moments: Mapping[str, Tensor], rank: int, energy: float = 0.95, tasks: str = "one task"
) -> Figure:
    """A slider over ε: per layer the directions that one task would protect, and the room it leaves.

    Where no code runs: three positions side by side.

    moments: layer input → second moment (n, n). rank: LoRA's r (2r directions are never taken). energy: where
    the slider starts.
    """
    found = {key: shares(C) for key, C in moments.items()}
    widths = {key: len(C) for key, C in moments.items()}
    marks = sorted({*MARKS, energy})
    rows = {mark: rows_from(found, widths, mark, rank) for mark in marks}
    figure = go.Figure(_bars(rows[energy], rank))
    figure.frames = [go.Frame(name=f"{mark:g}", data=_bars(rows[mark], rank)) for mark in marks]
    go_to = {"mode": "immediate", "transition": {"duration": 0}, "frame": {"duration": 0, "redraw": True}}
    steps = [{"label": f"{mark:g}", "method": "animate", "args": [[f"{mark:g}"], go_to]} for mark in marks]
    slider = {"active": marks.index(energy), "steps": steps}
    n, tall = max(widths.values()), 46 * len(widths)
    axis = f"directions of the layer's input space (n = {n})"
    _lay_out(figure, tall + 250, legend=1.02, margin={"t": 95, "b": 155})
    figure.update_layout(sliders=[slider | {"currentvalue": {"prefix": "ε = "}, "pad": {"t": 60}}])
    figure.update_xaxes(title=axis, range=[0, n]).update_yaxes(autorange="reversed")
    shown = sorted({min(0.8, energy), energy, max(0.99, energy)})
    static = _side_by_side({mark: rows[mark] for mark in shown}, rank, n, axis)
    _lay_out(static, tall + 190, legend=1.1, margin={"t": 125})
    told = "; ".join(
        f"at ε = {mark:g} " + ", ".join(f"{row['layer']} {row['rank']}" for row in rows[mark])
        for mark in shown
    )
    return Figure(
        figure,
        f"Bars per layer for {len(marks)} thresholds ε: directions of {n} in V after {tasks}, the room left, "
        f"and the 2r = {2 * rank} never taken. In V: {told}.",
        static=static,
    )


def _lay_out(figure: go.Figure, height: int, legend: float, margin: Mapping[str, int]) -> None:
    """Title, legend (its height as a share of the plot's) and size of a figure of stacked bars."""
    text = "The more of the energy V must hold, the less room it leaves"
    figure.update_layout(
        title={"text": text, "y": 1 - 28 / height},
        barmode="stack",
        width=WIDE,
        height=height,
        legend={"orientation": "h", "traceorder": "normal", "x": 0, "y": legend, "yanchor": "bottom"},
        margin=margin,
    )


def _side_by_side(rows: Mapping[float, Sequence[Mapping]], rank: int, n: int, axis: str) -> go.Figure:
    """The bars of some thresholds in a panel each. rows: ε → the layers' rooms."""
    static = make_subplots(
        1,
        len(rows),
        shared_yaxes=True,
        horizontal_spacing=0.03,
        subplot_titles=[f"ε = {mark:g}" for mark in rows],
    )
    for column, found in enumerate(rows.values(), 1):
        for trace in _bars(found, rank, named=column == 1):
            static.add_trace(trace, 1, column)
    static.update_xaxes(range=[0, n]).update_yaxes(autorange="reversed")
    static.update_xaxes(title=axis, row=1, col=(len(rows) + 1) // 2)
    return static.update_annotations(font={"size": FONT})


def _bars(rows: Sequence[Mapping], rank: int, named: bool = True) -> list[go.Bar | go.Scatter]:
    """The three parts of each layer's directions, stacked, with numbers; V's beside a narrow bar."""
    layers, taken, left = ([row[part] for row in rows] for part in ("layer", "rank", "left"))
    n = [row["n"] for row in rows]
    beside = [k < NARROW * whole for k, whole in zip(taken, n)]
    values = (taken, left, [whole - k - rest for whole, k, rest in zip(n, taken, left)])
    texts = (
        ["" if narrow else str(k) for k, narrow in zip(taken, beside)],
        [str(rest) if rest > NARROW / 2 * whole else "" for rest, whole in zip(left, n)],
        [""] * len(rows),
    )
    traces: list[go.Bar | go.Scatter] = []
    for (name, colour), x, text, shape in zip(PARTS, values, texts, ("", "", "x")):
        pattern = {"shape": shape, "fillmode": "overlay", "fgcolor": "#FFFFFF", "fgopacity": 0.3}
        name = f"{name} (2r = {2 * rank})" if shape == "x" else name
        traces.append(
            go.Bar(
                y=layers,
                x=x,
                orientation="h",
                name=name,
                showlegend=named,
                text=text,
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                constraintext="none",
                textfont={"color": "white" if colour == COLOURS[0] else "#222222", "size": FONT},
                marker={"color": colour, "pattern": pattern},
                hovertemplate=f"%{{y}}: %{{x}} {name}<extra></extra>",
            )
        )
    traces.append(
        go.Scatter(
            y=layers,
            x=taken,
            mode="text",
            text=[str(k) if narrow else "" for k, narrow in zip(taken, beside)],
            textposition="middle right",
            textfont={"color": "#8A3D00"},
            showlegend=False,
            hoverinfo="skip",
        )
    )
    return traces


def more_energy(runs: pd.DataFrame, low: float, high: float) -> Figure:
    """What a higher ε changed in runs of `exact`: scores at `high` minus those at `low` in the same seed.

    Per number of tasks each seed, the mean, and its 95 % interval. runs: rows of a store (`bench.store.read`)
    with `method.energy`, `data.tasks` and the scores; other variants are left out.
    """
    runs = runs[runs["variant"] == "exact"]
    runs = runs.assign(variant=runs["method.energy"].map("{:g}".format))
    lengths = sorted(runs["data.tasks"].unique())
    figure = make_subplots(
        1, len(SCORES), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=list(SCORES.values())
    )
    told, clear = [], {key: [] for key in SCORES}
    for column, (key, label) in enumerate(SCORES.items(), 1):
        for i, length in enumerate(lengths):
            found = paired(runs[runs["data.tasks"] == length], f"{low:g}", f"{high:g}", key).tolist()
            mean = fmean(found)
            clear[key].append(is_clear(found) and mean)
            told.append(f"{label}, {length} tasks {mean:+.1f} ± {interval(found):.1f}")
            _difference(figure, found, i, column, f"{label}, {length} tasks")
        figure.add_vline(x=0, line={"color": "black", "width": 1.5}, row=1, col=column)
    figure.update_xaxes(range=_symmetric(figure))
    figure.update_xaxes(title=f"exact: ε = {high:g} minus ε = {low:g}, same seed (points)", row=1, col=2)
    figure.update_yaxes(
        range=[len(lengths) - 0.5, -0.7],
        tickvals=list(range(len(lengths))),
        ticktext=[f"{length} tasks" for length in lengths],
    )
    figure.update_annotations(font={"size": FONT})
    words = (
        f"<span style='font-size:{FONT}px'>open: each seed, filled: mean and 95 % interval; "
        f"<span style='color:{COLOURS[0]}'>"
        f"■ clear of zero</span>, <span style='color:{COLOURS[1]}'>● not clear</span></span>"
    )
    height = 210 + 70 * len(lengths)
    figure.update_layout(
        title={"text": f"{_answer(clear, low, high)}<br>{words}", "y": 1 - 40 / height},
        width=WIDE,
        height=height,
        margin={"l": 100, "r": 25, "t": 125},
    )
    return Figure(
        figure,
        f"Paired differences of `exact` at ε = {high:g} minus ε = {low:g} with 95 % intervals: "
        f"{'; '.join(told)}.",
    )


def _difference(figure: go.Figure, found: Sequence[float], y: float, column: int, what: str) -> None:
    """Each seed's difference, the mean with its interval, and the mean in words, on one line."""
    mean = fmean(found)
    colour, marker = (COLOURS[0], MARKERS[1]) if is_clear(found) else (COLOURS[1], MARKERS[0])
    seeds = {"color": colour, "symbol": f"{marker}-open", "size": 8}
    quiet = {"mode": "markers", "showlegend": False}
    each = go.Scatter(x=list(found), y=[y] * len(found), hoverinfo="skip", marker=seeds, **quiet)
    figure.add_trace(each, 1, column)
    bar = {"array": [interval(found)], "color": colour, "thickness": 2} if len(found) > 1 else None
    point = go.Scatter(
        x=[mean],
        y=[y],
        marker={"color": colour, "symbol": marker, "size": 13},
        error_x=bar,
        hovertemplate=f"{what}: %{{x:+.2f}}<extra></extra>",
        **quiet,
    )
    figure.add_trace(point, 1, column)
    text = f"{mean:+.1f}" if abs(mean) >= 0.05 else "0.0"
    look = {"showarrow": False, "font": {"color": colour}, "bgcolor": "white", "row": 1, "col": column}
    figure.add_annotation(text=text, x=mean, y=y, yshift=20, **look)


def _answer(clear: Mapping[str, Sequence[float | bool]], low: float, high: float) -> str:
    """The title: which scores moved clear of zero, and which way. clear: score → means, or False."""
    words = {
        "learning_acc": ("learns more", "learns less"),
        "bwt": ("forgets less", "forgets more"),
        "acc": ("has a higher ACC", "has a lower ACC"),
    }
    said = [
        words[key][min(found) < 0] for key, values in clear.items() if (found := [v for v in values if v])
    ]
    said += [] if any(clear["acc"]) else ["no clear change of ACC"]
    return f"From ε = {low:g} to {high:g}: {', '.join(said)}"


def _symmetric(figure: go.Figure) -> list[float]:
    """One range for all panels, zero in the middle."""
    ends = [
        abs(x) + (trace.error_x.array[0] if trace.error_x.array else 0)
        for trace in figure.data
        for x in trace.x
    ]
    return [-1.1 * max(ends), 1.1 * max(ends)]
