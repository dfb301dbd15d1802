"""Protect what a model can do while it learns something new.

On any model that janus or PEFT has adapted, in any training loop. `estimate_basis` finds from your own data
what must stay (the input subspace of each adapted layer), and `create_rectified_optimizer` makes the
optimiser whose steps stay off it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import JanusError, UsageError
from .history import SecondMoments, extend_basis
from .linalg import precise
from .lora import adapted, merge
from .models.lora_layer import Pair
from .rectify import RectifiedAdam, nullspace_start
from .runtime import checkpoint

Forward = Callable[[nn.Module, Any], Any]
SAFE = 1e-5  # ‖A V‖ / ‖A‖ up to which A V counts as zero: float32 rounding leaves about 1e-7


class Basis(dict[str, Tensor]):
    """The inputs that are protected: input_key → V (n, k), float32, with orthonormal columns."""

    def save(self, file: str | Path) -> None:
        """Write a safetensors file. Raises JanusError: no space, no rights."""
        checkpoint.save(Path(file), {"basis": dict(self)})

    @classmethod
    def load(cls, file: str | Path) -> Basis:
        """Read what `save` wrote. Raises JanusError: missing, damaged, or something else."""
        return cls(_part(file, "basis"))


@torch.no_grad()
def estimate_basis(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    energy: float = 0.95,
    past: Mapping[str, Tensor] | None = None,
    forward: Forward | None = None,
) -> Basis:
    """The directions in which your data use an adapted model's layers.

    They are what an update must stay off, so that the outputs stay. One forward pass a batch, in eval mode;
    no label is needed, and no sample is kept (Online Estimation, `janus.history`).

    Args:
        model: from `janus.adapt`, or wrapped by PEFT with LoRA.
        batches: what the model takes, batch by batch: a tensor; a tuple or list, whose first element it is (a
            DataLoader's); a dict, given as keyword arguments without its labels. Where its `attention_mask`
            (b, tokens) is 0, tokens do not count: padding, on either side.
        energy: ε in [0, 1]: the share of the inputs' energy that V holds. More is safer and leaves less room
            to learn.
        past: a basis to extend, of other data that must stay too.
        forward: `forward(model, batch)` instead, where a batch is none of these; it gets the batch as it is.

    Returns:
        input_key → V (n, k). At least 2r of the n directions stay free; a layer that needs more is named in a
        warning.

    Raises:
        UsageError: a model without LoRA factors, an energy outside [0, 1], no batch, a layer that is not
            used, a `past` of other layers.
        JanusError: a layer's inputs are not finite, layers that should share an input do not, or a layer
            sees inputs to which the attention mask does not belong.
    """
    if not 0.0 <= energy <= 1.0:
        raise UsageError(f"energy is a share in [0, 1], not {energy}")
    pairs = adapted(model)
    basis = Basis({pair.input_key: torch.zeros(pair.A.shape[1], 0, device=pair.A.device) for pair in pairs})
    _begin_with(basis, past or {})
    moments = _moments(model, pairs, batches, forward)
    for key, V in basis.items():
        if not moments.count[key]:
            raise UsageError(
                f"{key} saw no input: no batch came, or the layer is not used in this forward pass"
            )
        if not moments.sum[key].isfinite().all():
            raise JanusError(
                f"the inputs of {key} are not finite: look for NaN in the data, or load the model in float32"
            )
        most = max(0, len(V) - 2 * max(len(pair.A) for pair in pairs if pair.input_key == key))
        basis[key] = extend_basis(V, moments.mean(key), energy, max_rank=most).float()
        if basis[key].shape[1] >= most:
            warnings.warn(
                f"{key}: {basis[key].shape[1]} of {len(V)} directions are protected, the most there may be, "
                f"so that some stay free to learn in; energy={energy:g} may ask for more",
                stacklevel=2,
            )
    return basis


def _begin_with(basis: Basis, past: Mapping[str, Tensor]) -> None:
    """Put a basis of other data in the place of the empty one. UsageError: it is of other layers."""
    for key, V in past.items():
        if key not in basis or len(V) != len(basis[key]):
            raise UsageError(
                f"past has {key!r} {tuple(V.shape)}, which no adapted layer of this model has: "
                "from another model?"
            )
        basis[key] = V.to(basis[key])


def _moments(
    model: nn.Module, pairs: list[Pair], batches: Iterable[Any], forward: Forward | None
) -> SecondMoments:
    """The second moments of the layers' inputs over all batches."""
    moments, training = SecondMoments(pairs), [module for module in model.modules() if module.training]
    moments.active = True
    model.eval()
    try:
        for batch in batches:
            mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
            moments.mask = None if mask is None else mask.bool()
            if forward is not None:
                forward(model, batch)
            else:
                _forward(model, _to(batch, pairs[0].A.device))
    finally:
        moments.remove()
        for module in training:
            module.training = True
    return moments


def create_rectified_optimizer(
    model: nn.Module,
    *,
    basis: Mapping[str, Tensor] | None,
    lr: float,
    gr: str = "exact",
    weight_decay: float = 0.0,
    head_lr: float | None = None,
) -> RectifiedOptimizer:
    """One optimiser for all: LoRA factors by Gradient Rectification, all else trainable (a head) by AdamW.

    It stands beside `peft.optimizers.create_loraplus_optimizer`, works on models of PEFT and of
    `janus.adapt`, and goes into a `transformers.Trainer(optimizers=(optimizer, None))`.

    With `exact`, ΔW V = 0 needs A V = 0 from the start. Where that does not hold yet, what the factors have
    learned is merged into the weights, B is set to 0 and A moved off V: the model computes what it computed
    before. Where it holds, nothing is changed, so a model that was trained so and loaded again can go on.

    Args:
        model: with LoRA factors that require gradients.
        basis: what is protected, from `estimate_basis`; None: nothing.
        lr: of the factors. head_lr: of all other parameters that require gradients; None: lr. weight_decay:
            of both.
        gr: `exact`, `tangent` or `none` (`janus.rectify.RectifiedAdam`).

    Raises:
        UsageError: no factors, frozen or inactive ones, an unknown `gr`, a basis of other layers, weights
            that cannot be merged; with `exact`, factors in half precision.
        JanusError: V leaves no direction to learn in.
    """
    pairs = adapted(model)
    factors = {id(p) for pair in pairs for p in (pair.A, pair.B)}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in factors]
    options = {"gr": gr, "basis": basis, "weight_decay": weight_decay, "head_lr": head_lr}
    if gr == "exact" and basis:
        _check_precision(pairs)
    optimizer = RectifiedOptimizer(pairs, others, lr, **options)
    if gr == "exact" and basis:
        _start_off(model, pairs, basis)
    return optimizer


