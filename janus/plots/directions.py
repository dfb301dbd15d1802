"""Figures about the directions of V: what the first ones answer to in an image, what all of them hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

from ..linalg import precise
from .figure import FONT, WIDE, Figure
from .images import data_uri, picture
from .runs import end_labels, marked_line, style
from .subspace import block, held

SIGNED = "RdBu"  # red below zero, white at zero, blue above: told apart by colour-blind readers
TINY = 1e-30  # in place of a division by zero
CELL = 150  # pixels: the edge of an image or a map

# ── single directions ───────────────────────────────────────────────────────────────────────────────────────


def responses(tokens: Tensor, V: Tensor) -> Tensor:
    """`v·x` (images, tokens, k) of tokens (images, tokens, n) with each column of V (n, k).

    A direction has no sign of its own: each is turned so that its mean answer is positive.
    """
    found = precise(tokens) @ precise(V)
    return found * found.mean((0, 1)).sign()


def alike(answers: Tensor) -> list[float]:
    """For each direction: the part of its squared answers (images, patches, k) that all images share.

    1: a patch's answer depends on its place alone. 0: it depends on what is in the image.
    """
    return (answers.mean(0).square().sum(0) / answers.square().mean(0).sum(0).clamp(min=TINY)).tolist()


def even(answers: Tensor) -> list[float]:
    """For each direction: the share of its squared answers (images, patches, k) that is one constant."""
    return (answers.mean((0, 1)).square() / answers.square().mean((0, 1)).clamp(min=TINY)).tolist()


def token_maps(images: Tensor, answers: Tensor, energies: Sequence[float]) -> Figure:
    """One row an image: the image, then a map over its patches for each direction, in its own scale.

    images: uint8 (b, 3, S, S). answers: `responses` (N, patches, k) of N ≥ b images, the shown ones first;
    patches row by row, without CLS; `alike` is of all N. energies: the share of all inputs' energy that each
    of the k directions holds.
    """
    (b, k), side, same = (len(images), answers.shape[2]), round(answers.shape[1] ** 0.5), alike(answers)
    names = [f"v{'₁₂₃₄₅₆₇₈₉'[i]}" for i in range(k)]
    heads = [
        f"{name}: {100 * share:.0f} % of energy<br>{100 * s:.0f} % alike"
        for name, share, s in zip(names, energies, same)
    ]
    figure = make_subplots(
        b, k + 1, horizontal_spacing=0.03, vertical_spacing=0.03, column_titles=["image", *heads]
    )
    shown = answers[:b].reshape(b, side, side, k)
    tops = shown.abs().amax((0, 1, 2)).clamp(min=TINY)  # (k,)
    bar = {
        "title": {"text": "answer v·x (largest of a column = 1)", "side": "right"},
        "thickness": 16,
        "outlinewidth": 0,
    }
    for row in range(b):
        figure.add_trace(go.Image(source=data_uri(picture(images[row])), hoverinfo="skip"), row + 1, 1)
        for i in range(k):
            figure.add_trace(
                go.Heatmap(
                    z=(shown[row, :, :, i] / tops[i]).round(decimals=3).tolist(),
                    customdata=shown[row, :, :, i].round(decimals=3).tolist(),
                    zmin=-1,
                    zmax=1,
                    colorscale=SIGNED,
                    showscale=row == i == 0,
                    colorbar=bar,
                    xgap=2,
                    ygap=2,
                    hovertemplate=f"{names[i]}·x = %{{customdata:.2f}}<extra></extra>",
                ),
                row + 1,
                i + 2,
            )
    figure.update_xaxes(visible=False).update_yaxes(visible=False, autorange="reversed")
    figure.update_annotations(font={"size": FONT - 1})
    height = CELL * b + 130
    figure.update_layout(
        title={"text": _kinds(names, same, even(answers)), "y": 1 - 30 / height},
        width=WIDE,
        height=height,
        margin={"l": 10, "r": 10, "t": 115, "b": 15},
    )
    told = "; ".join(
        f"{name} {100 * share:.0f} % of the energy, {100 * s:.0f} % of its answer the same in all images"
        for name, share, s in zip(names, energies, same)
    )
    return Figure(
        figure,
        f"{b} training images, and beside each a map of {side} × {side} patches for each of the first {k} "
        f"directions, red below zero and blue above. {told}.",
    )


def _kinds(names: Sequence[str], same: Sequence[float], flat: Sequence[float]) -> str:
    """The title: which directions answer alike everywhere, which mostly by place, which mostly by content."""
    kinds: dict[str, list[str]] = {"alike everywhere": [], "mostly by place": [], "mostly by content": []}
    for name, s, f in zip(names, same, flat):
        kinds[
            "alike everywhere" if f > 0.9 else "mostly by place" if s > 0.5 else "mostly by content"
        ].append(name)
    said = {
        kind: f"{', '.join(found)} answer{'s' if len(found) == 1 else ''}"
        for kind, found in kinds.items()
        if found
    }
    return "; ".join(f"{who} {kind}" for kind, who in said.items())


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────


def held_in_blocks(bases: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> dict[str, float]:
    """Block ("block 4") → the share of energy that its V (n, k) holds of inputs with that second moment."""
    return {block(key): held(V, moments[key]) for key, V in bases.items()}


def shares_held(panels: Mapping[str, Mapping[str, Mapping[str, float]]], energy: float, title: str) -> Figure:
    """What share of some inputs' energy bases hold, block by block, beside ε.

    panels: panel title → name of a line → block → share (`held_in_blocks`). All panels have one scale; a row
    of the ablation has its colour of other figures (`runs.style`).
    """
    figure = make_subplots(
        1, len(panels), shared_yaxes=True, horizontal_spacing=0.16, subplot_titles=list(panels)
    )
    every = [100 * share for lines in panels.values() for line in lines.values() for share in line.values()]
    low, high = min(*every, 100 * energy), max(*every, 100 * energy)
    gap = 0.07 * max(high - low, 0.5)
    for column, lines in enumerate(panels.values(), 1):
        ends = []
        for name, line in lines.items():
            colour, marker, _ = style(name)
            x, y = list(range(1, len(line) + 1)), [100 * share for share in line.values()]
            told = "%{text}: %{y:.1f} %"
            figure.add_trace(marked_line(name, x, y, colour, marker, told, text=list(line)), 1, column)
            ends.append((y[-1], name, colour))
        figure.add_hline(
            y=100 * energy, line={"dash": "dash", "color": "#555555", "width": 2}, row=1, col=column
        )
        end_labels(
            figure,
            [*ends, (100 * energy, f"ε = {energy:g}", "#555555")],
            x[-1] + 0.15,
            gap,
            xshift=6,
            row=1,
            col=column,
        )
        figure.update_xaxes(title="block", dtick=1, range=[0.8, x[-1] + 0.15], row=1, col=column)
    figure.update_yaxes(range=[low - 2 * gap, high + 2 * gap])
    figure.update_yaxes(title="energy held (%)", row=1, col=1)
    figure.update_annotations(font={"size": FONT})
    longest = max(len(name) for lines in panels.values() for name in lines)
    figure.update_layout(
        title={"text": title, "y": 0.93},
        showlegend=False,
        width=WIDE,
        margin={"r": 30 + 10 * longest, "t": 100},
    )
    told = "; ".join(
        f"{panel}, {name}: " + ", ".join(f"{at} {100 * share:.1f} %" for at, share in line.items())
        for panel, lines in panels.items()
        for name, line in lines.items()
    )
    return Figure(figure, f"Share of energy held per block, beside ε = {energy:g} (dashed). {told}.")
