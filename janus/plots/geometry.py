"""Figures about the geometry of one step: the safe plane, what leaves it, the scores that measure it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from .figure import COLOURS, MARKERS, WIDE, Figure

GREY = "#7A7A7A"
TURN, TILT = 14.0, 18.0  # degrees: the viewer's place beside the plane and above it

Arrows = Mapping[str, Tensor]  # label → rows (m, 3) or one row (3,): arrows from the origin
Point = Sequence[float]


def plane_frame(V: Tensor) -> list[list[float]]:
    """Three orthonormal directions in R³: two that span the safe plane, then V (3,) or (3, 1) itself.

    The first one is the coordinate axis that lies flattest on the plane, projected onto it.
    """
    v = [float(x) for x in V.flatten()]
    v = [x / math.hypot(*v) for x in v]
    k = min(range(3), key=lambda i: abs(v[i]))
    u = [(i == k) - v[k] * v[i] for i in range(3)]
    u = [x / math.hypot(*u) for x in u]
    return [u, [v[1] * u[2] - v[2] * u[1], v[2] * u[0] - v[0] * u[2], v[0] * u[1] - v[1] * u[0]], v]


def in_frame(rows: Tensor, frame: list[list[float]]) -> list[list[float]]:
    """Coordinates of rows (m, 3) or (3,) in `frame`: two along the plane, then the height above it (what acts
    on old inputs)."""
    found = rows.reshape(-1, 3).tolist()
    return [[sum(a * b for a, b in zip(direction, row)) for direction in frame] for row in found]


def seen(point: Point, turn: float = TURN, tilt: float = TILT) -> tuple[float, float]:
    """Where a point (in `plane_frame`) is on the page: turned about V, seen from a little above, flat."""
    a, b, height = point
    turn, tilt = math.radians(turn), math.radians(tilt)
    depth = a * math.sin(turn) + b * math.cos(turn)
    return a * math.cos(turn) - b * math.sin(turn), height * math.cos(tilt) + depth * math.sin(tilt)


def ground(frame: list[list[float]], reach: float) -> tuple[list[Point], dict[str, Point]]:
    """What stays the same: the plane's corners, the named tips of V and of the inputs' coordinate axes."""
    corners = [(a * reach, b * reach, 0.0) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    axes = {f"x{'₁₂₃'[i]}": [0.8 * reach * direction[i] for direction in frame] for i in range(3)}
    return corners, {"V": (0.0, 0.0, 1.1 * reach)} | axes


def safe_plane(
    positions: Mapping[str, Arrows],
    V: Tensor,
    title: str,
    knob: str = "",
    reach: float = 1.0,
    turn: float = TURN,
) -> Figure:
    """Rows of matrices as arrows in R³, beside the plane of the safe directions; a slider where there are
    several positions.

    positions: the slider's mark → label → rows (m, 3). The same labels at every mark. V (3, 1): the direction
    of old inputs, drawn upright; an arrow's height above the plane is its product with V. knob: what the
    slider turns. reach: half the plane's side. turn: where the viewer stands, in degrees about V.
    """
    frame, marks = plane_frame(V), list(positions)
    coordinates = {}
    for mark, arrows in positions.items():
        coordinates[mark] = {label: in_frame(rows, frame) for label, rows in arrows.items()}
    still = _ground(frame, reach, turn)
    figure = go.Figure([*still, *_arrows(coordinates[marks[0]], reach, turn)])
    tips = [tip for arrows in coordinates.values() for rows in arrows.values() for tip in rows]
    # two values only: a knob that is turned must not make the page breathe
    low = -0.72 if min(seen(tip, turn)[1] for tip in tips) > -0.6 * reach else -1.25
    spans = ([-1.45 * reach, 1.45 * reach], [low * reach, 1.3 * reach])
    look = [{"visible": False, "range": span} for span in spans]
    margin = {"l": 10, "r": 10, "t": 60, "b": 10}
    figure.update_layout(
        title=title, height=560, width=800, showlegend=False, xaxis=look[0], yaxis=look[1], margin=margin
    )
    static = None
    if len(marks) > 1:
        moving = list(range(len(still), len(figure.data)))
        drawn = {mark: _arrows(arrows, reach, turn) for mark, arrows in coordinates.items()}
        figure.frames = [go.Frame(name=mark, data=data, traces=moving) for mark, data in drawn.items()]
        figure.update_layout(height=640, margin={"b": 90}, sliders=[_slider(marks, knob)])
        shown = [marks[0], marks[len(marks) // 2], marks[-1]] if len(marks) > 2 else marks
        titles = [f"{knob}: {mark}" for mark in shown]
        static = make_subplots(1, len(shown), horizontal_spacing=0.01, subplot_titles=titles)
        for column, mark in enumerate(shown, 1):
            below = _ground(frame, reach, turn, named=column == 1)
            for trace in [*below, *_arrows(coordinates[mark], reach, turn)]:
                static.add_trace(trace, 1, column)
        static.update_xaxes(look[0]).update_yaxes(look[1])
        margin = {"l": 5, "r": 5, "t": 100, "b": 5}
        static.update_layout(title=title, height=400, width=WIDE, showlegend=False, margin=margin)
    return Figure(
        figure,
        f"Arrows from the origin of a plane in space; V, the direction of old inputs, stands upright on it. "
        f"Largest distance from the plane: {_heights(coordinates, knob)}.",
        static=static,
    )


def _slider(marks: Sequence[str], knob: str) -> dict[str, Any]:
    """A slider over the frames of these names."""
    still = {"duration": 0, "redraw": False}
    go_to = {"mode": "immediate", "transition": {"duration": 0}, "frame": still}
    return {
        "currentvalue": {"prefix": f"{knob}: "},
        "pad": {"t": 10, "l": 30, "r": 30},
        "steps": [{"label": mark, "method": "animate", "args": [[mark], go_to]} for mark in marks],
    }


def _heights(coordinates: Mapping[str, Mapping[str, list[list[float]]]], knob: str) -> str:
    """At each position of the knob, each label's largest distance from the plane, in words."""
    said = []
    for mark, arrows in coordinates.items():
        highest = {label: max(abs(tip[2]) for tip in tips) for label, tips in arrows.items()}
        where = f"{knob} {mark}: " if len(coordinates) > 1 else ""
        said.append(where + ", ".join(f"{label} {height:.2f}" for label, height in highest.items()))
    return "; ".join(said)


