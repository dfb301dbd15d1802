"""Continual-learning methods, one file each, named by the field's term.

A new file with a `Method` class is found by itself. The settings of each, a class of the same name, stand in
`janus.settings.methods` (janus, gpm) or `janus.settings.baselines`, which need no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache

from ..errors import unknown
from .base import Method


def all_methods() -> dict[str, type[Method]]:
    """name → class of every method in this folder."""
    _import_all()
    found: dict[str, type[Method]] = {}
    todo = [Method]
    while todo:
        todo += (kind := todo.pop()).__subclasses__()
        if "name" in vars(kind) and kind.name:
            found[kind.name] = kind
    return dict(sorted(found.items()))


@cache
def _import_all() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


def get(name: str) -> type[Method]:
    """The method's class. Raises UsageError with the nearest known name."""
    known = all_methods()
    if name not in known:
        raise unknown("method", name, known)
    return known[name]
