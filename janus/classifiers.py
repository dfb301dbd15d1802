"""Classifiers: how the classes seen so far are scored from a method's final features.

Training is the same for all. Each takes in a task once, when it ends, by the features its training images
have then (test transform, not normalised); no image is kept, and features that drift later are not followed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import JanusError
from .separation import Prototypes

if TYPE_CHECKING:
    from .config import Config

RIDGES = tuple(10.0**power for power in range(-8, 9))  # the paper's 17 candidates


class LearnerProtocol(Protocol):
    """What a classifier sees of the learner (`janus.learner.Learner`) it is a part of."""

    config: Config
    device: torch.device
    model: nn.Module
    heads: nn.ModuleList
    prototypes: Prototypes


class Linear:
    """The tasks' own linear heads side by side, `W_t f + b_t`: what the methods train.

    Keeps nothing besides.
    """

    score: ClassVar[str] = "probability"  # what `janus.predict.Predictor` makes of the scores

    def __init__(self, learner: LearnerProtocol, generator: torch.Generator) -> None:
        self.learner = learner

    def end_task(self, features: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> None:
        """Take in a task: features (N, d) of all its images, labels (N,) in 0…classes−1.

        `classes` have been seen so far.
        """

    def scores(self, features: Tensor) -> Tensor:
        """(N, d) → (N, classes seen) float32: higher is likelier. No task identity is used."""
        return torch.cat([head(features) for head in self.learner.heads], dim=1)

    @staticmethod
    def stored(config: Config, width: int, classes: int) -> dict[str, int]:
        """Part → bytes of the tensors in `state_dict`, after `classes` classes with features of `width` d."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""


class NearestClassMean(Linear):
    """Cosine to the mean of each class's L2-normalised features (Mensink et al., TPAMI 2013).

    The means are `learner.prototypes`, one a class.
    """

    score = "cosine"

    def scores(self, features: Tensor) -> Tensor:
        return F.normalize(features.float(), dim=1) @ F.normalize(self.learner.prototypes.old, dim=1).T


