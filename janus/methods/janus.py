"""Janus-LoRA with all its switches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..separation import decoupled_margin_loss
from .lora import LoRAMethod

if TYPE_CHECKING:
    from ..config import Config


class Janus(LoRAMethod):
    """LoRA on K and V, protected by Online Estimation, Gradient Rectification and the Decoupled Margin Loss.

    oe: protect the input subspace of past tasks, as it is estimated while training. gr: how factor updates are made safe.
    dml: push off old prototypes. adapter, init: see `LoRAMethod`.
    Between tasks it keeps the bases V (`oe`) and one prototype a class (`dml`), besides factors, merged weights and heads; during
    a task, the second moments of its inputs. No image.
    """

    name = "janus"
    summary = "Online Estimation + Gradient Rectification + Decoupled Margin Loss"
    paper = "Chen et al., Janus-LoRA: A Balanced Low-Rank Adaptation for Continual Learning, ICML 2026"
    switches = ("oe", "gr", "dml", "adapter", "init")
    family = "janus"

    def basis(self) -> dict[str, Tensor]:
        """The protected input subspaces (input_key → V); empty when nothing is protected."""
        return self.learner.history.basis if self.learner.config.oe else {}

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        loss = super().loss(features, logits, labels)
        if self.learner.config.dml:
            c, prototypes = self.learner.config, self.learner.prototypes
            prototypes.observe(features, labels, self.learner.processes)
            loss = loss + decoupled_margin_loss(
                features, labels, prototypes.old, prototypes.centres, form=c.dml_form, nearest=c.dml_nearest,
                push_margin=c.dml_push_margin, pull_margin=c.dml_pull_margin, push_weight=c.dml_push,
                pull_weight=c.dml_pull, temperature=c.dml_temperature)
        return loss

    @classmethod
    def keeps_basis(cls, config: Config) -> bool:
        return config.oe

    @classmethod
    def keeps_prototypes(cls, config: Config) -> bool:
        return config.dml or super().keeps_prototypes(config)
