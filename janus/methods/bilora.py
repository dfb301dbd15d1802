"""BiLoRA: a task trains a few Fourier coefficients of its update.

Random positions make the tasks almost orthogonal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..data.stream import Task
from ..errors import UsageError
from ..lora import merge, set_factors
from .base import LearnerProtocol, Sizes
from .lora import LoRAMethod
from .reparametrized import ReparametrizedAdamW


def from_spectrum(coefficients: Tensor, positions: Tensor, shape: tuple[int, int]) -> Tensor:
    """`Re(IFFT2(F))` (m, n), IFFT2 with its 1/mn.

    F is zero but for the real `coefficients` (c,) at the flat `positions` (c,). The spectrum of the real part
    is that of F and its mirror image, halved: non-zero at ±positions and nowhere else.
    """
    F = coefficients.new_zeros(shape[0] * shape[1]).index_put((positions,), coefficients)
    return torch.fft.ifft2(F.view(shape)).real


class BiLoRA(LoRAMethod):
    """`W = W0 + Σ_{i≤t} s·Re(IFFT2(F_i))`.

    F_t has `method.coefficients` real numbers at random positions, all 0 at first, that are trained. The
    positions are drawn anew for each task (here from the run's seed; in the authors' code from 777 + 10t) and
    are the same in all matrices of a shape. Two tasks share few of them, and updates at different frequencies
    are orthogonal: `⟨ΔW_i, ΔW_j⟩ = 0`. s is `backbone.scale`, the paper's α = 300. LoRA's `rank` plays no
    part in training, since ΔW_t is dense: the adapted layers hold it as B, with A = I.

    Between tasks it keeps the merged weights only; during a task, the coefficients.

    Raises:
        UsageError: `method.coefficients` is 0, or more than a matrix has entries.
    """

    name = "bilora"
    summary = "BiLoRA: a few Fourier coefficients a task, at random positions"
    paper = "Zhu et al., BiLoRA: Almost-Orthogonal Parameter Spaces for Continual Learning, CVPR 2025"
    family = "lora"

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        most = min(len(pair.B) * pair.A.shape[1] for pair in learner.pairs)
        self.count = self.settings.coefficients
        if not 1 <= self.count <= most:
            raise UsageError(
                f"method.coefficients must be between 1 and {most}, the entries of a matrix; got {self.count}"
            )
        self.values = {pair.name: nn.Parameter(pair.B.new_zeros(self.count)) for pair in learner.pairs}
        self.training = False  # inside a task; between two, the weights hold all that was learned

    def positions(self, t: int, m: int, n: int) -> Tensor:
        """The flat positions (c,) of task t in an m x n matrix."""
        return torch.randperm(m * n, generator=self.learner.generator("frequencies", t, m, n))[: self.count]

    def begin_task(self, task: Task) -> None:
        if task.index > 0:
            merge(self.learner.model)
        for pair in self.learner.pairs:
            m, n = len(pair.B), pair.A.shape[1]
            set_factors(pair, torch.eye(n), torch.zeros(m, n))
            self.values[pair.name].data.zero_()
        self.training = True

    def end_task(self, task: Task) -> None:
        self.training = False

    def factor_optimizer(self, task: Task) -> torch.optim.Optimizer:
        """Adam on the coefficients; A = I gets no gradient."""
        learner, places = self.learner, {}
        for pair in learner.pairs:
            pair.A.requires_grad_(False)
            shape = (len(pair.B), pair.A.shape[1])
            if shape not in places:
                places[shape] = self.positions(task.index, *shape).to(pair.B.device)

        def compute() -> list[Tensor]:
            shapes = [(self.values[pair.name], tuple(pair.B.shape)) for pair in learner.pairs]
            return [from_spectrum(values, places[shape], shape) for values, shape in shapes]

        c, values, factors = learner.config.training, list(self.values.values()), [p.B for p in learner.pairs]
        return ReparametrizedAdamW(values, factors, compute, c.lr, c.weight_decay)

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        return super().stored(s) | {"factors": 4 * (s.dense + sum(n * n for _, _, n in s.matrices))}

    @classmethod
    def trainable(cls, s: Sizes) -> dict[str, int]:
        coefficients = s.config.method.coefficients * len(s.matrices)
        return {"coefficients": coefficients, "head": super().trainable(s)["head"]}

    def state_dict(self) -> dict[str, Any]:
        return {"values": dict(self.values)} if self.training else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.training = "values" in state
        for name, value in state.get("values", {}).items():
            self.values[name].data.copy_(value)
