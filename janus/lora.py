"""LoRA on chosen rows of a timm ViT's linear layers: W = W0 + s·B·A, with W0 frozen (Hu et al. 2021, eq. 3).

A fused `qkv` of width 3d holds three matrices; LoRA on K and V is two factor pairs on its rows d:2d and 2d:3d. All that
the rest of the package needs to know of a model is the list of its `Pair`s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .errors import JanusError, UsageError
from .lora_layer import LoRALinear as LoRALinear
from .lora_layer import Pair as Pair
from .lora_layer import dense_gradient as dense_gradient
from .lora_layer import kaiming_A as kaiming_A
from .vit import TARGETS as TARGETS
from .vit import bypasses, example_image, input_key, join, matrices, split, target_faults


def adapt(
    model: nn.Module,
    rank: int = 8,
    targets: Iterable[str] = ("k", "v"),
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    example: Tensor | None = None,
) -> nn.Module:
    """Put LoRA pairs on the `targets` of every block of a timm ViT, in place, and return it.

    Afterwards only the factors require gradients and the model is in eval mode (BatchNorm statistics do not move).
    B = 0, so the features do not change; A is drawn from `generator` (seed 0 if None).
    targets: any of q, k, v, proj, fc1, fc2 (of a SwiGLU MLP, fc1 is both of its input layers).
    example: an input batch for the check that every adapted layer is really called; by default one black image.

    Raises UsageError for an unknown target, a rank that does not fit, a model without (known) attention, a model that
    is adapted already, and a block that bypasses its layer's forward (it would train nothing, silently).
    """
    targets = (targets,) if isinstance(targets, str) else tuple(targets)
    for fault in target_faults(targets):
        raise UsageError(fault)
    if any(isinstance(m, LoRALinear) or _is_peft(m) for m in model.modules()):
        raise UsageError("the model is adapted already: janus.unadapt(model) first, or create a fresh one")
    plan = list(matrices(model, targets))
    ranks = {}
    for path, linear, blocks in plan:
        for rows in blocks.values():
            largest = min(rows.stop - rows.start, linear.in_features)
            if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= largest:
                raise UsageError(f"rank {rank} does not fit {path}: choose a whole number from 1 to {largest}")
        ranks[path] = {name: (rows, rank) for name, rows in blocks.items()}
    return install(model, ranks, scale, generator, example)


def install(
    model: nn.Module,
    blocks: dict[str, dict[str, tuple[slice, int]]],
    scale: float | dict[str, float],
    generator: torch.Generator | None = None,
    example: Tensor | None = None,
) -> nn.Module:
    """Replace the linear layers named in `blocks` (path -> block -> rows, rank) by LoRALinear; what `adapt` ends with.

    scale: one for all, or by path.
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

    Also reads a PEFT-wrapped model: one pair per LoRA linear layer and active adapter, on all rows, with its own
    input key. Raises UsageError for PEFT variants whose weight is not W0 + s·B·A (DoRA) or that are no linear layers.
    """
    found = []
    for path, module in model.named_modules():
        if isinstance(module, LoRALinear):
            parent = split(path)[0]
            for name, rows in module.blocks.items():
                A, B = getattr(module, f"A_{name}"), getattr(module, f"B_{name}")
                found.append(Pair(join(parent, name), module, input_key(path), A, B, rows, module.scale))
        elif _is_peft(module):
            found += _peft_pairs(model, path, module)
    return found


def watch_gradient(pair: Pair, collect: Callable[[Tensor], None]) -> Callable[[], None]:
    """From now on each backward pass hands `collect` the dense gradient (m, n) of the pair's matrix; what is returned ends that.

    janus's own layer computes it instead of the factors' gradients, which follow from it. Any other layer (PEFT's) computes its own
    as ever, and the dense one is taken beside them by hooks.
    """
    if isinstance(pair.layer, LoRALinear):
        watchers = pair.layer.watchers[split(pair.name)[1]]
        watchers.append(collect)
        return lambda: watchers.remove(collect)

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if output.requires_grad:
            x = inputs[0].detach().flatten(0, -2)  # (tokens, n)
            output.register_hook(lambda g: collect(dense_gradient(g[..., pair.rows].flatten(0, -2), x, pair.A.dtype)))

    return pair.layer.register_forward_hook(hook).remove


def merge(model: nn.Module) -> nn.Module:
    """W0 ← W0 + s·B·A and B ← 0 in every adapted layer, in place: same function, room for a new task. A is kept."""
    for module in _layers(model).values():
        module.merge()
    return model


@torch.no_grad()
def reset(target: nn.Module | Pair, generator: torch.Generator) -> None:
    """Fresh factors for one pair or a whole model: A Kaiming-uniform from `generator`, B = 0 (merge first to keep)."""
    for pair in [target] if isinstance(target, Pair) else pairs(target):
        r, n = pair.A.shape
        pair.A.copy_(kaiming_A(r, n, generator, pair.A.device, pair.A.dtype))
        pair.B.zero_()


@contextmanager
def subtracted(pairs: Iterable[Pair]) -> Iterator[None]:
    """Inside, a matrix that is W = W0 + Σ B_i A_i (merged) is `W̃ = W0 − Σ B_i A_i`. Afterwards W is W again, bit for bit."""
    with torch.no_grad():
        layers = {pair.layer: pair.layer.weight.clone() for pair in pairs}
        for layer, W in layers.items():
            for name, rows in layer.blocks.items():
                layer.weight[rows] = 2 * getattr(layer, f"W0_{name}") - W[rows]
        try:
            yield
        finally:
            for layer, W in layers.items():
                layer.weight.copy_(W)


def set_factors(pair: Pair, A: Tensor, B: Tensor) -> None:
    """Put A (r, n) and B (m, r) of any rank r in the place of a pair's values; the parameters remain the same objects."""
    pair.A.data, pair.B.data = A.detach().to(pair.A), B.detach().to(pair.B)


def unadapt(model: nn.Module) -> nn.Module:
    """Back to the plain timm model, in place: every adapted layer becomes an nn.Linear with the effective weight."""
    for path, module in _layers(model).items():
        parent, leaf = split(path)
        owner = model.get_submodule(parent)
        setattr(owner, leaf, module.to_linear())
        if getattr(owner, "qkv_bias_was_fused", False):
            owner.qkv_bias_separate = False
            del owner.qkv_bias_was_fused
    return model


def state(model: nn.Module) -> dict[str, Tensor]:
    """What adaptation has changed, for a checkpoint: the factors and, once merged, the frozen rows. Tensors by name."""
    tensors = {}
    for path, module in _layers(model).items():
        for name, rows in module.blocks.items():
            tensors |= {f"{path}.{kind}_{name}": getattr(module, f"{kind}_{name}").detach() for kind in "AB"}
            if getattr(module, f"W0_{name}") is not None:
                tensors[f"{path}.W_{name}"] = module.weight[rows].detach()
    return tensors


@torch.no_grad()
def load_state(model: nn.Module, tensors: dict[str, Tensor], any_rank: bool = False) -> None:
    """Put what `state` returned into a freshly adapted model (same backbone, rank and targets).

    any_rank: take over the saved ranks, too (see `set_factors`).

    Raises JanusError naming tensors that are missing, foreign or of another shape; the model is then unchanged.
    """
    todo: list[tuple[Tensor, Tensor]] = []
    merged: list[tuple[LoRALinear, str, Tensor]] = []
    rest = dict(tensors)
    for path, module in _layers(model).items():
        for name, rows in module.blocks.items():
            for key, own in ((f"A_{name}", getattr(module, f"A_{name}")), (f"B_{name}", getattr(module, f"B_{name}"))):
                value = rest.pop(f"{path}.{key}", None)
                r = slice(1, None) if key.startswith("A") else slice(0, 1)  # where the rank does not stand
                if value is None or (value.shape[r] != own.shape[r] if any_rank else value.shape != own.shape):
                    raise JanusError(f"{path}.{key} is missing or of another shape: saved from another adaptation?")
                todo.append((own, value))
            if (value := rest.pop(f"{path}.W_{name}", None)) is not None:
                if value.shape != module.weight[rows].shape:
                    raise JanusError(f"{path}.W_{name} is of another shape: saved from another backbone?")
                merged.append((module, name, value))
    if rest:
        raise JanusError(f"{next(iter(rest))} belongs to no adapted layer here: saved from another adaptation?")
    for module, name, value in merged:
        rows = module.weight[module.blocks[name]]
        if getattr(module, f"W0_{name}") is None:
            setattr(module, f"W0_{name}", rows.clone())
        rows.copy_(value)
    for own, value in todo:
        own.data = value.to(own, copy=True)


def _layers(model: nn.Module) -> dict[str, LoRALinear]:
    return {path: m for path, m in model.named_modules() if isinstance(m, LoRALinear)}


@torch.no_grad()
def _check_called(model: nn.Module, example: Tensor | None) -> None:
    """One forward pass in which every adapted layer must run: one that is bypassed would silently learn nothing."""
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
            f"{owner.__module__}.{owner.__name__} uses the weight of {missing[0]} without calling the layer: LoRA "
            "would have no effect there; choose another backbone or other targets"
        )


def _is_peft(module: nn.Module) -> bool:
    """A PEFT LoRA layer, known by its parts so that PEFT need not be installed."""
    return all(hasattr(module, name) for name in ("lora_A", "lora_B", "scaling", "base_layer"))


def _peft_pairs(model: nn.Module, path: str, module: nn.Module) -> list[Pair]:
    owner = model.get_submodule(split(path)[0])
    if bypasses(owner, split(path)[1]):
        raise UsageError(
            f"{type(owner).__name__} at {path} never calls its qkv layer, so PEFT's LoRA has no effect there: "
            "set qkv_bias_separate = True on every attention first"
        )
    found = []
    for adapter in module.active_adapters:
        if adapter not in module.lora_A:
            continue
        A, B = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        if A.dim() != 2 or not isinstance(module.get_base_layer(), nn.Linear):
            raise UsageError(f"{path}: LoRA on a {type(module.get_base_layer()).__name__} is not supported")
        if getattr(module, "use_dora", {}).get(adapter):
            raise UsageError(f"{path}: DoRA rescales W0 + s·B·A, which the closed forms do not cover; use plain LoRA")
        found.append(Pair(path, module, path, A, B, slice(0, B.shape[0]), float(module.scaling[adapter])))
    return found
