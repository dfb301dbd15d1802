"""Figures about the input subspace that Online Estimation keeps: its size, growth, quality and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..linalg import precise, principal_angles
from .figure import COLOURS, FONT, MARKERS, WIDE, Figure
from .runs import end_labels, marked_line, task_step

ENERGIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
FLOAT32 = 4  # bytes
BYTES = {10**e: "" for e in range(3, 13)} | {10**3: "1 kB", 10**6: "1 MB", 10**9: "1 GB", 10**12: "1 TB"}

# ── the numbers ─────────────────────────────────────────────────────────────────────────────────────────────


def shares(C: Tensor) -> list[float]:
    """The share of energy that the 1, 2, …, n largest eigenvectors of a second moment C (n, n) hold."""
    values = torch.linalg.eigvalsh(precise(C)).flip(0).clamp(min=0)
    # as in `history.extend_basis`: rounding noise is no direction
    values = values[values > 1e-12 * values.sum()]
    return (values.cumsum(0) / C.trace()).tolist()


def directions(held: Sequence[float], energy: float) -> int:
    """How many of those eigenvectors hold at least `energy`: the columns of V after one task
    (`history.extend_basis`)."""
    if energy <= 1e-12:
        return 0
    return min(sum(share < energy - 1e-12 for share in held) + 1, len(held))


def held(V: Tensor, C: Tensor) -> float:
    """`tr(VᵀCV) / tr C`: the share of the energy of inputs with second moment C (n, n) that span(V),
    V (n, k), holds."""
    V, C = precise(V), precise(C)
    return float((V * (C @ V)).sum() / C.trace())


def footprint(width: int, layers: int, tokens: int, side: int, directions: int) -> dict[str, int]:
    """Bytes of what could be kept of a ViT's past. width: n; tokens: of one image; side: its pixels.

    "second moments": layers x n x n in float32, whatever the number of images.
    "basis": layers x n x `directions` in float32. "image": one RGB image in uint8.
    "inputs of an image": its tokens at the input of every adapted layer, in float32.
    """
    return {
        "second moments": layers * width**2 * FLOAT32,
        "basis": layers * width * directions * FLOAT32,
        "image": 3 * side**2,
        "inputs of an image": layers * tokens * width * FLOAT32,
    }


def block(key: str) -> str:
    """ "blocks.3.attn" → "block 4"."""
    number = next((part for part in key.split(".") if part.isdigit()), None)
    return key if number is None else f"block {int(number) + 1}"


def size(count: float) -> str:
    """Bytes for people: 28.3 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


# ── the figures ─────────────────────────────────────────────────────────────────────────────────────────────


def ranks(moments: Mapping[str, Tensor], energy: float) -> Figure:
    """Columns of V after one task, over ε. moments: layer input → second moment (n, n); `energy`: the ε in
    use, marked."""
    x, used = [-math.log10(1 - e) for e in ENERGIES], -math.log10(1 - energy)
    lines = {}
    for key, C in moments.items():
        held = shares(C)
        lines[block(key)] = [directions(held, e) for e in ENERGIES]
    n = max(len(C) for C in moments.values())
    figure, ends = go.Figure(), []
    for (label, y), colour, marker in zip(lines.items(), COLOURS, MARKERS):
        told = "ε = %{customdata}: rank %{y}"
        figure.add_trace(marked_line(label, x, y, colour, marker, told, customdata=list(ENERGIES)))
        ends.append((y[-1], label, colour))
    end_labels(figure, ends, x[-1] + 0.04, 0.065 * max(max(y) for y in lines.values()))
    figure.add_vline(x=used, line={"dash": "dash", "color": "#555555"})
    place = {"x": used, "y": 1, "yref": "paper", "xanchor": "right", "yanchor": "top", "xshift": -6}
    figure.add_annotation(text=f"ε = {energy:g}", showarrow=False, **place)
    figure.update_xaxes(
        title="ε, the share of the inputs' energy that V must hold",
        tickvals=x[:1] + x[3:],
        ticktext=[f"{e:g}" for e in ENERGIES[:1] + ENERGIES[3:]],
        range=[x[0] - 0.1, x[-1] + 0.1],
    )
    figure.update_yaxes(title=f"rank of V (of n = {n})", rangemode="tozero")
    title = "How many directions hold a share ε of one task's inputs?"
    figure.update_layout(title=title, showlegend=False, margin={"r": 110})
    low, high = min(y[5] for y in lines.values()), max(y[5] for y in lines.values())
    return Figure(
        figure,
        f"Rank of V over the energy threshold, one line a layer. At 0.95 between {low} and {high} of {n}; "
        f"the last percent costs most: at 0.999 between {min(y[-1] for y in lines.values())} and "
        f"{max(y[-1] for y in lines.values())}.",
    )


