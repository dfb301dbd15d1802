"""Seconds of a run, as one number and as text. Imports nothing that takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping


def total(parts: Mapping[str, float]) -> float:
    """Of a whole run, from its parts; `gr` and `data` are in `train`, as are OE's hooks, of which up to a second counts twice."""
    return parts["train"] + parts["eval"] + parts["oe"]


def clock(seconds: float) -> str:
    """3725 → "1:02:05", 125 → "2:05"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}" if whole >= 3600 else f"{whole // 60}:{whole % 60:02d}"
