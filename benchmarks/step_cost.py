"""What a Janus training step costs beside plain LoRA: paired steps in one process, ratios with their spread.

    python benchmarks/step_cost.py                       # embedded ViT, batch 64, and ViT-S/16, batch 32
    python benchmarks/step_cost.py --model vit_base_patch16_224 --batch 8 \\
        --out benchmarks/results/measurements/step_cost.json
    python benchmarks/step_cost.py --model vit_base_patch16_224 --batch 128 --rank 10 --basis 256 \\
        --device cuda --amp

The reference is PEFT's LoRA on the fused `qkv` at the same rank, with torch's AdamW. Every round takes one
step of each variant in turn, in changing order, on the same images; the ratio is taken round by round, so a
machine whose speed drifts does not matter. A protected past (`--basis` directions a layer, 20 old prototypes)
is in place, as in the middle of a stream. Memory is how far the resident memory of a fresh process rises over
three steps, model and optimiser included; with cuda, how far the tensors on the card rise. On a card a step
is timed until the card has finished it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from janus.doctor.cost import LORA, PEFT, Case, measure
from janus.errors import JanusError
from janus.runtime.checkpoint import write_json
from janus.runtime.device import half_precision, pick_device
from janus.runtime.result import hardware, versions

CASES = [("icons-vit", 64), ("vit_small_patch16_224", 32)]
VARIANTS = (PEFT, LORA, "exact + DML", "exact + OE + DML", "tangent + OE + DML")


def same(measured: dict[str, Any]) -> tuple[Any, ...]:
    """What a later measurement replaces."""
    return measured["model"], measured["batch"], measured.get("amp", False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = "a timm ViT (random weights) or icons-vit; default: both cases of the README"
    parser.add_argument("--model", help=what)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--basis", type=int, default=64, help="protected directions per layer")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    what = "half precision: bf16, or fp16 on cards without it"
    parser.add_argument("--amp", action="store_true", help=what)
    what = "write the numbers to this JSON file; cases measured before stay in it"
    parser.add_argument("--out", type=Path, help=what)
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
            held = f"{args.out} holds what another machine, or another torch, measured"
            parser.exit(2, f"step_cost: {held}; choose another --out\n")
        record["cases"] = kept["cases"]
    for name, batch in [(args.model, args.batch)] if args.model else CASES:
        half = half_precision(device) if args.amp else None
        case = Case(name, batch, args.rank, args.basis, args.threads, device, half)
        report = measure(case, VARIANTS, args.rounds, base=PEFT)
        where = record["hardware"]["card"] or f"{args.threads} threads"
        print(
            f"\n{name}, batch {batch}, rank {args.rank}, {args.basis} protected directions, "
            f"{args.rounds} rounds, {where}{', half precision' * args.amp}: time of a step / PEFT's "
            "(quarter points)"
        )
        for key, row in report.items():
            print(
                f"  {key:20s} {row['ratio']:.3f}  ({row['low']:.3f} … {row['high']:.3f})   "
                f"{row['ms']:7.1f} ms  {row['images_per_second']:6.0f} images/s  {row['megabytes']:6.0f} MB"
            )
        measured = case.to_json() | {"rounds": args.rounds, "variants": report}
        record["cases"] = [kept for kept in record["cases"] if same(kept) != same(measured)] + [measured]
        if args.out:
            write_json(args.out, record)


if __name__ == "__main__":
    main()
