"""Figures about Gradient Rectification: what the closed form leaves over, and where it is dangerous."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import COLOURS, FONT, MARKERS, WIDE, Figure
from .runs import apart, end_labels, marked_line

FLOOR = 1e-16  # where an exact zero is drawn on a logarithmic axis


def residual(
    degrees: Sequence[float], series: Mapping[str, Sequence[float]], runs: Mapping[str, Sequence[float]]
) -> Figure:
    """Violation of one step over the angle between A's row space and V.

    degrees: the angles. series: label → `‖ΔW V‖ / ‖ΔW‖` at each. runs: label → angles met in a real run, one
    small mark each.
    """
    figure, peaks = go.Figure(), []
    for (label, y), colour, marker in zip(series.items(), COLOURS, MARKERS):
        figure.add_trace(marked_line(label, degrees, y, colour, marker, "%{x}°: %{y:.3f}"))
        peak = max(range(len(y)), key=lambda i: y[i])
        peaks.append((label, degrees[peak], y[peak], colour))
    top = max(y for _, _, y, _ in peaks)
    for label, x, y, colour in peaks:  # the highest curve is labelled above its peak, the others below
        figure.add_annotation(
            text=label,
            x=x,
            y=y,
            showarrow=False,
            yshift=18 if y == top else -18,
            xanchor="left" if x < 15 else "center",
            font={"color": colour},
        )
    for i, ((label, marks), colour) in enumerate(zip(runs.items(), COLOURS[2:])):
        y = -0.1 * top * (i + 1)
        strokes = go.Scatter(
            x=list(marks),
            y=[y] * len(marks),
            mode="markers",
            name=label,
            hoverinfo="x+name",
            marker={"symbol": "line-ns-open", "color": colour, "size": 14, "line": {"width": 2}},
        )
        figure.add_trace(strokes)
        figure.add_annotation(text=label, x=0, y=y, xanchor="left", showarrow=False, font={"color": colour})
    across = "angle between the rows of A and the protected inputs (degrees)"
    figure.update_xaxes(title=across, dtick=15, range=[-2, 92])
    span = [-0.1 * top * (len(runs) + 0.7), 1.18 * top]
    figure.update_yaxes(title="violation of the step", range=span, tick0=0, dtick=0.2 if top > 0.5 else 0.1)
    title = "A safe target does not make a safe step, unless A V = 0 (90°)"
    figure.update_layout(title=title, showlegend=False)
    curves = "; ".join(
        f"{label}: {y[0]:.2f} at the left, {max(y):.2f} at most, {y[-1]:.2f} at the right"
        for label, y in series.items()
    )
    met = "; ".join(f"{label}: {min(a):.0f}° to {max(a):.0f}°" for label, a in runs.items())
    return Figure(
        figure,
        f"Violation over the angle between A's row space and V, from 0 to 90 degrees. {curves}. {met}.",
    )


def second_step(
    norms: Sequence[float],
    size: Mapping[str, Sequence[float]],
    miss: Mapping[str, Sequence[float]],
    first: float,
) -> Figure:
    """The closed form near B = 0, on logarithmic axes over ‖B‖: how large ΔA becomes, and how far the step is
    from the wish.

    size: label → `‖ΔA‖ / ‖A‖`. miss: label → `‖ΔW − Z_T‖ / ‖Z_T‖`, ΔW with its second-order term. first: ‖B‖
    after one step.
    """
    panels = (("size of the step of A: ‖ΔA‖ / ‖A‖", size), ("distance from the step that was wanted", miss))
    figure = make_subplots(1, 2, horizontal_spacing=0.2, subplot_titles=[title for title, _ in panels])
    for column, (_, series) in enumerate(panels, 1):
        _over_norms(figure, norms, series, column)
        figure.add_vline(x=first, line={"dash": "dash", "color": "#555555"}, row=1, col=column)
        axis = {"type": "log", "exponentformat": "power"}
        figure.update_xaxes(title="‖B‖ (Frobenius norm, log)", **axis, dtick=2, row=1, col=column)
        low, high = _decades(series)
        step, span = 2 if high - low > 4 else 1, [low - 0.4, high + 0.8]
        figure.update_yaxes(**axis, dtick=step, range=span, row=1, col=column)
    figure.update_annotations(font_size=FONT)
    figure.add_annotation(
        text="after one step",
        x=math.log10(first),
        y=0.02,
        yref="y domain",
        xref="x",
        xanchor="right",
        yanchor="bottom",
        xshift=-5,
        showarrow=False,
    )
    title = "Close to B = 0 the closed form asks for enormous steps of A"
    figure.update_layout(title=title, showlegend=False, width=WIDE, height=500, margin={"t": 100})
    sizes = "; ".join(
        f"{label}: {y[0]:.1e} at ‖B‖ = {norms[0]:.0e}, {y[-1]:.2g} at {norms[-1]:.0e}"
        for label, y in size.items()
    )
    missed = "; ".join(
        f"{label} {y[0]:.2g} at the left, {y[-1]:.2g} at the right" for label, y in miss.items()
    )
    return Figure(
        figure,
        f"‖ΔA‖/‖A‖ over ‖B‖, logarithmic: {sizes}. Distance of the step taken from the one wanted: {missed}.",
    )


def _over_norms(
    figure: go.Figure, norms: Sequence[float], series: Mapping[str, Sequence[float]], column: int
) -> None:
    """The lines of one panel of `second_step`, each with its label at its start."""
    for (label, y), colour, marker in zip(series.items(), COLOURS, MARKERS):
        told = "‖B‖ = %{x:.1e}: %{y:.2e}"
        figure.add_trace(marked_line(label, norms, y, colour, marker, told), 1, column)
    low, high = _decades(series)
    starts = sorted((math.log10(y[0]), label, colour) for (label, y), colour in zip(series.items(), COLOURS))
    place = dict(x=math.log10(norms[0]), xanchor="left", xshift=12, yshift=16, row=1, col=column)
    for y, (_, label, colour) in zip(apart([s[0] for s in starts], 0.1 * (high - low)), starts):
        font = {"color": colour, "size": FONT}
        figure.add_annotation(text=label, y=y, showarrow=False, font=font, **place)


def _decades(series: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """The smallest and the largest value as powers of ten."""
    low, high = min(min(y) for y in series.values()), max(max(y) for y in series.values())
    return math.log10(low), math.log10(high)


def along(series: Mapping[str, Sequence[float]]) -> Figure:
    """Violation of the whole displacement after each step of one task, logarithmic. series: label → one value
    a step."""
    figure, ends = go.Figure(), []
    length = max(len(y) for y in series.values())
    for (label, y), colour, marker in zip(series.items(), COLOURS, MARKERS):
        shown = [max(v, FLOOR) for v in y]
        line = go.Scatter(
            x=list(range(1, len(y) + 1)),
            y=shown,
            mode="lines",
            line={"color": colour},
            name=label,
            hovertemplate=f"{label}, step %{{x}}: %{{y:.2e}}<extra></extra>",
        )
        some = list(range(0, len(y), max(1, len(y) // 10)))
        marks = go.Scatter(
            x=[i + 1 for i in some],
            y=[shown[i] for i in some],
            mode="markers",
            hoverinfo="skip",
            marker={"symbol": marker, "color": colour},
            name=label,
        )
        figure.add_trace(line)
        figure.add_trace(marks)
        ends.append((math.log10(shown[-1]), label, colour))
    end_labels(figure, ends, length * 1.02, 0.75)
    low = min(min(max(v, FLOOR) for v in y) for y in series.values())
    figure.update_xaxes(title="step", range=[0, length * 1.03])
    figure.update_yaxes(
        title="violation of the displacement (log)",
        type="log",
        exponentformat="power",
        dtick=2,
        range=[math.log10(low) - 0.5, 0.5],
    )
    title = "Only A V = 0 keeps a whole task out of the past's way"
    figure.update_layout(title=title, showlegend=False, width=WIDE, margin={"l": 110, "r": 240})
    last = ", ".join(f"{label} {y[-1]:.1e}" for label, y in series.items())
    return Figure(figure, f"Violation of the displacement over the steps of a task. At the end: {last}.")
