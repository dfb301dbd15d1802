"""Figures about cost: seconds of a run beside its accuracy, time of a step beside PEFT's LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from ..report.compare import by_variant
from .figure import COLOURS, MARKERS, WIDE, Figure
from .runs import end_labels, style


def accuracy_over_cost(runs: pd.DataFrame) -> Figure:
    """ACC beside the seconds of a run by part, the cheapest row first: means over seeds, ACC with deviation.

    The hooks of OE run inside the training step, so up to a second of them is drawn twice.
    """
    rows = by_variant(runs)
    order = sorted(rows, key=lambda row: -rows[row]["seconds"].mean())
    figure = make_subplots(1, 2, column_widths=[0.38, 0.62], horizontal_spacing=0.03, shared_yaxes=True)
    for row in order:
        figure.add_trace(_mean_acc(row, rows[row]["acc"]), 1, 1)
    for bar in _seconds_by_part(runs, order):
        figure.add_trace(bar, 1, 2)
    figure.update_yaxes(automargin=True, showgrid=False, categoryorder="array", categoryarray=order)
    figure.update_xaxes(title="ACC (%), ± over seeds", row=1, col=1)
    figure.update_xaxes(title="seconds of a run", row=1, col=2)
    means = {row: rows[row][["acc", "seconds"]].mean() for row in order[::-1]}
    top = max(means, key=lambda row: means[row]["acc"])
    highest, seconds = means[top]["acc"], means[top]["seconds"]
    figure.update_layout(
        title=f"The highest ACC, {highest:.1f} % of {top}, took {seconds:.0f} s a run",
        barmode="stack",
        bargap=0.3,
        height=190 + 32 * len(order),
        width=WIDE,
        margin={"t": 105},
        legend=dict(orientation="h", y=1.02, yanchor="bottom", x=1, xanchor="right", traceorder="normal"),
    )
    told = ", ".join(f"{row} {mean['acc']:.1f} % in {mean['seconds']:.0f} s" for row, mean in means.items())
    return Figure(figure, f"ACC beside the seconds of a run, by row: {told}.")


def _mean_acc(row: str, accs: pd.Series) -> go.Scatter:
    """A row's mean over seeds, with its standard deviation as a bar."""
    colour, marker, _ = style(row)
    deviation = accs.std() if len(accs) > 1 else 0.0
    return go.Scatter(
        x=[accs.mean()],
        y=[row],
        mode="markers",
        name=row,
        showlegend=False,
        marker={"color": colour, "symbol": marker, "size": 12},
        error_x={"array": [deviation], "color": colour, "thickness": 1.5, "width": 0},
        hovertemplate=f"{row}: %{{x:.1f}} %<extra></extra>",
    )


def _seconds_by_part(runs: pd.DataFrame, order: list[str]) -> list[go.Bar]:
    """A bar a part, each over all rows: training without GR, GR, OE, evaluation."""
    parts = (  # name, column, colour, pattern
        ("training", "train", COLOURS[1], ""),
        ("GR", "seconds.gr", COLOURS[0], "/"),
        ("OE, or a pass of its own", "seconds.oe", COLOURS[3], "x"),
        ("evaluation", "seconds.eval", "#C8C8C8", "."),
    )
    runs = runs.assign(train=runs["seconds.train"] - runs["seconds.gr"])
    seconds = runs.groupby("variant")[[key for _, key, _, _ in parts]].mean().loc[order]
    return [
        go.Bar(
            x=seconds[key].tolist(),
            y=order,
            orientation="h",
            name=name,
            marker={"color": colour, "pattern": {"shape": pattern, "size": 6}, "line": {"width": 0}},
            hovertemplate=f"%{{y}}, {name}: %{{x:.1f}} s<extra></extra>",
        )
        for name, key, colour, pattern in parts
    ]


