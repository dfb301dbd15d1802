"""EWC: what mattered to old tasks is held by a quadratic penalty, weighted by the Fisher information."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.prefetch import Prefetcher, of
from ..data.stream import Task
from .base import LearnerProtocol, Sizes
from .lora import LoRAMethod


class EWC(LoRAMethod):
    """Online EWC on the LoRA factors θ = (A, B) of all layers: `L = CE + λ/2 Σ_i F_i (θ_i − θ*_i)²`.

    After a task `F ← γF + mean_n (∂ log p(y_n | x_n) / ∂θ)²` and θ* = θ: one anchor for all tasks (Schwarz et
    al., ICML 2018), so the penalty is zero when a task begins. With γ = 1 the Fisher information of all tasks
    is summed (Huszár, PNAS 2018). Settings: `method.lambda` is λ; `method.decay` is γ; F is the mean over at
    most `method.samples` training images a task, drawn at random (test transform, their own labels, the
    task's own head), one backward pass each. The heads of old tasks are not trained again, so they need no
    penalty.

    Keeps F and θ*: twice the factors, whatever the number of tasks. No image.
    """

    name = "ewc"
    summary = "LoRA held by the Fisher information of old tasks"
    paper = "Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 2017"
    family = "classic"
    passes = {"after": "method.samples"}

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        self.factors: list[nn.Parameter] = [factor for pair in learner.pairs for factor in (pair.A, pair.B)]
        self.fisher: list[Tensor] = [torch.zeros_like(factor) for factor in self.factors]
        self.anchor: list[Tensor] = [factor.detach().clone() for factor in self.factors]

    def penalty(self) -> Tensor:
        """`λ/2 Σ_i F_i (θ_i − θ*_i)²`, a scalar."""
        held = zip(self.fisher, self.factors, self.anchor)
        terms = [(f * (now - then) ** 2).sum() for f, now, then in held]
        return self.settings.lambda_ / 2 * torch.stack(terms).sum()

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(features, logits, labels) + self.penalty()

    def end_task(self, task: Task) -> None:
        new, decay = self.information(task), self.settings.decay
        self.fisher = [decay * f + g for f, g in zip(self.fisher, new)]
        self.anchor = [factor.detach().clone() for factor in self.factors]

    def information(self, task: Task) -> list[Tensor]:
        """The diagonal of a task's empirical Fisher information, in the shapes of `factors`.

        It is the mean of the squared gradients of single images' log-likelihoods. Several processes take
        their part of the images each.
        """
        learner = self.learner
        order = torch.randperm(len(task.train), generator=learner.generator("fisher", task.index))
        chosen = order[: self.settings.samples]
        mine = chosen[learner.processes.part(len(chosen))]
        squares = [torch.zeros_like(f) for f in self.fisher]
        with Prefetcher(of(task.train, mine[:, None]), learner.device) as images:  # one by one
            for index, image in images:
                logits = learner.heads[task.index](learner.forward(learner.plain(image)).float())
                label = (task.train.labels[index] - task.positions.start).to(learner.device)
                gradients = torch.autograd.grad(F.cross_entropy(logits, label), self.factors)
                for total, gradient in zip(squares, gradients):
                    total += gradient**2
        learner.processes.sum(squares)
        return [total / max(1, len(chosen)) for total in squares]

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        return super().stored(s) | {"F and anchor": 4 * 2 * s.factors}

    def state_dict(self) -> dict[str, Any]:
        return {"fisher": self.fisher, "anchor": self.anchor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.fisher = [t.to(self.learner.device) for t in state["fisher"]]
        self.anchor = [t.to(self.learner.device) for t in state["anchor"]]
