"""Figures about room between features: the danger plot, a map of tasks, the margin loss on a circle and over its margins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
import torch
import torch.nn.functional as F
from plotly.subplots import make_subplots
from torch import Tensor

from .figure import COLOURS, WIDE, Figure

DANGER, IDEAL = 0.5, 0.7  # the paper's zones: danger x > 0.5; ideal y > 0.7 and x < 0.5
NEW, OLD, OWN = COLOURS[0], COLOURS[1], COLOURS[2]
GREY = "#666666"
MAP_TITLE = (
    f"Is there room for a new task? <span style='color:{NEW}'>● new task</span>   "
    f"<span style='color:{GREY}'>□ old tasks</span>"
)
MAP_MARGIN = {"l": 20, "r": 20, "t": 125, "b": 20}
STILL = 1e-6  # a shorter gradient is none
DARK_NEW, DARK_OWN = "#A03F00", "#00664B"  # for words: enough contrast on white and on the zones
Points = Sequence[tuple[float, float]]


# ── what the figures are made of ────────────────────────────────────────────────────────────────────────────────────────


def cosines(z: Tensor, labels: Tensor, old: Tensor, own: Tensor) -> Points:
    """For each feature (N, d) its largest cosine to an old prototype (C, d), and the one to its own centre `own[label]`."""
    z = F.normalize(z.float(), dim=-1)
    nearest = (z @ F.normalize(old.float(), dim=-1).T).amax(1)  # (N,)
    centre = (z * F.normalize(own.float(), dim=-1)[labels]).sum(-1)  # (N,)
    return list(zip(nearest.tolist(), centre.tolist()))


# ── the paper's danger plot ─────────────────────────────────────────────────────────────────────────────────────────────


def danger_plot(panels: Mapping[str, Points]) -> Figure:
    """Where new features stand: x = cosine to the nearest old prototype, y = cosine to the own class centre.

    panels: title → a point (x, y) a feature, as `cosines` returns them. The vertical line is the mean of x, the danger.
    """
    values = [v for points in panels.values() for point in points for v in point]
    low = min(0.0, *values) - 0.03 if values else 0.0
    figure = make_subplots(
        1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.09, shared_yaxes=True
    )
    for column, points in enumerate(panels.values(), 1):
        x, y = [round(p[0], 4) for p in points], [round(p[1], 4) for p in points]
        zone: dict[str, Any] = {"layer": "below", "row": 1, "col": column}
        figure.add_shape(
            type="rect",
            x0=DANGER,
            x1=1.02,
            y0=low,
            y1=1.02,
            fillcolor=NEW,
            opacity=0.13,
            line_width=0,
            **zone,
        )
        figure.add_shape(
            type="rect",
            x0=low,
            x1=DANGER,
            y0=IDEAL,
            y1=1.02,
            fillcolor=OWN,
            opacity=0.16,
            line_width=0,
            **zone,
        )
        figure.add_shape(
            type="rect",
            x0=low,
            x1=DANGER,
            y0=IDEAL,
            y1=1.02,
            line={"color": OWN, "dash": "dot", "width": 2},
            **zone,
        )
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="markers",
                showlegend=False,
                marker={"color": OLD, "symbol": "circle", "size": 6, "opacity": 0.6},
                hovertemplate="nearest old prototype %{x:.2f}, own centre %{y:.2f}<extra></extra>",
            ),
            1,
            column,
        )
        mean = fmean(p[0] for p in points)
        figure.add_shape(
            type="line",
            x0=mean,
            x1=mean,
            y0=low,
            y1=1.02,
            line={"color": "black", "width": 2.5},
            row=1,
            col=column,
        )
        side = -1 if mean > 0.55 else 1
        figure.add_annotation(
            text=f"<b>danger {mean:.3f}</b>",
            x=mean,
            y=low + 0.05,
            xshift=6 * side,
            showarrow=False,
            xanchor="left" if side > 0 else "right",
            bgcolor="rgba(255,255,255,0.75)",
            row=1,
            col=column,
        )
        for text, place, anchor, colour in (
            ("danger zone", 1.0, "right", DARK_NEW),
            ("ideal zone", low + 0.02, "left", DARK_OWN),
        ):
            figure.add_annotation(
                text=text,
                x=place,
                y=0.975,
                xanchor=anchor,
                showarrow=False,
                font={"color": colour},
                bgcolor="rgba(255,255,255,0.75)",
                row=1,
                col=column,
            )
        figure.update_xaxes(title="cosine to the nearest old prototype", range=[low, 1.02], row=1, col=column)
        figure.update_yaxes(range=[low, 1.02], row=1, col=column)
    figure.update_yaxes(title="cosine to the own class centre", row=1, col=1)
    figure.update_annotations(font_size=16)
    figure.update_layout(
        title="Do new features keep away from old classes?", height=500, width=WIDE, margin={"t": 90, "r": 20}
    )
    said = "; ".join(
        f"{title}: danger {fmean(p[0] for p in points):.3f}, {share(points, 'danger'):.0%} in the danger zone, "
        f"{share(points, 'ideal'):.0%} in the ideal zone"
        for title, points in panels.items()
    )
    return Figure(figure, f"Danger plots of new features, {len(panels)} side by side. {said}.")


def share(points: Points, zone: str) -> float:
    """The share of points in a zone: `danger` x > 0.5; `ideal` y > 0.7 and x < 0.5; `crowded` x > y: an old prototype is nearer."""
    inside = {
        "danger": lambda x, y: x > DANGER,
        "ideal": lambda x, y: y > IDEAL and x < DANGER,
        "crowded": lambda x, y: x > y,
    }
    return sum(inside[zone](x, y) for x, y in points) / len(points)


# ── a map of the tasks ──────────────────────────────────────────────────────────────────────────────────────────────────


def task_map(
    panels: Mapping[str, Points], tasks: Sequence[int], notes: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Points in the plane, one panel a run; a slider says which task is the new one. It needs no kernel.

    panels: title → a position a feature; tasks: the task (0, 1, …) of each position, the same in every panel. notes: title →
    a few words for each task, shown under the panel's title. The static picture has its first and its last position.
    """
    count = max(tasks) + 1
    notes = notes or {title: [""] * count for title in panels}
    figure = make_subplots(1, len(panels), subplot_titles=list(panels), horizontal_spacing=0.03)
    for column, points in enumerate(panels.values(), 1):
        for t in range(count):
            figure.add_trace(_dots(points, tasks, t, count - 1), 1, column)
        _frame(figure, points, column)
    steps = []
    for new in range(1, count):
        looks = [_look(t, new) for _ in panels for t in range(count)]
        texts = {
            f"annotations[{i}].text": _headline(title, notes[title][new]) for i, title in enumerate(panels)
        }
        restyle = {"visible": [t <= new for _ in panels for t in range(count)]}
        restyle |= {f"marker.{key}": [look[key] for look in looks] for key in looks[0]}
        steps.append({"method": "update", "label": f"{new + 1}", "args": [restyle, texts]})
    for i, title in enumerate(panels):
        figure.layout.annotations[i].text = _headline(title, notes[title][count - 1])
    figure.update_annotations(font_size=16)
    figure.update_layout(
        title=MAP_TITLE,
        height=600,
        width=WIDE,
        margin=MAP_MARGIN,
        sliders=[
            {"active": count - 2, "steps": steps, "currentvalue": {"prefix": "new task: "}, "pad": {"t": 20}}
        ],
    )
    static = _side_by_side(panels, tasks, notes, [1, count - 1] if count > 2 else [1])
    return Figure(
        figure,
        f"Maps of the features of {count} tasks, for {' and '.join(panels)}; a slider over tasks, the new "
        "task's points as filled orange circles, the old tasks' as hollow grey squares.",
        static,
    )


