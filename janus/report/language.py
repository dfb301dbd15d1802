"""What a language model paid for what it learned: rows, intervals, one table (lesson 10 and its page)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..language.texts import LABELS
from ..language.trial import GENERAL, UNSEEN, forgetting_at, points
from .compare import NONE, interval
from .tables import Table

Run = Mapping[str, Any]  # what `language.trial.run` returns


def by_row(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Row → its runs. A row is a method; where it was run with several ε, they are in its name."""
    energies: dict[str, set[float]] = {}
    for run in runs:
        energies.setdefault(run["trial"]["method"], set()).add(run["trial"]["energy"])
    rows: dict[str, list[Run]] = {}
    for run in runs:
        method, energy = run["trial"]["method"], run["trial"]["energy"]
        row = f"{method}, ε {f'{energy:g}'.lstrip('0')}" if len(energies[method]) > 1 else method
        rows.setdefault(row, []).append(run)
    return rows


def at_level(found: Sequence[Run], level: float, name: str = GENERAL) -> list[float]:
    """Forgetting at one loss of the first learned text, one value a seed that gets there."""
    values = [forgetting_at(run, level, name) for run in found]
    return [value for value in values if value is not None]


def rises(found: Sequence[Run], name: str) -> list[float]:
    """How much the loss of a text has risen at the end, one value a seed.

    Of general text since before training; of a learned text since its own training ended.
    """
    values = []
    for run in found:
        learned = [point for point in run["curve"] if point["text"] == name]
        since = learned[-1] if learned else run["curve"][0]
        values.append(run["curve"][-1]["loss"][name] - since["loss"][name])
    return values


def told(values: Sequence[float], sign: str = "+") -> str:
    """Mean and half its 95 % interval."""
    if not values:
        return NONE
    half = f" ± {interval(values):.3f}" if len(values) > 1 else ""
    return f"{fmean(values):{sign}.3f}{half}"


def summary(runs: Sequence[Run], level: float) -> Table:
    """A line a row, in nats per token. ± is half the 95 % interval over seeds.

    level: the loss of the first text at which its first two columns of forgetting are read off.
    """
    first, *later = runs[0]["trial"]["learn"]
    there = f"where {LABELS[first]} are at {level:g}"
    header = ["row", "lr", "seeds", f"{LABELS[GENERAL]} {there}", f"{LABELS[UNSEEN]} {there}"]
    header += [f"{LABELS[first]}: lowest loss", f"{LABELS[GENERAL]} at the end"]
    header += [f"{LABELS[first]} after {LABELS[later[-1]]}"] if later else []
    lines = []
    for row, found in by_row(runs).items():
        best = [min(loss for loss, _ in points(run)) for run in found]
        line = [row, f"{found[0]['trial']['lr']:g}", len(found)]
        line += [told(at_level(found, level, name)) for name in (GENERAL, UNSEEN)]
        line += [told(best, ""), told(rises(found, GENERAL))]
        lines.append(line + ([told(rises(found, first))] if later else []))
    return Table(header, lines)
