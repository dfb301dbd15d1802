"""L2P: a pool of prompts, of which each image takes those whose keys are nearest to it."""

from __future__ import annotations

from torch import Tensor

from ..data.stream import Task
from .base import Sizes
from .prompts import Prompted, cosines, drawn


class L2P(Prompted):
    """Learning to Prompt: M pairs of key and prompt (k_m, p_m).

    An image takes the `method.top` of largest cos(q(x), k_m). `L = CE + λ Σ_{chosen m} (1 − cos(q(x), k_m))`,
    mean over the batch: the keys come to the queries that choose them. All tasks train the same pool.

    The variant with prefixes at the first block, which CODA-Prompt compares with as L2P++ and later work
    calls L2P. The paper puts prompts in front of the tokens and classifies the mean of what becomes of them;
    here, as with every method, heads read CLS. Settings: `method.pool` is M (30), `method.length` (20),
    `method.top` (5), `method.pull` is λ (the paper's 0.5).

    Selection is per image. In the authors' code a batch can vote for its prompts. That is not offered: test
    batches are of one task, and each image would be told of it by the others. Nor is the paper's optional
    penalty on keys that are chosen often.

    Two forward passes an image, in training and at test. Keeps the pool: M·(l·d + d) numbers. No image.
    """

    name = "l2p"
    summary = "L2P: prompts from a pool, nearest keys, as prefixes (L2P++)"
    paper = "Wang et al., Learning to Prompt for Continual Learning, CVPR 2022"
    blocks = 1

    def begin_task(self, task: Task) -> None:
        if not self.trained:
            generator = self.learner.generator("prompts")
            self.grow(
                prompts=drawn(generator, self.settings.pool, self.settings.length, self.width),
                keys=drawn(generator, self.settings.pool, self.learner.model.num_features),
            )

    def prompts(self, query: Tensor) -> list[Tensor]:
        nearest, chosen = cosines(query, self.trained["keys"]).topk(self.settings.top, dim=1)  # (b, top)
        self.matched((1 - nearest).sum(dim=1))
        return [self.trained["prompts"][chosen]]  # (b, top, l, d)

    @classmethod
    def numbers(cls, s: Sizes) -> tuple[int, int]:
        return s.config.method.pool * (s.config.method.length + 1) * s.width, 0

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        return super().loss(features, logits, labels) + self.settings.pull * self.distance.mean()
