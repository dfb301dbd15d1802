"""Small ViTs with random weights, one or more per family of timm, shared by the tests."""

from __future__ import annotations

import timm
import torch
from torch import Tensor, nn

from janus import lora
from janus.models import backbones
from janus.models.vit import example_image

SMALL = {"depth": 2, "embed_dim": 48, "num_heads": 3}
FAMILIES = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 32} | SMALL),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", {"img_size": 32} | SMALL),
    "deit3": ("deit3_small_patch16_224", {"img_size": 32} | SMALL),
    "dinov2": ("vit_small_patch14_dinov2", {"img_size": 28} | SMALL),
    "dinov2-swiglu": ("vit_giant_patch14_dinov2", {"img_size": 28} | SMALL),
    "clip": ("vit_base_patch16_clip_224", {"img_size": 32} | SMALL),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32} | SMALL),
    "eva": ("eva_giant_patch14_224", {"img_size": 28} | SMALL),
    "eva02-separate": ("eva02_base_patch14_224", {"img_size": 28} | SMALL),
    "eva02-fused": ("eva02_tiny_patch14_224", {"img_size": 28} | SMALL),
    "dinov3": ("vit_small_patch16_dinov3", {"img_size": 32} | SMALL),
    "beit": ("beit_base_patch16_224", {"img_size": 32} | SMALL),
    "beitv2": ("beitv2_base_patch16_224", {"img_size": 32} | SMALL),
    "relpos": ("vit_relpos_small_patch16_224", {"img_size": 32} | SMALL),
}


def make(family: str) -> nn.Module:
    """The family's small model, the same each time, in eval mode.

    LayerScale is near 1, else adapters hardly show.
    """
    torch.manual_seed(1)
    if family == "icons-vit":
        return backbones.embedded_vit().eval()
    name, options = FAMILIES[family]
    model = timm.create_model(name, pretrained=False, num_classes=0, **options).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "gamma" in key:
                parameter.uniform_(0.5, 1.5)
            elif key.endswith(("q_bias", "v_bias", "bias")):  # zero in timm's initialisation
                parameter.normal_(std=0.1)
    return model


def images(model: nn.Module, count: int = 2) -> Tensor:
    return torch.randn(count, *example_image(model).shape[1:], generator=torch.Generator().manual_seed(2))


def fill(model: nn.Module, seed: int = 3, std: float = 0.1) -> nn.Module:
    """Random B in every pair."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for pair in lora.pairs(model):
            pair.B.copy_(torch.randn(pair.B.shape, generator=generator) * std)
    return model


def distance(a: Tensor, b: Tensor) -> float:
    """‖a − b‖ / ‖b‖."""
    return ((a - b).norm() / b.norm()).item()
