"""LoRA on chosen rows of a timm ViT's linear layers: W = W0 + s·B·A, with W0 frozen (Hu et al. 2021, eq. 3).

A fused `qkv` of width 3d holds three matrices; LoRA on K and V is two factor pairs on its rows d:2d and
2d:3d. All that the rest of the package needs to know of a model is the list of its `Pair`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import JanusError, UsageError
from .models.hooks import Collector
from .models.lora_layer import LoRALinear as LoRALinear
from .models.lora_layer import Pair as Pair
from .models.lora_layer import dense_gradient as dense_gradient
from .models.lora_layer import kaiming_A as kaiming_A
from .models.peft_layers import is_peft, peft_pairs
from .models.vit import TARGETS as TARGETS
from .models.vit import bypasses, example_image, input_key, join, matrices, split, target_faults


def adapt(
    model: nn.Module,
    rank: int = 8,
    targets: Iterable[str] = ("k", "v"),
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    example: Tensor | None = None,
) -> nn.Module:
    """Put LoRA pairs on the `targets` of every block of a timm ViT, in place, and return it.

    Afterwards only the factors require gradients and the model is in eval mode (BatchNorm statistics do not
    move). B = 0, so the features do not change; A is drawn from `generator` (seed 0 if None).
    targets: any of q, k, v, proj, fc1, fc2 (of a SwiGLU MLP, fc1 is both of its input layers).
    example: an input batch for the check that every adapted layer is called; by default one black image.

    Raises UsageError for an unknown target, a rank that does not fit, a model without (known) attention, a
    model that is adapted already, and a block that bypasses its layer's forward (it would train nothing,
    silently).
    """
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    for fault in target_faults(targets):
        raise UsageError(fault)
    if any(isinstance(m, LoRALinear) or is_peft(m) for m in model.modules()):
        raise UsageError("the model is adapted already: janus.unadapt(model) first, or create a fresh one")
    plan = list(matrices(model, targets))
    ranks = {}
    for path, linear, blocks in plan:
        for rows in blocks.values():
            largest = min(rows.stop - rows.start, linear.in_features)
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
                raise UsageError(
                    f"rank {rank} does not fit {path}: choose a whole number from 1 to {largest}"
                )
        ranks[path] = {name: (rows, rank) for name, rows in blocks.items()}
    return install(model, ranks, scale, generator, example)


def install(
    model: nn.Module,
    blocks: dict[str, dict[str, tuple[slice, int]]],
    scale: float | dict[str, float],
    generator: torch.Generator | None = None,
    example: Tensor | None = None,
) -> nn.Module:
    """Replace the linear layers named in `blocks` (path -> block -> rows, rank) by LoRALinear.

    It is what `adapt` ends with. scale: one for all, or by path.
    """
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    model.requires_grad_(False).eval()
    for path, layer_blocks in blocks.items():
        parent, leaf = split(path)
        owner = model.get_submodule(parent)
        s = scale[path] if isinstance(scale, dict) else scale
        setattr(owner, leaf, LoRALinear(getattr(owner, leaf), layer_blocks, s, generator).eval())
        if bypasses(owner, leaf):
            owner.qkv_bias_separate = True
            owner.qkv_bias_was_fused = True
    try:
        _check_called(model, example)
    except Exception:
        unadapt(model)
        raise
    return model


def pairs(model: nn.Module) -> list[Pair]:
    """The adapted matrices in forward order, K before V; empty for a plain model.

    Also reads a PEFT-wrapped model: one pair per LoRA linear layer and active adapter, on all rows. Raises
    UsageError for PEFT layers whose weight is not W0 + s·B·A (DoRA), that are no linear layers, or whose
    factors have no effect (merged, disabled).
    """
    return [pair for _, pair in places(model)]


def places(model: nn.Module) -> Iterator[tuple[str, Pair]]:
    """(path of the layer, pair) of each of `pairs(model)`."""
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            parent = split(path)[0]
            for name, rows in module.blocks.items():
                A, B = getattr(module, f"A_{name}"), getattr(module, f"B_{name}")
                yield path, Pair(join(parent, name), module, input_key(path), A, B, rows, module.scale, name)
        elif is_peft(module):
            yield from ((path, pair) for pair in peft_pairs(model, path, module))


def adapted(model: nn.Module) -> list[Pair]:
    """The pairs of an adapted model. Raises UsageError for a plain one."""
    found = pairs(model)
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no LoRA factors: janus.adapt(model) first, or PEFT's get_peft_model"
        )
    return found


def watch_gradient(pair: Pair, collect: Callable[[Tensor], None]) -> Callable[[], None]:
    """From now on each backward pass hands `collect` the dense gradient (m, n) of the pair's matrix.

    What is returned ends that. janus's own layer computes the dense gradient instead of the factors', which
    follow from it. Any other layer (PEFT's) computes its own as ever, and the dense one is taken beside them
    by hooks.
    """
    if isinstance(pair.layer, LoRALinear):
        watchers = pair.layer.watchers[pair.block]
        watchers.append(collect)
        return lambda: watchers.remove(collect)

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            x = inputs[0].detach().flatten(0, -2)  # (tokens, n)
            output.register_hook(
                lambda g: collect(dense_gradient(g[..., pair.rows].flatten(0, -2), x, pair.A.dtype))
            )

    return pair.layer.register_forward_hook(Collector(hook)).remove


def merge(model: nn.Module) -> nn.Module:
    """W0 ← W0 + s·B·A and B ← 0 in every adapted layer, in place: same function, room for a new task.

    A is kept. In a PEFT model, too (one adapter a layer). There the factors alone no longer hold what was
    learned, so PEFT's `save_pretrained` is refused from then on: `janus.export_peft` writes an adapter with
    all of it. What is merged into half precision is rounded to it; load such a model in float32.

    Raises UsageError for a model that is not adapted, quantised weights, several adapters in one layer.
    """
    found = adapted(model)
    for pair in found:
        pair.check_mergeable()
    for pair in found:
        pair.merge()
    return model


@torch.no_grad()
def reset(target: nn.Module | Pair, generator: torch.Generator) -> None:
    """Fresh factors for one pair or a whole model.

    A is Kaiming-uniform from `generator`, B = 0 (merge first to keep).
    """
    for pair in [target] if isinstance(target, Pair) else adapted(target):
        r, n = pair.A.shape
        pair.A.copy_(kaiming_A(r, n, generator, pair.A.device, pair.A.dtype))
        pair.B.zero_()


@contextmanager
def subtracted(pairs: Iterable[Pair]) -> Iterator[None]:
    """Inside, a matrix that is W = W0 + Σ B_i A_i (merged) is `W̃ = W0 − Σ B_i A_i`.

    Afterwards W is W again, bit for bit.
    """
    with torch.no_grad():
        merged = [(pair, pair.weight.clone()) for pair in pairs if pair.original is not None]
        for pair, W in merged:
            pair.weight.copy_(2 * pair.original - W)
        try:
            yield
        finally:
            for pair, W in merged:
                pair.weight.copy_(W)


def set_factors(pair: Pair, A: Tensor, B: Tensor) -> None:
    """Put A (r, n) and B (m, r) of any rank r in the place of a pair's values.

    The parameters remain the same objects.
    """
    pair.A.data, pair.B.data = A.detach().to(pair.A), B.detach().to(pair.B)


def unadapt(model: nn.Module) -> nn.Module:
    """Back to the plain timm model, in place.

    Every adapted layer becomes an nn.Linear with the effective weight. Raises UsageError for a PEFT model.
    """
    if any(is_peft(module) for module in model.modules()):
        raise UsageError("PEFT has wrapped this model: its own model.merge_and_unload() gives the plain one")
    for path, module in _layers(model).items():
        parent, leaf = split(path)
        owner = model.get_submodule(parent)
        setattr(owner, leaf, module.to_linear())
        if getattr(owner, "qkv_bias_was_fused", False):
            owner.qkv_bias_separate = False
            del owner.qkv_bias_was_fused
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    """What adaptation has changed, for a checkpoint: the factors and, once merged, the frozen rows.

    Tensors by name; of a PEFT model those of the active adapters.
    """
    tensors = {}
    for path, pair in places(model):
        tensors |= {f"{path}.A_{pair.block}": pair.A.detach(), f"{path}.B_{pair.block}": pair.B.detach()}
        if pair.original is not None:
            tensors[f"{path}.W_{pair.block}"] = pair.weight
    return tensors


@torch.no_grad()
def load_state(model: nn.Module, tensors: dict[str, Tensor], any_rank: bool = False) -> None:
    """Put what `state` returned into an adapted model (same backbone, rank and targets).

    any_rank: take over the saved ranks, too (see `set_factors`).

    Raises JanusError naming tensors that are missing, foreign or of another shape; the model is then
    unchanged.
    """
    todo: list[tuple[Tensor, Tensor]] = []
    rows: list[tuple[Pair, Tensor | None]] = []
    rest = dict(tensors)
    for path, pair in places(model):
        for key, own in ((f"{path}.A_{pair.block}", pair.A), (f"{path}.B_{pair.block}", pair.B)):
            value = rest.pop(key, None)
            r = slice(1, None) if own is pair.A else slice(0, 1)  # where the rank does not stand
            if value is None or (value.shape[r] != own.shape[r] if any_rank else value.shape != own.shape):
                raise JanusError(f"{key} is missing or of another shape: saved from another adaptation?")
            todo.append((own, value))
        value = rest.pop(f"{path}.W_{pair.block}", None)
        if value is not None and value.shape != pair.weight.shape:
            raise JanusError(f"{path}.W_{pair.block} is of another shape: saved from another backbone?")
        rows.append((pair, value))
    if rest:
        raise JanusError(
            f"{next(iter(rest))} belongs to no adapted layer here: saved from another adaptation?"
        )
    for pair, value in rows:
        if value is None:
            pair.undo_merges()
            continue
        pair.keep_original()
        pair.weight.copy_(value)
    for own, value in todo:
        own.data = value.to(own, copy=True)


def _layers(model: nn.Module) -> dict[str, LoRALinear]:
    return {path: m for path, m in model.named_modules() if isinstance(m, LoRALinear)}


@torch.no_grad()
def _check_called(model: nn.Module, example: Tensor | None) -> None:
    """One forward pass in which every adapted layer must run: a bypassed one would silently learn nothing."""
    layers = _layers(model)
    called: set[str] = set()
    handles = [m.register_forward_hook(lambda *_, path=path: called.add(path)) for path, m in layers.items()]
    try:
        model(example_image(model) if example is None else example)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [path for path in layers if path not in called]:
        owner = type(model.get_submodule(split(missing[0])[0]))
        raise UsageError(
            f"{owner.__module__}.{owner.__name__} uses the weight of {missing[0]} without calling the "
            "layer: LoRA would have no effect there; choose another backbone or other targets"
        )
