"""InfLoRA: A is designed before a task, frozen, and orthogonal to the past; only B is trained."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..data.stream import Task
from ..linalg import complement, precise
from ..lora import merge
from .gpm import GPM
from .lora import FrozenA


def designed_A(C: Tensor, basis: Tensor, rank: int) -> Tensor:
    """The top left singular vectors of `(I − MMᵀ) C`, as rows, divided by √3.

    With N an orthonormal basis of what M leaves, `(I − MMᵀ) C = N (NᵀC)`: its left singular vectors are N
    times those of NᵀC. Taken this way they lie outside span(M) even where their singular values are zero.

    Args:
        C: (n, n) second moment of the new task's inputs. basis: M (n, k), orthonormal, k ≤ n − rank. rank: r.

    Returns:
        A (r, n) in C's type. The rows have norm 1/√3, which those of a Kaiming-uniform A have on average.
    """
    N = complement(basis)
    U = torch.linalg.svd(N.T @ precise(C), full_matrices=False).U  # (n − k, n − k)
    return (N @ U[:, :rank]).T / math.sqrt(3)


class InfLoRA(FrozenA, GPM):
    """`W = W0 + Σ_{i≤t} B_i A_i`; A_t is fixed before task t, B_t = 0 is trained.

    K and V of a block share A_t. Before a task one pass over its training images gives `C = E[x xᵀ]` of each
    layer input, seen through W0 and all earlier adapters; A_t are the top left singular vectors of
    `(I − MMᵀ) C`, divided by √3 as in the authors' code. As `A_t M = 0`, no step of B_t moves what the layer
    answers to span(M). After the task a second pass lets M grow (DualGPM): left singular vectors of
    `(I − MMᵀ) C` join M until `‖MᵀC‖² / ‖C‖² ≥ ε_t`. The energy is thus a sum of λ² and not of GPM's λ, and
    the same ε keeps far fewer directions. DualGPM stores M or, once M is wider than n/2, its complement, from
    which it then takes the same directions away; the two say the same, and one basis is kept here. Both
    passes use the test transform (the authors' the training transform) and are counted in `seconds["oe"]`.

    The authors' ε_t = .98 + .02·t/T, t = 0…T−1 (ImageNet-R; CIFAR-100: .95 + .05·t/T), ends at .998 for T =
    10: the defaults here. Their code takes one direction fewer in task 1 than the rule says; here the rule
    holds in every task. They let M grow without bound; here 2r directions stay free. With the rule in task 1,
    the two agree to rounding: docs/fidelity.md.

    Between tasks it keeps M and the merged weights.
    """

    name = "inflora"
    summary = "InfLoRA: A designed in the null space of the past and frozen, B trained"
    paper = "Liang & Li, InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning, CVPR 2024"
    family = "lora"
    passes = {"before": 1, "after": 1}
    power = 2

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        learner = self.learner
        if task.index > 0:
            merge(learner.model)  # B = 0 afterwards
        with self.extra_pass(task.train) as moments:
            rank = learner.config.backbone.rank
            designed = {key: designed_A(moments.mean(key), M, rank) for key, M in self.basis().items()}
            for pair in learner.pairs:
                pair.A.copy_(designed[pair.input_key])
