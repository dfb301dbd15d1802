"""The adapted layer, and its pairs.

`W = W0 + s·B·A` is composed once per forward pass; the factors' gradients are skinny products.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..linalg import full_float32


@dataclass
class Pair:
    """One adapted matrix: the rows `rows` of `layer`'s output are (W0 + scale·B·A)·x, x the layer's input.

    `name` is the matrix ("blocks.0.attn.k"); `input_key` is equal for the pairs that are fed by the same
    tensor. `block` tells the pairs of one layer apart; of a PEFT layer it is the adapter's name.
    """

    name: str
    layer: nn.Module
    input_key: str
    A: nn.Parameter  # (r, n)
    B: nn.Parameter  # (m, r)
    rows: slice
    scale: float
    block: str = ""

    @property
    def transposed(self) -> bool:
        """Whether the layer stores its weight as (n, m)."""
        return False

    @property
    def weight(self) -> Tensor:
        """The frozen rows (m, n): a view, what is written into it changes the layer."""
        return self.layer.weight.detach()[self.rows]

    @property
    def original(self) -> Tensor | None:
        """The frozen rows (m, n) as they were before the first merge; None: nothing was merged yet."""
        return getattr(self.layer, f"W0_{self.block}", None)

    def keep_original(self) -> None:
        """Note the frozen rows before their first change, in a buffer that is saved with the model."""
        if self.original is None:
            self.layer.register_buffer(f"W0_{self.block}", self.weight.clone())

    def check_mergeable(self) -> None:
        """Raise UsageError where `merge` is not possible."""

    @torch.no_grad()
    def merge(self) -> None:
        """Add s·B·A to the frozen rows and set B to zero; A stays."""
        self.keep_original()
        with full_float32(self.A.device):  # it is kept for good
            self.weight.addmm_(self.B, self.A, alpha=self.scale)
        self.B.zero_()

    @torch.no_grad()
    def undo_merges(self) -> None:
        """The frozen rows as they were before the first merge; nothing where there was none. A and B stay."""
        if self.original is not None:
            self.weight.copy_(self.original)
            setattr(self.layer, f"W0_{self.block}", None)


def kaiming_A(
    rank: int,
    features: int,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """A fresh A (rank, features): Kaiming-uniform with a = √5, that is U(−1/√n, 1/√n), as in LoRA and PEFT.

    Drawn on the generator's device and moved, so that a CPU generator gives the same numbers for every
    device.
    """
    bound = 1 / math.sqrt(features)
    A = torch.empty(rank, features, dtype=dtype, device=generator.device)
    return A.uniform_(-bound, bound, generator=generator).to(device)


def dense_gradient(g: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """`G = ∂L/∂W = Σ g xᵀ` (m, n) of one `y = W x`, from g (tokens, m) and x (tokens, n).

    g: the gradients of its outputs. x: its inputs.
    """
    if g.dtype != torch.float16:
        return (g.T @ x.to(g.dtype)).to(dtype)
    most = [t.abs().amax().float().clamp(min=torch.finfo(torch.float32).tiny) for t in (g, x)]
    product = (g / most[0]).half().T @ (x / most[1]).half()  # a plain sum would leave fp16's range
    return product.to(dtype) * (most[0] * most[1])


class _ComposedLinear(torch.autograd.Function):
    """y = x·Wᵀ + b with W = W0 + s·B·A composed first: the forward pass is one product, whatever the rank.

    The backward pass does not form the dense gradient G = gᵀx: g_B = s·gᵀ(xAᵀ) and g_A = s·(gB)ᵀx are skinny
    products. But where somebody watches for G (`LoRALinear.watchers`), the factors' gradients follow from it:
    g_B = s·GAᵀ, g_A = s·BᵀG.
    """

    @staticmethod
    def forward(
        ctx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scale: float,
        rows: tuple[slice, ...],
        watchers: tuple[list[Callable[[Tensor], None]], ...],
        *factors,
    ):
        W = _compose(weight, scale, rows, factors).to(x.dtype)
        ctx.scale, ctx.rows, ctx.watchers = scale, rows, watchers
        ctx.save_for_backward(x, W if ctx.needs_input_grad[0] else None, *factors)
        return F.linear(x, W, None if bias is None else bias.to(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        x, W, *factors = ctx.saved_tensors
        count = len(factors) // 2
        needs = ctx.needs_input_grad[6:]
        g_x = g @ W if ctx.needs_input_grad[0] else None
        As, Bs = factors[:count], factors[count:]
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])  # (tokens, n), (tokens, m)
        parts = [g[:, block] for block in ctx.rows]
        g_A: list[Tensor | None] = [None] * count
        g_B: list[Tensor | None] = [None] * count
        for i, watchers in enumerate(ctx.watchers):
            if watchers:
                G = dense_gradient(parts[i], x, As[i].dtype)
                g_A[i], g_B[i] = Bs[i].mT @ G * ctx.scale, G @ As[i].mT * ctx.scale
                for watch in watchers:
                    watch(G if len(watchers) == 1 else G.clone())
        lean = [i for i in range(count) if not ctx.watchers[i]]
        ranks = [len(As[i]) for i in lean]
        if any(needs[count + i] for i in lean):
            stacked = torch.cat([As[i] for i in lean]).to(x.dtype)  # (Σr, n)
            z = x @ stacked.mT  # (tokens, Σr): one product for K and V, they share x
            for i, z_i in zip(lean, z.split(ranks, dim=1)):
                g_Bi = (z_i.mT @ parts[i]).mT  # (m, r): this way round it is faster on a CPU
                g_B[i] = g_Bi.to(Bs[i].dtype) * ctx.scale
        if any(needs[i] for i in lean):
            h = torch.cat([parts[i] @ Bs[i].to(g.dtype) for i in lean], dim=1)  # (tokens, Σr)
            for i, g_Ai in zip(lean, (h.mT @ x).to(As[0].dtype).mul_(ctx.scale).split(ranks)):
                g_A[i] = g_Ai
        grads = [grad if need else None for grad, need in zip((*g_A, *g_B), needs)]
        return (g_x, None, None, None, None, None, *grads)


def _compose(weight: Tensor, scale: float, rows: Iterable[slice], factors: tuple[Tensor, ...]) -> Tensor:
    W = weight.clone()
    count = len(factors) // 2
    for block, A, B in zip(rows, factors[:count], factors[count:]):
        W[block].addmm_(B, A, alpha=scale)
    return W


class LoRALinear(nn.Module):
    """A frozen linear layer with trainable pairs (A, B) on blocks of its output rows.

    linear: the layer it stands for; its weight and bias are taken over (same state-dict names) and frozen.
    blocks: name -> (rows, rank); the factors are the parameters `A_<name>` (r, n) and `B_<name>` (m, r), B
    starts at 0. `weight` is the frozen part; `effective_weight()` is what the forward pass uses. Works under
    autocast. watchers: block -> functions that the backward pass hands the dense gradient (m, n) of the
    block's rows, theirs to keep.
    """

    def __init__(
        self,
        linear: nn.Linear,
        blocks: dict[str, tuple[slice, int]],
        scale: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias, self.scale = linear.weight, linear.bias, scale
        self.original_dtype = linear.weight.dtype
        if self.weight.dtype in (torch.float16, torch.bfloat16):  # whose merge would lose small updates
            self.weight = nn.Parameter(self.weight.detach().float())
        self.requires_grad_(False)
        self.blocks = {name: rows for name, (rows, _) in blocks.items()}
        self.watchers: dict[str, list[Callable[[Tensor], None]]] = {name: [] for name in blocks}
        for name, (rows, rank) in blocks.items():
            A = kaiming_A(rank, self.in_features, generator, self.weight.device, self.weight.dtype)
            self.register_parameter(f"A_{name}", nn.Parameter(A))
            self.register_parameter(f"B_{name}", nn.Parameter(A.new_zeros(rows.stop - rows.start, rank)))
            # the rows before the first merge: in the state_dict once there was one
            self.register_buffer(f"W0_{name}", None)

    def factors(self) -> tuple[Tensor, ...]:
        """(A_1, …, A_p, B_1, …, B_p) in the order of `blocks`."""
        return tuple(getattr(self, f"{kind}_{name}") for kind in "AB" for name in self.blocks)

    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """W0 + s·B·A (out, in), detached."""
        with full_float32(self.weight.device):
            return _compose(self.weight, self.scale, self.blocks.values(), self.factors())

    def forward(self, x: Tensor) -> Tensor:  # (..., n) -> (..., m)
        # autocast leaves float64 alone
        if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rows, watchers = tuple(self.blocks.values()), tuple(self.watchers.values())
        return _ComposedLinear.apply(x, self.weight, self.bias, self.scale, rows, watchers, *self.factors())

    def __getstate__(self) -> dict[str, Any]:
        nobody = {name: [] for name in self.blocks}  # who watches a model does not watch its copies
        return self.__dict__ | {"watchers": nobody}

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, rows in self.blocks.items():  # a state that holds the weight says whether it was merged
            saved = state_dict.get(f"{prefix}W0_{name}")
            if saved is not None or f"{prefix}weight" in state_dict:
                setattr(self, f"W0_{name}", None if saved is None else self.weight.detach()[rows].clone())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def to_linear(self) -> nn.Linear:
        """A plain frozen nn.Linear with the effective weight.

        Half precision that was held as float32 is half again.
        """
        linear = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        dtype = self.original_dtype if self.weight.dtype == torch.float32 else self.weight.dtype
        linear.weight = nn.Parameter(self.effective_weight().to(dtype), requires_grad=False)
        linear.bias = self.bias
        return linear.train(self.training)

    def extra_repr(self) -> str:
        ranks = {name: getattr(self, f"A_{name}").shape[0] for name in self.blocks}
        return f"{self.in_features} -> {self.out_features}, ranks {ranks}, scale {self.scale:g}"
