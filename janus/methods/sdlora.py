"""SD-LoRA: directions of old tasks stay, how much of each is used is learned again in every task."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..data.stream import Task
from ..errors import JanusError
from ..lora import kaiming_A, set_factors
from .base import LearnerProtocol, Sizes
from .lora import LoRAMethod
from .reparametrized import ReparametrizedAdamW

START = 0.8  # of every magnitude, in every task
TRAINED = ("A", "B")


class SDLoRA(LoRAMethod):
    """`W = W0 + Σ_{i<t} α_i B̂_i Â_i + α_t B_t A_t`.

    The old pairs, each factor divided by its Frobenius norm, are frozen directions; all magnitudes α_1 … α_t
    and the new pair are trained. Nothing else protects the past.

    As in the authors' code: α_i is one number for all matrices, and every task begins with all of them at .8,
    those of the old directions, too. What the tasks before have learned of magnitudes, and the last pair's
    norm, is thus lost at once: the function jumps where a task begins, which no violation counts, since it
    belongs to no step. The authors adapt Q and V (`targets=q,v`) by SGD with momentum; here `targets` says
    what, and the optimiser is the one of all methods.

    The adapted layers hold `[α_1 B̂_1, …, α_t B_t]` and `[Â_1; …; A_t]`, of rank t·r, and nothing is merged
    (`adapter=merged` only says that every task has a pair of its own). Between tasks it keeps all directions
    and magnitudes: (m + n)·t·r numbers a matrix.
    """

    name = "sdlora"
    summary = "SD-LoRA: old directions frozen, all magnitudes trained anew"
    paper = (
        "Wu et al., SD-LoRA: Scalable Decoupled Low-Rank Adaptation for Class Incremental Learning, ICLR 2025"
    )
    family = "lora"

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        # matrix → Â (k, n), B̂ (m, k) of old tasks; A, B: trained
        self.parts: dict[str, dict[str, Tensor]] = {}
        self.magnitudes = nn.Parameter(torch.zeros(0))  # (t,)

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        learner = self.learner
        generator = learner.generator("factors", task.index)
        self.magnitudes = nn.Parameter(learner.pairs[0].A.new_full((task.index + 1,), START))
        for pair in learner.pairs:
            n = pair.A.shape[1]
            if task.index == 0:
                old, A = {"A_old": pair.A[:0].clone(), "B_old": pair.B[:, :0].clone()}, pair.A
            else:
                old = self.joined(self.parts[pair.name])
                A = kaiming_A(learner.config.backbone.rank, n, generator, pair.A.device, pair.A.dtype)
            B = A.new_zeros(len(pair.B), len(A))
            self.parts[pair.name] = old | {"A": nn.Parameter(A.clone()), "B": nn.Parameter(B)}
            set_factors(pair, *self.factors(self.parts[pair.name]))

    @staticmethod
    def joined(part: dict[str, Tensor]) -> dict[str, Tensor]:
        """A finished task's pair becomes one more direction."""
        a, b = (torch.linalg.norm(part[key]).clamp(min=torch.finfo(part[key].dtype).tiny) for key in "AB")
        return {
            "A_old": torch.cat([part["A_old"], part["A"] / a]),
            "B_old": torch.cat([part["B_old"], part["B"] / b], dim=1),
        }

    def factors(self, part: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """`[Â_1; …; A_t]` (t·r, n) and `[α_1 B̂_1, …, α_t B_t]` (m, t·r)."""
        B = torch.cat([part["B_old"], part["B"]], dim=1)
        return torch.cat([part["A_old"], part["A"]]), B * self.magnitudes.repeat_interleave(len(part["A"]))

    def factor_optimizer(self, task: Task) -> torch.optim.Optimizer:
        c, pairs = self.learner.config.training, self.learner.pairs
        parts = [self.parts[pair.name] for pair in pairs]
        values = [self.magnitudes, *(part[key] for part in parts for key in TRAINED)]
        used = [p for pair in pairs for p in (pair.A, pair.B)]

        def compute() -> list[Tensor]:
            return [t for part in parts for t in self.factors(part)]

        return ReparametrizedAdamW(values, used, compute, c.lr, c.weight_decay)

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        """Every direction counts twice: by itself, and in the factors that the layers use."""
        own = {"factors": 4 * s.tasks * s.factors, "directions": 4 * s.tasks * (s.factors + 1)}
        rest = super().stored(s)
        return own | {part: rest[part] for part in rest if part not in ("factors", "merged weights")}

    @classmethod
    def trainable(cls, s: Sizes) -> dict[str, int]:
        return super().trainable(s) | {"magnitudes": s.tasks}

    def state_dict(self) -> dict[str, Any]:
        return {"parts": self.parts, "magnitudes": self.magnitudes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if "magnitudes" not in state:
            raise JanusError(
                "this run was begun when sdlora had a magnitude for each matrix; "
                "it cannot go on with one for all: train it anew in another folder"
            )
        device, self.parts = {pair.name: pair.A.device for pair in self.learner.pairs}, {}
        for name, part in state["parts"].items():
            moved = {key: t.to(device[name]) for key, t in part.items()}
            self.parts[name] = moved | {key: nn.Parameter(moved[key]) for key in TRAINED}
        self.magnitudes = nn.Parameter(state["magnitudes"].to(self.learner.device))
