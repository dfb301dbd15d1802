"""What adapted features are worth under a classifier, and what the steps that make them cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from ..report.compare import FLOOR, interval, is_clear, paired, values
from .figure import WIDE, Figure
from .runs import apart, style
from .standing import said

# A classifier → its row on frozen features, and the name of a row whose features are under it
HEADS = {
    "linear heads": (FLOOR, "{}"),
    "aligned heads": (f"{FLOOR}, aligned heads", "{}, aligned heads"),
    "RanPAC's classifier": ("RanPAC", "{}, RanPAC head"),
}
FEATURES = ("LoRA", "LoRA-FA", "GPM", "OE", "OE+GR", "exact")
# A row → the step of `step_cost.json` that trains it; the last two have the margin loss, which adds to them
STEPS = {"LoRA": "janus LoRA on k, v", "exact": "exact + OE + DML", "OE+GR": "tangent + OE + DML"}
FLOOR_LINE = {"color": "black", "dash": "dash", "width": 1.5}

Worth = dict[str, dict[str, list[float]]]  # row → classifier → points over frozen features, one a seed


def worth(runs: pd.DataFrame, features: Sequence[str] = FEATURES) -> Worth:
    """ACC of each row's features minus that of frozen ones, under the same classifier and in the same seeds.

    Rows that have no runs under the last classifier of `HEADS` that any of them has are left out.
    """
    found: Worth = {}
    for row in features:
        for head, (base, name) in HEADS.items():
            if gains := paired(runs, base, name.format(row)).tolist():
                found.setdefault(row, {})[head] = gains
    last = _heads(found)[-1:]
    return {row: gains for row, gains in found.items() if set(last) <= gains.keys()}


def _heads(found: Worth) -> list[str]:
    """The classifiers that some row has, in the order of `HEADS`."""
    return [head for head in HEADS if any(head in gains for gains in found.values())]


def worth_under(runs: pd.DataFrame, features: Sequence[str] = FEATURES) -> Figure:
    """`worth`, a line a row over the classifiers; bars are the 95 % intervals of the paired means."""
    found = worth(runs, features)
    shown, figure = _heads(found), go.Figure()
    for number, (row, gains) in enumerate(found.items()):
        figure.add_trace(_line(row, gains, shown, 0.05 * (number - (len(found) - 1) / 2)))
    figure.add_hline(y=0, line=FLOOR_LINE)
    _name_ends(figure, found, shown)
    bases = [fmean(values(runs, HEADS[head][0])) for head in shown]
    ticks = [f"{head}<br>frozen features: ACC {base:.1f}" for head, base in zip(shown, bases)]
    span = [-0.4, len(shown) - 0.75]
    figure.update_xaxes(tickvals=list(range(len(shown))), ticktext=ticks, range=span, showgrid=False)
    figure.update_yaxes(title="ACC minus frozen features' (points)")
    words = "filled: 95 % interval clear of zero; open: not, or one seed; dashed line: frozen features"
    title = f"{_most_worth(found, shown)}<br><span style='font-size:16px'>{words}</span>"
    figure.update_layout(title=title, height=560, width=WIDE, margin={"r": 200, "t": 95, "b": 80})
    told = []
    for row, gains in found.items():
        told.append(f"{row} " + ", ".join(f"{said(points)} under {head}" for head, points in gains.items()))
    return Figure(
        figure, f"ACC over frozen features, 95 % interval (seeds), by classifier: {'; '.join(told)}."
    )


def _line(row: str, gains: Mapping[str, Sequence[float]], shown: Sequence[str], shift: float) -> go.Scatter:
    colour, marker, dash = style(row)
    bars = [interval(points) if len(points) > 1 else 0.0 for points in gains.values()]
    symbols = [marker if is_clear(points) else f"{marker}-open" for points in gains.values()]
    return go.Scatter(
        x=[shown.index(head) + shift for head in gains],
        y=[fmean(points) for points in gains.values()],
        name=row,
        mode="lines+markers",
        showlegend=False,
        line={"color": colour, "dash": dash},
        error_y={"array": bars, "color": colour},
        marker={"symbol": symbols, "color": colour, "size": 12},
        hovertemplate=f"{row}: %{{y:+.1f}}<extra></extra>",
    )


def _name_ends(figure: go.Figure, found: Worth, shown: Sequence[str]) -> None:
    """Names and numbers at the right ends of the lines, clear of one another."""
    last = shown[-1] if shown else ""
    ends = sorted((fmean(gains[last]), row) for row, gains in found.items() if last in gains)
    heights = [0.0, *(fmean(points) for gains in found.values() for points in gains.values())]
    gap = 0.06 * (max(heights) - min(heights) + 3)
    for y, (_, row) in zip(apart([end for end, _ in ends], gap), ends):
        text = f"{row} {said(found[row][last])}"
        where = {"x": len(shown) - 0.82, "y": y, "xanchor": "left"}
        figure.add_annotation(text=text, showarrow=False, font={"color": style(row)[0]}, **where)


def _most_worth(found: Worth, shown: Sequence[str]) -> str:
    """A title: whose features are worth most under the last classifier, and what plain LoRA's are."""
    last = shown[-1] if shown else ""
    under = {row: gains[last] for row, gains in found.items() if last in gains}
    if not under:
        return "No adapted features here"
    best = max(under, key=lambda row: fmean(under[row]))
    plain = ""
    if best != "LoRA" and "LoRA" in under:
        plain = f", LoRA's {fmean(under['LoRA']):+.1f}" + " (not clear of 0)" * (not is_clear(under["LoRA"]))
    return f"Under {last}: features of {best} {fmean(under[best]):+.1f} points{plain}"


