"""A map of the tasks: where the features of each stand in the plane, with a slider over the tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from .figure import WIDE, Figure
from .separation import GREY, NEW, Points

MAP_TITLE = (
    f"A new task among the old ones: <span style='color:{NEW}'>● new task</span>   "
    f"<span style='color:{GREY}'>□ old tasks</span>"
)
MAP_MARGIN = {"l": 20, "r": 20, "t": 125, "b": 20}


def task_map(
    panels: Mapping[str, Points], tasks: Sequence[int], notes: Mapping[str, Sequence[str]] | None = None
) -> Figure:
    """Points in the plane, one panel a run; a slider says which task is the new one. It needs no kernel.

    panels: title → a position a feature; tasks: the task (0, 1, …) of each position, the same in every panel.
    notes: title → a few words for each task, shown under the panel's title. The static picture has its first
    and its last position.
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
        heads = [_headline(title, notes[title][new]) for title in panels]
        texts = {f"annotations[{i}].text": head for i, head in enumerate(heads)}
        restyle = {"visible": [t <= new for _ in panels for t in range(count)]}
        restyle |= {f"marker.{key}": [look[key] for look in looks] for key in looks[0]}
        steps.append({"method": "update", "label": f"{new + 1}", "args": [restyle, texts]})
    for i, title in enumerate(panels):
        figure.layout.annotations[i].text = _headline(title, notes[title][count - 1])
    figure.update_annotations(font_size=16)
    slider = {"active": count - 2, "steps": steps, "currentvalue": {"prefix": "new task: "}, "pad": {"t": 20}}
    figure.update_layout(title=MAP_TITLE, height=600, width=WIDE, margin=MAP_MARGIN, sliders=[slider])
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
    titles = []
    for new in rows:
        titles += [_headline(f"{title}: task {new + 1} is new", notes[title][new]) for title in panels]
    layout = dict(subplot_titles=titles, horizontal_spacing=0.03, vertical_spacing=0.14)
    figure = make_subplots(len(rows), len(panels), **layout)
    for row, new in enumerate(rows, 1):
        for column, points in enumerate(panels.values(), 1):
            for task in range(new + 1):
                figure.add_trace(_dots(points, tasks, task, new), row, column)
    for column, points in enumerate(panels.values(), 1):
        _frame(figure, points, column)
    figure.update_annotations(font_size=16)
    return figure.update_layout(title=MAP_TITLE, height=150 + 350 * len(rows), width=WIDE, margin=MAP_MARGIN)


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
    look = dict(showticklabels=False, ticks="", showgrid=False, mirror=True, showline=True)
    for axis, update in ((0, figure.update_xaxes), (1, figure.update_yaxes)):
        values = [p[axis] for p in points]
        pad = 0.06 * (max(values) - min(values) or 1.0)
        update(range=[min(values) - pad, max(values) + pad], col=column, **look)


def _headline(title: str, note: str) -> str:
    return f"<b>{title}</b>" + (f"<br>{note}" if note else "")


def _look(task: int, new: int) -> dict[str, Any]:
    if task == new:
        return {"color": NEW, "symbol": "circle", "size": 8}
    return {"color": GREY, "symbol": "square-open", "size": 6}
