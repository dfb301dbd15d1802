"""What all methods that train LoRA factors share, and the two that are nothing else.

These are sequential LoRA and its upper bound.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..data.stream import Task
from ..lora import merge, reset
from ..rectify import RectifiedAdam, nullspace_start
from .base import Method, Sizes


class LoRAMethod(Method):
    """LoRA on chosen matrices. Between tasks it keeps factors, merged weights and heads. No image.

    What a method that builds on it may change: `basis`, what its updates are kept off; `factor_optimizer`;
    the loss. Settings: `gr` is how factor updates are made safe (`janus.rectify`), `cap` and `ridge` belong
    to it. `adapter`: one pair of factors for the whole stream ("shared"), or merge at each task boundary and
    start afresh ("merged"); `init`: where A starts then, anywhere ("free") or off the basis ("nullspace").
    """

    trains_factors = True
    inference = "nothing after merging"

    def begin_task(self, task: Task) -> None:
        learner = self.learner
        if self.settings.adapter == "merged" and task.index > 0:
            merge(learner.model)
            reset(learner.model, learner.generator("factors", task.index))
            if self.settings.init == "nullspace":
                self.start_off(self.basis())

    @torch.no_grad()
    def start_off(self, bases: Mapping[str, Tensor]) -> None:
        """Move each fresh A off what is protected: `A V = 0`, B being 0. bases: input_key → V (n, k)."""
        for pair in self.learner.pairs:
            pair.A.copy_(nullspace_start(pair.A, bases.get(pair.input_key)))

    def factor_optimizer(self, task: Task) -> torch.optim.Optimizer:
        c, s = self.learner.config.training, self.settings
        options = dict(gr=s.gr, basis=self.basis(), weight_decay=c.weight_decay, cap=s.cap, ridge=s.ridge)
        return RectifiedAdam(self.learner.pairs, c.lr, **options)


class Finetune(LoRAMethod):
    """Sequential LoRA: the same factors trained task after task, nothing protected."""

    name = "finetune"
    summary = "sequential LoRA, nothing protected"
    paper = "Hu et al., LoRA, ICLR 2022"
    family = "bound"


class FrozenA(LoRAMethod):
    """What methods share that train B alone."""

    def factor_optimizer(self, task: Task) -> torch.optim.Optimizer:
        """Adam on B; A gets no gradient."""
        for pair in self.learner.pairs:
            pair.A.requires_grad_(False)
        c, factors = self.learner.config.training, [pair.B for pair in self.learner.pairs]
        return torch.optim.AdamW(factors, lr=c.lr, weight_decay=c.weight_decay)

    @classmethod
    def trainable(cls, s: Sizes) -> dict[str, int]:
        return super().trainable(s) | {"factors": s.config.backbone.rank * sum(m for _, m, _ in s.matrices)}


class LoRAFA(FrozenA):
    """`W + s·BA` with a random A that is never trained.

    Both are merged when a task ends, and the next begins with a fresh A. A reference that knows nothing of
    the past: what is left of forgetting where each task may change W only by what r random directions of its
    inputs say.
    """

    name = "lorafa"
    summary = "LoRA with a frozen random A, merged after each task"
    paper = "Zhang et al., LoRA-FA: Memory-efficient Low-rank Adaptation, 2023"
    family = "lora"


class Joint(LoRAMethod):
    """LoRA and one head trained on all classes together: the upper bound of the stream."""

    name = "joint"
    summary = "LoRA on all classes at once (upper bound)"
    paper = "Hu et al., LoRA, ICLR 2022"
    family = "bound"
