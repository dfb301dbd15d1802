"""Figures as bundles: plotly for a live page, a PNG for a static one, a text for those who see neither.

Colours are told apart by colour-blind readers; every series also has its own marker and a label beside it.
"""

from .confusion import confusion_matrix
from .costs import accuracy_over_cost, over_tasks, step_cost
from .curves import capacity, rates, trajectories
from .figure import COLOURS, FONT, MARKERS, SEQUENTIAL, Figure
from .forgetting import accuracy_curves, accuracy_matrix, split_bars, split_curves
from .geometry import safe_plane, violation_by_angle
from .images import predictions, stream_images
from .maps import task_map
from .plane import stability_plasticity
from .rectification import along, residual, second_step
from .results import differences, paper_beside_ours
from .runs import absolute_score, predictors, violation
from .separation import circles, danger_plot
from .story import kept, overview
from .subspace import growth, memory, ranks

__all__ = [
    "COLOURS",
    "FONT",
    "Figure",
    "MARKERS",
    "SEQUENTIAL",
    "absolute_score",
    "accuracy_curves",
    "accuracy_matrix",
    "accuracy_over_cost",
    "along",
    "capacity",
    "circles",
    "confusion_matrix",
    "danger_plot",
    "differences",
    "growth",
    "kept",
    "memory",
    "over_tasks",
    "overview",
    "paper_beside_ours",
    "predictions",
    "predictors",
    "ranks",
    "rates",
    "residual",
    "safe_plane",
    "second_step",
    "split_bars",
    "split_curves",
    "stability_plasticity",
    "step_cost",
    "stream_images",
    "task_map",
    "trajectories",
    "violation",
    "violation_by_angle",
]
