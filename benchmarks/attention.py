"""A training step on the CPU in bf16: torch's fused attention against attention as two products, paired in
one process.

    python benchmarks/attention.py      # the embedded ViT, ViT-S/14 at 70 px and ViT-B/16, one thread

Each round takes one step (forward and backward through LoRA on K and V) of each kind in turn; the ratio is
taken round by round.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from janus import lora
from janus.data.registry import EMBEDDED
from janus.models import backbones
from janus.runtime.checkpoint import write_json
from janus.runtime.device import choose_attention
from janus.runtime.result import hardware, versions
from janus.runtime.timing import interleaved, ratios

CASES = {  # batch, pixels
    "icons-vit-wide": (64, 32),
    "vit_small_patch14_dinov2": (32, 70),
    "vit_base_patch16_224": (8, 224),
}


OUT = Path(__file__).parent / "results" / "measurements" / "attention.json"


def build(name: str, side: int) -> nn.Module:
    if name in EMBEDDED:
        model = backbones.create(name)[0]
    else:
        model = timm.create_model(name, num_classes=0, img_size=side)
    lora.adapt(model, 8, ("k", "v"))
    return model.eval()


def step(model: nn.Module, images: Tensor, half: bool = True) -> float:
    """Seconds of a forward and a backward pass, in bf16 or in float32."""
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        features = model(images)
    features.float().square().mean().backward()
    return time.perf_counter() - began


def measure(name: str, rounds: int) -> dict[str, float | int | str]:
    batch, side = CASES[name]
    fused, products = build(name, side), build(name, side)
    choose_attention(products, "bf16", torch.device("cpu"))
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    work = {"fused": partial(step, fused, images), "products": partial(step, products, images)}
    seconds = interleaved(work, rounds, warm_up=1, progress=None)
    least = {f"{kind}_ms": 1000 * min(found) for kind, found in seconds.items()}
    case = {"model": name, "batch": batch, "pixels": side, "rounds": rounds}
    return case | least | ratios(seconds, "products")["fused"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cases = [measure(name, args.rounds) for name in CASES]
    for case in cases:
        print(
            f"{case['model']:26s} fused {case['fused_ms']:7.1f} ms, products {case['products_ms']:7.1f} ms, "
            f"ratio {case['ratio']:.2f} ({case['low']:.2f} … {case['high']:.2f})"
        )
    write_json(args.out, {"cases": cases, "hardware": hardware(torch.device("cpu")), "versions": versions()})


if __name__ == "__main__":
    main()
