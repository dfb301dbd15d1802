"""O-LoRA: each task learns in a subspace that a penalty keeps orthogonal to those of the tasks before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..data.stream import Task
from .base import LearnerProtocol, Sizes
from .lora import LoRAMethod


def overlap(A: Tensor, old: Tensor) -> Tensor:
    """`Σ |A_i A_tᵀ|` over all entries.

    0 if and only if each row of A_t (r, n) is orthogonal to all rows of the old A_i (k, n).
    """
    return (old @ A.mT).abs().sum()


class OLoRA(LoRAMethod):
    """`W = W0 + Σ_{i≤t} B_i A_i`, the earlier pairs frozen; the loss is the cross-entropy plus
    `method.penalty · Σ_layers Σ_{i<t} Σ_{jk} |A_i A_tᵀ|_{jk}`.

    The paper's equation squares the entries; the authors' code, followed here, takes their absolute values.
    (It adds an L2 term on the new factors too; `weight_decay` is near to it.) The penalty is soft, and B is
    not constrained.

    Between tasks it keeps every A_i, t·r rows a matrix, and the merged weights.
    """

    name = "olora"
    summary = "O-LoRA: one pair a task, A penalised for overlap with earlier ones"
    paper = (
        "Wang et al., Orthogonal Subspace Learning for Language Model Continual Learning, EMNLP Findings 2023"
    )
    family = "lora"

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        self.old = {pair.name: pair.A.detach()[:0] for pair in learner.pairs}  # the rows of all A_i, i < t

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        penalty = sum(overlap(pair.A, self.old[pair.name]) for pair in self.learner.pairs)
        return super().loss(features, logits, labels) + self.settings.penalty * penalty

    def end_task(self, task: Task) -> None:
        for pair in self.learner.pairs:
            self.old[pair.name] = torch.cat([self.old[pair.name], pair.A.detach()])

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        rows = s.tasks * s.config.backbone.rank
        return super().stored(s) | {"every A": 4 * rows * sum(n for _, _, n in s.matrices)}

    def state_dict(self) -> dict[str, Any]:
        return {"old": self.old}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.old = {name: rows.to(self.old[name].device) for name, rows in state["old"].items()}
