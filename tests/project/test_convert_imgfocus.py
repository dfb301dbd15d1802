"""The photographs' backbone: an encoder's tensors by their own names become timm's.

With the positions of smaller images.
"""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from helpers.scripts import load_script
from timm.models.vision_transformer import VisionTransformer

WIDTH, DEPTH = 12, 2


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load_script("data/scripts/convert_imgfocus.py")


def encoder() -> dict[str, torch.Tensor]:
    """Random tensors by the names of the package's encoder."""
    d, generator = WIDTH, torch.Generator().manual_seed(0)
    shapes = {
        "backbone.embeddings.cls_token": (1, 1, d),
        "position of CLS": (1, 1, d),
        "positions": (1, 37 * 37, d),
        "backbone.embeddings.patch_embeddings.projection.weight": (d, 3, 14, 14),
        "backbone.embeddings.patch_embeddings.projection.bias": (d,),
        "backbone.layernorm.weight": (d,),
        "backbone.layernorm.bias": (d,),
        "decoder.bn1.weight": (5,),
    }
    for i in range(DEPTH):
        linear = {f"attention.attention.{part}": (d, d) for part in ("query", "key", "value")}
        linear |= {"attention.output.dense": (d, d), "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
        for name, shape in linear.items():
            shapes |= {
                f"backbone.encoder.layer.{i}.{name}.weight": shape,
                f"backbone.encoder.layer.{i}.{name}.bias": shape[:1],
            }
        layers = "norm1.weight norm1.bias norm2.weight norm2.bias layer_scale1.lambda1 layer_scale2.lambda1"
        for name in layers.split():
            shapes[f"backbone.encoder.layer.{i}.{name}"] = (d,)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("side", [70, 518])
def test_it_loads_strictly_into_timms_vit(script: ModuleType, side: int) -> None:
    tensors = encoder()
    found = script.converted(tensors, side)
    sizes = dict(img_size=side, patch_size=14, embed_dim=WIDTH, depth=DEPTH, num_heads=3)
    model = VisionTransformer(**sizes, num_classes=0, init_values=1.0)
    model.load_state_dict(found)
    layer = "backbone.encoder.layer.1.attention.attention"
    Q, K, V = model.blocks[1].attn.qkv.weight.split(WIDTH)
    for part, rows in (("query", Q), ("key", K), ("value", V)):
        assert torch.equal(rows, tensors[f"{layer}.{part}.weight"])
    assert torch.equal(model.pos_embed[:, :1], tensors["position of CLS"])
    if side == 518:
        assert torch.equal(model.pos_embed[:, 1:], tensors["positions"])


def test_positions_of_smaller_images_are_sampled_where_the_patches_lie(script: ModuleType) -> None:
    """A function that is linear over the grid stays that function, as nearly as a cubic kernel has it."""
    tensors, line, centre = encoder(), torch.arange(37.0), (torch.arange(5) + 0.5) * 37 / 5 - 0.5
    for rows, expected in ((line[:, None], centre[:, None]), (line[None], centre[None])):
        tensors["positions"] = rows.expand(37, 37).reshape(1, 37 * 37, 1).expand(1, 37 * 37, WIDTH)
        found = script.converted(tensors, 70)["pos_embed"][0, 1:, 0].reshape(5, 5)
        assert torch.allclose(found, expected.expand(5, 5), atol=0.06)
