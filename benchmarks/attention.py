"""A training step on the CPU in bf16: torch's fused attention against attention as two products, paired in
one process.

    python benchmarks/attention.py      # the embedded ViT, ViT-S/14 at 70 px and ViT-B/16, one thread

Each round takes one step (forward and backward through LoRA on K and V) of each kind in turn; the ratio is
taken round by round.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import quantiles

import timm
import torch
from torch import Tensor, nn

from janus import lora
from janus.data.registry import EMBEDDED
from janus.models import backbones
from janus.runtime.checkpoint import write_json
from janus.runtime.device import choose_attention
from janus.runtime.result import hardware, versions

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


def step(model: nn.Module, images: Tensor) -> float:
    """Milliseconds of a step."""
    began = time.perf_counter()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = model(images)
    features.float().square().mean().backward()
    return 1000 * (time.perf_counter() - began)


def measure(name: str, rounds: int) -> dict[str, float | int | str]:
    batch, side = CASES[name]
    fused, products = build(name, side), build(name, side)
    choose_attention(products, "bf16", torch.device("cpu"))
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    for model in (fused, products):
        step(model, images)
    times = [(step(fused, images), step(products, images)) for _ in range(rounds)]
    low, middle, high = quantiles([a / b for a, b in times], n=4)
    return {
        "model": name,
        "batch": batch,
        "pixels": side,
        "rounds": rounds,
        "fused_ms": min(a for a, _ in times),
        "products_ms": min(b for _, b in times),
        "ratio": middle,
        "low": low,
        "high": high,
    }


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
