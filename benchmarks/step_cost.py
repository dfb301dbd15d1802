"""What a Janus training step costs beside plain LoRA: paired steps in one process, ratios with their spread.

    python benchmarks/step_cost.py                       # embedded ViT, batch 64, and ViT-S/16, batch 32
    python benchmarks/step_cost.py --model vit_base_patch16_224 --batch 8 --out benchmarks/results/measurements/step_cost.json
    python benchmarks/step_cost.py --model vit_base_patch16_224 --batch 128 --rank 10 --basis 256 --device cuda --amp

The reference is PEFT's LoRA on the fused `qkv` at the same rank, with torch's AdamW. Every round takes one step of each
variant in turn, in changing order, on the same images; the ratio is taken round by round, so a machine whose speed drifts
does not matter. A protected past (`--basis` directions a layer, 20 old prototypes) is in place, as in the middle of a stream.
Memory is how far the resident memory of a fresh process rises over three steps, model and optimiser included; with cuda, the
most that its tensors took on the card. On a card a step is timed until the card has finished it.
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
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from turns import against, in_turns

import janus
from janus import backbones
from janus.checkpoint import write_json
from janus.device import half_precision, pick_device
from janus.errors import JanusError
from janus.history import SecondMoments
from janus.lora import pairs
from janus.rectify import RectifiedAdam, nullspace_start
from janus.result import hardware, versions
from janus.separation import Prototypes, decoupled_margin_loss

CASES = [("icons-vit", 64), ("vit_small_patch16_224", 32)]
CPU = torch.device("cpu")


def build(name: str) -> nn.Module:
    return backbones.create(name, weights="random")[0]


@dataclass(frozen=True)
class Variant:
    """One way to take a training step: the loss of images (B, 3, S, S) and labels (B,), and what steps after its backward.

    amp: the forward pass in half precision, in fp16 with a scaled loss.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    optimizers: tuple[torch.optim.Optimizer, ...]
    device: torch.device = CPU
    amp: bool = False

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.amp and half_precision(self.device) is torch.float16)

    def step(self, x: Tensor, y: Tensor) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with torch.autocast(self.device.type, half_precision(self.device), enabled=self.amp):
            loss = self.loss(x, y)
        self.scaler.scale(loss).backward()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()


def peft_variant(name: str, rank: int, directions: int, device: torch.device = CPU, amp: bool = False) -> Variant:
    """LoRA as its users run it: PEFT on qkv, AdamW, cross-entropy."""
    model = build(name).to(device)
    head = nn.Linear(model.num_features, CLASSES).to(device)
    model = get_peft_model(model, LoraConfig(r=rank, lora_alpha=rank, target_modules=["qkv"])).eval()
    optimizer = torch.optim.AdamW([p for p in [*model.parameters(), *head.parameters()] if p.requires_grad], lr=1e-4)
    return Variant(lambda x, y: F.cross_entropy(head(model(x)), y), (optimizer,), device, amp)


def janus_variant(name: str, rank: int, directions: int, device: torch.device = CPU, amp: bool = False, *, gr: str, oe: bool,
                  dml: bool) -> Variant:
    """The same step with this package's LoRA on K and V, and the parts asked for."""
    generator = torch.Generator().manual_seed(0)
    model = janus.adapt(build(name), rank).to(device)
    head = nn.Linear(model.num_features, CLASSES).to(device)
    found = pairs(model)
    basis = {}
    for pair in found:
        n = pair.A.shape[1]
        drawn = torch.randn(n, min(directions, n - 2 * rank), generator=generator)
        basis.setdefault(pair.input_key, torch.linalg.qr(drawn)[0].to(device))
        if gr == "exact":
            pair.A.data = nullspace_start(pair.A.data, basis[pair.input_key])
    factors = RectifiedAdam(found, 1e-4, gr=gr, basis=basis if gr != "none" else None)
    moments = SecondMoments(found)
    moments.active = oe
    prototypes = Prototypes(model.num_features, device)
    prototypes.old = torch.randn(20, model.num_features, generator=generator).to(device)
    prototypes.begin_task(CLASSES)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        features = model(x)
        found = F.cross_entropy(head(features), y)
        if dml:
            prototypes.observe(features, y)
            found = found + decoupled_margin_loss(features, y, prototypes.old, prototypes.centres)
        return found

    return Variant(loss, (torch.optim.AdamW(head.parameters(), lr=1e-4), factors), device, amp)