def gain_over_step(runs: pd.DataFrame, cost: Mapping[str, Any], floor: str = FLOOR) -> Figure:
    """ACC above the floor over what a training step costs, a point a row: upwards its 95 % interval, sideways
    the quarter points.

    cost: `step_cost.json`'s; its first case is taken.
    """
    case, figure = cost["cases"][0], go.Figure()
    gains = {row: paired(runs, floor, row).tolist() for row in STEPS}
    rows = {row: found for row, found in gains.items() if found and STEPS[row] in case["variants"]}
    times = {row: case["variants"][STEPS[row]] for row in rows}
    for row, found in rows.items():
        figure.add_trace(_point(row, times[row], found))
    figure.add_hline(y=0, line=FLOOR_LINE)
    figure.add_vline(x=1, line={"color": "#7F7F7F", "dash": "dot", "width": 1.5})
    note = {"showarrow": False, "xanchor": "left", "xshift": 4, "yanchor": "bottom", "y": 0}
    figure.add_annotation(text=floor, x=0, xref="x domain", **note)
    figure.add_annotation(text="PEFT's LoRA", x=1, **note)
    figure.update_xaxes(title="time of a step / time of PEFT's LoRA step (median; bar: quarter points)")
    figure.update_yaxes(title=f"ACC minus {floor}'s (points; bar: 95 %)", rangemode="tozero")
    machine = cost["hardware"]["card"] or cost["hardware"]["cpu"]
    words = f"steps: {case['model']}, batch {case['batch']}, {machine}"
    title = f"{_dearest(times)}<br><span style='font-size:16px'>{words}</span>"
    figure.update_layout(title=title, height=500, width=WIDE, margin={"t": 95})
    told = "; ".join(f"{row} {said(found)} at {times[row]['ratio']:.2f}" for row, found in rows.items())
    return Figure(figure, f"ACC above {floor} over the time of a step, PEFT's LoRA being 1: {told}.")


def _point(row: str, time: Mapping[str, float], found: Sequence[float]) -> go.Scatter:
    colour, marker, _ = style(row)
    up, down = time["high"] - time["ratio"], time["ratio"] - time["low"]
    return go.Scatter(
        x=[time["ratio"]],
        y=[fmean(found)],
        mode="markers+text",
        name=row,
        showlegend=False,
        text=[f"  {row}"],
        textposition="top right",
        textfont={"color": colour},
        marker={"color": colour, "symbol": marker, "size": 14},
        error_x={"array": [up], "arrayminus": [down], "color": colour},
        error_y={"array": [interval(found)], "color": colour} if len(found) > 1 else None,
        hovertemplate=f"{row}: %{{y:+.1f}} points, %{{x:.2f}} × PEFT's step<extra></extra>",
    )


def _dearest(times: Mapping[str, Mapping[str, float]]) -> str:
    """A title: the dearest step, against plain LoRA's where that is shown."""
    dear = max(times, key=lambda row: times[row]["ratio"], default="")
    if not dear:
        return "No row whose step was measured"
    base, name = (times["LoRA"]["ratio"], "plain LoRA") if "LoRA" in times else (1.0, "PEFT's LoRA")
    return f"The dearest step, that of {dear}, takes {times[dear]['ratio'] / base:.2f} × the time of {name}"
