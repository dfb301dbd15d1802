"""Online Estimation: the input subspace of past tasks, estimated while training.

Old outputs stay unchanged when a later displacement satisfies `ΔW x = 0` for every old input x of the layer.
The inputs are not kept. A layer keeps the sum of `x xᵀ` over the tokens it sees in the forward passes of a
task's last epoch (n x n numbers, whatever the number of images); when the task ends, the leading eigenvectors
of what V does not hold yet join the orthonormal basis V. GPM (Saha et al., ICLR 2021) finds the same kind of
basis from an extra pass over the data; Janus-LoRA (Chen et al., ICML 2026, "Online Estimation") takes it from
passes that are made anyway.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .errors import JanusError
from .linalg import precise, project_out
from .models.hooks import Collector
from .models.lora_layer import Pair
from .runtime.distributed import Processes
from .runtime.timing import Stopwatch

# `x xᵀ` is symmetric: in so many strips of rows, each from the diagonal on, it takes 10/16 of the arithmetic
STRIPS = 4


class SecondMoments:
    """Sums `Σ x xᵀ` and token counts of layer inputs, taken by forward hooks while `active`.

    Of each sum there is what lies on and above the diagonal.

    Args:
        pairs: adapted matrices; those that share an input (`input_key`) are watched once, and it is checked
            that they do.

    Every token counts (CLS included), uncentred. Sums are float32 whatever the autocast type, and they add:
    over batches, epochs and devices. Nothing that could show a sample is kept. `watch` times the hooks.
    """

    def __init__(self, pairs: Iterable[Pair]) -> None:
        pairs = list(pairs)
        self.active = False
        self.watch = Stopwatch(pairs[0].A.device if pairs else torch.device("cpu"))
        self.sum: dict[str, Tensor] = {}
        self.count: dict[str, int] = {}
        self.mask: Tensor | None = None  # (batch, tokens) bool: those that count; None: all of them
        self._latest: dict[str, Tensor] = {}  # an input that other layers must be fed with, too
        self._hooks = []
        watched: dict[str, dict[nn.Module, Pair]] = {}
        for pair in pairs:
            watched.setdefault(pair.input_key, {}).setdefault(pair.layer, pair)
        for key, layers in watched.items():
            (first, *others), A = layers, next(iter(layers.values())).A
            self.sum[key], self.count[key] = torch.zeros(A.shape[1], A.shape[1], device=A.device), 0
            self._hooks.append(first.register_forward_pre_hook(Collector(self._watch(key, bool(others)))))
            for layer in others:
                check = self._check(key, layer is others[-1])
                self._hooks.append(layer.register_forward_pre_hook(Collector(check)))

    def _watch(self, key: str, shared: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if not self.active:
                return
            if shared:
                self._latest[key] = inputs[0]
            with self.watch.running(), torch.no_grad(), torch.autocast(inputs[0].device.type, enabled=False):
                x = self._counted(inputs[0].detach(), key).float()  # (tokens, n)
                total = self.sum[key]  # (n, n)
                strip = -(-len(total) // STRIPS)
                for i in range(0, len(total), strip):
                    total[i : i + strip, i:].addmm_(x[:, i : i + strip].T, x[:, i:])
            self.count[key] += len(x)

        return hook

    def _counted(self, x: Tensor, key: str) -> Tensor:
        """(tokens, n): all of x, (…, n), or those that the mask names.

        A layer that sees one vector a sample, (batch, n), has no tokens to leave out.
        """
        rows, mask = x.flatten(0, -2), self.mask
        if mask is None or x.shape[:-1] == mask.shape[:1]:
            return rows
        if x.shape[:-1] not in (mask.shape, (mask.numel(),)):
            raise JanusError(
                f"{key} sees inputs {tuple(x.shape)}, to which the attention mask {tuple(mask.shape)} does "
                "not belong, so padding cannot be left out: give batches without padding and without a mask"
            )
        return rows[mask.flatten().to(x.device)]

    def _check(self, key: str, last: bool) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        """A hook for layers that by their names share the first one's input: a name proves nothing."""

        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen = self._latest.pop(key, None) if last else self._latest.get(key)
            if not self.active or seen is None:
                return
            if inputs[0] is seen or inputs[0].data_ptr() == seen.data_ptr():
                return
            if inputs[0].shape != seen.shape or not torch.equal(inputs[0], seen):
                raise JanusError(
                    f"{key}: its layers are fed by different tensors, and one basis cannot protect them "
                    "all; adapt only layers that share an input there, such as K and V"
                )

        return hook

    def mean(self, key: str) -> Tensor:
        """`C = E[x xᵀ]` (n, n) of one input, in float64 where the device has it."""
        upper = precise(self.sum[key]).triu()
        return (upper + upper.triu(1).mT) / max(1, self.count[key])

    def reset(self) -> None:
        """Forget everything: called when a new task begins."""
        for key in self.sum:
            self.sum[key].zero_()
            self.count[key] = 0

    @contextmanager
    def over(self, processes: Processes) -> Iterator[None]:
        """Inside, every process holds the sums over all of them.

        Afterwards the main one alone does, so that nothing counts twice.
        """
        if processes.count > 1:
            counts = torch.tensor(list(self.count.values()), device=next(iter(self.sum.values())).device)
            for sums in (counts, *self.sum.values()):  # one by one: no second copy of all
                processes.sum([sums])
            self.count = dict(zip(self.count, counts.tolist()))
        yield
        if not processes.main:
            self.reset()

    def remove(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def state_dict(self) -> dict[str, Any]:
        return {"sum": self.sum, "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for key, value in state["sum"].items():
            self.sum[key].copy_(value)
        self.count.update(state["count"])


def extend_basis(basis: Tensor, C: Tensor, energy: float, max_rank: int | None = None) -> Tensor:
    """Add to an orthonormal basis the directions that a new second moment needs.

    Eigenvectors of `P C P`, `P = I − VVᵀ`, join V, largest eigenvalue first, until
    `(tr(VᵀCV) + Σλ) / tr C ≥ energy`. (GPM's rule: λ of the covariance = σ² of the inputs.)

    Args:
        basis: V, (n, k) with orthonormal columns; k = 0 is allowed.
        C: (n, n) symmetric positive semi-definite, `E[x xᵀ]` of the new task.
        energy: ε in [0, 1], the share of the new inputs' energy that span(V) must hold.
        max_rank: the largest number of columns allowed (room that must stay free for later tasks).

    Returns:
        (n, k′) float64 (float32 on mps), k′ ≥ k; its first k columns are V.

    Raises:
        ValueError: energy outside [0, 1] or shapes that do not fit.
    """
    n = C.shape[0]
    if not 0.0 <= energy <= 1.0:
        raise ValueError(f"energy is a share in [0, 1], got {energy}")
    if C.shape != (n, n) or basis.shape[0] != n:
        raise ValueError(f"basis {tuple(basis.shape)} and second moment {tuple(C.shape)} do not fit")
    V, C = precise(basis), precise(C)
    total = C.trace()
    room = (n if max_rank is None else min(n, max_rank)) - V.shape[1]
    if total <= 0 or room <= 0:
        return V
    held = (V * (C @ V)).sum() / total  # tr(VᵀCV) / tr C
    if held >= energy - 1e-12:  # so that rounding adds nothing at ε = 0, nor at ε = 1
        return V
    PCP = project_out(project_out(C, V).T, V)
    values, vectors = torch.linalg.eigh((PCP + PCP.T) / 2)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)  # largest first
    reached = held + values.cumsum(0) / total  # (n,)
    wanted = int((reached < energy - 1e-12).sum()) + 1
    wanted = min(wanted, room, int((values > 1e-12 * total).sum()))
    new = vectors[:, :wanted]
    for _ in range(2):  # twice is enough (Kahan): orthonormal to rounding even after many tasks
        new = torch.linalg.qr(new - V @ (V.T @ new))[0] if wanted else new
    return torch.cat([V, new], dim=1)


class History:
    """What is known of past tasks: a basis V of each layer's inputs, their mean second moment (diagnosis).

    Args:
        pairs: adapted matrices; the layers of one `input_key` share a basis.
        rank: LoRA's rank r. At least 2r directions stay free in every layer, or nothing more could be
            learned; a layer that runs out is named once in a warning.
        power: what energy is a sum of: λ of the second moment (1, GPM's rule) or λ² (2, DualGPM's).
    """

    def __init__(self, pairs: Iterable[Pair], rank: int, power: int = 1) -> None:
        self.rank, self.power = rank, power
        self.tasks = 0
        self.basis: dict[str, Tensor] = {}  # float32, (n, k): used in every step
        self.mean: dict[str, Tensor] = {}  # float64, (n, n): C̄ of tasks < t
        self.full: set[str] = set()
        self.protects = True  # False: it is kept for diagnosis alone, and no layer is named
        for pair in pairs:
            n, device = pair.A.shape[1], pair.A.device
            self.basis.setdefault(pair.input_key, torch.zeros(n, 0, device=device))
            self.mean.setdefault(pair.input_key, precise(torch.zeros(n, n, device=device)))

    def end_task(self, moments: SecondMoments, energy: float) -> None:
        """Let the task just trained join the protected past."""
        for key, V in self.basis.items():
            C = moments.mean(key)
            most = max(0, len(C) - 2 * self.rank)
            V = extend_basis(V, torch.linalg.matrix_power(C, self.power), energy, max_rank=most)
            if self.protects and V.shape[1] >= most and key not in self.full:
                self.full.add(key)
                warnings.warn(
                    f"{key}: the null space is used up ({V.shape[1]} of {len(C)} directions are protected, "
                    f"2r = {2 * self.rank} stay free); later tasks are protected only in part",
                    stacklevel=2,
                )
            self.basis[key] = V.float()
            self.mean[key] = (self.mean[key] * self.tasks + C) / (self.tasks + 1)
        self.tasks += 1

    def ranks(self) -> dict[str, int]:
        """Columns of V per layer input."""
        return {key: V.shape[1] for key, V in self.basis.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"basis": self.basis, "mean": self.mean, "tasks": self.tasks, "full": sorted(self.full)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        device = {key: V.device for key, V in self.basis.items()}
        self.basis = {key: V.to(device[key]) for key, V in state["basis"].items()}
        self.mean = {key: M.to(device[key]) for key, M in state["mean"].items()}
        self.tasks, self.full = state["tasks"], set(state["full"])