CLASSES = 10
VARIANTS: dict[str, Callable[..., Variant]] = {  # name → variant of (model, rank, directions, device, amp)
    "peft LoRA on qkv": peft_variant,
    "janus LoRA on k, v": partial(janus_variant, gr="none", oe=False, dml=False),
    "exact + DML": partial(janus_variant, gr="exact", oe=False, dml=True),
    "exact + OE + DML": partial(janus_variant, gr="exact", oe=True, dml=True),
    "tangent + OE + DML": partial(janus_variant, gr="tangent", oe=True, dml=True),
}


def example(name: str, batch: int, device: torch.device = CPU) -> tuple[Tensor, Tensor]:
    """Images (B, 3, S, S) and labels (B,) of one step."""
    size = 32 if name == backbones.EMBEDDED else 224
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 3, size, size, generator=generator).to(device), (torch.arange(batch) % CLASSES).to(device)


@dataclass(frozen=True)
class Case:
    """What is measured: a timm ViT's name (or icons-vit), images a batch, rank, protected directions a layer, where and how."""

    model: str
    batch: int
    rank: int
    basis: int
    threads: int
    device: torch.device = CPU
    amp: bool = False

    def variant(self, name: str) -> Variant:
        return VARIANTS[name](self.model, self.rank, self.basis, self.device, self.amp)

    def example(self) -> tuple[Tensor, Tensor]:
        return example(self.model, self.batch, self.device)

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"device": self.device.type}


def peak(case: Case, variant: str) -> float:
    """Megabytes at the peak of three steps in this process: on a card of its tensors, else of what is resident beyond what was
    before the model was built."""
    torch.set_num_threads(case.threads)
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    x, y = case.example()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    made = case.variant(variant)
    for _ in range(3):
        made.step(x, y)
    if case.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / unit


def measure(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """Ratio to PEFT's step of each variant: median, and the quarter points of the rounds; megabytes at the peak."""
    megabytes = {}
    for key in VARIANTS:
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # a process each: memory that was freed is not always given back
            megabytes[key] = pool.apply(peak, (case, key))
    steps = {key: case.variant(key).step for key in VARIANTS}
    x, y = case.example()
    finish = getattr(torch, case.device.type).synchronize

    def once(key: str) -> float:
        finish()
        start = time.perf_counter()
        steps[key](x, y)
        finish()
        return time.perf_counter() - start

    seconds = in_turns({key: partial(once, key) for key in steps}, rounds, warm_up=2)
    report = against(seconds, next(iter(steps)))
    for key, found in report.items():
        middle = statistics.median(seconds[key])
        found |= {"ms": 1e3 * middle, "images_per_second": case.batch / middle, "megabytes": megabytes[key]}
    return report


def same(measured: dict[str, Any]) -> tuple[Any, ...]:
    """What a later measurement replaces."""
    return measured["model"], measured["batch"], measured.get("amp", False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a timm ViT (random weights) or icons-vit; default: both cases of the README")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--basis", type=int, default=64, help="protected directions per layer")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    parser.add_argument("--amp", action="store_true", help="half precision: bf16, or fp16 on cards without it")
    parser.add_argument("--out", type=Path, help="write the numbers to this JSON file; cases measured before stay in it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    try:
        device = pick_device(args.device)
    except JanusError as error:
        parser.exit(2, f"step_cost: {error}\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    record = {"cases": [], "versions": versions(), "hardware": hardware(device)}
    if args.out and args.out.exists():
        kept = json.loads(args.out.read_text())
        if kept["hardware"] != record["hardware"] or kept["versions"]["torch"] != record["versions"]["torch"]:
            parser.exit(2, f"step_cost: {args.out} holds what another machine, or another torch, measured; choose another --out\n")
        record["cases"] = kept["cases"]
    for name, batch in [(args.model, args.batch)] if args.model else CASES:
        case = Case(name, batch, args.rank, args.basis, args.threads, device, args.amp)
        report = measure(case, args.rounds)
        print(f"\n{name}, batch {batch}, rank {args.rank}, {args.basis} protected directions, {args.rounds} rounds, "
              f"{record['hardware']['card'] or f'{args.threads} threads'}{', half precision' * args.amp}: time of a step / PEFT's "
              "(quarter points)")
        for key, row in report.items():
            print(f"  {key:20s} {row['ratio']:.3f}  ({row['low']:.3f} … {row['high']:.3f})   {row['ms']:7.1f} ms  "
                  f"{row['images_per_second']:6.0f} images/s  {row['megabytes']:6.0f} MB")
        measured = case.to_json() | {"rounds": args.rounds, "variants": report}
        record["cases"] = [kept for kept in record["cases"] if same(kept) != same(measured)] + [measured]
        if args.out:
            write_json(args.out, record)


if __name__ == "__main__":
    main()
