"""Figures about learning: how the training loss falls, and what a learning rate learns and loses again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..report import compare, tables
from ..report.compare import FLOOR, by_variant
from ..runtime.result import Result
from .figure import COLOURS, DASHES, WIDE, Figure
from .forgetting import SERIES, signed
from .runs import end_labels, marked_line

TICKS = [digit * 10.0**power for power in range(-6, 4) for digit in (1, 2, 3, 4, 5, 7)]
OLD = "No training loss in these runs: an older janus made them (delete them, and run again)"
LEARNED, KEPT, LOST = "#0B5A8C", "#222222", "#FBE9DC"
KEY = "○ learning accuracy    ■ ACC, at the end    striped: lost in between"
Losses = Mapping[str, Sequence[Sequence[float]]]  # row → task → pass → mean training loss

# ── how the loss falls ──────────────────────────────────────────────────────────────────────────────────────


def learning_curves(results: Mapping[str, Result]) -> Figure:
    """Mean training loss of each pass over a task's images, the tasks one after the other; a line a row.

    results: row → its run. A run without `Result.loss` (nothing was trained, or it is older) is left out, and
    the title says so. All rows must have met the same number of tasks. Where rows made different numbers of
    passes, a task is as wide as the longest of them.
    """
    lines = {row: result.loss for row, result in results.items() if result.loss}
    figure, begins, ends = go.Figure(), [0], []
    for passes in zip(*(map(len, tasks) for tasks in lines.values())):
        begins.append(begins[-1] + max(passes))
    values = [v for tasks in lines.values() for losses in tasks for v in losses] or [1.0]
    log = min(values) > 0  # a method's own loss need not be
    for i, (row, tasks) in enumerate(lines.items()):
        colour, marker = SERIES[i % len(SERIES)]
        x, y = _joined(tasks, begins)
        told = "pass %{x}: loss %{y:.3f}"
        figure.add_trace(marked_line(row, x, y, colour, marker, told, showlegend=False))
        figure.data[-1].update(line_dash=DASHES[i % len(DASHES)], marker_size=8)
        ends.append((math.log10(y[-1]) if log else y[-1], row, colour))
    low, high = (math.log10(v) if log else v for v in (min(values), max(values)))
    high = high if high > low else low + 1
    end_labels(figure, ends, begins[-1] + 0.6, 0.065 * (high - low), xshift=4)
    for t, begin in enumerate(begins[:-1]):
        figure.add_vline(begin + 0.5, line={"color": "#777777", "width": 1})
        name = {"x": begin + 0.5, "y": 1, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        figure.add_annotation(text=f"task {t + 1}", showarrow=False, **name)
    figure.update_xaxes(title="training passes, each over the images of the task at hand", showgrid=False)
    figure.update_xaxes(range=[0.4, begins[-1] + 0.6], dtick=max(1, begins[-1] // 15))
    span = [low - 0.05 * (high - low), high + 0.05 * (high - low)]
    scale = {"type": "log", "tickvals": TICKS, "ticktext": [f"{tick:g}" for tick in TICKS]} if log else {}
    figure.update_yaxes(title=f"mean training loss of a pass{' (log)' if log else ''}", range=span, **scale)
    title, right = _fall(lines, [row for row in results if row not in lines]), max(map(len, lines), default=1)
    figure.update_layout(title=title, width=WIDE, height=540, margin={"r": 40 + 10 * right, "t": 100})
    return Figure(figure, f"Training loss over passes, task after task, a line a row. {_said(lines)}")


def _joined(
    tasks: Sequence[Sequence[float]], begins: Sequence[int]
) -> tuple[list[float], list[float | None]]:
    """Passes and losses of a row in one line with a gap where a task begins: there the head is a new one."""
    x: list[float] = []
    y: list[float | None] = []
    for begin, losses in zip(begins, tasks):
        x += [begin + 0.5, *(begin + 1 + e for e in range(len(losses)))]
        y += [None, *losses]
    return x, y


def first_last(tasks: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Mean loss in the first and in the last pass of a task, over the tasks that have a past (2…T).

    Of a stream of one task, that task's.
    """
    old = [losses for losses in tasks[1:] or tasks if losses]
    return fmean(losses[0] for losses in old), fmean(losses[-1] for losses in old)


def _fall(lines: Losses, without: Sequence[str]) -> str:
    """The title: the loss of each row in the last pass of its tasks."""
    if not lines:
        return OLD
    many = "tasks 2 to " + str(len(next(iter(lines.values()))))
    many = many if not many.endswith(" 1") else "the task"
    ends = "; ".join(f"{row} {first_last(tasks)[1]:.2f}" for row, tasks in lines.items())
    left_out = f" (no loss recorded: {', '.join(without)})" if without else ""
    return f"Loss in the last pass of {many}: {ends}{left_out}"


def _said(lines: Losses) -> str:
    both = {row: first_last(tasks) for row, tasks in lines.items()}
    said = "; ".join(f"{row} from {first:.2f} to {last:.2f}" for row, (first, last) in both.items())
    return f"From a task's first pass to its last, mean over tasks with a past: {said}." if said else OLD


# ── what a rate learns and loses ────────────────────────────────────────────────────────────────────────────