def room(moments: Mapping[str, Tensor], energy: float, rank: int) -> Figure:
    """Per layer: directions protected at ε, left for learning, and the 2r that always stay free."""
    rows = room_rows(moments, energy, rank)
    labels = [row["layer"] for row in rows]
    never = [row["n"] - row["rank"] - row["left"] for row in rows]
    parts = (
        ("protected", [row["rank"] for row in rows], COLOURS[0], "/"),
        ("left for later tasks", [row["left"] for row in rows], "#BBD7EA", ""),
        (f"never taken (2r = {2 * rank})", never, "#8FB6D3", "x"),
    )
    figure = go.Figure()
    for name, values, colour, shape in parts:
        pattern = {"shape": shape, "fillmode": "overlay", "fgcolor": "#FFFFFF", "fgopacity": 0.7}
        figure.add_trace(
            go.Bar(
                y=labels,
                x=values,
                orientation="h",
                name=name,
                marker={"color": colour, "pattern": pattern},
                hovertemplate=f"%{{y}}: %{{x}} {name}<extra></extra>",
            )
        )
    for row in rows:
        text = f"{row['rank']} protected, {100 * row['share_left']:.0f} % left"
        place = {"x": row["n"], "y": row["layer"], "xanchor": "left", "xshift": 8}
        figure.add_annotation(text=text, showarrow=False, **place)
    widest = max(row["n"] for row in rows)
    figure.update_yaxes(autorange="reversed")
    figure.update_xaxes(title="directions of the layer's input space", range=[0, widest])
    figure.update_layout(
        barmode="stack",
        title=f"What is protected, and what is left, at ε = {energy:g}",
        width=WIDE,
        height=190 + 50 * len(rows),
        margin={"r": 235, "b": 120},
        legend={"orientation": "h", "y": -0.28, "x": 0, "traceorder": "normal"},
    )
    taken = ", ".join(f"{row['layer']} {row['rank']} of {row['n']}" for row in rows)
    return Figure(figure, f"Bars per layer at ε = {energy:g}. Protected directions: {taken}.")


def room_rows(moments: Mapping[str, Tensor], energy: float, rank: int) -> list[dict]:
    """layer, n, rank of V after this task, directions left (of the n − 2r that may be taken), and their share
    of n."""
    held, widths = {key: shares(C) for key, C in moments.items()}, {key: len(C) for key, C in moments.items()}
    return rows_from(held, widths, energy, rank)


def rows_from(
    held: Mapping[str, Sequence[float]], widths: Mapping[str, int], energy: float, rank: int
) -> list[dict]:
    """`room_rows` from ready shares (an explorer asks often)."""
    rows = []
    for key, n in widths.items():
        most = max(0, n - 2 * rank)
        k = min(directions(held[key], energy), most)
        rows.append({"layer": block(key), "n": n, "rank": k, "left": most - k, "share_left": (most - k) / n})
    return rows


def growth(basis_rank: Sequence[Mapping[str, int]], most: int) -> Figure:
    """Rank of V after each task (`Result.basis_rank`), one line a layer. most: n − 2r, where it must stop."""
    figure, x = go.Figure(), list(range(1, len(basis_rank) + 1))
    lines = {key: [task[key] for task in basis_rank] for key in basis_rank[0]}
    top = max(max(y) for y in lines.values())
    ends = []
    for (key, y), colour, marker in zip(lines.items(), COLOURS, MARKERS):
        told = "after task %{x}: rank %{y}"
        figure.add_trace(marked_line(block(key), x, y, colour, marker, told))
        ends.append((y[-1], f"{block(key)}: {y[0]} → {y[-1]}", colour))
    end_labels(figure, ends, x[-1] + 0.12, 0.075 * top)
    figure.update_xaxes(title="after task", dtick=task_step(x[-1]), range=[0.8, x[-1] + 0.15])
    figure.update_yaxes(title="rank of V", range=[0, 1.15 * top])
    title = f"How fast does the room fill up? (at most n − 2r = {most} directions)"
    figure.update_layout(title=title, showlegend=False, margin={"r": 170})
    grown = ", ".join(f"{block(key)} {y[0]} to {y[-1]}" for key, y in lines.items())
    return Figure(
        figure, f"Rank of V over tasks. From the first to the last task: {grown}; the limit is {most}."
    )