def _side_by_side(
    panels: Mapping[str, Points],
    tasks: Sequence[int],
    notes: Mapping[str, Sequence[str]],
    rows: Sequence[int],
) -> go.Figure:
    """What the slider shows at the tasks in `rows`, one row each."""
    titles = [
        _headline(f"{title}: task {new + 1} is new", notes[title][new]) for new in rows for title in panels
    ]
    figure = make_subplots(
        len(rows), len(panels), subplot_titles=titles, horizontal_spacing=0.03, vertical_spacing=0.14
    )
    for row, new in enumerate(rows, 1):
        for column, points in enumerate(panels.values(), 1):
            for task in range(new + 1):
                figure.add_trace(_dots(points, tasks, task, new), row, column)
    for column, points in enumerate(panels.values(), 1):
        _frame(figure, points, column)
    return figure.update_annotations(font_size=16).update_layout(
        title=MAP_TITLE, height=150 + 350 * len(rows), width=WIDE, margin=MAP_MARGIN
    )


def _dots(points: Points, tasks: Sequence[int], task: int, new: int) -> go.Scatter:
    mine = [p for p, t in zip(points, tasks) if t == task]
    return go.Scatter(
        x=[round(p[0], 2) for p in mine],
        y=[round(p[1], 2) for p in mine],
        mode="markers",
        showlegend=False,
        marker=_look(task, new),
        name=f"task {task + 1}",
        hovertemplate=f"task {task + 1}<extra></extra>",
    )


