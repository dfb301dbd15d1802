"""The rows of the paper's ablation and what stands around them: which switches each one sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import JanusError
from .paper import PAPER as PAPER

CHOSEN = Path(__file__).with_name("chosen.json")


def _row(oe: bool, gr: str, dml: bool, adapter: str = "shared", init: str = "free") -> dict[str, Any]:
    return {
        "method.name": "janus",
        "method.oe": oe,
        "method.gr": gr,
        "method.dml": dml,
        "method.adapter": adapter,
        "method.init": init,
    }


# What every row shares, the reference baselines and joint included.
PROTOCOL: dict[str, Any] = {
    "data.dataset": "icons-r",
    "data.tasks": 10,
    "training.epochs": 3,
    "training.batch_size": 16,
    "training.head_lr": 5e-3,
    "method.energy": 0.95,
}

PAPER_ROWS: dict[str, dict[str, Any]] = {  # adapter=shared, init=free, as in the paper
    "LoRA": _row(False, "none", False),
    "DML": _row(False, "none", True),
    "OE": _row(True, "none", False),
    "GR": _row(False, "tangent", False),
    "OE+GR": _row(True, "tangent", False),
    "OE+DML": _row(True, "none", True),
    "OE+GR+DML": _row(True, "tangent", True),
}
_EXACT = _row(True, "exact", False, "merged", "nullspace")
OTHER_ROWS: dict[str, dict[str, Any]] = {
    "GPM": {"method.name": "gpm"},
    "exact": _EXACT,
    "exact+DML": _row(True, "exact", True, "merged", "nullspace"),
    "frozen": {"method.name": "frozen"},
    "ncm": {"method.name": "ncm"},
    "joint": {"method.name": "joint"},
}
ROWS = PAPER_ROWS | OTHER_ROWS

# adapter x init x gr x oe: the legal cells that are no row of the paper (exact is one already)
CROSS: dict[str, dict[str, Any]] = {
    f"merged {init}{' OE' if oe else ''} gr={gr}": _row(oe, gr, False, "merged", init)
    for init in ("free", "nullspace")
    for oe in (False, True)
    for gr in ("none", "tangent")
    if oe or init == "free"
}

_DRS = {"method.name": "drs", "method.energy": 0.99, "method.energy_end": None}

# Published baselines, and the strongest head on our features and on theirs. ε is what a method's authors
# state (for ImageNet-R; a protocol may say what they state for its data), not the protocol's own
PUBLISHED: dict[str, dict[str, Any]] = {
    "InfLoRA": {"method.name": "inflora", "method.energy": 0.98, "method.energy_end": 0.998},
    "LoRA-DRS": _DRS,
    "LoRA-DRS+GR": _DRS | {"method.gr": "tangent"},
    "LoRA-DRS, class means": _DRS | {"classifier.name": "ncm"},
    "BiLoRA": {"method.name": "bilora"},
    "SD-LoRA": {"method.name": "sdlora"},
    "O-LoRA": {"method.name": "olora"},
    "L2P": {"method.name": "l2p"},
    "DualPrompt": {"method.name": "dualprompt"},
    "CODA-Prompt": {"method.name": "coda"},
    "EWC": {"method.name": "ewc"},
    "LwF": {"method.name": "lwf"},
    "SLCA": {"method.name": "slca"},
    "RanPAC": {"method.name": "ranpac"},
    "LoRA, RanPAC head": _row(False, "none", False) | {"classifier.name": "ranpac"},
    "exact, RanPAC head": _EXACT | {"classifier.name": "ranpac"},
    "OE+GR, RanPAC head": _row(True, "tangent", False) | {"classifier.name": "ranpac"},
}
# What only the second benchmark has, so far: see benchmarks/protocols/icons_r2.yaml
REFERENCES: dict[str, dict[str, Any]] = {
    "LoRA-FA": {"method.name": "lorafa"},
    "probe": {"method.name": "probe"},
    "frozen, aligned heads": {"method.name": "frozen", "classifier.name": "aligned"},
    "LoRA, aligned heads": _row(False, "none", False) | {"classifier.name": "aligned"},
    "OE+GR, aligned heads": _row(True, "tangent", False) | {"classifier.name": "aligned"},
    "exact, aligned heads": _EXACT | {"classifier.name": "aligned"},
}
KNOWN = ROWS | CROSS | PUBLISHED | REFERENCES  # by these names in grids
UNTRAINED = ("ncm", "RanPAC")  # no learning rate, so nothing to choose
# they may go without a choice: a protocol states the heads' rate
HEADS_ONLY = ("frozen", "probe", "frozen, aligned heads")


def slug(row: str) -> str:
    """A row's name as a file name."""
    return row.replace(",", "").replace(" ", "_").replace("+", "-").replace("=", "-")


def chosen(file: Path = CHOSEN) -> dict[str, dict[str, Any]]:
    """Row → the hyper-parameters that validation chose for it. JanusError: no such file."""
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise JanusError(f"cannot read what validation chose from {file} ({error})") from None


def choice(row: str, choices: dict[str, dict[str, Any]] | None) -> dict[str, Any]:
    """What was chosen for a row, if anything was. A row with the margin loss, or under another classifier,
    for which nothing was chosen takes what was chosen for the same row without either.

    Raises:
        JanusError: there are choices, and none for this row.
    """
    if choices is None or row in UNTRAINED:
        return {}
    if row in HEADS_ONLY:
        return choices.get(row, {})
    plain = row.partition(",")[0].removesuffix("+DML")  # of "exact, RanPAC head": "exact"
    for name in (row, "LoRA" if plain == "DML" else plain):
        if name in choices:
            return choices[name]
    raise JanusError(
        f"no settings were chosen for {row!r} yet: choose them on validation first "
        "(benchmarks/choose.py, from the runs of a grid)"
    )


def settings(row: str) -> dict[str, Any]:
    """A row on Icons-R: protocol, switches, and what validation chose for it (`chosen.json`, written by
    `benchmarks/choose.py`). Raises JanusError if nothing was chosen yet."""
    return PROTOCOL | KNOWN[row] | choice(row, chosen())
