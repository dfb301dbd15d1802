"""LoRA-DRS: updates stay in the space a new task shows once old adapters are subtracted from the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..data.stream import Task
from ..history import extend_basis
from ..linalg import complement, project_out
from ..lora import Pair, merge, reset, subtracted
from ..rectify import RectifiedAdam
from ..separation import augmented_triplet_loss
from .base import LearnerProtocol
from .lora import LoRAMethod

if TYPE_CHECKING:
    from ..config import Config


class DriftResistantAdam(RectifiedAdam):
    """Adam whose updates are multiplied by `P = U Uᵀ/√k`.

    They are `ΔA P`, and `P ΔB` where B has as many rows as A has columns. `basis` is the complement of U.
    With `gr=tangent` the full-weight step is `Z P`, and ΔA and ΔB are what the closed form gives.
    """

    def _factors(self, batch: list[Pair], A: Tensor, B: Tensor, V: Tensor | None) -> tuple[Tensor, Tensor]:
        dA, dB = super()._factors(batch, A, B, V)
        if dB.shape[-2] == dA.shape[-1]:
            dB = project_out(dB.mT, V).mT
        return self._normed(project_out(dA, V), dB, V)  # once more, for the weight decay

    def _tangent(self, batch: list[Pair], A: Tensor, B: Tensor, V: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._normed(*super()._tangent(batch, A, B, V), V)

    def _normed(self, dA: Tensor, dB: Tensor, V: Tensor | None) -> tuple[Tensor, Tensor]:
        outside = 0 if V is None else V.square().sum((-2, -1), keepdim=True)
        k = dA.new_full((len(dA), 1, 1), dA.shape[-1]) - outside
        k = k.clamp(min=1)  # energy=0 leaves no direction, and no step
        return dA / k.sqrt(), dB / k.sqrt()


class DRS(LoRAMethod):
    """LoRA Subtraction for a Drift-Resistant Space. `W = W0 + Σ_{i≤t} B_i A_i`, the earlier pairs merged.

    Before task t > 1 one pass over its training images (test transform, counted in `seconds["oe"]`) goes
    through `W̃ = W0 − Σ_{i<t} B_i A_i`, in which what the old tasks had learned is unlearned. The top
    eigenvectors U (n, k) of the second moment of each layer's inputs there, up to the share `energy` of its
    trace, span the space in which features drift little. Adam's updates (not the gradients) become `ΔA P` and
    `P ΔB`, `P = U Uᵀ/√k`; see `DriftResistantAdam`. Task 1 is free. Loss: cross-entropy + `method.penalty` ·
    augmented triplet loss with `method.margin` (defaults: CIFAR-100's; ImageNet-R .2, 2.0).

    Each A_t starts from Kaiming's draw and distances are between normalised features, as in the authors'
    code, with which this one agrees to rounding but for what follows (docs/fidelity.md). B_t starts at 0,
    which `exact` needs; theirs has one number drawn from N(0, .01²) in each column. Our prototypes are means
    of normalised features, those of `classifier=ncm` and of all methods here; theirs of the features
    themselves, normalised when used. They find U under the training transform. They classify by the nearest
    class mean, here `classifier=ncm`; the default is the linear heads. Several processes look for triplets
    each in its own part of the batch.

    gr: the plug-in. `tangent` makes the full-weight step `Z P` and the factor updates closest to it; `exact`
    also starts from an A in span(U), so that all of ΔW acts on span(U) only. The violation is measured
    against the past's inputs, as for `finetune`, and not against what lies outside U, which would be DRS's
    own opinion of itself.

    Between tasks it keeps the merged weights and W0; U (as its complement) only during a task.
    """

    name = "drs"
    summary = "LoRA-DRS: updates in the space seen by subtracting the old adapters, triplet loss"
    paper = (
        "Liu & Chang, LoRA Subtraction for Drift-Resistant Space in Exemplar-Free Continual Learning, "
        "CVPR 2025"
    )
    family = "lora"
    passes = {"before, from task 2": 1}

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        self.outside: dict[str, Tensor] = {}  # input_key → (n, n − k): the complement of U

    @torch.no_grad()
    def begin_task(self, task: Task) -> None:
        learner = self.learner
        if task.index == 0:
            return
        merge(learner.model)
        with subtracted(learner.pairs), self.extra_pass(task.train) as moments:
            for key, C in ((key, moments.mean(key)) for key in moments.sum):
                U = extend_basis(C[:, :0], C, learner.energy(task.index))
                self.outside[key] = complement(U).float()
        reset(learner.model, learner.generator("factors", task.index))
        if self.settings.init == "nullspace":
            self.start_off(self.outside)

    def factor_optimizer(self, task: Task) -> RectifiedAdam:
        c, s = self.learner.config.training, self.settings
        kind = DriftResistantAdam if task.index else RectifiedAdam
        options = dict(gr=s.gr, basis=self.outside, weight_decay=c.weight_decay, cap=s.cap, ridge=s.ridge)
        return kind(self.learner.pairs, c.lr, **options)

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        triplet = augmented_triplet_loss(features, labels, self.learner.prototypes.old, self.settings.margin)
        return super().loss(features, logits, labels) + self.settings.penalty * triplet

    def end_task(self, task: Task) -> None:
        self.outside = {}

    @classmethod
    def keeps_prototypes(cls, config: Config) -> bool:
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"outside": self.outside}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        outside, device = state["outside"], {pair.input_key: pair.A.device for pair in self.learner.pairs}
        self.outside = {key: outside[key].to(device[key]) for key in device if key in outside}
