"""CODA-Prompt: an image's prompt is a weighted sum of components.

Each task adds some and leaves the old as they are.
"""

from __future__ import annotations

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.stream import Task
from ..errors import UsageError
from .base import LearnerProtocol, Sizes
from .prompts import Prompted, drawn


class CODAPrompt(Prompted):
    """`p(x) = Σ_m cos(q(x) ⊙ a_m, k_m) P_m` over all components so far.

    It is so at each of the blocks 0 to 4 (all, if there are fewer) with components (P_m, k_m, a_m) of its
    own. Nothing is chosen, so the loss at the end trains it all: `L = CE + λ Σ_layers (O(P) + O(K) + O(A))`,
    `O(B) = ‖BBᵀ − I‖²_F / m²` over the m rows so far (a mean of squares; the paper writes the norm).

    Each task trains its share of the components, which freeze when it ends. New rows of P, K and A begin
    orthonormal and orthogonal to the old (Gram–Schmidt, as in the authors' code; but there new rows are made
    orthogonal to each old row as if these were to one another, which trained rows are only nearly).

    Settings: `method.components` for the whole stream (100; a task has a T-th, rounded down, and so has a
    task of `janus extend`), `method.length` (8), `method.penalty` is λ (the paper's 0.1; the authors' scripts
    have had 0 since their tasks begin with Gram–Schmidt, and before that their code divided the penalty by a
    million). Extensions may need more than the d directions of the features: new K and A then begin
    orthogonal to the newest old rows only, and a note says so.

    Two forward passes an image, in training and at test. Keeps all components: M·5·(l·d + 2d) numbers, no
    image.

    Raises:
        UsageError: more components in the stream than can be orthogonal.
    """

    name = "coda"
    summary = "CODA-Prompt: prompts as sums of components, some new ones a task"
    paper = "Smith et al., CODA-Prompt: COntinual Decomposed Attention-based Prompting, CVPR 2023"

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        c, d = learner.config.data, learner.model.num_features
        self.share = self.settings.components // c.tasks
        if self.share * c.tasks > d:
            raise UsageError(
                f"method.components={self.settings.components} gives each of {c.tasks} tasks {self.share}: "
                f"only {d}, the width of the features, can be orthogonal"
            )

    def begin_task(self, task: Task) -> None:
        d, generator = self.learner.model.num_features, self.learner.generator("prompts", task.index)
        shapes = {"P": (self.settings.length, self.width), "K": (d,), "A": (d,)}
        new = {name: drawn(generator, self.share, self.layers, *shape) for name, shape in shapes.items()}
        old = {name: self.rows(name).detach() if self.trained else rows[:0] for name, rows in new.items()}
        if (many := len(old["K"])) + self.share > d:
            warnings.warn(
                f"the {self.share} new components of task {task.index + 1} begin orthogonal to the newest "
                f"{d - self.share} of the {many} old ones only: features have {d} directions",
                stacklevel=2,
            )
        self.grow(**{name: orthonormal(rows, old[name]) for name, rows in new.items()})

    def prompts(self, query: Tensor) -> list[Tensor]:
        P, K, A = (self.rows(name) for name in "PKA")  # (M, layers, l, d), (M, layers, d), (M, layers, d)
        return list(torch.einsum("bmj,mjld->jbld", weights(query, K, A), P).unsqueeze(2))  # (b, 1, l, d) each

    @classmethod
    def numbers(cls, s: Sizes) -> tuple[int, int]:
        components = s.config.method.components // s.config.data.tasks  # as in `share`
        share = components * min(cls.blocks, s.attentions) * (s.config.method.length + 2) * s.width
        return share, (s.tasks - 1) * share

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        penalty = sum(overlap(self.rows(name)) for name in "PKA")
        return super().loss(features, logits, labels) + self.settings.penalty * penalty


def weights(query: Tensor, K: Tensor, A: Tensor) -> Tensor:
    """`cos(q ⊙ a_m, k_m)`: q (b, d), K and A (M, layers, d) → (b, M, layers)."""
    dot = torch.einsum("bd,mjd->bmj", query, A * F.normalize(K, dim=2))
    return dot / torch.einsum("bd,mjd->bmj", query**2, A**2).clamp(min=1e-12).sqrt()


def overlap(rows: Tensor) -> Tensor:
    """`Σ_layers ‖BBᵀ − I‖²_F / M²`, B (M, …) being a layer's rows of (M, layers, …)."""
    B = rows.transpose(0, 1).flatten(2)  # (layers, M, ·)
    return (B @ B.mT - torch.eye(B.shape[1], device=B.device)).square().mean(dim=(1, 2)).sum()


def orthonormal(new: Tensor, old: Tensor) -> Tensor:
    """In each layer, the Gram–Schmidt of the rows `new` (n, layers, …) after `old` (m, layers, …).

    It is after the last of these, if there are more than leave room for the new. On the CPU, in float64.
    """
    old = old[max(0, len(old) + len(new) - new[0, 0].numel()) :]
    both = torch.cat([old.cpu(), new]).transpose(0, 1).flatten(2).double()  # (layers, m + n, ·)
    Q = torch.linalg.qr(both.mT)[0].mT[:, len(old) :]  # (layers, n, ·): the signs are of no account
    return Q.transpose(0, 1).reshape(new.shape).float()
