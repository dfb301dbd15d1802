"""SLCA: a slow learner for the features, and a classifier that is aligned after each task."""

from __future__ import annotations

from .lora import LoRAMethod


class SLCA(LoRAMethod):
    """Slow Learner with Classifier Alignment, on LoRA.

    Sequential LoRA at a slow rate under `janus.classifiers.Aligned`. The factors' rate is by default a
    fiftieth of the heads' (the paper, which trains the whole backbone: a hundredth).
    """

    name = "slca"
    summary = "slow LoRA, heads aligned on a Gaussian a class"
    paper = "Zhang et al., SLCA, ICCV 2023"
    family = "classic"
    local_heads = False
