"""LwF: the old heads' answers to the new images stay what they were when the task began."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .lora import LoRAMethod


class LwF(LoRAMethod):
    """Learning without Forgetting on LoRA.

    `L = CE + λ Σ_{j<t} T² KL(softmax(o_j / T) ‖ softmax(n_j / T))`, mean over the batch. o_j (b, classes of
    task j): logits of old head j by the model as it was when the task began, on the new task's (augmented)
    images; n_j: by the model as it is. One more forward pass a step, without gradient. Settings:
    `method.weight` is λ (the paper's λ_o = 1), `method.temperature` is T (2, the paper's). Two things differ
    from the paper, where the gradient of the term does not carry Hinton's T² and old heads are trained along:
    here a head is not touched after its task.

    Keeps nothing between tasks; within one, the factors it began with (`learner.start_factors`). No image.
    """

    name = "lwf"
    summary = "LoRA, with the old heads' answers distilled on new images"
    paper = "Li & Hoiem, Learning without Forgetting, ECCV 2016"
    family = "classic"
    passes = {"with each training pass, from task 2": 1}

    @torch.no_grad()
    def begin_step(self, images: Tensor) -> None:
        learner = self.learner
        if len(learner.heads) == 1:  # task 1
            return
        now = learner.factors()
        self._set(learner.start_factors)
        self.before = learner.forward(images).float()  # (b, d): what the features were when the task began
        self._set(now)

    def _set(self, factors: list[tuple[Tensor, Tensor]]) -> None:
        for pair, (A, B) in zip(self.learner.pairs, factors):
            pair.A.copy_(A)
            pair.B.copy_(B)

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        loss, s = super().loss(features, logits, labels), self.settings
        for head in self.learner.heads[:-1]:
            loss = loss + s.weight * distillation(head(self.before), head(features.float()), s.temperature)
        return loss


def distillation(old: Tensor, new: Tensor, temperature: float = 2.0) -> Tensor:
    """`T² KL(softmax(old / T) ‖ softmax(new / T))`, the mean over the batch.

    Logits (b, c), of which `old` is constant. The T² keeps the gradient's size the same for every T (Hinton
    et al., 2015). Not negative; zero where both say the same.
    """
    old, new = ((logits / temperature).log_softmax(dim=1) for logits in (old.detach(), new))
    return temperature**2 * F.kl_div(new, old, reduction="batchmean", log_target=True)
