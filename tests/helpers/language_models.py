"""Tiny causal language models with random weights, and what they read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from janus import lora

SIZES = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)


def tiny_llama(seed: int = 0, vocab_size: int = 40, **more: int) -> nn.Module:
    """A Llama of two blocks of width 48."""
    import transformers

    torch.manual_seed(seed)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=vocab_size, **SIZES, **more))


def texts(count: int, seed: int, length: int = 5) -> list[dict[str, Tensor]]:
    """Batches of two sentences that use six of the tokens, so that some directions stay free."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(0, 6, (2, length), generator=generator) + 6 * seed for _ in range(count)]
    return [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i} for i in ids]


def weights(model: nn.Module) -> dict[str, Tensor]:
    """The effective weight of every adapted matrix, W0 + s·B·A."""
    pairs = lora.pairs(model)
    return {pair.name: (pair.weight + pair.scale * pair.B @ pair.A).detach().clone() for pair in pairs}
