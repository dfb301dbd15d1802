"""An optimiser for methods whose LoRA factors are functions of fewer, or other, trained numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class ReparametrizedAdamW(torch.optim.AdamW):
    """AdamW on `values`, of which the `factors` (parameters of the adapted layers) are a function.

    Forward and backward passes see the factors only. Their gradients are taken back to the values through
    `compute`, the values make the step, and the factors become what `compute` makes of them. Scores and
    merging thus need to know of factors only.

    Args:
        values: what is trained. factors: what the layers use. compute: () → a tensor for each factor,
            differentiable by the values.
    """

    def __init__(
        self,
        values: Sequence[nn.Parameter],
        factors: Sequence[nn.Parameter],
        compute: Callable[[], list[Tensor]],
        lr: float,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(values, lr=lr, weight_decay=weight_decay)
        self.values, self.factors, self.compute = list(values), list(factors), compute

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad()
        for factor in self.factors:
            factor.grad = None

    def gradients(self) -> list[Tensor]:
        """The values' gradients, which several processes sum before they step."""
        with torch.enable_grad():
            computed = self.compute()
        found = [torch.zeros_like(f) if f.grad is None else f.grad for f in self.factors]
        for value, grad in zip(self.values, torch.autograd.grad(computed, self.values, found)):
            value.grad = grad
        return [value.grad for value in self.values]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        if self.values[0].grad is None:  # alone, nobody has asked for them
            self.gradients()
        loss = super().step(closure)
        for factor, value in zip(self.factors, self.compute()):
            factor.copy_(value)
        return loss
