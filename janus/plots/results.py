"""Figures about the ablation: rows over seeds, their differences, the paper's order beside ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean, stdev
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..bench.variants import PAPER, PAPER_ROWS
from ..report.compare import FLOOR, interval, is_clear, paired, spread, values
from ..report.tables import AT_ONCE
from .figure import COLOURS, MARKERS, WIDE, Figure

GROUPS = {  # what a row trains, and how it is drawn: colour and marker
    "the paper's rows": (COLOURS[1], MARKERS[0]),
    "other methods": (COLOURS[0], MARKERS[1]),
    "floor": (COLOURS[6], MARKERS[6]),
    "reference": (COLOURS[7], MARKERS[3]),
}
SIGNS = dict(zip(GROUPS, "●■★◆"))
PATH = {"color": "#BBBBBB", "width": 1.5}  # what joins the points of an order


def group(row: str) -> str:
    """What a row is, a key of `GROUPS`."""
    if row in PAPER_ROWS:
        return "the paper's rows"
    if row == FLOOR:
        return "floor"
    return "reference" if row in ("ncm", *AT_ONCE) else "other methods"


def legend(rows: Iterable[str]) -> str:
    """The groups that some rows are of, each with its sign, in their colours."""
    there = {group(row) for row in rows}
    shown = [name for name in GROUPS if name in there]
    return "   ".join(f"<span style='color:{GROUPS[name][0]}'>{SIGNS[name]} {name}</span>" for name in shown)


def _seeds(found: Sequence[float], y: float, colour: str, marker: str, row: str) -> go.Scatter:
    """A row's seeds as open points."""
    return go.Scatter(
        x=list(found),
        y=[y] * len(found),
        mode="markers",
        showlegend=False,
        name=f"{row}, seeds",
        marker={"color": colour, "symbol": f"{marker}-open", "size": 8, "line": {"width": 1.5}},
        hovertemplate=f"{row}: %{{x:.2f}}<extra></extra>",
    )


def _mean(
    x: float, y: float, colour: str, marker: str, row: str, error: dict[str, Any] | None, told: str
) -> go.Scatter:
    """A row's mean as a filled point, with a bar if there is an `error`. told: what it says of itself."""
    return go.Scatter(
        x=[x],
        y=[y],
        mode="markers",
        error_x=error,
        showlegend=False,
        name=row,
        marker={"color": colour, "symbol": marker, "size": 13},
        hovertemplate=f"{told}<extra></extra>",
    )


def _note(figure: go.Figure, text: str, y: float, colour: str) -> None:
    """Words right of the plot, beside a row."""
    place = {"x": 1.01, "xref": "paper", "y": y, "xanchor": "left"}
    figure.add_annotation(text=text, showarrow=False, font={"color": colour}, **place)


def differences(
    runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], key: str = "acc", label: str = "ACC"
) -> Figure:
    """Paired over seeds, second minus first: each seed, the mean, and its 95 % interval; the line is no
    difference."""
    shown = [(" → ".join(pair), paired(runs, *pair, key).tolist()) for pair in pairs]
    shown = [(name, found) for name, found in shown if found]
    figure = go.Figure()
    clear = []
    for i, (name, found) in enumerate(shown):
        mean, half = fmean(found), interval(found)
        sure = is_clear(found)
        colour, marker = (COLOURS[0], MARKERS[1]) if sure else (COLOURS[1], MARKERS[0])
        clear += [name] if sure else []
        figure.add_trace(_seeds(found, i, colour, marker, name))
        if len(found) > 1:
            error = {"array": [half], "color": colour, "thickness": 2}
            text = f"{mean:+.1f} ± {half:.1f}  (n = {len(found)})"
        else:
            error, text = None, f"{mean:+.1f}  (one seed)"
        figure.add_trace(_mean(mean, i, colour, marker, name, error, "mean %{x:+.2f}"))
        _note(figure, text, i, colour)
    figure.add_vline(x=0, line={"color": "black", "width": 1.5})
    words = (
        f"<span style='font-size:16px'><span style='color:{COLOURS[0]}'>■ interval clear of zero</span>   "
        f"<span style='color:{COLOURS[1]}'>● not clear of zero, or one seed</span></span>"
    )
    names, span = [name for name, _ in shown], [len(shown) - 0.4, -0.6]
    figure.update_yaxes(tickvals=list(range(len(shown))), ticktext=names, range=span, automargin=True)
    across = f"difference in {label} in the same seed (points); bar: 95 % interval of the mean"
    figure.update_xaxes(title=across)
    figure.update_layout(
        title=f"{len(clear)} of {len(shown)} differences are clear of zero<br>{words}",
        height=170 + 36 * len(shown),
        width=WIDE,
        margin={"l": 210, "r": 200, "t": 90},
    )
    return Figure(
        figure,
        f"Paired differences in {label} over seeds with 95 % intervals for {len(shown)} pairs of rows. "
        f"Clear of zero: {', '.join(clear) or 'none'}.",
    )