def _check_precision(pairs: list[Pair]) -> None:
    """Raise UsageError where A V = 0 could not be kept."""
    for pair in pairs:
        if pair.A.dtype.itemsize < 4:
            raise UsageError(
                f"the factors of {pair.name} are {str(pair.A.dtype).removeprefix('torch.')}, in which "
                "A V = 0 cannot be kept: leave them in float32 (PEFT does, by autocast_adapter_dtype=True); "
                "the model's own weights may be in half precision"
            )


@torch.no_grad()
def _start_off(model: nn.Module, pairs: list[Pair], basis: Mapping[str, Tensor]) -> None:
    """A V = 0 and B = 0, and the same function. Nothing is changed where A V = 0 holds already."""
    starts = [nullspace_start(pair.A, basis.get(pair.input_key)) for pair in pairs]
    if all(_reach(pair.A, basis.get(pair.input_key)) <= SAFE for pair in pairs):
        return
    if any(pair.B.any() for pair in pairs):  # else nothing was learned, and a quantised model can be kept
        merge(model)
    for pair, start in zip(pairs, starts):
        pair.A.copy_(start)


def _reach(A: Tensor, V: Tensor | None) -> float:
    """‖A V‖ / ‖A‖."""
    return 0.0 if V is None else ((precise(A) @ precise(V.to(A.device))).norm() / precise(A).norm()).item()


class RectifiedOptimizer(RectifiedAdam):
    """`RectifiedAdam` on the factors (parameter group 0), AdamW on others (group 1), as one optimiser.

    Args:
        pairs, lr, options: see `RectifiedAdam`.
        others: parameters beside the factors, stepped by AdamW at `head_lr` (None: lr).
    """

    def __init__(
        self,
        pairs: Iterable[Pair],
        others: Iterable[nn.Parameter],
        lr: float,
        *,
        head_lr: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(pairs, lr, **options)
        others, c = list(others), self.param_groups[0]
        self._warned = False
        self._rest: torch.optim.AdamW | None = None
        if others:
            same = {name: c[name] for name in ("betas", "eps", "weight_decay")}
            self._rest = torch.optim.AdamW(others, lr=lr if head_lr is None else head_lr, **same)
            self.add_param_group(self._rest.param_groups[0])
            self._share()

    def _share(self) -> None:
        """AdamW keeps its state and its settings in ours: schedulers and checkpoints find one optimiser."""
        if self._rest is not None:
            self._rest.state, self._rest.param_groups = self.state, self.param_groups[1:]

    def _step(self) -> None:
        if not self._warned and all(p.grad is None for pair in self.pairs for p in (pair.A, pair.B)):
            self._warned = True
            warnings.warn(
                "no gradient has reached the factors, so this step leaves them as they are: was backward "
                "called, and does the loss go through the adapted layers?",
                stacklevel=4,
            )
        super()._step()
        overflow = getattr(self, "found_inf", None)
        if self._rest is not None and not (overflow is not None and overflow.item()):
            self._rest.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def save(self, file: str | Path) -> None:
        """Write the state as a safetensors file. Raises JanusError: no space, no rights."""
        checkpoint.save(Path(file), {"optimizer": self.state_dict(), "belongs_to": self._belongs_to()})

    def load(self, file: str | Path) -> None:
        """Go on from what `save` wrote, on the same parameters.

        Raises JanusError: missing, damaged, of another optimiser.
        """
        theirs, ours = _part(file, "belongs_to"), self._belongs_to()
        if theirs != ours:
            what = next(key for key in ours if ours[key] != theirs.get(key))
            raise JanusError(
                f"{file} is the state of another optimiser: its {what} are not those of this one"
            )
        self.load_state_dict(_part(file, "optimizer"))

    def _belongs_to(self) -> dict[str, Any]:
        return {
            "gr": self.gr,
            "factors": [[pair.name, *pair.A.shape, *pair.B.shape] for pair in self.pairs],
            "other parameters": [list(p.shape) for group in self.param_groups[1:] for p in group["params"]],
        }


def _part(file: str | Path, name: str) -> dict[str, Any]:
    found = checkpoint.load(Path(file))
    if name not in found:
        raise JanusError(f"{file} holds no {name}; it holds {', '.join(found) or 'nothing'}")
    return found[name]


def _forward(model: nn.Module, batch: Any) -> None:
    if isinstance(batch, Mapping):
        model(**{key: value for key, value in batch.items() if key not in ("labels", "label", "label_ids")})
    else:
        model(batch)


def _to(batch: Any, device: torch.device) -> Any:
    """What the model takes of a batch, on its device."""
    if isinstance(batch, Mapping):
        return {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    if isinstance(batch, (tuple, list)) and batch:
        batch = batch[0]
    return batch.to(device) if isinstance(batch, Tensor) else batch