def _ground(frame: list[list[float]], reach: float, turn: float, named: bool = True) -> list[go.Scatter]:
    corners, tips = ground(frame, reach)
    edge = [seen(corner, turn) for corner in [*corners, corners[0]]]
    low = min(edge, key=lambda place: place[1])
    plane = go.Scatter(
        x=[x for x, _ in edge],
        y=[y for _, y in edge],
        mode="lines",
        fill="toself",
        fillcolor="#E2EAF0",
        hoverinfo="skip",
        line={"color": "#8FA6B5", "width": 1.5},
    )
    name = go.Scatter(
        x=[low[0]],
        y=[low[1] - 0.03 * reach],
        mode="text",
        text=["safe plane" if named else ""],
        hoverinfo="skip",
        textposition="bottom right" if low[0] < 0 else "bottom left",
        textfont={"color": "#4C6271"},
    )
    return [plane, name, *(_axis(name, seen(tip, turn)) for name, tip in tips.items())]


def _axis(name: str, place: tuple[float, float]) -> go.Scatter:
    """A line from the origin to a named tip: V in black, a coordinate axis of the inputs in grey."""
    x, y = place
    if name == "V":
        side, line, colour = "top center", {"color": "#222222", "width": 4}, "#222222"
    else:
        side = f"{'top' if y > 0 else 'bottom'} {'right' if x > 0 else 'left'}"
        line, colour = {"color": "#A8A8A8", "width": 1.5}, GREY
    return go.Scatter(
        x=[0, x],
        y=[0, y],
        mode="lines+text",
        text=["", name],
        hoverinfo="skip",
        textposition=side,
        line=line,
        textfont={"color": colour},
    )


def _arrows(arrows: Mapping[str, list[list[float]]], reach: float, turn: float) -> list[go.Scatter]:
    """Two traces a label: lines from the origin to each tip, marked and named; dotted ones from the tip down
    to the plane.

    The first label is drawn last, on top of the others.
    """
    places = {label: [seen(tip, turn) for tip in tips] for label, tips in arrows.items()}
    longest = {
        label: max(range(len(tips)), key=lambda i: math.hypot(*tips[i])) for label, tips in arrows.items()
    }
    sides = _sides({label: places[label][i] for label, i in longest.items()}, sum(places.values(), []), reach)
    traces: list[go.Scatter] = []
    gap = (None, None)  # ends a line
    for (label, tips), colour, symbol in reversed(list(zip(arrows.items(), COLOURS, MARKERS))):
        feet = [seen((tip[0], tip[1], 0.0), turn) for tip in tips]
        drop = [point for place, foot in zip(places[label], feet) for point in (place, foot, gap)]
        path = [point for place in places[label] for point in ((0.0, 0.0), place, gap)]
        text = ["" for _ in path]
        text[3 * longest[label] + 1] = label  # the longest row carries the name
        traces += [
            go.Scatter(
                x=[p[0] for p in drop],
                y=[p[1] for p in drop],
                mode="lines",
                hoverinfo="skip",
                line={"color": colour, "width": 2, "dash": "dot"},
            ),
            go.Scatter(
                x=[p[0] for p in path],
                y=[p[1] for p in path],
                mode="lines+markers+text",
                name=label,
                text=text,
                textposition=sides[label],
                textfont={"color": colour},
                line={"color": colour, "width": 4},
                marker={"color": colour, "symbol": symbol, "opacity": 1, "size": [0, 12, 0] * len(tips)},
                customdata=[h for tip in tips for h in (0.0, tip[2], 0.0)],
                hovertemplate=f"{label}: %{{customdata:.3f}} along V<extra></extra>",
            ),
        ]
    return traces


