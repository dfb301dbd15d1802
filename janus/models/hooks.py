"""Hooks that belong to one model, and not to its copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Collector:
    """A hook that collects something from the model it was put on.

    In a copy of that model (copy.deepcopy, pickle, torch.save) stands a hook that does nothing in its place:
    else the copy's passes would be counted as the original's.
    """

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self.function = function

    def __call__(self, *inputs: Any) -> Any:
        return None if self.function is None else self.function(*inputs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Collector:
        return Collector(None)

    def __reduce__(self) -> tuple[type[Collector], tuple[None]]:
        return Collector, (None,)
