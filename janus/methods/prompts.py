"""Prompts on a frozen ViT: after a query pass, attentions also see the image's own keys and values.

Each image is seen twice, in training and at test: a first pass without prompts and without gradient gives the
query q(x), the backbone's final feature (CLS); the method turns it into prompts of this image; the second
pass uses them. A prompt of length l is prefix tuning on K and V: its first l/2 vectors are keys, the others
values, past the projections, so no token is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.stream import Task
from .base import LearnerProtocol, Method, Sizes

if TYPE_CHECKING:
    from ..models.prefix import PrefixAttention


class TwoPasses:
    """Hooks that let `model(x)` make the query pass and then that with the prompts, whose result counts.

    select: q (b, d) float32 → for each of `attentions` the prompts (b, n, l, d) of each image, n of even
    length l; an empty list leaves the model as it is.
    """

    def __init__(
        self, model: nn.Module, attentions: list[PrefixAttention], select: Callable[[Tensor], list[Tensor]]
    ) -> None:
        self.attentions, self.select, self.querying = attentions, select, False
        model.register_forward_pre_hook(self.before)
        model.register_forward_hook(self.after, always_call=True)  # after an error too

    def before(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if self.querying:  # this is the query pass
            return
        self.querying = True
        try:
            with torch.no_grad():
                query = model(*inputs)  # (b, d)
        finally:
            self.querying = False
        with torch.autocast(query.device.type, enabled=False):  # cosines and sums of prompts in float32
            for attention, prompts in zip(self.attentions, self.select(query.float())):
                half = prompts.shape[2] // 2
                attention.prefix = prompts[:, :, :half].flatten(1, 2), prompts[:, :, half:].flatten(1, 2)

    def after(self, *_: Any) -> None:
        if not self.querying:
            for attention in self.attentions:
                attention.prefix = None


class Prompted(Method):
    """What the prompt methods share. LoRA's factors stay at B = 0: trained are prompts, keys and heads.

    A method says in `begin_task` what it trains (`trained`) or adds (`grow`), and in `prompts` which prompts
    an image gets. Violation and drift of weights are 0; the second moments kept for diagnosis are of both
    passes.
    """

    family = "prompt"
    passes = {"with each pass": 1}
    inference = "a query pass before the pass with prompts"
    blocks: ClassVar[int] = 5  # the first five have prompts, or all where there are fewer

    def __init__(self, learner: LearnerProtocol) -> None:
        # timm takes seconds to import: not for those who only ask what methods there are
        from ..models.prefix import prefixed

        super().__init__(learner)
        attentions = prefixed(learner.model, self.blocks)
        self.layers, self.width = len(attentions), attentions[0].qkv.out_features // 3
        self.trained: dict[str, nn.Parameter] = {}  # by name, (rows, …)
        self.frozen: dict[str, Tensor] = {}  # the rows of tasks that are over
        self.training = False  # between begin_step and loss
        TwoPasses(learner.model, attentions, lambda query: self.prompts(query) if self.trained else [])

    def prompts(self, query: Tensor) -> list[Tensor]:
        """Of each image, by its query (b, d) and no other's: (b, n, l, d) for each layer."""
        raise NotImplementedError

    def rows(self, name: str) -> Tensor:
        """All rows of that name, old first."""
        return torch.cat([rows[name] for rows in (self.frozen, self.trained) if name in rows])

    def grow(self, **new: Tensor) -> None:
        """From now on these rows are trained, and those that were trained under their names are frozen."""
        self.frozen |= {name: self.rows(name).detach() for name in new if name in self.trained}
        self.trained |= {name: nn.Parameter(rows.to(self.learner.device)) for name, rows in new.items()}

    def factor_optimizer(self, task: Task) -> torch.optim.Optimizer:
        """Adam on prompts and keys at the rate `lr`.

        By default it is CODA-Prompt's 1e-3; the other two papers have larger ones.
        """
        c = self.learner.config.training
        return torch.optim.AdamW(self.trained.values(), lr=c.lr, weight_decay=c.weight_decay)

    def begin_step(self, images: Tensor) -> None:
        self.training = True
        self.distance = images.new_zeros(0)  # (b,), slice by slice: 1 − cos of query and chosen keys

    def matched(self, distance: Tensor) -> None:
        """`prompts` tells how far the keys it chose are from the queries, (b,) of its slice of the batch."""
        self.distance = torch.cat([self.distance, distance]) if self.training else distance

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        distance, self.training, self.distance = self.distance, True, self.distance.detach()[:0]
        try:
            yield
        finally:
            self.training, self.distance = False, distance

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        self.training = False
        return super().loss(features, logits, labels)

    @classmethod
    def numbers(cls, s: Sizes) -> tuple[int, int]:
        """How many numbers prompts and keys have after the last task: (trained in it, frozen before)."""
        raise NotImplementedError

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        return super().stored(s) | {"prompts and keys": 4 * sum(cls.numbers(s))}

    @classmethod
    def trainable(cls, s: Sizes) -> dict[str, int]:
        return {"prompts and keys": cls.numbers(s)[0]} | super().trainable(s)

    def state_dict(self) -> dict[str, Any]:
        return {"trained": self.trained, "frozen": self.frozen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device, trained = self.learner.device, state["trained"]
        self.trained = {name: nn.Parameter(rows.to(device)) for name, rows in trained.items()}
        self.frozen = {name: rows.to(device) for name, rows in state["frozen"].items()}


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    """Normal vectors (…, d) of length about 1, so that Adam's steps can turn them."""
    return torch.randn(shape, generator=generator) / math.sqrt(shape[-1])


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """cos(q, k): (b, d) and (M, d) → (b, M)."""
    return F.normalize(query, dim=1) @ F.normalize(keys, dim=1).T