def _sides(
    tips: Mapping[str, tuple[float, float]], every: Sequence[tuple[float, float]], reach: float
) -> dict[str, str]:
    """For each named tip the side its name goes to: away from the origin, unless a name or one of `every` tip
    is there."""
    width, height = 0.1 * reach, 0.2 * reach  # of one letter, at the smallest size the figure is drawn
    taken = [(x - 0.05 * reach, y - 0.05 * reach, x + 0.05 * reach, y + 0.05 * reach) for x, y in every]
    taken.append((-0.06 * reach, 0.0, 0.06 * reach, 1.3 * reach))  # V and its name
    sides = {}
    for label, (x, y) in tips.items():
        across = ("right", "left") if x > 0 else ("left", "right")
        along = ("top", "bottom", "middle") if y > 0 else ("bottom", "top", "middle")
        boxes = {}
        for side in [f"{v} {h}" for h in across for v in along]:
            v, h = side.split()
            left = x + 0.06 * reach if h == "right" else x - 0.06 * reach - width * len(label)
            low = y - height / 2 + {"top": 0.6, "bottom": -0.6, "middle": 0.0}[v] * height
            boxes[side] = (left, low, left + width * len(label), low + height)
        overlaps = {
            side: sum(a < r and p < c and b < t and q < d for p, q, r, t in taken)
            for side, (a, b, c, d) in boxes.items()
        }
        sides[label] = min(overlaps, key=overlaps.__getitem__)  # the first of the best
        taken.append(boxes[sides[label]])
    return sides


def violation_by_angle(angles: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Figure:
    """Violation of one step over the angle between A's row and V: zero where A V = 0, and nowhere else.

    angles: degrees, ascending. curves: label → violation (0 to 1) at each angle; labels stand at the
    right-hand ends.
    """
    figure = go.Figure()
    every = max(1, len(angles) // 12)  # markers on every so many points, at other ones for each curve
    for i, ((label, values), colour, marker) in enumerate(zip(curves.items(), COLOURS, MARKERS)):
        sizes = [10 if (j - i) % every == 0 else 0 for j in range(len(angles))]
        figure.add_trace(
            go.Scatter(
                x=list(angles),
                y=list(values),
                mode="lines+markers",
                name=label,
                line={"color": colour},
                marker={"symbol": marker, "color": colour, "opacity": 1, "size": sizes},
                hovertemplate=f"{label}, %{{x}}°: %{{y:.3f}}<extra></extra>",
            )
        )
    ends = sorted((values[-1], label, colour) for (label, values), colour in zip(curves.items(), COLOURS))
    gap = 0.075 * max(label.count("<br>") + 1 for label in curves)
    y = 0.08 - gap  # the lowest label stays clear of the axis' last tick
    look = {"x": angles[-1] + 2, "xanchor": "left", "align": "left", "showarrow": False}
    for value, label, colour in ends:
        y = max(value, y + gap)
        figure.add_annotation(text=label, y=y, font={"color": colour}, **look)
    figure.add_vline(x=90, line={"color": GREY, "dash": "dot", "width": 2})
    look = {"showarrow": False, "font": {"color": "#555555"}, "bgcolor": "white"}
    figure.add_annotation(text="A V = 0", x=90, y=1.06, **look)
    ticks = list(range(0, 181, 30))
    figure.update_xaxes(title="angle between A's row and V (degrees)", tickvals=ticks, range=[0, 180])
    figure.update_yaxes(title="violation ‖ΔW V‖ / ‖ΔW‖ (0 to 1)", range=[-0.03, 1.12])
    title = "Projected gradients leave the safe plane, unless A V = 0"
    figure.update_layout(title=title, height=520, width=WIDE, margin={"r": 270}, showlegend=False)
    at = min(range(len(angles)), key=lambda j: abs(angles[j] - 90))
    said = "; ".join(
        f"{label.replace('<br>', ' ')} {values[0]:.2f} at {angles[0]:g} degrees, {max(values):.2f} at most, "
        f"{values[at]:.2g} at {angles[at]:g}"
        for label, values in curves.items()
    )
    return Figure(
        figure,
        f"Violation over the angle between A's row and V, {angles[0]:g} to {angles[-1]:g} degrees: {said}.",
    )