def learned_and_kept(tune: pd.DataFrame, floor: str = FLOOR, start: float | None = None) -> Figure:
    """A slider over the factors' learning rate: what each row had learned, what it keeps, what it lost.

    tune: rows of a store (`bench.store.read`) from a search. Where a row tried a rate more than once, its
    best run counts; the floor, which has no such rate, is a line at its best. start: where the slider begins,
    and what the static picture shows; None: the largest rate at which some row is at its best.
    """
    best = compare.best(tune).set_index("variant")
    tune = tune[tune["variant"] != floor]
    tune = tune.assign(rate=tables.rates(tune)).sort_values("acc")
    marks = sorted(tune["rate"].unique())
    runs = {
        row: found.drop_duplicates("rate", keep="last").set_index("rate").to_dict("index")
        for row, found in by_variant(tune).items()
    }
    at_best = (max(found, key=lambda rate: found[rate]["acc"]) for found in runs.values())
    start = max(at_best) if start is None else start
    views = {mark: {row: found.get(mark) for row, found in runs.items()} for mark in marks}
    line = best["acc"].get(floor)
    ends = [run[key] for found in runs.values() for run in found.values() for key in ("acc", "learning_acc")]
    span = [min(ends) - 9, max(ends) + 7]  # room for the numbers beside the marks
    figure, static = (_view(views[start], start, span, floor, line) for _ in range(2))
    steps = [{"label": f"{mark:g}", "method": "update", "args": _moved(views[mark], mark)} for mark in marks]
    slider = {"active": marks.index(start), "steps": steps, "currentvalue": {"prefix": "learning rate: "}}
    figure.update_layout(sliders=[slider | {"pad": {"t": 70}}], height=figure.layout.height + 100)
    said = "; ".join(_answer(view, mark) for mark, view in views.items())
    what = "Learning accuracy and ACC of each row, a bar for what was lost in between, a slider over rates"
    return Figure(figure, f"{what}. {said}.", static)


View = Mapping[str, Mapping[str, Any] | None]  # row → its run at one rate; None: it was not tried


def _view(view: View, rate: float, span: Sequence[float], floor: str, line: float | None) -> go.Figure:
    """One position of the slider."""
    rows, look = list(view), {"showlegend": False}
    stripes = {"shape": "/", "fgcolor": COLOURS[0], "bgcolor": LOST, "size": 7}
    figure = go.Figure(go.Bar(orientation="h", width=0.3, marker={"pattern": stripes}, **look))
    for name, symbol, colour, side in (
        ("learning accuracy", "circle-open", LEARNED, "right"),
        ("ACC", "square", KEPT, "left"),
    ):
        marker = {"symbol": symbol, "color": colour, "size": 14, "line": {"width": 3, "color": colour}}
        told = f"%{{y}}, {name}: %{{x:.1f}} %<extra></extra>"
        place = {"textposition": f"middle {side}", "textfont": {"color": colour}, "hovertemplate": told}
        figure.add_trace(go.Scatter(mode="markers+text", marker=marker, name=name, **place, **look))
    restyle, relayout = _moved(view, rate)
    for i, trace in enumerate(figure.data):
        trace.update({key: values[i] for key, values in restyle.items() if values[i] is not None}, y=rows)
    beside = {"xref": "paper", "x": 1.01, "xanchor": "left", "showarrow": False}
    for i, row in enumerate(rows):
        figure.add_annotation(text=relayout[f"annotations[{i}].text"], y=row, **beside)
    above = {"yref": "paper", "y": 1, "yanchor": "bottom", "yshift": 4, "showarrow": False}
    figure.add_annotation(text="BWT", xref="paper", x=1.01, xanchor="left", **above)
    figure.add_annotation(text=KEY, xref="paper", x=0, xanchor="left", **above | {"yshift": 28})
    if line is not None:
        # below and grey: a number may stand on it
        figure.add_vline(line, line={"color": "#888888", "dash": "dot", "width": 2}, layer="below")
        figure.add_annotation(text=f"{floor} {line:.1f}", x=line, **above)
    figure.update_xaxes(title="accuracy on validation (%)", range=list(span))
    figure.update_yaxes(autorange="reversed", showgrid=False, automargin=True)
    title = {"text": relayout["title.text"], "y": 0.95}
    return figure.update_layout(
        title=title, width=WIDE, height=210 + 55 * len(rows), margin={"r": 90, "t": 115}
    )


def _moved(view: View, rate: float) -> list[dict[str, Any]]:
    """What differs from rate to rate: (restyle, relayout), as plotly's `update` takes them."""

    def of(key: str) -> list[float | None]:
        return [run and run[key] for run in view.values()]

    learned, kept = of("learning_acc"), of("acc")
    lost = [None if a is None else a - b for a, b in zip(learned, kept)]
    texts = [["" if v is None else f" {v:.1f} " for v in values] for values in (learned, kept)]
    restyle = {"x": [lost, learned, kept], "base": [kept, None, None], "text": [None, *texts]}
    relayout = {"title.text": _answer(view, rate)}
    for i, bwt in enumerate(of("bwt")):  # one task has none
        text = "not tried" if bwt is None else "–" if pd.isna(bwt) else signed(bwt)
        relayout[f"annotations[{i}].text"] = text
    return [restyle, relayout]


def _answer(view: View, rate: float) -> str:
    """Which row learns most at a rate, and which keeps most."""
    there = {row: run for row, run in view.items() if run}
    most = max(there, key=lambda row: there[row]["learning_acc"])
    keeps = max(there, key=lambda row: there[row]["acc"])
    learns = f"Rate {rate:g}: {most} learns most ({there[most]['learning_acc']:.1f} %)"
    who = "and" if keeps == most else f"but {keeps}"
    return f"{learns} {who} keeps most ({there[keeps]['acc']:.1f} %)"
