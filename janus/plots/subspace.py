"""Figures about the input subspace that Online Estimation keeps: its size, growth, quality and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
import torch
from plotly.subplots import make_subplots
from torch import Tensor

from ..linalg import precise
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
    now, last = [directions(shares(C), energy) for C in moments.values()], [y[-1] for y in lines.values()]
    title = f"At ε = {energy:g} one task takes {min(now)} to {max(now)} of {n} directions, by layer"
    figure.update_layout(title=title, showlegend=False, margin={"r": 110})
    return Figure(
        figure,
        f"Rank of V over the energy threshold, one line a layer. At {energy:g} between {min(now)} and "
        f"{max(now)} of {n}; at 0.999 between {min(last)} and {max(last)}.",
    )


def rows_from(
    held: Mapping[str, Sequence[float]], widths: Mapping[str, int], energy: float, rank: int
) -> list[dict]:
    """Room in each layer: its width n, the rank of V after this task, directions left, and their share of n.

    held: layer → `shares` of its second moment. Left are those of the n − 2r that may be taken.
    """
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
    start, end = (sum(y[i] for y in lines.values()) for i in (0, -1))
    times = end / max(1, start)
    title = f"V grows {times:.2f}-fold from the first task to the last (limit n − 2r = {most} a layer)"
    figure.update_layout(title=title, showlegend=False, margin={"r": 170})
    grown = ", ".join(f"{block(key)} {y[0]} to {y[-1]}" for key, y in lines.items())
    return Figure(
        figure, f"Rank of V over tasks. From the first to the last task: {grown}; the limit is {most}."
    )


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
            ("V, at one rank", [b["basis"]] * len(x)),
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
    title = "Samples cost more with every image seen, second moments do not"
    figure.update_layout(title=title, showlegend=False, width=WIDE, height=520, margin={"r": 165, "t": 95})
    return Figure(
        figure,
        "Memory over images seen, both axes logarithmic; stored samples grow with the images, second "
        "moments do not, and V only with its rank. "
        f"{'; '.join(words)}.",
    )
