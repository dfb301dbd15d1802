"""DualPrompt: a general prompt for all tasks, and an expert prompt for each, found by its key."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.stream import Task
from .base import LearnerProtocol, Sizes
from .prompts import Prompted, cosines, drawn


class DualPrompt(Prompted):
    """The G-prompt, at blocks 0 and 1, is trained by all tasks.

    Task t has an E-prompt e_t, at blocks 2 to 4, and a key k_t, which only it trains:
    `L = CE + λ (1 − cos(q(x), k_t))`, mean over the batch, with e_t in place. At test an image gets the
    E-prompt whose key is nearest to q(x) by cosine: no task id is used.

    Settings: `method.general`, length of G (6; the paper's 5 has no halves for K and V), `method.expert`,
    length of an E-prompt (20), `method.match` is λ (1). With fewer than five blocks E is at fewer; with two,
    G at one and E at one.

    Two forward passes an image, in training and at test. Keeps G and, for each task, e_t and k_t: 60·d + d
    numbers. No image.
    """

    name = "dualprompt"
    summary = "DualPrompt: a general prompt, and an expert prompt a task"
    paper = (
        "Wang et al., DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning, ECCV 2022"
    )

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        self.general = general_blocks(self.layers)

    def begin_task(self, task: Task) -> None:
        generator = self.learner.generator("prompts", task.index)
        if not self.trained:
            self.grow(general=drawn(generator, self.general, self.settings.general, self.width))
        self.grow(
            experts=drawn(generator, 1, self.layers - self.general, self.settings.expert, self.width),
            keys=drawn(generator, 1, self.learner.model.num_features),
        )

    def prompts(self, query: Tensor) -> list[Tensor]:
        similarity = cosines(query, self.rows("keys"))  # (b, tasks so far)
        self.matched(1 - similarity[:, -1])
        chosen = similarity.argmax(dim=1)  # (b,)
        if self.training:
            chosen = torch.full_like(chosen, -1)
        general = [p.expand(len(query), 1, -1, -1) for p in self.trained["general"]]
        experts = self.rows("experts")[chosen].unsqueeze(2)  # (b, layers, 1, l, d)
        return general + list(experts.unbind(1))  # (b, 1, l, d) each

    @classmethod
    def numbers(cls, s: Sizes) -> tuple[int, int]:
        layers = min(cls.blocks, s.attentions)
        general = general_blocks(layers)
        expert = ((layers - general) * s.config.method.expert + 1) * s.width  # with its key
        return general * s.config.method.general * s.width + expert, (s.tasks - 1) * expert

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(features, logits, labels) + self.settings.match * self.distance.mean()


def general_blocks(layers: int) -> int:
    """How many of the blocks with prompts have G: two, but at least one is left for E."""
    return min(2, layers - 1)