def angles(bases: Mapping[str, Mapping[str, Tensor]], layers: Sequence[str]) -> Figure:
    """Principal angles between the bases of several estimators, one panel a layer.

    bases: estimator → layer input → V (n, k), the reference last. Every pair of estimators is one series.
    """
    names, found = list(bases), {}
    for a, b in combinations(names, 2):
        found[f"{a} – {b}"] = [principal_angles(bases[a][key], bases[b][key]) for key in layers]
    top = max(max(angles) for per_layer in found.values() for angles in per_layer)
    sizes = {key: ", ".join(str(bases[name][key].shape[1]) for name in names) for key in layers}
    titles = [f"{block(key)} (ranks {sizes[key]})" for key in layers]
    figure = make_subplots(1, len(layers), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=titles)
    longest = [max(map(len, of_layer)) for of_layer in zip(*found.values())]
    for column, most in enumerate(longest, 1):
        for (label, per_layer), colour, marker in zip(found.items(), COLOURS, MARKERS):
            y, told = per_layer[column - 1], "direction %{x}: %{y:.1f}°"
            line = marked_line(label, range(1, len(y) + 1), y, colour, marker, told)
            figure.add_trace(line, 1, column)
        figure.update_xaxes(title="principal direction", range=[0.5, most + 1], row=1, col=column)
    ends = [(per_layer[-1][-1], label, colour) for (label, per_layer), colour in zip(found.items(), COLOURS)]
    end_labels(figure, ends, longest[-1] + 0.9, 0.075 * max(top, 10), row=1, col=len(layers))
    figure.update_yaxes(title="angle (degrees)", row=1, col=1)
    figure.update_yaxes(range=[-0.05 * max(top, 10), 1.12 * max(top, 10)])
    figure.update_annotations(font={"size": FONT})
    title = "How far apart are the subspaces? (0° = shared, 90° = foreign)"
    figure.update_layout(title=title, showlegend=False, width=WIDE, margin={"r": 175, "t": 95})
    worst = {label: max(max(a) for a in per_layer) for label, per_layer in found.items()}
    said = ", ".join(f"{label} {angle:.0f}°" for label, angle in worst.items())
    return Figure(figure, f"Principal angles per direction, sorted. Largest: {said}.")


def memory(cases: Mapping[str, Mapping[str, int]]) -> Figure:
    """Bytes kept over the number of images seen. cases: title → `footprint`; one panel each."""
    panels = dict(shared_yaxes=True, horizontal_spacing=0.22, subplot_titles=list(cases))
    figure = make_subplots(1, len(cases), **panels)
    x = [10**e for e in (0, 1, 2, 3, 4, 5)]
    words = []
    for column, (title, b) in enumerate(cases.items(), 1):
        series = (
            ("input tokens", [b["inputs of an image"] * i for i in x]),
            ("images", [b["image"] * i for i in x]),
            ("second moments", [b["second moments"]] * len(x)),
            ("basis V", [b["basis"]] * len(x)),
        )
        ends = []
        for (label, y), colour, marker in zip(series, COLOURS, MARKERS):
            line = marked_line(label, x, y, colour, marker, "%{x} images: %{y:.3s}B")
            figure.add_trace(line, 1, column)
            ends.append((math.log10(y[-1]), label, colour))
        end_labels(figure, ends, 5.12, 0.5, row=1, col=column)
        figure.update_xaxes(
            title="images seen",
            type="log",
            dtick=1,
            exponentformat="power",
            range=[-0.15, 5.15],
            row=1,
            col=column,
        )
        scale = {"type": "log", "tickvals": list(BYTES), "range": [3, 12.3], "ticktext": list(BYTES.values())}
        figure.update_yaxes(**scale, row=1, col=column)
        words.append(
            f"{title}: second moments {size(b['second moments'])}, as much as "
            f"{b['second moments'] / b['image']:.0f} images or the input tokens of "
            f"{b['second moments'] / b['inputs of an image']:.1f}"
        )
    figure.update_yaxes(title="memory (bytes)", row=1, col=1)
    figure.update_annotations(font={"size": FONT})
    title = "What it takes to remember the past"
    figure.update_layout(title=title, showlegend=False, width=WIDE, height=520, margin={"r": 165, "t": 95})
    return Figure(
        figure,
        "Memory over images seen, both axes logarithmic; stored samples grow, second moments and V do not. "
        f"{'; '.join(words)}.",
    )
