"""Janus-LoRA with all its switches; sequential LoRA and the joint upper bound are the same loop with switches off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..lora import merge, reset
from ..rectify import RectifiedAdam, nullspace_start
from ..separation import decoupled_margin_loss
from ..stream import Task
from .base import BASIS, NO_SWITCHES, Method, Sizes

if TYPE_CHECKING:
    from ..config import Config


class Janus(Method):
    """LoRA on K and V, protected by Online Estimation, Gradient Rectification and the Decoupled Margin Loss.

    oe: protect the input subspace of past tasks. gr: how factor updates are made safe. dml: push off old prototypes.
    adapter: one pair of factors for the whole stream, or merge at each task boundary and start afresh; init: where.
    Between tasks it keeps the bases V (`oe`) and one prototype a class (`dml`), besides factors, merged weights and heads; during
    a task, the second moments of its inputs. No image.
    """

    name = "janus"
    summary = "Online Estimation + Gradient Rectification + Decoupled Margin Loss"
    paper = "Chen et al., Janus-LoRA: A Balanced Low-Rank Adaptation for Continual Learning, ICML 2026"
    switches = ("oe", "gr", "dml", "adapter", "init")
    trains_factors = True
    family = "janus"
    inference = "nothing after merging"

    def begin_task(self, task: Task) -> None:
        config, run = self.run.config, self.run
        if config.adapter == "merged" and task.index > 0:
            merge(run.model)
            reset(run.model, run.generator("factors", task.index))
            if config.init == "nullspace":
                with torch.no_grad():
                    for pair in run.pairs:
                        pair.A.copy_(nullspace_start(pair.A, self.basis().get(pair.input_key)))

    def basis(self) -> dict[str, Tensor]:
        """The protected input subspaces (input_key → V); empty when nothing is protected."""
        return self.run.history.basis if self.run.config.oe else {}

    def factor_optimizer(self, task: Task) -> RectifiedAdam:
        c = self.run.config
        return RectifiedAdam(self.run.pairs, c.lr, gr=c.gr, basis=self.basis(), weight_decay=c.weight_decay,
                             cap=c.cap, ridge=c.ridge)

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        loss = super().loss(features, logits, labels)
        if self.run.config.dml:
            c, prototypes = self.run.config, self.run.prototypes
            prototypes.observe(features, labels, self.run.processes)
            loss = loss + decoupled_margin_loss(
                features, labels, prototypes.old, prototypes.centres, form=c.dml_form, nearest=c.dml_nearest,
                push_margin=c.dml_push_margin, pull_margin=c.dml_pull_margin, push_weight=c.dml_push,
                pull_weight=c.dml_pull, temperature=c.dml_temperature)
        return loss

    @classmethod
    def keeps_prototypes(cls, config: Config) -> bool:
        return config.dml or super().keeps_prototypes(config)

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        return super().stored(s) | ({BASIS: 4 * s.basis} if s.config.oe else {})


class Finetune(Janus):
    """Sequential LoRA: the same factors trained task after task, nothing protected."""

    name = "finetune"
    summary = "sequential LoRA, nothing protected"
    paper = "Hu et al., LoRA, ICLR 2022"
    family = "bound"
    fixed = NO_SWITCHES
    switches = ()


class Joint(Finetune):
    """LoRA and one head trained on all classes together: the upper bound of the stream."""

    name = "joint"
    summary = "LoRA on all classes at once (upper bound)"
    joint = True
    family = "bound"
