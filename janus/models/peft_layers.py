"""The LoRA layers of PEFT as pairs. PEFT itself is not imported: its layers are known by their parts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..linalg import full_float32
from .lora_layer import Pair
from .vit import bypasses, input_key, split


class PeftPair(Pair):
    """The pair of one adapter of a PEFT layer.

    Once something is merged, PEFT's ways to save the adapter alone are refused: that would be lost with the
    backbone's weights.
    """

    @property
    def transposed(self) -> bool:
        return is_transposed(self.layer.get_base_layer())

    @property
    def weight(self) -> Tensor:
        W = self.layer.get_base_layer().weight.detach()
        return (W.T if self.transposed else W)[self.rows]

    def keep_original(self) -> None:
        super().keep_original()
        if adapter_alone not in self.layer._state_dict_pre_hooks.values():
            self.layer.register_state_dict_pre_hook(adapter_alone)

    def check_mergeable(self) -> None:
        module, W = self.layer, self.weight
        if not W.is_floating_point() or W.shape != (len(self.B), self.A.shape[1]):
            raise UsageError(
                f"{self.name}: merging needs a floating-point weight, and this one is quantised "
                f"({str(W.dtype).removeprefix('torch.')}): load the model without quantisation"
            )
        buffers = [name for name, _ in module.named_buffers(recurse=False)]
        merged = {name.removeprefix("W0_") for name in buffers if name.startswith("W0_")}
        others = sorted(merged | set(module.active_adapters) & set(module.lora_A))
        if others != [self.block]:
            raise UsageError(
                f"{self.name}: merging needs one adapter a layer, and here are {', '.join(others)}: choose "
                "one with set_adapter, and put the others into the weights with PEFT's merge_and_unload"
            )

    @torch.no_grad()
    def merge(self) -> None:
        if not self.B.any() and self.original is None:
            return  # nothing to merge: the adapter remains one that PEFT can save
        if (W := self.weight).dtype == self.A.dtype:
            return super().merge()
        self.keep_original()
        with full_float32(W.device):  # half-precision weights, float32 factors
            W.copy_(W.float().addmm_(self.B.float(), self.A.float(), alpha=self.scale))
        self.B.zero_()


def is_peft(module: nn.Module) -> bool:
    """Whether this is a LoRA layer of PEFT."""
    return all(hasattr(module, name) for name in ("lora_A", "lora_B", "scaling", "base_layer"))


def is_transposed(layer: nn.Module) -> bool:
    """Whether this is the linear layer of GPT-2 in transformers, whose weight is (n, m)."""
    return type(layer).__name__ == "Conv1D" and hasattr(layer, "nf")


def peft_pairs(model: nn.Module, path: str, module: nn.Module) -> Iterator[Pair]:
    """One pair on all rows for each active adapter of the PEFT layer at `path`.

    Raises UsageError for what is not W0 + s·B·A on a linear layer, and for adapters that have no effect as
    they are.
    """
    owner, base = model.get_submodule(split(path)[0]), module.get_base_layer()
    if bypasses(owner, split(path)[1]):
        raise UsageError(
            f"{type(owner).__name__} at {path} never calls its qkv layer, so PEFT's LoRA has no effect "
            "there: set qkv_bias_separate = True on every attention first"
        )
    if fault := inactive(module):
        raise UsageError(f"{path}: {fault}")
    for adapter in module.active_adapters:
        if adapter not in module.lora_A:
            if adapter in getattr(module, "lora_embedding_A", ()):
                raise UsageError(
                    f"{path}: LoRA on a {type(base).__name__} is not supported; "
                    "leave it out of target_modules"
                )
            continue
        A, B = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        if A.dim() != 2 or not (isinstance(base, nn.Linear) or is_transposed(base)):
            raise UsageError(
                f"{path}: LoRA on a {type(base).__name__} is not supported; choose target_modules that are "
                "linear layers only (a regular expression such as '.*attn\\.qkv' instead of a name's end)"
            )
        if getattr(module, "use_dora", {}).get(adapter):
            raise UsageError(
                f"{path}: DoRA rescales W0 + s·B·A, which the closed forms do not cover; use plain LoRA"
            )
        if variant := getattr(module, "lora_variant", {}).get(adapter):
            raise UsageError(
                f"{path}: {type(variant).__name__} is not W0 + s·B·A, which the closed forms need; "
                "use plain LoRA"
            )
        if getattr(module.lora_B[adapter], "bias", None) is not None:
            raise UsageError(f"{path}: with lora_bias the layer is more than W0 + s·B·A; use plain LoRA")
        rows, scale = slice(0, B.shape[0]), float(module.scaling[adapter])
        yield PeftPair(path, module, input_key(path), A, B, rows, scale, adapter)


def inactive(module: nn.Module) -> str | None:
    """Why training a PEFT layer's factors would change nothing now; None if it would, or for other layers."""
    if getattr(module, "merged_adapters", None):
        return (
            "PEFT's merge_adapter has put the factors into the weight, and they have no effect now: "
            "unmerge_adapter() first"
        )
    if getattr(module, "disable_adapters", False) is True:
        return (
            "its adapters are disabled and have no effect: enable them first (model.enable_adapter_layers())"
        )
    return None


def adapter_alone(module: nn.Module, prefix: str, keep_vars: bool) -> None:
    """A hook for `state_dict`, which PEFT calls for the whole model to pick the factors out of it."""
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "get_peft_model_state_dict":
            raise UsageError(
                "the factors alone do not hold what janus.merge put into the weights: "
                "janus.export_peft(model, folder) writes an adapter that does; model.state_dict() and "
                "janus.lora.state(model) hold all"
            )
        frame = frame.f_back
