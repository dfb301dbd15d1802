"""Gradient Rectification: factor updates whose *product* respects the past.

LoRA does not move W directly. One step moves it by `ΔW = s(BΔA + ΔB·A + ΔB·ΔA)`, and ΔB has no input side
that could be projected: even if both factor gradients are computed from a safe gradient `GP`,
`ΔW V = s·ΔB·A·V ≠ 0` unless `A V = 0`.

Two cures, both here:

* `tangent` (Janus-LoRA, Chen et al., ICML 2026): choose the safe full-weight step `Z = ZP` first, then the
  factor updates whose first-order product `BΔA + ΔB·A` comes closest to it. The closed form is LoRA-Pro's
  (Wang et al., 2024). What cannot be reached is left over: `(I − P_B) Z P_A V`.
* `exact`: start each task from `A V = 0`, B = 0 and keep `ΔA V = 0`. Then every term of ΔW vanishes on V,
  second order included. The start is InfLoRA's (Liang & Li, CVPR 2024), whose A is frozen; here A is trained
  too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .errors import JanusError, UsageError, unknown
from .linalg import full_float32, gram_pinv, precise, project_out
from .lora import Pair, watch_gradient
from .models.peft_layers import inactive
from .runtime.distributed import gradients

MODES = ("none", "tangent", "exact")
# numbers of the m x n matrices that `tangent` computes with at once: they stay in a processor's cache
DENSE = 2**21


def tangent_update(
    target: Tensor, A: Tensor, B: Tensor, scale: float = 1.0, ridge: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The factor updates whose first-order product is closest to a wanted full-weight step.

    Minimises `‖Z − s(B ΔA + ΔB A)‖_F`. The closest reachable step is `Z_T = P_B Z + (I − P_B) Z P_A`, reached
    by `ΔA = s⁻¹ B⁺ Z (I − ½P_A)`, `ΔB = s⁻¹ (I − ½P_B) Z A⁺`: the symmetric one of all equivalent solutions
    (`ΔA + XA, ΔB − BX` has the same product for every X).

    Args:
        target: Z, (…, m, n). A: (…, r, n). B: (…, m, r); leading dimensions are batches (layers).
        scale: LoRA's s. ridge: relative Tikhonov term in both pseudo-inverses, 0 = the exact minimiser.

    Returns:
        ΔA (…, r, n) and ΔB (…, m, r) in the type of A. For B = 0: `ΔA = 0`, `ΔB = s⁻¹ Z A⁺`.
    """
    return _nearest(target, None, A, B, pseudo_inverses(A, B, ridge), scale)


