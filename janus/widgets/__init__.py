"""Explorers with knobs (ipywidgets), three lines in a notebook; each recomputes within 100 ms and has a
static figure beside it."""

from __future__ import annotations

from .energy import explore_energy
from .geometry import explore_geometry

__all__ = ["explore_energy", "explore_geometry"]
