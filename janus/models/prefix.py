"""timm's attention with keys and values of a prompt beside the tokens'."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from ..errors import UsageError

NEEDED = "prompts need the plain attention of timm's ViT; choose a plain ViT, DeiT, DINOv2 or CLIP of timm"


class PrefixAttention(Attention):
    """timm's attention, in each head `softmax(q [p_K; k]ᵀ / √d) [p_V; v]` while there is a prefix.

    `prefix` = (p_K, p_V), each (b, l, heads·d). Its keys are those that the softmax sees: behind `k_norm`, if
    the backbone has one.
    """

    prefix: tuple[Tensor, Tensor] | None = None

    def forward(self, x: Tensor, **masks: Any) -> Tensor:  # (b, N, n) → (b, N, n); timm's masks are empty
        if self.prefix is None:
            return super().forward(x, **masks)
        qkv = self.qkv(x).unflatten(2, (3, self.num_heads, -1))  # (b, N, 3, heads, d)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (b, heads, N, d)
        q, k = self.q_norm(q), self.k_norm(k)
        heads = [p.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for p in self.prefix]
        p_K, p_V = (p.to(v.dtype) for p in heads)  # (b, heads, l, d)
        y = F.scaled_dot_product_attention(q, torch.cat([p_K, k], dim=2), torch.cat([p_V, v], dim=2))
        return self.proj_drop(self.proj(self.norm(y.transpose(1, 2).flatten(2))))


def prefixed(model: nn.Module, most: int) -> list[PrefixAttention]:
    """The attentions of the first `most` blocks, or of all there are.

    In place, they take a prefix from now on. Raises UsageError for any but the plain attention of timm.
    """
    found = []
    for i, block in enumerate(list(getattr(model, "blocks", ()))[:most]):
        attention = getattr(block, "attn", None)
        if type(attention) is not Attention or getattr(attention, "gate", None) is not None:
            kind = type(block if attention is None else attention)
            raise UsageError(f"{kind.__module__}.{kind.__qualname__} at blocks.{i}: {NEEDED}")
        found.append(attention)
    if not found:
        raise UsageError(f"{type(model).__name__} has no blocks: {NEEDED}")
    for attention in found:
        attention.__class__ = PrefixAttention  # paths, hooks, LoRA and weights stay where they are
    return found