def _frame(figure: go.Figure, points: Points, column: int) -> None:
    """The same window for every task: an axis without numbers, for they mean nothing."""
    for axis, update in ((0, figure.update_xaxes), (1, figure.update_yaxes)):
        values = [p[axis] for p in points]
        pad = 0.06 * (max(values) - min(values) or 1.0)
        update(
            range=[min(values) - pad, max(values) + pad],
            showticklabels=False,
            ticks="",
            showgrid=False,
            mirror=True,
            showline=True,
            col=column,
        )


def _headline(title: str, note: str) -> str:
    return f"<b>{title}</b>" + (f"<br>{note}" if note else "")


def _look(task: int, new: int) -> dict[str, Any]:
    return (
        {"color": NEW, "symbol": "circle", "size": 8}
        if task == new
        else {"color": GREY, "symbol": "square-open", "size": 6}
    )


# ── the loss on a circle ────────────────────────────────────────────────────────────────────────────────────────────────


def circles(
    steps: Mapping[str, Tensor], points: Tensor, old: Tensor, own: Tensor, length: float = 0.3
) -> Figure:
    """Where a gradient step moves features on the unit circle, one panel a loss.

    steps: title → (N, 2) minus the gradient at `points` (N, 2); old (C, 2), own (2,): unit vectors. An arrow of the largest
    step is `length` long; a point that does not move is a hollow dot.
    """
    figure = make_subplots(1, len(steps), subplot_titles=list(steps), horizontal_spacing=0.02)
    ring = torch.linspace(0, 2 * torch.pi, 73)
    quiet: dict[str, Any] = {"showlegend": False, "hoverinfo": "skip"}
    for column, step in enumerate(steps.values(), 1):
        size = step.norm(dim=1)  # (N,)
        moves = size > STILL
        factor = length / float(size.max()) if bool(moves.any()) else 0.0
        figure.add_trace(
            go.Scatter(
                x=_short(ring.cos()),
                y=_short(ring.sin()),
                mode="lines",
                line={"color": "#BBBBBB", "width": 1.5},
                **quiet,
            ),
            1,
            column,
        )
        still = points[~moves]
        figure.add_trace(
            go.Scatter(
                x=_short(still[:, 0]),
                y=_short(still[:, 1]),
                mode="markers",
                name="no gradient",
                marker={"symbol": "circle-open", "color": GREY, "size": 8},
                **quiet,
            ),
            1,
            column,
        )
        x, y, heads = [], [], []
        ends = points + factor * step
        for (x0, y0), (x1, y1) in zip(map(_short, points[moves]), map(_short, ends[moves])):
            x, y, heads = [*x, x0, x1, None], [*y, y0, y1, None], [*heads, 0, 12, 0]  # only an end has a head
        figure.add_trace(
            go.Scatter(
                x=x,
                y=y,
                mode="lines+markers",
                name="step",
                line={"color": "black", "width": 2},
                marker={"symbol": "arrow", "angleref": "previous", "size": heads, "color": "black"},
                **quiet,
            ),
            1,
            column,
        )
        for place, text, colour, symbol in [
            *((row, "old", NEW, "x") for row in old),
            (own, "own", OWN, "star"),
        ]:
            px, py = _short(place)
            look = {"symbol": symbol, "size": 17, "color": colour, "line": {"color": "white", "width": 1}}
            figure.add_trace(
                go.Scatter(x=[px], y=[py], mode="markers", marker=look, name=text, **quiet), 1, column
            )
            figure.add_annotation(
                text=f"<b>{text}</b>",
                x=0.74 * px,
                y=0.74 * py,
                showarrow=False,
                font={"color": DARK_NEW if text == "old" else DARK_OWN},
                row=1,
                col=column,
            )
        anchor = f"x{column if column > 1 else ''}"
        figure.update_xaxes(range=[-1.12, 1.12], visible=False, row=1, col=column)
        figure.update_yaxes(range=[-1.12, 1.12], visible=False, scaleanchor=anchor, row=1, col=column)
    figure.update_annotations(font_size=16)
    figure.update_layout(
        title="Which way does the loss move a feature? (arrows: minus the gradient; hollow dots: none)",
        height=430,
        width=WIDE,
        margin={"l": 10, "r": 10, "t": 100, "b": 10},
    )
    said = ", ".join(
        f"{title}: {int((s.norm(dim=1) > STILL).sum())} of {len(s)} points move" for title, s in steps.items()
    )
    return Figure(
        figure,
        "Unit circles with an old prototype (cross) and the own centre (star), and an arrow at each feature "
        f"for the step down the loss. {said}.",
    )


