"""Figures, each as one bundle: plotly for a live page, a PNG for a static one, a text for those who see neither.

Colours are told apart by colour-blind readers; every series also has its own marker and a label beside it.
"""

from .figure import COLOURS, FONT, MARKERS, SEQUENTIAL, Figure
from .runs import predictors, violation

__all__ = ["COLOURS", "FONT", "MARKERS", "SEQUENTIAL", "Figure", "predictors", "violation"]
