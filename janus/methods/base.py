"""What every method has: hooks around a task, a loss, an optimiser for the factors, and scores."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..history import SecondMoments

if TYPE_CHECKING:
    from ..images import Images
    from ..stream import Task
    from ..train import Run


NO_SWITCHES: dict[str, Any] = {"oe": False, "gr": "none", "dml": False, "adapter": "shared", "init": "free"}


class Method:
    """Heads only: the hooks a method may override. `run` gives it the model, heads, history and config.

    name: how it is called. paper: where it comes from. fixed: config values it implies. switches: which of
    `oe, gr, dml, adapter, init` may be set. defaults: config values unless given. joint: it sees all classes at once.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    fixed: ClassVar[dict[str, Any]] = {}
    switches: ClassVar[tuple[str, ...]] = ()
    defaults: ClassVar[dict[str, Any]] = {}
    trains_factors: ClassVar[bool] = False
    trains_heads: ClassVar[bool] = True
    joint: ClassVar[bool] = False

    def __init__(self, run: Run) -> None:
        self.run = run

    def begin_task(self, task: Task) -> None:
        """Before the first batch of a task (not repeated on resume)."""

    def factor_optimizer(self, task: Task) -> torch.optim.Optimizer | None:
        """The optimiser of the LoRA factors for this task; fresh each task."""
        return None

    def begin_step(self, images: Tensor) -> None:
        """Before the forward pass of a training step: this process's part of the batch, augmented, (b, 3, S, S); b may be 0."""

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """features (b, d), logits over the current task's classes (b, c), labels (b,) in 0…c−1. Local cross-entropy.

        A mean over the batch. With several processes, over this one's part of it (b may be 0); what a method sums over images
        besides is summed by `run.processes.sum`.
        """
        return F.cross_entropy(logits.float(), labels)

    def end_task(self, task: Task) -> None:
        """After the last batch of a task; the history and the prototypes of the task are not yet updated."""

    def basis(self) -> dict[str, Tensor]:
        """The input subspaces (input_key → V) this method protects; the violation is measured against them."""
        return {}

    @contextmanager
    def besides_training(self) -> Iterator[None]:
        """What a method does besides training steps counts as `seconds["oe"]`."""
        start = time.perf_counter()
        yield
        self.run.seconds["oe"] += time.perf_counter() - start

    @contextmanager
    def extra_pass(self, images: Images) -> Iterator[SecondMoments]:
        """The layer inputs' second moments over `images` (test transform), from a forward pass of their own, whose time and that of
        what is done with them counts as `seconds["oe"]`."""
        run = self.run
        moments = SecondMoments(run.pairs)
        moments.active = True
        with self.besides_training():
            try:
                run.features(images)
            finally:
                moments.remove()
            with moments.over(run.processes):
                yield moments

    def state_dict(self) -> dict[str, Any]:
        """What the method itself keeps between tasks (tensors and JSON values)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def scores(self, features: Tensor) -> Tensor:
        """(N, d) → (N, classes seen): higher is likelier. No task identity is used. By default what the run's `head` finds."""
        return self.run.classifier.scores(features)
