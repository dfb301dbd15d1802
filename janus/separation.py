"""Decoupled Margin Loss: new features keep away from old prototypes.

The published material says what the loss does, not its formula; this is our reading of it. Features and
prototypes are compared by cosine. Two terms are decoupled, each with its own margin and weight: a push away
from the frozen prototypes of old classes, and a pull of each feature to the running centre of its own class.
`form` selects the shape of the push; which one is used by default was chosen on validation
(`benchmarks/results/`). LoRA-DRS's triplet loss, which wants the same, is here too.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import unknown
from .runtime.distributed import ALONE, Processes

FORMS = ("hinge", "squared", "logsumexp", "softmax")


def decoupled_margin_loss(
    features: Tensor,
    labels: Tensor,
    prototypes: Tensor,
    centres: Tensor,
    *,
    form: str = "hinge",
    nearest: bool = True,
    push_margin: float = 0.3,
    pull_margin: float = 0.7,
    push_weight: float = 1.0,
    pull_weight: float = 1.0,
    temperature: float = 0.1,
) -> Tensor:
    """Push features off old prototypes, pull them to their own centre.

    With cosines `p_j` to old prototypes and `c` to the own centre, the push of one feature is
      hinge      `relu(p_j − push_margin)`
      squared    `relu(p_j − push_margin)²`
      logsumexp  `τ·log(1 + Σ_j exp((p_j − c + push_margin) / τ))`: relative to the own centre
      softmax    cross-entropy of the own centre (lowered by push_margin) against all current centres and old
                 prototypes
    (hinge and squared: over the nearest prototype, or the mean over all). The pull is
    `relu(pull_margin − c)`.

    Args:
        features: (b, d). labels: (b,) indices into `centres`.
        prototypes: (old classes, d). centres: (current classes, d); both constant.
        temperature: τ of logsumexp and softmax.

    Returns:
        Scalar, the mean over the batch. Zero old prototypes leave only the pull (and the softmax among
        current centres).

    Raises:
        UsageError: unknown `form`.
    """
    if form not in FORMS:
        raise unknown("form of the margin loss:", form, FORMS)
    z = F.normalize(features.to(prototypes.dtype), dim=-1)  # (b, d), not in autocast's half precision
    old = z @ F.normalize(prototypes, dim=-1).T  # (b, old classes)
    own = (z * F.normalize(centres, dim=-1)[labels]).sum(-1)  # (b,)
    pull = F.relu(pull_margin - own).mean()
    if form == "softmax":
        current = z @ F.normalize(centres, dim=-1).T  # (b, current classes)
        current = current - push_margin * F.one_hot(labels, len(centres))
        push = F.cross_entropy(torch.cat([current, old], dim=1) / temperature, labels)
    elif len(prototypes) == 0:
        push = z.new_zeros(())
    elif form == "logsumexp":
        excess = (old - own[:, None] + push_margin) / temperature
        # the padded 0 is the 1 in log(1 + …)
        push = temperature * torch.logsumexp(F.pad(excess, (1, 0)), dim=1).mean()
    else:
        excess = F.relu((old.amax(1) if nearest else old) - push_margin)
        push = (excess**2 if form == "squared" else excess).mean()
    return push_weight * push + pull_weight * pull


def augmented_triplet_loss(features: Tensor, labels: Tensor, prototypes: Tensor, margin: float) -> Tensor:
    """Mean over the batch of `relu(margin + p − q)`.

    p is the distance to the farthest feature of the own class, q that to the nearest feature of another class
    or old prototype, whichever is nearer. An anchor without any negative counts as 0. The distances are
    Euclidean, between L2-normalised vectors, in [0, 2]. features: (b, d). labels: (b,). prototypes:
    (old classes, d).
    """
    z = F.normalize(features.float(), dim=1)
    others = torch.cat([z, F.normalize(prototypes.float(), dim=1)])
    distance = (2 - 2 * z @ others.T).clamp(min=1e-12).sqrt()  # (b, b + old classes)
    same = F.pad(labels[:, None] == labels, (0, len(prototypes)))
    itself = F.pad(torch.eye(len(z), dtype=torch.bool, device=z.device), (0, len(prototypes)))
    positive = F.pad(distance.masked_fill(~same | itself, 0.0), (0, 1)).amax(1)
    negative = F.pad(distance.masked_fill(same, torch.inf), (0, 1), value=torch.inf).amin(1)
    return F.relu(margin + positive - negative).mean()


class Prototypes:
    """Frozen class means of finished tasks, and running centres of the current task's classes.

    Args:
        dim: feature width d. momentum: of the running mean (EMA) of each class's training features.
    """

    def __init__(self, dim: int, device: torch.device | str = "cpu", momentum: float = 0.9) -> None:
        self.momentum = momentum
        self.old = torch.zeros(0, dim, device=device)  # (old classes, d)
        self.centres = torch.zeros(0, dim, device=device)  # (current classes, d)

    def begin_task(self, classes: int) -> None:
        self.centres = self.old.new_zeros(classes, self.old.shape[1])

    @torch.no_grad()
    def observe(self, features: Tensor, labels: Tensor, processes: Processes = ALONE) -> None:
        """Move the centres of a batch's classes toward the mean of their features; a first sight sets them.

        processes: that hold the other parts of the batch.
        """
        z = F.normalize(features.detach().float(), dim=-1)
        sums = torch.zeros_like(self.centres).index_add_(0, labels, z)  # (current classes, d)
        counts = torch.bincount(labels, minlength=len(self.centres)).unsqueeze(1)  # (current classes, 1)
        processes.sum([sums, counts])
        means = sums / counts.clamp(min=1)
        fresh = self.centres.abs().sum(1, keepdim=True) == 0
        moved = torch.where(fresh, means, self.momentum * self.centres + (1 - self.momentum) * means)
        self.centres = torch.where(counts > 0, moved, self.centres)

    def end_task(self, features: Tensor, labels: Tensor, classes: int) -> None:
        """Freeze the mean feature of each class of the task: `features` (N, d) under the test transform."""
        self.old = torch.cat([self.old, class_means(features, labels, classes)])

    def state_dict(self) -> dict[str, Any]:
        return {"old": self.old, "centres": self.centres}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.old, self.centres = (state[k].to(self.old.device) for k in ("old", "centres"))


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean of the L2-normalised features (N, d) of each class: (classes, d)."""
    z = F.normalize(features.float(), dim=-1)
    sums = torch.zeros(classes, z.shape[1], device=z.device).index_add_(0, labels, z)
    return sums / torch.bincount(labels, minlength=classes).clamp(min=1).unsqueeze(1)


def own_similarity(features: Tensor, labels: Tensor, centres: Tensor) -> float:
    """Mean over features (N, d) of the cosine to the own class's centre `centres[label]` (classes, d).

    It is the y of the paper's danger plot.
    """
    return float(F.cosine_similarity(features.float(), centres[labels].float(), dim=-1).mean())


def danger(features: Tensor, prototypes: Tensor) -> float:
    """Mean over features (N, d) of the largest cosine to a prototype (C, d): x of the paper's danger plot."""
    cosines = F.normalize(features.float(), dim=-1) @ F.normalize(prototypes.float(), dim=-1).T  # (N, C)
    return float(cosines.amax(1).mean())
