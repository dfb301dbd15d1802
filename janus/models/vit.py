"""Where the matrices of a timm ViT stand: which rows of which linear layer are q, k, v, proj, fc1 and fc2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..errors import UsageError, unknown

TARGETS = ("q", "k", "v", "proj", "fc1", "fc2")

# The attentions whose fused qkv holds the rows of Q, then K, then V. LeViT and MaxViT interleave them by
# head.
_FUSED_QKV = {
    "timm.layers.attention.Attention",
    "timm.layers.attention.AttentionRope",
    "timm.models.vision_transformer.Attention",
    "timm.models.vision_transformer_relpos.RelPosAttention",
    "timm.models.beit.Attention",
    "timm.models.eva.EvaAttention",
}


def target_faults(targets: Sequence[str]) -> Iterator[str]:
    """What is wrong with the names of matrices to adapt."""
    for target in targets:
        if target not in TARGETS:
            yield str(unknown("target", target, TARGETS))
    if not targets:
        yield f"no targets to adapt: choose from {', '.join(TARGETS)}"


def matrices(model: nn.Module, targets: Iterable[str]) -> Iterator[tuple[str, nn.Linear, dict[str, slice]]]:
    """(path of a linear layer, the layer, {matrix name: its output rows}) for the targets of all blocks.

    They come in order. Raises UsageError for a model without attention, a fused qkv of unknown layout, and a
    target that no block has.
    """
    targets = tuple(targets)
    seen = set()
    attentions = 0
    for path, module in model.named_modules():
        leaves = _attention(path, module)
        if leaves is None:
            continue
        attentions += 1
        for leaf, blocks in leaves.items():
            if chosen := {name: rows for name, rows in blocks.items() if name in targets}:
                seen |= set(chosen)
                yield join(path, leaf), getattr(module, leaf), chosen
        block = split(path)[0]
        mlp = getattr(model.get_submodule(block), "mlp", None)  # stands beside the attention
        for leaf in ("fc1_g", "fc1_x", "fc1", "fc2"):  # the first two: a SwiGLU with unfused input layers
            linear = getattr(mlp, leaf, None)
            if leaf[:3] in targets and isinstance(linear, nn.Linear):
                seen.add(leaf[:3])
                yield join(block, f"mlp.{leaf}"), linear, {leaf: slice(0, linear.out_features)}
    kind = type(model).__name__
    if not attentions:
        raise UsageError(
            f"{kind} has no attention with a qkv or q_proj/k_proj/v_proj layer: choose a ViT of timm"
        )
    if missing := [target for target in targets if target not in seen]:
        raise UsageError(f"{kind} has no linear layer for target {', '.join(missing)}: leave it out")


def _attention(path: str, module: nn.Module) -> dict[str, dict[str, slice]] | None:
    """The linear layers of an attention and their rows that are q, k, v and proj; None: no attention."""
    leaves: dict[str, dict[str, slice]] = {}
    qkv = getattr(module, "qkv", None)
    if isinstance(qkv, nn.Linear):
        classes = {f"{c.__module__}.{c.__qualname__}" for c in type(module).__mro__}
        if not classes & _FUSED_QKV or qkv.out_features % 3:
            raise UsageError(
                f"{type(module).__module__}.{type(module).__name__} at {path}: it is not known which rows "
                "of its qkv are K and V; choose a plain ViT, DeiT, DINO, CLIP, EVA or BEiT of timm"
            )
        d = qkv.out_features // 3
        leaves["qkv"] = {name: slice(i * d, (i + 1) * d) for i, name in enumerate("qkv")}
    elif all(isinstance(getattr(module, f"{name}_proj", None), nn.Linear) for name in "qkv"):
        for name in "qkv":
            leaves[f"{name}_proj"] = {name: slice(0, getattr(module, f"{name}_proj").out_features)}
    else:
        return None
    if isinstance(proj := getattr(module, "proj", None), nn.Linear):
        leaves["proj"] = {"proj": slice(0, proj.out_features)}
    return leaves


# the layers of one module that are fed by the same tensor, in timm, transformers and diffusers → what they
# share
ONE_INPUT = {
    **dict.fromkeys(("qkv", "q_proj", "k_proj", "v_proj", "query", "key", "value", "q", "k", "v"), ""),
    **dict.fromkeys(("q_lin", "k_lin", "v_lin", "to_q", "to_k", "to_v"), ""),
    **dict.fromkeys(("fc1_g", "fc1_x"), "fc1"),
    **dict.fromkeys(("gate_proj", "up_proj"), "gate_up"),
    **dict.fromkeys(("w1", "w3"), "w1_w3"),
    **dict.fromkeys(("wi_0", "wi_1"), "wi"),
}
_QUERIES = ("q_proj", "query", "q", "q_lin", "to_q")
# in the names of attentions whose queries have an input of their own
_CROSS = ("cross", "encoder_attn", "encdec")


def input_key(path: str) -> str:
    """Equal for layers that one tensor feeds: q, k and v of an attention, the two halves of a SwiGLU."""
    parent, leaf = split(path)
    apart = leaf in _QUERIES and any(word in parent.lower() for word in _CROSS)
    if leaf not in ONE_INPUT or apart:
        return path
    return join(parent, ONE_INPUT[leaf]) if ONE_INPUT[leaf] else parent


def example_image(model: nn.Module) -> Tensor:
    """One black image of the model's own input size and channels, on its device.

    Raises UsageError if the size is not known.
    """
    parameter = next(model.parameters())
    embed, cfg = getattr(model, "patch_embed", None), getattr(model, "pretrained_cfg", None) or {}
    grid, patch = getattr(embed, "grid_size", None), getattr(embed, "patch_size", None)
    size = getattr(embed, "img_size", None) or tuple((cfg.get("input_size") or ())[1:])
    if not size and grid and patch:
        size = (grid[0] * patch[0], grid[1] * patch[1])
    if not size:
        raise UsageError(
            f"the input size of {type(model).__name__} is not known: pass adapt(…, example=<image batch>)"
        )
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else getattr(embed, "in_chans", 3)
    return torch.zeros(1, channels, *size, device=parameter.device, dtype=parameter.dtype)


def bypasses(attention: nn.Module, leaf: str) -> bool:
    """Whether this attention (EVA, BEiT) uses the weight of its `leaf` without calling the layer.

    They hand qkv.weight to F.linear together with a bias of their own, past any wrapper of the layer; with
    timm's switch `qkv_bias_separate` they call the layer and add the bias to its result, which is the same
    sum.
    """
    separate = getattr(attention, "qkv_bias_separate", None)
    return leaf == "qkv" and separate is False and getattr(attention, "q_bias", None) is not None


def split(path: str) -> tuple[str, str]:
    """("blocks.0.attn", "qkv") for "blocks.0.attn.qkv"."""
    parent, _, leaf = path.rpartition(".")
    return parent, leaf


def join(parent: str, leaf: str) -> str:
    """The inverse of `split`."""
    return f"{parent}.{leaf}" if parent else leaf
