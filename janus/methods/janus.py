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

    oe: protect the input subspace of past tasks, as it is estimated while training. gr: how factor updates
    are made safe. dml: push off old prototypes. adapter, init: see `LoRAMethod`.
    Between tasks it keeps the bases V (`oe`) and one prototype a class (`dml`), besides factors, merged
    weights and heads; during a task, the second moments of its inputs. No image.
    """

    name = "janus"
    summary = "Online Estimation + Gradient Rectification + Decoupled Margin Loss"
    paper = "Chen et al., Janus-LoRA: A Balanced Low-Rank Adaptation for Continual Learning, ICML 2026"
    family = "janus"

    def basis(self) -> dict[str, Tensor]:
        """The protected input subspaces (input_key → V); empty when nothing is protected."""
        return self.learner.history.basis if self.settings.oe else {}

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        loss = super().loss(features, logits, labels)
        if self.settings.dml:
            c, prototypes = self.settings.loss, self.learner.prototypes
            prototypes.observe(features, labels, self.learner.processes)
            loss = loss + decoupled_margin_loss(
                features,
                labels,
                prototypes.old,
                prototypes.centres,
                form=c.form,
                nearest=c.nearest,
                push_margin=c.push_margin,
                pull_margin=c.pull_margin,
                push_weight=c.push,
                pull_weight=c.pull,
                temperature=c.temperature,
            )
        return loss

    @classmethod
    def keeps_basis(cls, config: Config) -> bool:
        return config.method.oe

    @classmethod
    def keeps_prototypes(cls, config: Config) -> bool:
        return config.method.dml or super().keeps_prototypes(config)
