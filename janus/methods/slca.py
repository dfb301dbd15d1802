"""SLCA: a slow learner, and heads that are aligned on samples of a Gaussian a class."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..stream import Task
from .base import LearnerProtocol, Sizes
from .lora import LoRAMethod


class SLCA(LoRAMethod):
    """Slow Learner with Classifier Alignment, on LoRA.

    Slow learner: the factors' rate is by default a fiftieth of the heads' (the paper, which trains the whole backbone: a
    hundredth). Classifier alignment, after every task but the first: the features f of each class c are taken as N(μ_c, Σ_c),
    measured when its task ended, and *all* heads are trained on samples of them, together, by
    `CE(z / (τ ‖z‖))`, z = W f + b over all classes seen: only the direction of z counts, so no head grows at the cost of others.

    Settings: `method.samples` a class and epoch, each epoch fresh; `method.epochs`; `method.lr`, of SGD with momentum 0.9 and
    weight decay 5e-4, cosine to zero; `method.temperature` is τ. In its code, not in its equations, the paper also lengthens old
    means; that is left out. Other classifiers than `linear` do not see the alignment.

    Keeps μ (classes, d) and a Cholesky factor of Σ + 1e-4 I (classes, d, d), float32: at 100 classes 15 MB for d = 192, 236 MB
    for d = 768. No image.
    """

    name = "slca"
    summary = "slow LoRA, heads aligned on a Gaussian a class"
    paper = "Zhang et al., SLCA, ICCV 2023"
    family = "classic"
    local_heads = False
    passes = {"after": 1}

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        d = learner.model.num_features
        self.mean, self.root = torch.zeros(0, d, device=learner.device), torch.zeros(0, d, d, device=learner.device)

    def end_task(self, task: Task) -> None:
        labels = task.train.labels - task.positions.start
        mean, root = gaussians(self.learner.features(task.train), labels, len(task.positions))
        self.mean, self.root = (torch.cat([old, new.to(old)]) for old, new in ((self.mean, mean), (self.root, root)))
        if task.index > 0:
            self.align(task)

    def align(self, task: Task) -> None:
        """Train all heads on samples of all classes seen. Every process does the same."""
        c, (classes, d) = self.settings, self.mean.shape
        optimizer = torch.optim.SGD(self.learner.heads.parameters(), lr=c.lr, momentum=0.9, weight_decay=5e-4)
        generator = self.learner.generator("slca", task.index)
        labels = torch.arange(classes, device=self.mean.device).repeat_interleave(c.samples)
        for epoch in range(c.epochs):
            optimizer.param_groups[0]["lr"] = c.lr * 0.5 * (1 + math.cos(math.pi * epoch / c.epochs))
            noise = torch.randn(classes, c.samples, d, generator=generator).to(self.mean)
            samples = (self.mean[:, None] + noise @ self.root.mT).flatten(0, 1)  # (classes · samples, d): μ + L ε
            for index in torch.randperm(len(labels), generator=generator).split(c.samples):
                optimizer.zero_grad()
                aligned(self.learner.heads, samples[index], labels[index], c.temperature).backward()
                optimizer.step()

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        return super().stored(s) | {"Gaussians": 4 * s.classes * (s.width + s.width**2)}

    @classmethod
    def trainable(cls, s: Sizes) -> dict[str, int]:
        heads = {"head": s.classes // s.tasks * (s.width + 1)} if s.tasks == 1 else {"all heads": s.classes * (s.width + 1)}
        return {"factors": s.factors} | heads

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "root": self.root}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.root = (state[key].to(self.learner.device) for key in ("mean", "root"))


def gaussians(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Mean μ (classes, d) and lower Cholesky factor L (classes, d, d) of each class's covariance, `L Lᵀ = Σ + 1e-4 I`, from
    features (N, d) and labels (N,); Σ is unbiased, and zero for a class of one image. In float32, computed in float64."""
    mean, root = [], []
    for label in range(classes):
        f = features[labels == label].cpu().double()  # (n, d)
        centred = f - f.mean(0)
        mean.append(f.mean(0))
        covariance = centred.T @ centred / max(1, len(f) - 1)
        root.append(torch.linalg.cholesky(covariance + 1e-4 * torch.eye(f.shape[1], dtype=f.dtype)))
    return torch.stack(mean).float(), torch.stack(root).float()


def aligned(heads: nn.ModuleList, features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """`CE(z / (τ ‖z‖))`, a mean over the batch: z (b, classes) are the heads' logits of features (b, d) side by side."""
    z = torch.cat([head(features) for head in heads], dim=1)
    return F.cross_entropy(F.normalize(z, dim=1) / temperature, labels)