def paper_beside_ours(runs: pd.DataFrame, metric: str = "acc") -> Figure:
    """The rows that the paper has too, in its order: its value left, ours right, each on its own scale."""
    column = ("acc", "maa", "bwt").index(metric)
    known = set(runs["variant"])
    rows = sorted((row for row in PAPER if row in known), key=lambda row: PAPER[row][column])
    theirs, ours = [PAPER[row][column] for row in rows], {row: values(runs, row, metric) for row in rows}
    titles = ["<b>the paper's, ImageNet-R</b>", "<b>ours, Icons-R</b>"]
    figure = make_subplots(1, 2, horizontal_spacing=0.06, shared_yaxes=True, subplot_titles=titles)
    figure.add_trace(_papers(theirs), 1, 1)
    _ours(figure, ours)
    if FLOOR in known:
        floor, right = fmean(values(runs, FLOOR, metric)), {"row": 1, "col": 2}
        figure.add_vline(x=floor, line={"color": "black", "dash": "dash", "width": 1.5}, **right)
        place = {"x": floor, "y": len(rows) - 0.45, "xanchor": "left", "xshift": 5}
        figure.add_annotation(text=FLOOR, showarrow=False, **place, **right)
    width, name = max(theirs) - min(theirs), f"{metric.upper()} ({'points' if metric == 'bwt' else '%'})"
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=rows, range=[-0.6, len(rows) - 0.2])
    span = [min(theirs) - 0.08 * width, max(theirs) + 0.25 * width]
    figure.update_xaxes(title=f"{name}, ViT-B/16", range=span, row=1, col=1)
    figure.update_xaxes(title=f"{name}, ViT of 2.9 M weights", row=1, col=2)
    figure.update_annotations(font_size=16)
    pairs = list(combinations([fmean(found) for found in ours.values()], 2))  # (lower, higher) in the paper
    agreed = f"{sum(low < high for low, high in pairs)} of {len(pairs)} pairs stand in the paper's order"
    figure.update_layout(
        title=f"{agreed} (two benchmarks: compare the order only)",
        height=520,
        width=WIDE,
        margin={"l": 145, "r": 190, "t": 100},
    )
    said = "; ".join(f"{row} {t:.1f} and {spread(ours[row])}" for row, t in zip(rows, theirs))
    return Figure(
        figure,
        f"{metric.upper()} of {len(rows)} rows in the paper's order: the paper's on ImageNet-R, and ours on "
        f"Icons-R. {said}.",
    )


def _papers(theirs: Sequence[float]) -> go.Scatter:
    """The paper's values in their order, written beside their points."""
    return go.Scatter(
        x=theirs,
        y=list(range(len(theirs))),
        mode="lines+markers+text",
        text=[f" {v:.1f}" for v in theirs],
        textposition="middle right",
        textfont={"size": 16},
        showlegend=False,
        name="the paper's",
        line=PATH,
        cliponaxis=False,
        marker={"color": COLOURS[6], "symbol": "diamond", "size": 13},
        hovertemplate="the paper's: %{x:.2f}<extra></extra>",
    )


def _ours(figure: go.Figure, ours: Mapping[str, Sequence[float]]) -> None:
    """Our seeds and means in the right panel, the means joined by a line."""
    path = go.Scatter(
        x=[fmean(found) for found in ours.values()],
        y=list(range(len(ours))),
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        line=PATH,
        name="order",
    )
    figure.add_trace(path, 1, 2)
    for i, (row, found) in enumerate(ours.items()):
        colour, marker = GROUPS[group(row)]
        figure.add_trace(_seeds(found, i, colour, marker, row), 1, 2)
        error = {"array": [stdev(found)], "color": colour} if len(found) > 1 else None
        told = f"{row}, mean of {len(found)}: %{{x:.2f}}"
        figure.add_trace(_mean(fmean(found), i, colour, marker, row, error, told), 1, 2)
        _note(figure, f"{spread(found)}  (n = {len(found)})", i, colour)