def step_cost(cost: Mapping[str, Any]) -> Figure:
    """Time of a training step as a multiple of PEFT's LoRA: median and quarter points (`step_cost.json`)."""
    figure, told = go.Figure(), []
    names = list(dict.fromkeys(name for case in cost["cases"] for name in case["variants"]))
    count = len(cost["cases"])
    for i, (case, colour, marker) in enumerate(zip(cost["cases"], COLOURS, MARKERS)):
        label = f"{case['model']}, batch {case['batch']}{', half precision' * case.get('amp', False)}"
        shift = 0.18 * ((count - 1) / 2 - i)
        values = list(case["variants"].values())
        quarters = {
            "array": [v["high"] - v["ratio"] for v in values],
            "arrayminus": [v["ratio"] - v["low"] for v in values],
        }
        figure.add_trace(
            go.Scatter(
                x=[v["ratio"] for v in values],
                y=[len(names) - 1 - names.index(name) + shift for name in case["variants"]],
                mode="markers",
                name=label,
                showlegend=True,
                marker={"color": colour, "symbol": marker, "size": 12},
                text=list(case["variants"]),
                error_x=quarters | {"color": colour, "thickness": 2, "width": 4},
                hovertemplate=f"%{{text}}, {label}: %{{x:.2f}}<extra></extra>",
            )
        )
        told += [f"{name} {v['ratio']:.2f} ({label})" for name, v in case["variants"].items()]
    figure.add_vline(1, line={"color": "black", "dash": "dot"})
    places, span = list(range(len(names))), [-0.6, len(names) - 0.4]
    figure.update_yaxes(tickvals=places, ticktext=names[::-1], range=span, showgrid=False, automargin=True)
    figure.update_xaxes(title="time of a step / time of PEFT's LoRA step (median, quarter points)")
    where = f"{cost['hardware']['card'] or cost['hardware']['cpu']}, torch {cost['versions']['torch']}"
    figure.update_layout(
        title=f"What a protected training step costs<br><span style='font-size:16px'>{where}</span>",
        height=200 + 50 * len(names),
        width=900,
        margin={"l": 200},
        legend={"orientation": "h", "y": -0.3, "x": 0},
    )
    said = ", ".join(told)
    return Figure(figure, f"Time of a training step as a multiple of PEFT's LoRA ({where}): {said}.")


def over_tasks(record: Mapping[str, Any]) -> Figure:
    """Does a long stream get slower or larger? Median time of a step and resident memory after each task, a
    line a method.

    record: `many_tasks.json`'s: `methods` → a row a task with `ms` and `resident` (bytes).
    """
    titles, told = ["milliseconds of a training step", "resident memory (MB)"], []
    figure = make_subplots(1, 2, horizontal_spacing=0.16, subplot_titles=titles)
    for column, (key, unit) in enumerate((("ms", 1.0), ("resident", 1e6)), 1):
        ends = []
        for (name, rows), colour, marker in zip(record["methods"].items(), COLOURS, MARKERS):
            y = [row[key] / unit for row in rows]
            every = max(1, len(y) // 10)
            sizes = [9 if i % every == 0 else 0 for i in range(len(y))]
            line = go.Scatter(
                x=list(range(1, len(y) + 1)),
                y=y,
                mode="lines+markers",
                name=name,
                showlegend=False,
                line={"color": colour},
                marker={"color": colour, "symbol": marker, "opacity": 1, "size": sizes},
                hovertemplate=f"{name}, task %{{x}}: %{{y:.0f}}<extra></extra>",
            )
            figure.add_trace(line, 1, column)
            ends.append((y[-1], name, colour))
            early = len(y) // 5
            told.append(f"{name} {y[early]:.0f} at task {early + 1}, {y[-1]:.0f} at task {len(y)}")
        top = max(row[key] / unit for rows in record["methods"].values() for row in rows)
        end_labels(figure, ends, len(y) * 1.02, 0.07 * top, row=1, col=column)
        figure.update_xaxes(title="task", range=[0, len(y) * 1.03], row=1, col=column)
        figure.update_yaxes(range=[0, 1.1 * top], row=1, col=column)
    half, title = len(told) // 2, "Does a long stream get slower, or larger?"
    figure.update_layout(title=title, width=WIDE, height=440, margin={"r": 100, "t": 100})
    return Figure(
        figure,
        f"Milliseconds of a step over the tasks: {'; '.join(told[:half])}. Resident megabytes: "
        f"{'; '.join(told[half:])}.",
    )
