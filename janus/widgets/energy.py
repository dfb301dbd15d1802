"""A knob for ε: how much of each layer's input space becomes protected, and how much room is left."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import JanusError
from ..plots.figure import COLOURS
from ..plots.subspace import rows_from, shares

CHOICES = (0.0, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.92, 0.94, 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0)


def explore_energy(moments: Mapping[str, Tensor], rank: int, energy: float = 0.95) -> Any:
    """A slider over ε, and below it one bar a layer: rank of V after this task, and the room that is left.

    moments: layer input → second moment (n, n). rank: LoRA's r (2r directions stay free). The eigenvalues are
    computed once, so a turn of the knob is a count.

    Raises:
        JanusError: ipywidgets is not installed.
    """
    try:
        import ipywidgets
    except ImportError:
        raise JanusError("explorers need ipywidgets: pip install 'janus-lora[notebooks]'") from None
    held = {key: shares(C) for key, C in moments.items()}
    widths = {key: len(C) for key, C in moments.items()}
    choices = sorted({*CHOICES, energy})
    knob = ipywidgets.SelectionSlider(
        options=[(f"{e:g}", e) for e in choices],
        value=energy,
        description="energy ε",
        continuous_update=True,
        layout={"width": "600px"},
    )
    view = ipywidgets.HTML()

    def show(change: Any = None) -> None:
        view.value = table(rows_from(held, widths, knob.value, rank))

    knob.observe(show, names="value")
    show()
    return ipywidgets.VBox([knob, view])


def table(rows: list[dict]) -> str:
    """The bars as an HTML table, numbers as text: nothing is plotted, and a screen reader reads it."""
    names = ("layer", "rank of V", "", "room left")
    head = "".join(f"<th style='text-align:left;padding-right:14px'>{name}</th>" for name in names)
    body = []
    for row in rows:
        taken, left = (100 * row[part] / row["n"] for part in ("rank", "left"))
        bar = (
            f"<div style='width:420px;height:18px;display:flex;border:1px solid #888888'>"
            f"<div style='width:{taken:.2f}%;background:{COLOURS[0]}'></div>"
            f"<div style='width:{left:.2f}%;background:#BBD7EA'></div></div>"
        )
        cells = (row["layer"], f"{row['rank']} of {row['n']}", bar, f"{100 * row['share_left']:.0f} %")
        written = "".join(f"<td style='padding-right:14px'>{cell}</td>" for cell in cells)
        body.append(f"<tr>{written}</tr>")
    return f"<table style='font-size:16px'><tr>{head}</tr>{''.join(body)}</table>"
