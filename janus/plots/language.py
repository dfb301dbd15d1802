"""Figures about a language model that learns text after text (lesson 10): what it pays, where room ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import plotly.graph_objects as go

from ..language.texts import LABELS
from ..language.trial import GENERAL, points
from ..report.language import Run, at_level, by_row, told
from .figure import COLOURS, DASHES, MARKERS, WIDE, Figure
from .runs import end_labels, marked_line


def trade(runs: Sequence[Run], level: float, name: str = GENERAL) -> Figure:
    """What is paid for what is learned: a line a row, the mean over seeds step by step, each seed thin.

    level: the loss of the learned text at which rows are compared, a dotted line. Rightwards is learned more.
    """
    rows, figure = by_row(runs), go.Figure()
    first, kept = LABELS[runs[0]["trial"]["learn"][0]], LABELS[name]
    for (row, found), colour, marker, dash in zip(rows.items(), COLOURS, MARKERS, DASHES):
        curves = [points(run, name) for run in found]
        for curve in curves if len(curves) > 1 else ():
            thin = {"color": colour, "width": 0.7}
            x, y = zip(*curve)
            figure.add_trace(
                go.Scatter(x=x, y=y, mode="lines", line=thin, showlegend=False, hoverinfo="skip")
            )
        mean = [tuple(map(fmean, zip(*step))) for step in zip(*curves)]
        x, y = zip(*mean)
        line = marked_line(row, x, y, colour, marker, "%{x:.2f}: %{y:+.3f}")
        figure.add_trace(line.update(line={"dash": dash}))
    figure.add_vline(x=level, line={"color": "#7F7F7F", "dash": "dot", "width": 1.5})
    figure.add_hline(y=0, line={"color": "black", "width": 1})
    figure.update_xaxes(
        title=f"cross-entropy of {first} (nats per token; right: learned more)", autorange="reversed"
    )
    figure.update_yaxes(title=f"rise of {kept}'s cross-entropy<br>(nats per token; up: forgotten)")
    said = {row: at_level(found, level, name) for row, found in rows.items()}
    seeds = "; thin: single seeds" if any(len(found) > 1 for found in rows.values()) else ""
    words = f"dotted: where rows are compared, {level:.3g}{seeds}"
    title = f"{_cheapest(said, level, first, kept)}<br><span style='font-size:16px'>{words}</span>"
    legend = {"orientation": "h", "y": -0.2}
    figure.update_layout(title=title, height=560, width=WIDE, margin={"t": 95, "l": 120}, legend=legend)
    numbers = "; ".join(f"{row} {told(values)}" for row, values in said.items())
    return Figure(
        figure, f"Rise of the loss of {kept} over that of {first}. Where that is {level:.3g}: {numbers}."
    )


def _cheapest(said: Mapping[str, Sequence[float]], level: float, first: str, kept: str) -> str:
    """The title: what the row that forgets least and the one that forgets most pay at the level."""
    reached = {row: fmean(values) for row, values in said.items() if values}
    if len(reached) < 2:
        return f"No two rows get {first} down to {level:.3g}"
    order = sorted(reached, key=lambda row: reached[row])
    low, high = order[0], order[-1]
    return f"{kept}, at the same loss of {first}: {high} {reached[high]:+.3f}, {low} {reached[low]:+.3f}"


def room(ranks: Mapping[float, Mapping[str, int]], width: int, rank: int) -> Figure:
    """Directions that are left to learn in, layer by layer, for each ε.

    ranks: ε → (layer input → columns of V), in the order of the layers. width: n, all directions. rank:
    LoRA's r; 2r directions are never taken.
    """
    figure, ends = go.Figure(), []
    for (energy, found), colour, marker in zip(ranks.items(), COLOURS, MARKERS):
        free = [width - taken for taken in found.values()]
        label = f"ε = {energy:g}"
        layers = range(1, len(free) + 1)
        text = "layer %{x}: %{y} free"
        figure.add_trace(marked_line(label, layers, free, colour, marker, text, showlegend=False))
        ends.append((free[-1], label, colour))
    figure.add_hline(y=2 * rank, line={"color": "#7F7F7F", "dash": "dot"})
    figure.add_annotation(
        text=f"2r = {2 * rank}, never taken",
        x=1,
        y=2 * rank,
        yanchor="bottom",
        xanchor="left",
        showarrow=False,
    )
    count = max(len(found) for found in ranks.values())
    end_labels(figure, ends, count + 0.4, 0.06 * width)
    figure.update_xaxes(title="layer", range=[0.4, count + 0.6])
    figure.update_yaxes(title=f"directions left, of {width}", range=[0, width * 1.02])
    least = {energy: width - max(found.values()) for energy, found in ranks.items()}
    worst = {energy: 1 + list(found.values()).index(max(found.values())) for energy, found in ranks.items()}
    parts = [f"{least[energy]} at ε = {energy:g} (layer {worst[energy]})" for energy in ranks]
    title = f"The tightest layer leaves {' and '.join(parts)}"
    figure.update_layout(title=title, height=420, width=WIDE, margin={"r": 120})
    spans = {energy: sorted(width - taken for taken in found.values()) for energy, found in ranks.items()}
    numbers = "; ".join(f"ε = {energy:g}: {span[0]} to {span[-1]}" for energy, span in spans.items())
    return Figure(figure, f"Directions of {width} that V leaves, over {count} layers: {numbers}.")
