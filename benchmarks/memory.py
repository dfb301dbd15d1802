"""Bytes that a training step keeps for its backward pass, counted tensor by tensor: what decides whether a batch fits a card.

    python benchmarks/memory.py      # ViT-B/16 in half precision and in float32, plain LoRA and Janus, on any CPU

Counted are the storages that autograd saves, each once, and all tensors that live between steps (weights, factors, optimiser,
basis). Not counted: workspaces, fragmentation, the CUDA context. A count on a CPU, where attention keeps what the fused kernels
of a card keep; not a measurement on a card.
"""

from __future__ import annotations

import argparse
import gc
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from janus.checkpoint import write_json
from janus.doctor.cost import LORA, PEFT, Case, Variant
from janus.result import hardware, versions

COUNTED = (PEFT, LORA, "exact + OE + DML", "tangent + OE + DML")


def alive() -> dict[int, int]:
    """Address → bytes of every storage that a tensor holds now."""
    gc.collect()
    stores = (t.untyped_storage() for t in gc.get_objects() if isinstance(t, Tensor))
    return {store.data_ptr(): store.nbytes() for store in stores}


def saved(variant: Variant, x: Tensor, y: Tensor, amp: bool) -> int:
    """Bytes that autograd keeps of one forward pass and that were not there before it."""
    before, kept = alive(), {}

    def pack(tensor: Tensor) -> Tensor:
        store = tensor.untyped_storage()
        if store.data_ptr() not in before:
            kept[store.data_ptr()] = store.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16, enabled=amp):
        loss = variant.loss(x, y)  # alive until all is counted
    del loss
    return sum(kept.values())


def count(model: str, name: str, rank: int, directions: int) -> dict[str, dict[str, float]]:
    """Precision → megabytes that do not depend on the batch, and megabytes an image: from passes of one and of two images."""
    empty = set(alive())
    case = Case(model, 1, rank, directions, torch.get_num_threads())
    variant = case.variant(name)
    one, two = case.example(), replace(case, batch=2).example()
    variant.step(*one)  # the optimisers' state is there from now on
    lasting = sum(size for place, size in alive().items() if place not in empty)
    found = {}
    for precision, amp in (("float32", False), ("half precision", True)):
        a, b = saved(variant, *one, amp), saved(variant, *two, amp)
        found[precision] = {"fixed": (lasting + 2 * a - b) / 1e6, "image": (b - a) / 1e6}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--basis", type=int, default=256, help="protected directions per layer")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "memory.json")
    args = parser.parse_args()
    found = {}
    for name in COUNTED:
        found[name] = count(args.model, name, args.rank, args.basis)
        for precision, case in found[name].items():
            print(f"{name:20s} {precision:14s} {case['fixed']:7.0f} MB + {case['image']:6.1f} MB an image", flush=True)
    write_json(args.out, {"model": args.model, "rank": args.rank, "basis": args.basis, "counted": found,
                          "hardware": hardware(torch.device("cpu")), "versions": versions()})


if __name__ == "__main__":
    main()
