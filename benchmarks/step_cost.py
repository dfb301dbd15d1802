"""What a Janus training step costs beside plain LoRA: paired steps in one process, ratios with their spread.

    python benchmarks/step_cost.py                       # embedded ViT, batch 64, and ViT-S/16, batch 32
    python benchmarks/step_cost.py --model vit_base_patch16_224 --batch 8 --out benchmarks/results/step_cost.json

The reference is PEFT's LoRA on the fused `qkv` at the same rank, with torch's AdamW. Every round takes one step of each
variant in turn, in changing order, on the same images; the ratio is taken round by round, so a machine whose speed drifts
does not matter. A protected past (`--basis` directions a layer, 20 old prototypes) is in place, as in the middle of a stream.
Memory is how far the resident memory of a fresh process rises over three steps, model and optimiser included.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from turns import against, in_turns

import janus
from janus import backbones
from janus.checkpoint import write_json
from janus.history import SecondMoments
from janus.lora import pairs
from janus.rectify import RectifiedAdam, nullspace_start
from janus.result import hardware, versions
from janus.separation import Prototypes, decoupled_margin_loss

CASES = [("icons-vit", 64), ("vit_small_patch16_224", 32)]


def build(name: str) -> nn.Module:
    return backbones.create(name, weights="random")[0]


@dataclass(frozen=True)
class Variant:
    """One way to take a training step: the loss of images (B, 3, S, S) and labels (B,), and what steps after its backward."""

    loss: Callable[[Tensor, Tensor], Tensor]
    optimizers: tuple[torch.optim.Optimizer, ...]

    def step(self, x: Tensor, y: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.loss(x, y).backward()
        for optimizer in self.optimizers:
            optimizer.step()


def peft_variant(name: str, rank: int, directions: int) -> Variant:
    """LoRA as its users run it: PEFT on qkv, AdamW, cross-entropy."""
    model = build(name)
    head = nn.Linear(model.num_features, CLASSES)
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"])).eval()
    optimizer = torch.optim.AdamW([p for p in [*model.parameters(), *head.parameters()] if p.requires_grad], lr=1e-4)
    return Variant(lambda x, y: F.cross_entropy(head(model(x)), y), (optimizer,))


def janus_variant(name: str, rank: int, directions: int, gr: str, oe: bool, dml: bool) -> Variant:
    """The same step with this package's LoRA on K and V, and the parts asked for."""
    generator = torch.Generator().manual_seed(0)
    model = janus.adapt(build(name), rank)
    head = nn.Linear(model.num_features, CLASSES)
    found = pairs(model)
    basis = {}
    for pair in found:
        n = pair.A.shape[1]
        basis.setdefault(pair.input_key, torch.linalg.qr(torch.randn(n, min(directions, n - 2 * rank), generator=generator))[0])
        if gr == "exact":
            pair.A.data = nullspace_start(pair.A.data, basis[pair.input_key])
    factors = RectifiedAdam(found, 1e-4, gr=gr, basis=basis if gr != "none" else None)
    moments = SecondMoments(found)
    moments.active = oe
    prototypes = Prototypes(model.num_features)
    prototypes.old = torch.randn(20, model.num_features, generator=generator)
    prototypes.begin_task(CLASSES)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        features = model(x)
        found = F.cross_entropy(head(features), y)
        if dml:
            prototypes.observe(features, y)
            found = found + decoupled_margin_loss(features, y, prototypes.old, prototypes.centres)
        return found

    return Variant(loss, (torch.optim.AdamW(head.parameters(), lr=1e-4), factors))


CLASSES = 10
VARIANTS: dict[str, Callable[[str, int, int], Variant]] = {  # name → variant of (model, rank, directions)
    "peft LoRA on qkv": peft_variant,
    "janus LoRA on k, v": partial(janus_variant, gr="none", oe=False, dml=False),
    "exact + DML": partial(janus_variant, gr="exact", oe=False, dml=True),
    "exact + OE + DML": partial(janus_variant, gr="exact", oe=True, dml=True),
    "tangent + OE + DML": partial(janus_variant, gr="tangent", oe=True, dml=True),
}


def example(name: str, batch: int) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) and labels (B,) of one step."""
    size = 32 if name == backbones.EMBEDDED else 224
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=generator), torch.arange(batch) % CLASSES


def peak(name: str, batch: int, rank: int, directions: int, threads: int, variant: str) -> float:
    """Megabytes by which this process's resident memory has been higher than before the model was built."""
    torch.set_num_threads(threads)
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    x, y = example(name, batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = VARIANTS[variant](name, rank, directions)
    for _ in range(3):
        made.step(x, y)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def measure(name: str, batch: int, rank: int, directions: int, rounds: int) -> dict[str, dict[str, float]]:
    """Ratio to PEFT's step of each variant: median, and the quarter points of the rounds; megabytes at the peak."""
    megabytes = {}
    for key in VARIANTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process each: memory that was freed is not always given back
            megabytes[key] = pool.apply(peak, (name, batch, rank, directions, torch.get_num_threads(), key))
    steps = {key: make(name, rank, directions).step for key, make in VARIANTS.items()}
    x, y = example(name, batch)

    def once(key: str) -> float:
        start = time.perf_counter()
        steps[key](x, y)
        return time.perf_counter() - start

    seconds = in_turns({key: partial(once, key) for key in steps}, rounds, warm_up=2)
    report = against(seconds, next(iter(steps)))
    for key, found in report.items():
        found |= {"ms": 1e3 * statistics.median(seconds[key]), "megabytes": megabytes[key]}
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a timm ViT (random weights) or icons-vit; default: both cases of the README")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--basis", type=int, default=64, help="protected directions per layer")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file; cases measured before stay in it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = []
    for name, batch in [(args.model, args.batch)] if args.model else CASES:
        report = measure(name, batch, args.rank, args.basis, args.rounds)
        results.append({"model": name, "batch": batch, "rank": args.rank, "basis": args.basis, "rounds": args.rounds,
                        "threads": args.threads, "variants": report})
        print(f"\n{name}, batch {batch}, rank {args.rank}, {args.basis} protected directions, {args.rounds} rounds, "
              f"{args.threads} threads: time of a step / PEFT's (quarter points)")
        for key, row in report.items():
            print(f"  {key:20s} {row['ratio']:.3f}  ({row['low']:.3f} … {row['high']:.3f})   {row['ms']:7.1f} ms  "
                  f"{row['megabytes']:6.0f} MB")
    if args.out:
        kept = json.loads(args.out.read_text())["cases"] if args.out.exists() else []
        new = {(case["model"], case["batch"]) for case in results}
        results = [case for case in kept if (case["model"], case["batch"]) not in new] + results
        write_json(args.out, {"cases": results, "versions": versions(), "hardware": hardware(torch.device("cpu"))})


if __name__ == "__main__":
    main()
