"""Bytes that a training step keeps for its backward pass, counted tensor by tensor: what decides whether a
batch fits a card.

    python benchmarks/memory.py    # ViT-B/16 in half precision and in float32, plain LoRA and Janus, any CPU

Counted are the storages that autograd saves, each once, and all tensors that live between
steps (weights, factors, optimiser, basis). Not counted: workspaces, fragmentation, the CUDA context. A count
on a CPU, where attention keeps what the fused kernels of a card keep; not a measurement on a card.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from janus.doctor.cost import LORA, PEFT, Case, counted
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions

OUT = Path(__file__).parent / "results" / "measurements" / "memory.json"
COUNTED = (PEFT, LORA, "exact + OE + DML", "tangent + OE + DML")


def count(model: str, name: str, rank: int, directions: int) -> dict[str, dict[str, float]]:
    """Precision → megabytes that do not depend on the batch, and megabytes an image: from steps of one and of
    two images."""
    case, found = Case(model, 1, rank, directions, torch.get_num_threads()), {}
    for precision, half in (("float32", None), ("half precision", torch.bfloat16)):
        one, two = (counted(replace(case, batch=batch, half=half), name)[0] for batch in (1, 2))
        found[precision] = {"fixed": 2 * one - two, "image": two - one}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--basis", type=int, default=256, help="protected directions per layer")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    found = {}
    for name in COUNTED:
        found[name] = count(args.model, name, args.rank, args.basis)
        for precision, case in found[name].items():
            sizes = f"{case['fixed']:7.0f} MB + {case['image']:6.1f} MB an image"
            print(f"{name:20s} {precision:14s} {sizes}", flush=True)
    record = {
        "model": args.model,
        "rank": args.rank,
        "basis": args.basis,
        "counted": found,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    write_json(args.out, record)


if __name__ == "__main__":
    main()