def pseudo_inverses(A: Tensor, B: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """A⁺ (…, n, r) and B⁺ (…, r, m) in the best type of the device; ridge: see `gram_pinv`."""
    A, B = precise(A), precise(B)
    return A.mT @ gram_pinv(A @ A.mT, ridge=ridge), gram_pinv(B.mT @ B, ridge=ridge) @ B.mT


def _nearest(
    S: Tensor, V: Tensor | None, A: Tensor, B: Tensor, inverses: tuple[Tensor, Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    """`tangent_update` of Z = S (I − V Vᵀ) from the pseudo-inverses.

    S, which is large, stays in its own type (float32 if that is half precision); Z is not formed: it is asked
    for only in products with thin matrices, and those are projected instead.
    """
    S = S.float() if S.itemsize < 4 else S
    A_plus, B_plus = inverses
    left = precise(project_out(B_plus.to(S.dtype) @ S, V))  # B⁺ Z  (…, r, n)
    right = precise(S @ project_out(A_plus.mT.to(S.dtype), V).mT)  # Z A⁺  (…, m, r)
    both = left @ A_plus  # B⁺ Z A⁺  (…, r, r)
    dA = (left - 0.5 * both @ precise(A)) / scale
    dB = (right - 0.5 * precise(B) @ both) / scale
    return dA.to(A.dtype), dB.to(A.dtype)


def cap_step(dA: Tensor, A: Tensor, limit: float) -> Tensor:
    """Scale ΔA (…, r, n) down where `‖ΔA‖_F > limit · ‖A‖_F`.

    Needed right after B = 0: B is tiny then, B⁺ huge, and an uncapped ΔA would outgrow A itself.
    """
    norm = torch.linalg.matrix_norm(dA, keepdim=True)
    most = limit * torch.linalg.matrix_norm(A, keepdim=True)
    return dA * (most / norm.clamp(min=torch.finfo(dA.dtype).tiny)).clamp(max=1.0)


def nullspace_start(A: Tensor, basis: Tensor | None) -> Tensor:
    """A fresh A (r, n) moved into the null space of the past: `A V = 0`, at the norm it had before.

    Raises:
        JanusError: V spans everything; what is left of A would be rounding noise, scaled up.
    """
    if basis is None or basis.shape[1] == 0:
        return A
    if basis.shape[1] >= A.shape[1]:
        raise JanusError(
            f"no direction is left for A: all {A.shape[1]} are protected; protect fewer (a smaller energy)"
        )
    V = precise(basis)
    safe = project_out(project_out(precise(A), V), V)  # twice: V is orthonormal only to float32 rounding
    return (safe * (torch.linalg.norm(precise(A)) / torch.linalg.norm(safe))).to(A.dtype)


class DenseGradient:
    """Sums `G = ∂L/∂W` (m, n) of one adapted matrix over backward passes, until `remove`."""

    def __init__(self, pair: Pair) -> None:
        self.value: Tensor | None = None
        self.remove = watch_gradient(pair, self._add)

    def _add(self, G: Tensor) -> None:
        self.value = G if self.value is None else self.value + G


class RectifiedAdam(torch.optim.Optimizer):
    """Adam on LoRA factors whose *update*, not only its gradient, is made safe. An ordinary torch optimiser.

    Adam rescales element by element, and a rescaled vector leaves the subspace its gradient lay in. So what
    is projected here is the step, last. Layers of equal shape are computed as one batch.

    Args:
        pairs: factor pairs, from `janus.lora.pairs(model)`; a PEFT model works too.
        lr, betas, eps, weight_decay: as in AdamW. With `tangent`, lr is the step in full-weight space.
        gr: `none`: Adam on the factors, ΔA projected off V. `exact`: the gradient of A is projected as well;
            the product is safe if `A V = 0` at the start (`nullspace_start`) and B = 0 or safe. `tangent`:
            Adam on the full-weight gradient `GP` (keeps two dense m x n moments a matrix), the step projected
            again, then `tangent_update`.
        basis: input_key → V (n, k), the protected inputs; None or k = 0: nothing is protected (`P = I`).
        cap: with `tangent`, the largest `‖ΔA‖/‖A‖` of one step. ridge: see `tangent_update`.

    With `tangent`, dense gradients accumulate over backward passes until the next step or `zero_grad`: a
    Trainer that clears `.grad` by `model.zero_grad()` does not reach them. `torch.amp.GradScaler` works with
    all three; what others do to `.grad` (`unscale_`, clipping, DistributedDataParallel's mean) does not reach
    the dense gradients: they are in `gradients()`. Products are full float32 products, also where TF32 is
    allowed, or under autocast.

    Raises:
        UsageError: unknown `gr`. From `step` with `tangent`: `unscale_` was called, or one of several
            processes would step alone.
    """

    # torch's word for: GradScaler hands `step` its scale, which divides all of `gradients()`
    _step_supports_amp_scaling = True

    def __init__(
        self,
        pairs: Iterable[Pair],
        lr: float = 1e-3,
        *,
        gr: str = "exact",
        basis: Mapping[str, Tensor] | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        cap: float = 0.1,
        ridge: float = 0.0,
    ) -> None:
        if gr not in MODES:
            raise unknown("gr", gr, MODES)
        self.pairs = list(pairs)
        if frozen := [pair.name for pair in self.pairs if not (pair.A.requires_grad or pair.B.requires_grad)]:
            raise UsageError(
                f"the factors of {frozen[0]} are frozen and would not be trained: requires_grad_(True), or, "
                "for PEFT, PeftModel.from_pretrained(…, is_trainable=True)"
            )
        self.gr = gr
        params = [p for pair in self.pairs for p in (pair.A, pair.B)]
        defaults = dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, cap=cap, ridge=ridge)
        super().__init__(params, defaults)
        self._taps = {id(pair): DenseGradient(pair) for pair in self.pairs} if gr == "tangent" else {}
        self._handed_out = False  # whether somebody could sum the dense gradients of this step
        alike: dict[tuple, list[Pair]] = {}
        for pair in self.pairs:
            kind = (pair.A.shape, pair.B.shape, pair.scale, pair.A.device, pair.A.dtype)
            alike.setdefault(kind, []).append(pair)
        self._batches = list(alike.values())
        self.protect(basis)

    def protect(self, basis: Mapping[str, Tensor] | None) -> None:
        """Set the protected input subspaces (input_key → V). Raises UsageError for a key that no pair has."""
        if foreign := set(basis or ()) - {pair.input_key for pair in self.pairs}:
            raise UsageError(
                f"the basis of {min(foreign)!r} belongs to no adapted layer, so it would protect nothing; "
                f"the layers are {', '.join(dict.fromkeys(pair.input_key for pair in self.pairs))}"
            )
        bases = [[(basis or {}).get(pair.input_key) for pair in batch] for batch in self._batches]
        self._basis = [_stack_bases(found, batch[0].A) for found, batch in zip(bases, self._batches)]

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        self._forget()

    def _forget(self) -> None:
        """Let the dense gradients go: a step was made from them, or they are not wanted."""
        self._handed_out = False
        for tap in self._taps.values():
            tap.value = None

    def gradients(self) -> list[Tensor]:
        """What the next step is computed from, to be summed or averaged over processes.

        The factors' gradients (in which a GradScaler looks for overflow) and, with `tangent`, the dense ones.
        Those that are missing become zero.
        """
        factors, self._handed_out = gradients(self), True
        for pair in self.pairs if self._taps else ():
            if self._taps[id(pair)].value is None:
                self._taps[id(pair)].value = pair.A.new_zeros(len(pair.B), pair.A.shape[1])
        return factors + [tap.value for tap in self._taps.values()]

    def remove(self) -> None:
        """Let the model go: it does not collect dense gradients any more (only `tangent` has it do so)."""
        for tap in self._taps.values():
            tap.remove()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        try:
            self._step()
        finally:
            self._forget()
        return loss

    def _step(self) -> None:
        self._check_active()
        if getattr(self, "found_inf", None) is not None and self.found_inf.item():
            return  # the scaler lowers its scale
        if self._taps:
            self._check_dense()
        if getattr(self, "grad_scale", None) is not None:
            for gradient in self.gradients():
                gradient.div_(self.grad_scale)
        for batch, V in zip(self._batches, self._basis):
            if all(pair.A.grad is None and pair.B.grad is None for pair in batch):
                continue
            A = torch.stack([pair.A for pair in batch])  # (L, r, n)
            B = torch.stack([pair.B for pair in batch])  # (L, m, r)
            with full_float32(A.device):
                dA, dB = (self._tangent if self.gr == "tangent" else self._factors)(batch, A, B, V)
            torch._foreach_add_([pair.A for pair in batch], list(dA.unbind()))
            torch._foreach_add_([pair.B for pair in batch], list(dB.unbind()))

    def _check_active(self) -> None:
        for pair in self.pairs:
            if fault := inactive(pair.layer):
                raise UsageError(f"{pair.name}: {fault}; else this step would change nothing")

    def _check_dense(self) -> None:
        """Raise where something was done to the factors' gradients alone, which would go wrong in silence."""
        if getattr(self, "found_inf", None) is not None and getattr(self, "grad_scale", None) is None:
            raise UsageError(
                "gr=tangent: `unscale_` does not reach the dense gradients, which are still scaled; leave "
                "it to `scaler.step`, or use gr=exact"
            )
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        count = torch.distributed.get_world_size() if several else 1
        if count > 1 and not self._handed_out:
            raise UsageError(
                f"gr=tangent: each of these {count} processes would step by its own dense gradients; before "
                "the step, average them too (`for g in optimizer.gradients(): "
                f"torch.distributed.all_reduce(g); g /= {count}`), or use gr=exact"
            )

    def _factors(self, batch: list[Pair], A: Tensor, B: Tensor, V: Tensor | None) -> tuple[Tensor, Tensor]:
        group = self.param_groups[0]
        gA, gB = _stack_grads([pair.A for pair in batch]), _stack_grads([pair.B for pair in batch])
        if self.gr == "exact":
            gA = project_out(gA, V)
        state = self.state[batch[0].A]
        dA = project_out(self._adam(gA, *self._moments(state, "A", gA, gA.shape)), V)
        dB = self._adam(gB, *self._moments(state, "B", gB, gB.shape))
        decay = group["lr"] * group["weight_decay"]  # shrinking A keeps A V = 0
        return dA - decay * A, dB - decay * B

    def _tangent(self, batch: list[Pair], A: Tensor, B: Tensor, V: Tensor | None) -> tuple[Tensor, Tensor]:
        group = self.param_groups[0]
        found = [self._taps[id(pair)].value for pair in batch]
        like = next((G for G in found if G is not None), None)
        if like is None:
            raise JanusError(
                "gr=tangent has no dense gradient: make the optimiser before the forward pass of its first "
                "step, and call backward before each step"
            )
        m, v, t = self._moments(self.state[batch[0].A], "W", like, (len(batch), *like.shape))
        inverses, parts = pseudo_inverses(A, B, group["ridge"]), []
        size = max(1, DENSE // like.numel())
        for some in (slice(i, i + size) for i in range(0, len(batch), size)):
            present = [torch.zeros_like(like) if G is None else G for G in found[some]]
            G = torch.stack(present)  # (layers, m, n)
            basis = None if V is None else V[some]
            S = self._adam(project_out(G, basis), m[some], v[some], t)
            plus = inverses[0][some], inverses[1][some]
            parts.append(_nearest(S, basis, A[some], B[some], plus, batch[0].scale))
        dA, dB = (torch.cat(part) for part in zip(*parts))
        decay = group["lr"] * group["weight_decay"]
        return cap_step(dA, A, group["cap"]) - decay * A, dB - decay * B

    def _moments(
        self, state: dict[str, Any], which: str, like: Tensor, shape: Iterable[int]
    ) -> tuple[Tensor, Tensor, float]:
        """Adam's two moments (L, …) for the layers of a batch, and the number of the step they are for.

        They live in the state of the batch's first parameter.
        """
        if f"exp_avg_{which}" not in state:
            state[f"exp_avg_{which}"] = like.new_zeros(*shape)
            state[f"exp_avg_sq_{which}"] = like.new_zeros(*shape)
            state[f"step_{which}"] = torch.zeros(())
        state[f"step_{which}"] += 1
        return state[f"exp_avg_{which}"], state[f"exp_avg_sq_{which}"], state[f"step_{which}"].item()

    def _adam(self, grad: Tensor, m: Tensor, v: Tensor, t: float) -> Tensor:
        """Adam's step number t, of grad's shape; m and v take it in."""
        group = self.param_groups[0]
        b1, b2 = group["betas"]
        m.lerp_(grad, 1 - b1)
        v.mul_(b2).addcmul_(grad, grad, value=1 - b2)
        # the root of v's correction, taken out of the matrix: fewer passes over what may be large
        root = math.sqrt(1 - b2**t)
        size = v.sqrt().add_(group["eps"] * root)
        return torch.div(m, size, out=size).mul_(-group["lr"] * root / (1 - b1**t))


def _stack_grads(factors: list[Tensor]) -> Tensor:
    """Gradients of equal factors, stacked.

    A layer that the loss did not reach (a skipped block) has the gradient zero.
    """
    return torch.stack([torch.zeros_like(p) if p.grad is None else p.grad for p in factors])


def _stack_bases(bases: list[Tensor | None], like: Tensor) -> Tensor | None:
    """V of several layers as one (L, n, k) tensor; missing columns are zero and project nothing."""
    width = max((V.shape[1] for V in bases if V is not None), default=0)
    if width == 0:
        return None
    stacked = torch.zeros(len(bases), like.shape[1], width, device=like.device, dtype=like.dtype)
    for row, V in zip(stacked, bases):
        if V is not None:
            row[:, : V.shape[1]] = V
    return stacked
