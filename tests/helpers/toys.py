"""Toys for tests: small ViTs, a folder of small images, a run in a process of its own."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from janus import train
from janus.models import backbones
from janus.models.backbones import ConvStem, PreprocessConfig


def make_tiny_vit(seed: int = 0) -> VisionTransformer:
    """A plain ViT, not yet adapted: 8 px, 2 blocks of width 16, 2 heads, 5 tokens, no classifier."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VisionTransformer(
            img_size=8, patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, num_classes=0
        )
        # timm starts at 0.02: too small for anything to depend on anything
        for name, p in model.named_parameters():
            torch.nn.init.normal_(p, std=0.4 if p.ndim > 1 else 0.1)
            if "norm" in name and name.endswith("weight"):
                p.data.add_(1.0)
    return model.requires_grad_(False).eval()


def write_image_folder(root: Path, classes: int, train: int, test: int, seed: int = 0) -> Path:
    """`root/{train,test}/<class>/<n>.png`, 32x32: a pattern a class, under noise."""
    rng = np.random.default_rng(seed)
    for c in range(classes):
        pattern = rng.integers(40, 216, size=(4, 4, 3)).repeat(8, 0).repeat(8, 1)
        for split, count in (("train", train), ("test", test)):
            folder = root / split / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                noisy = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / f"{i}.png")
    return root


def toy_backbone(
    name: str = "toy", weights: str | None = None, img_size: int | None = None
) -> tuple[VisionTransformer, PreprocessConfig]:
    """Stands in for `backbones.create`, always the same.

    32 px, 17 tokens, 2 blocks of width 32, a stem with BatchNorm.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = dict(img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2)
        model = VisionTransformer(**sizes, num_classes=0, embed_layer=ConvStem)
        for block in model.blocks:
            for linear in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
                torch.nn.init.normal_(linear.weight, std=0.2)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1), module.running_var.uniform_(0.5, 1.5)
    return model.requires_grad_(False).eval(), PreprocessConfig(32, (0.5,) * 3, (0.25,) * 3, "bilinear")


def main(folder: str, out: str, settings: str) -> None:
    """A run of its own process, which says what it does and is slow enough to be killed.

    `python toys.py FOLDER OUT JSON`
    """
    torch.set_num_threads(1)
    backbones.create = toy_backbone

    def say(line: str) -> None:
        print(line, flush=True)
        time.sleep(0.2 if "task 2" in line else 0)

    train.run(out, dataset=folder, progress=say, **json.loads(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
