"""Curves, one a row of a table: accuracy as classes come, the room that is left, the learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..report import compare, tables
from ..report.compare import FLOOR, by_variant, curve
from .figure import WIDE, Figure
from .runs import end_labels, style, task_step

Curves = Mapping[int, Sequence[float]]  # seed → a number after each task


def trajectories(runs: pd.DataFrame, floor: str = FLOOR) -> Figure:
    """Accuracy over the seen classes after each task, by row, and below it how far each is above the floor.

    Thick: the mean over seeds; thin: each seed. Below, a seed is compared with the same seed of the floor.
    """
    shown = _by_seed(runs[runs["accuracy"].str.len() > 1], curve)
    gains = _above(shown, floor)
    figure = make_subplots(2, 1, row_heights=[0.42, 0.58], vertical_spacing=0.06, shared_xaxes=True)
    for place, panel in ((1, shown), (2, gains)):
        for row, curves in panel.items():
            _with_seeds(figure, row, curves, place)
    last = max((len(c) for curves in shown.values() for c in curves.values()), default=1)
    ends = [(_end(curves), row, style(row)[0]) for row, curves in gains.items()]
    values = [v for curves in gains.values() for c in curves.values() for v in c] or [0.0, 1.0]
    placed = end_labels(figure, ends, last + 0.15, 0.07 * (max(values) - min(values)), row=2, col=1)
    low, high = min([*values, *placed]), max([*values, *placed])
    margin = 0.06 * (high - low)
    figure.update_xaxes(dtick=task_step(last), range=[0.8, last + 0.15])
    figure.update_xaxes(title="task that was learned last", row=2, col=1)
    figure.update_yaxes(title="seen classes (%)", row=1, col=1)
    figure.update_yaxes(title=f"above {floor} (points)", range=[low - margin, high + margin], row=2, col=1)
    corner = dict(x=1, y=1, xref="x domain", yref="y domain", xanchor="right", yanchor="top")
    figure.add_annotation(text="lines as labelled below; thin: each seed", showarrow=False, **corner)
    ahead = sorted((row for row in gains if row != floor), key=lambda row: -_end(gains[row]))
    last = ", ".join(f"{row} {_end(gains[row]):+.1f}" for row in ahead[:4])
    title = f"After the last task, above {floor}: {last or 'no other row'}"
    figure.update_layout(title=title, height=820, width=WIDE, margin={"r": 145})
    told = ", ".join(f"{row} {_end(curves):.1f}" for row, curves in shown.items())
    return Figure(
        figure, f"Accuracy over seen classes after each task, by row. After the last task: {told} per cent."
    )


def capacity(runs: pd.DataFrame, floor: str = FLOOR) -> Figure:
    """What streams of more and more tasks protect, and what that is worth: the rank of V after each task
    (mean over layer inputs) and below it how far each row is above the floor. A column for each number of
    tasks; thick: the mean over seeds.
    """
    counts = runs["accuracy"].str.len()
    lengths = sorted(counts.unique())
    figure = make_subplots(
        2,
        len(lengths),
        vertical_spacing=0.07,
        horizontal_spacing=0.03,
        shared_xaxes="columns",
        shared_yaxes="rows",
        subplot_titles=[f"{length} tasks" for length in lengths],
    )
    ranks, gains = {}, {}
    for length in lengths:
        same = runs[counts == length]
        ranks[length] = _by_seed(same, _mean_ranks)
        gains[length] = _above(_by_seed(same, curve), floor)
        for panel in (ranks, gains):
            panel[length].pop(floor, None)
    for place, panel in enumerate((ranks, gains), 1):
        _panel_row(figure, panel, place)
    for column, length in enumerate(lengths, 1):
        figure.update_xaxes(range=[0, length * 1.03], dtick=max(1, length // 5), col=column)
    figure.update_xaxes(title="task that was learned last", row=2, col=(len(lengths) + 1) // 2)
    figure.update_yaxes(title="rank of V, mean over layers", row=1, col=1)
    figure.update_yaxes(title=f"above {floor} (points)", row=2, col=1)
    figure.add_hline(0, line={"color": "black", "dash": "dot", "width": 1.5}, row=2)
    figure.update_annotations(font_size=16)
    title = f"What is protected in a long stream, and who stays above {floor} (thin: each seed)"
    figure.update_layout(title=title, height=740, width=WIDE, margin={"r": 100, "t": 100})
    told = []
    for length, panel in ranks.items():
        points = {row: f", {_end(curves):+.1f} points" for row, curves in gains[length].items()}
        said = (f"{row} rank {_end(curves):.0f}{points.get(row, '')}" for row, curves in panel.items())
        told.append(f"{length} tasks: {', '.join(said)}")
    return Figure(
        figure,
        f"Rank of V and accuracy over seen classes minus {floor}'s, after each task. At the end of "
        f"{'; '.join(told)}.",
    )


def _panel_row(figure: go.Figure, panel: Mapping[int, Mapping[str, Curves]], place: int) -> None:
    """Row `place` of `capacity`'s figure, a column for each number of tasks: curves on one scale, and their
    names at the last column's right."""
    values: list[float] = []
    for column, shown in enumerate(panel.values(), 1):
        for row, curves in shown.items():
            _with_seeds(figure, row, curves, place, column)
            # a seed's first tasks are too few images to set the scale
            values += [v for c in curves.values() for v in c[len(c) // 10 :]]
            values += [fmean(step) for step in zip(*curves.values())]
    low, high = min(0.0, *values), max(values)
    margin = 0.06 * (high - low)
    figure.update_yaxes(range=[low - margin, high + margin], row=place)
    longest = max(panel)
    ends = [(_end(curves), row, style(row)[0]) for row, curves in panel[longest].items()]
    end_labels(figure, ends, longest * 1.03, 0.09 * (high - low), row=place, col=len(panel))


def _by_seed(runs: pd.DataFrame, of: Callable[[Mapping[str, Any]], list[float]]) -> dict[str, Curves]:
    """Row → seed → a number after each task."""
    return {
        row: {run["training.seed"]: of(run) for _, run in found.iterrows()}
        for row, found in by_variant(runs).items()
    }


def _mean_ranks(run: Mapping[str, Any]) -> list[float]:
    return [fmean(task.values()) for task in run["layers"]["basis_rank"]]


def _above(rows: Mapping[str, Curves], floor: str) -> dict[str, Curves]:
    """Each seed minus the same seed of the floor; what that has no curve of this length for is left out."""
    base, gains = rows.get(floor, {}), {}
    for row, curves in rows.items():
        known = {s: c for s, c in curves.items() if len(base.get(s, ())) == len(c)}
        if known:
            gains[row] = {s: [a - b for a, b in zip(c, base[s])] for s, c in known.items()}
    return gains


def _end(curves: Curves) -> float:
    """After the last task, mean over seeds."""
    return fmean(c[-1] for c in curves.values())


def _with_seeds(figure: go.Figure, row: str, curves: Curves, place: int, column: int = 1) -> None:
    """The mean over seeds as a thick line with marks, each seed as a thin one, in row `place`."""
    colour, marker, dash = style(row)
    steps = list(range(1, len(next(iter(curves.values()))) + 1))
    for seed, values in curves.items() if len(curves) > 1 else ():
        thin = go.Scatter(
            x=steps,
            y=values,
            mode="lines",
            line={"color": colour, "width": 1, "dash": dash},
            opacity=0.35,
            showlegend=False,
            hoverinfo="skip",
            name=f"{row}, seed {seed}",
        )
        figure.add_trace(thin, place, column)
    thick = go.Scatter(
        x=steps,
        y=[fmean(values) for values in zip(*curves.values())],
        mode="lines+markers",
        name=row,
        showlegend=False,
        line={"color": colour, "dash": dash},
        marker={"symbol": marker, "color": colour, "size": 9, "maxdisplayed": 20},
        hovertemplate=f"{row}, task %{{x}}: %{{y:.1f}}<extra></extra>",
    )
    figure.add_trace(thick, place, column)


def rates(
    tune: pd.DataFrame, floor: str = FLOOR, title: str = "How much learning rate does each row bear?"
) -> Figure:
    """Validation accuracy over the factors' learning rate, a curve a row; the floor, without one, a line."""
    figure, ends = go.Figure(), []
    tune = tune.assign(rate=tables.rates(tune)).reset_index(drop=True)
    lrs = sorted(tune.loc[tune["variant"] != floor, "rate"].unique())
    for row, found in by_variant(tune[tune["variant"] != floor]).items():
        found = found.sort_values(["rate", "acc"])
        colour, marker, dash = style(row)
        figure.add_trace(
            go.Scatter(
                x=found["rate"].tolist(),
                y=found["acc"].tolist(),
                mode="lines+markers",
                name=row,
                showlegend=False,
                line={"color": colour, "dash": dash},
                marker={"symbol": marker, "color": colour},
                hovertemplate=f"{row}, lr %{{x:g}}: %{{y:.1f}} %<extra></extra>",
            )
        )
        ends.append((found["acc"].iloc[-1], row, colour))
    peaks = compare.best(tune).set_index("variant")
    if floor in peaks.index:
        best = peaks["acc"][floor]
        figure.add_hline(best, line={"color": "black", "dash": "dot"})
        ends.append((best, floor, style(floor)[0]))
    right = math.log10(lrs[-1]) + 0.06
    end_labels(figure, ends, right, 0.055 * (tune["acc"].max() - tune["acc"].min()))
    figure.update_xaxes(
        title="learning rate of the factors (log)",
        type="log",
        tickvals=lrs,
        ticktext=[f"{lr:g}" for lr in lrs],
        range=[math.log10(lrs[0]) - 0.08, right],
    )
    figure.update_yaxes(title="ACC on validation (%)")
    figure.update_layout(title=title, height=580, width=WIDE, margin={"r": 150})
    told = ", ".join(f"{row} {acc:.1f} at {rate:g}" for row, acc, rate in peaks[["acc", "rate"]].itertuples())
    return Figure(figure, f"Validation accuracy over the learning rate, by row. Best: {told}.")
