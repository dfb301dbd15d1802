"""Where rows stand above the floor: a line a row, with what its seeds say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

import pandas as pd
import plotly.graph_objects as go

from ..bench.variants import PAPER_ROWS
from ..report.compare import FLOOR, interval, is_clear, paired, values
from ..report.tables import AT_ONCE
from .figure import COLOURS, MARKERS, WIDE, Figure


class Mark(NamedTuple):
    """How a row is drawn, and what that means."""

    colour: str
    marker: str
    sign: str
    words: str


CLEAR = Mark(COLOURS[0], MARKERS[1], "■", "interval clear of zero")
UNCLEAR = Mark(COLOURS[1], MARKERS[0], "●", "not clear of zero, or one seed")
REFERENCE = Mark(COLOURS[6], MARKERS[3], "◆", "all classes at once")


def above_floor(runs: pd.DataFrame, floor: str = FLOOR, title: str | None = None) -> Figure:
    """Every row minus the floor in the same seeds, the highest first: each seed, the mean, its 95 % interval.

    title: in place of how many rows are clearly above the floor.
    """
    gains = {row: paired(runs, floor, row).tolist() for row in runs["variant"].unique() if row != floor}
    gains = {row: found for row, found in gains.items() if found}
    gains = dict(sorted(gains.items(), key=lambda item: -fmean(item[1])))
    figure, marks = go.Figure(), {row: _mark(row, found) for row, found in gains.items()}
    for place, (row, found) in enumerate(gains.items()):
        _seeds_and_mean(figure, row, found, place, marks[row])
        _numbers(figure, place, f"{fmean(values(runs, row)):.1f}", said(found), marks[row].colour)
    _numbers(figure, -0.9, "ACC (%)", f"minus {floor} (seeds)", "#222222")
    figure.add_vline(x=0, line={"color": "black", "dash": "dash", "width": 1.5})
    base = f"{floor}: ACC {fmean(values(runs, floor)):.1f}" if values(runs, floor) else floor
    place = {"x": 0, "y": len(gains) - 0.3, "yanchor": "top", "bgcolor": "white"}
    figure.add_annotation(text=base, showarrow=False, **place)
    names = [f"<b>{row}</b>" if row in PAPER_ROWS else row for row in gains]
    span = [len(gains) + 0.3, -1.3]
    figure.update_yaxes(tickvals=list(range(len(gains))), ticktext=names, range=span, automargin=True)
    figure.update_xaxes(title=f"ACC minus {floor}'s, seed by seed (points); bar: 95 % interval")
    legend = _legend([mark for mark in (CLEAR, UNCLEAR, REFERENCE) if mark in marks.values()])
    figure.update_layout(
        title=f"{title or _how_many(gains, floor)}<br>{legend}",
        height=200 + 34 * len(gains),
        width=WIDE,
        margin={"r": 270, "t": 95},
    )
    told = "; ".join(f"{row} {said(found)}" for row, found in gains.items())
    return Figure(figure, f"ACC minus {floor}'s in the same seeds, 95 % interval (seeds): {told}.")


def said(differences: Sequence[float]) -> str:
    """Mean, half its 95 % interval, and how many there are."""
    half = f" ± {interval(differences):.1f}" if len(differences) > 1 else ""
    return f"{fmean(differences):+.1f}{half} ({len(differences)})"


def _mark(row: str, found: Sequence[float]) -> Mark:
    if row in AT_ONCE:
        return REFERENCE
    return CLEAR if is_clear(found) else UNCLEAR


def _seeds_and_mean(figure: go.Figure, row: str, found: Sequence[float], place: float, mark: Mark) -> None:
    """A row's seeds as small open points, their mean as a large one with its interval."""
    look = {"mode": "markers", "showlegend": False}
    if len(found) > 1:
        small = {"color": mark.colour, "symbol": f"{mark.marker}-open", "size": 7}
        where = {"x": list(found), "y": [place] * len(found)}
        figure.add_trace(go.Scatter(**where, marker=small, name=f"{row}, seeds", hoverinfo="skip", **look))
    bar = {"array": [interval(found)], "color": mark.colour, "thickness": 2} if len(found) > 1 else None
    figure.add_trace(
        go.Scatter(
            x=[fmean(found)],
            y=[place],
            error_x=bar,
            name=row,
            marker={"color": mark.colour, "symbol": mark.marker, "size": 13},
            hovertemplate=f"{row}: %{{x:+.1f}}<extra></extra>",
            **look,
        )
    )


def _numbers(figure: go.Figure, place: float, acc: str, gain: str, colour: str) -> None:
    """The two columns of numbers at the right of a row."""
    for shift, text, anchor in ((78, acc, "right"), (92, gain, "left")):
        where = {"x": 1, "xref": "paper", "xshift": shift, "y": place, "xanchor": anchor}
        figure.add_annotation(text=text, showarrow=False, font={"color": colour}, **where)


def _legend(marks: Sequence[Mark]) -> str:
    """A line below the title: what the marks mean."""
    parts = [f"<span style='color:{mark.colour}'>{mark.sign} {mark.words}</span>" for mark in marks]
    return f"<span style='font-size:16px'>{'   '.join([*parts, '<b>bold</b>: the paper’s rows'])}</span>"


def _how_many(gains: Mapping[str, Sequence[float]], floor: str) -> str:
    rows = [found for row, found in gains.items() if row not in AT_ONCE]
    several = [found for found in rows if len(found) > 1]
    if not several:
        up = sum(fmean(found) > 0 for found in rows)
        return f"Above {floor} in their one seed, which proves nothing: {up} of {len(rows)} rows"
    clear = sum(is_clear(found) and fmean(found) > 0 for found in several)
    return f"Clearly above {floor}: {clear} of {len(several)} rows with several seeds"