class RanPAC(Linear):
    """Ridge regression of one-hot labels y on random features `h = ReLU(f P)`.

    The paper is McDonnell et al., RanPAC, NeurIPS 2023. P (d, M) is Gaussian and never changes; the setting
    `classifier.dim` is M: 2,000, which a CPU manages; the paper has 10,000. With `G = Σ h hᵀ` and
    `C = Σ h yᵀ` over all images so far, the scores are `h W`, `W = (G + λI)⁻¹ C`: while features stay as they
    are, the same W for one λ, however the classes are cut into tasks. λ: `choose_ridge`, anew at each task.
    (The paper adapts the backbone in task 1 only; here the features are the method's.) Keeps P, G (M, M), C
    and W (M, classes seen) in float64, on the CPU where the device is mps, which has none.
    """

    score = "regression"

    def __init__(self, learner: LearnerProtocol, generator: torch.Generator) -> None:
        super().__init__(learner, generator)
        self.device = torch.device("cpu") if learner.device.type == "mps" else learner.device
        d, M, self.ridge = learner.model.num_features, learner.config.classifier.dim, 0.0
        self.P = torch.randn(d, M, generator=generator, dtype=torch.float64).to(self.device)
        self.G, self.C, self.W = (self.P.new_zeros(M, n) for n in (M, 0, 0))

    def random(self, features: Tensor) -> Tensor:
        """h (N, M) of features (N, d)."""
        return (features.to(self.device).double() @ self.P).relu_()

    def end_task(self, features: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> None:
        order = torch.randperm(len(labels), generator=generator).to(labels.device)
        h, y = self.random(features[order]), F.one_hot(labels[order], classes).to(self.P)
        self.C = F.pad(self.C, (0, classes - self.C.shape[1]))
        fifth = max(1, len(order) // 5)  # of the task's images, held out to choose λ
        self.G, self.C = self.G + h[fifth:].T @ h[fifth:], self.C + h[fifth:].T @ y[fifth:]
        self.ridge = choose_ridge(self.G, self.C, h[:fifth], y[:fifth])
        self.G, self.C = self.G + h[:fifth].T @ h[:fifth], self.C + h[:fifth].T @ y[:fifth]
        self.W = ridge_regression(self.G, self.C, self.ridge)

    def scores(self, features: Tensor) -> Tensor:
        return (self.random(features) @ self.W).float()

    @staticmethod
    def stored(config: Config, width: int, classes: int) -> dict[str, int]:
        d, M = width, config.classifier.dim
        return {"P and G": 8 * (d * M + M**2), "C and W": 8 * 2 * M * classes}

    def state_dict(self) -> dict[str, Any]:
        # P is kept, too: torch may draw it otherwise one day
        return {"P": self.P, "G": self.G, "C": self.C, "W": self.W, "ridge": self.ridge}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.P, self.G, self.C, self.W = (state[name].to(self.device) for name in "PGCW")
        self.ridge = state["ridge"]


def ridge_regression(G: Tensor, C: Tensor, ridge: float) -> Tensor:
    """`W = (G + λI)⁻¹ C` (M, classes). JanusError: it is not finite, as when features are not."""
    W, failed = torch.linalg.solve_ex(G + ridge * torch.ones_like(G[0]).diag(), C)
    if failed or not W.isfinite().all():
        raise JanusError(
            f"classifier=ranpac finds no weights (λ = {ridge:g}): features are not finite any more; "
            "try a smaller lr"
        )
    return W


def choose_ridge(G: Tensor, C: Tensor, h: Tensor, y: Tensor) -> float:
    """The λ of `RIDGES` whose W has the least mean squared error on held-out h (N, M), y (N, classes).

    G and C: of past tasks and the other four fifths of this one (the paper's appendix; its code leaves the
    past out). The largest λ comes first; the last is the smallest for which G + λI is positive definite to
    rounding.
    """
    best = math.inf, RIDGES[-1]
    for ridge in reversed(RIDGES):
        factor, failed = torch.linalg.cholesky_ex(G + ridge * torch.ones_like(G[0]).diag())
        if failed:
            break
        best = min(best, (F.mse_loss(h @ torch.cholesky_solve(C, factor), y).item(), ridge))
    return best[1]


class Aligned(Linear):
    """The linear heads, trained once more after every task but the first.

    All together, on features drawn from a Gaussian a class: that is SLCA's classifier alignment (Zhang et
    al., ICCV 2023), here for any method that trains heads. The features f of each class c are taken as
    N(μ_c, Σ_c), measured when its task ends. The heads of all classes seen so far learn samples of them by
    `CE(z / (τ ‖z‖))`, z = W f + b: only the direction of z counts, so no head grows at the cost of others.
    The heads are changed in place; a method whose loss asks old heads (LwF) asks aligned ones.

    Settings: `classifier.samples` of a class in each epoch, drawn anew; `classifier.epochs`; `classifier.lr`,
    of SGD with momentum 0.9 and weight decay 5e-4, cosine to zero; `classifier.temperature` is τ;
    `classifier.covariance`: Σ of each class, as the paper has it, or one Σ that all classes share. In its
    code, not in its equations, the paper also lengthens old means; that is left out.

    Keeps μ (classes, d) and the Cholesky factor L of Σ + 1e-4 I, (classes, d, d) or (1, d, d); float32. At
    100 classes and d = 192: 15 MB, or 0.2 MB. No image.
    """

    def __init__(self, learner: LearnerProtocol, generator: torch.Generator) -> None:
        super().__init__(learner, generator)
        d, device = learner.model.num_features, learner.device
        self.shared = learner.config.classifier.covariance == "shared"
        self.mean, self.freedom = torch.zeros(0, d, device=device), 0  # the second: images less classes
        self.root = torch.zeros(0, d, d, device=device)

    def end_task(self, features: Tensor, labels: Tensor, classes: int, generator: torch.Generator) -> None:
        old = len(self.mean)
        mean, covariance, freedom = gaussians(features, labels - old, classes - old)
        if self.shared:
            before = covariance_of(self.root).cpu(), torch.full((len(self.root),), self.freedom)
            every, weights = torch.cat([before[0], covariance]), torch.cat([before[1], freedom])
            covariance = ((weights[:, None, None] * every).sum(0) / weights.sum().clamp(min=1))[None]
            self.root, self.freedom = self.root[:0], int(weights.sum())
        self.mean = torch.cat([self.mean, mean.to(self.mean)])
        self.root = torch.cat([self.root, root_of(covariance).to(self.root)])
        if old:
            self.align(generator)

    def align(self, generator: torch.Generator) -> None:
        """Train all heads on samples of all classes seen. Every process does the same."""
        c, heads = self.learner.config.classifier, self.learner.heads
        optimizer = torch.optim.SGD(heads.parameters(), lr=c.lr, momentum=0.9, weight_decay=5e-4)
        for epoch in range(c.epochs):
            optimizer.param_groups[0]["lr"] = c.lr * 0.5 * (1 + math.cos(math.pi * epoch / c.epochs))
            for samples, labels in self.samples(c.samples, generator):
                optimizer.zero_grad()
                aligned(heads, samples, labels, c.temperature).backward()
                optimizer.step()

    def samples(self, each: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Features μ + L ε of `each` of every class and their labels, shuffled, in batches of `each`."""
        classes, d = self.mean.shape
        noise = torch.randn(classes, each, d, generator=generator).to(self.mean)
        drawn = (self.mean[:, None] + noise @ self.root.mT).flatten(0, 1)  # (classes · each, d)
        labels = torch.arange(classes, device=drawn.device).repeat_interleave(each)
        for index in torch.randperm(len(labels), generator=generator).split(each):
            yield drawn[index], labels[index]

    @staticmethod
    def stored(config: Config, width: int, classes: int) -> dict[str, int]:
        matrices = 1 if config.classifier.covariance == "shared" else classes
        return {"Gaussians": 4 * (classes * width + matrices * width**2)}

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "root": self.root, "freedom": self.freedom}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.root = (state[name].to(self.learner.device) for name in ("mean", "root"))
        self.freedom = state["freedom"]


RIDGE = 1e-4  # on the diagonal of Σ: a class of few images has no full one


def gaussians(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean μ (classes, d) and unbiased covariance Σ (classes, d, d) of each class, and what Σ is a mean over.

    The last is the number of images less one, (classes,). Σ of a class of one image is 0. features: (N, d),
    labels: (N,). Float64, on the CPU.
    """
    mine = [features[labels == label].cpu().double() for label in range(classes)]  # (n, d) each
    mean = torch.stack([f.mean(0) for f in mine])
    freedom = torch.tensor([len(f) - 1 for f in mine])
    centred = [f - m for f, m in zip(mine, mean)]
    return mean, torch.stack([f.T @ f / max(1, len(f) - 1) for f in centred]), freedom


def root_of(covariance: Tensor) -> Tensor:
    """Lower L with `L Lᵀ = Σ + 1e-4 I`, (…, d, d). JanusError: Σ is not finite, as when features are not."""
    L, failed = torch.linalg.cholesky_ex(covariance + RIDGE * torch.eye(covariance.shape[-1]).to(covariance))
    if failed.any() or not L.isfinite().all():
        raise JanusError(
            "classifier=aligned finds no Gaussians: features are not finite any more; try a smaller lr"
        )
    return L


def covariance_of(root: Tensor) -> Tensor:
    """The inverse of `root_of`, in float64: (…, d, d)."""
    root = root.double()
    return root @ root.mT - RIDGE * torch.eye(root.shape[-1]).to(root)


def aligned(heads: nn.ModuleList, features: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """`CE(z / (τ ‖z‖))`, a mean over the batch.

    z (b, classes) are the heads' logits of features (b, d) side by side.
    """
    z = torch.cat([head(features) for head in heads], dim=1)
    return F.cross_entropy(F.normalize(z, dim=1) / temperature, labels)


# by `classifier.name`
KINDS = {"linear": Linear, "ncm": NearestClassMean, "ranpac": RanPAC, "aligned": Aligned}