def _short(values: Tensor) -> list[float]:
    """Three digits are enough for a page, and keep it small."""
    return [round(v, 3) for v in values.tolist()]


# ── the loss over its margins ───────────────────────────────────────────────────────────────────────────────────────────


def margins(
    push_margin: float = 0.3, pull_margin: float = 0.7, weight: float = 0.5, points: Points | None = None
) -> Figure:
    """The hinge push and pull over the cosine they read, and where their gradient acts.

    points: real features as `cosines` returns them: the share of them that each term acts on is written beside its curve.
    weight: of both terms.
    """
    low = -0.25
    grid = [round(low + i * (1 - low) / 50, 3) for i in range(51)]
    terms = (  # name, colours, dash, loss over the grid, where it acts, on which features it acts
        (
            "push, off the nearest old prototype",
            NEW,
            DARK_NEW,
            "solid",
            [weight * max(v - push_margin, 0.0) for v in grid],
            (push_margin, 1.0),
            [p[0] > push_margin for p in points or ()],
        ),
        (
            "pull, to the own centre",
            OWN,
            DARK_OWN,
            "dash",
            [weight * max(pull_margin - v, 0.0) for v in grid],
            (low, pull_margin),
            [p[1] < pull_margin for p in points or ()],
        ),
    )
    figure, said = go.Figure(), []
    for i, (name, colour, dark, dash, values, (start, stop), acts) in enumerate(terms):
        count = f": acts on {fmean(acts):.0%} of the features" if acts else ""
        said.append(f"{name}: gradient at cosines from {start:.2f} to {stop:.2f}{count}")
        figure.add_trace(
            go.Scatter(
                x=grid,
                y=values,
                mode="lines",
                line={"color": colour, "dash": dash, "width": 3},
                name=name,
                showlegend=False,
                hovertemplate="cosine %{x:.2f}: loss %{y:.2f}<extra></extra>",
            )
        )
        bar = -0.09 - 0.1 * i
        figure.add_trace(
            go.Scatter(
                x=[start, stop],
                y=[bar, bar],
                mode="lines",
                name=f"{name}: where it acts",
                showlegend=False,
                hoverinfo="skip",
                line={"color": colour, "width": 9},
                opacity=0.8 if weight else 0.15,
            )
        )
        figure.add_annotation(
            text=f"<b>{name}</b>{count}",
            x=0.99,
            y=1.27 - 0.12 * i,
            xanchor="right",
            showarrow=False,
            font={"color": dark},
            bgcolor="rgba(255,255,255,0.8)",
        )
    figure.add_annotation(
        text="bars: where the gradient is not zero", x=0.99, y=-0.3, xanchor="right", showarrow=False
    )
    figure.update_xaxes(
        title="cosine to the nearest old prototype (push), to the own centre (pull)", range=[low, 1.01]
    )
    figure.update_yaxes(title="loss of one feature", range=[-0.38, 1.36], tickvals=[0, 0.25, 0.5, 0.75, 1])
    figure.update_layout(
        height=470,
        title=f"Where does it act? Push margin {push_margin:.2f}, pull margin {pull_margin:.2f}, "
        f"weight {weight:.2f}",
    )
    return Figure(
        figure, f"Hinge push and pull over the cosine, with bars where the gradient acts. {'; '.join(said)}."
    )
