"""Do training steps wait for photographs? The training loop itself, which reads from the decoded cache ahead
of the steps.

    python benchmarks/waiting.py --device cuda --amp --out runs/waiting.json  # ViT-B/16, batch 128: as in
                                                                              # the paper
    python benchmarks/waiting.py --batch 8 --images 80 --rows LoRA            # minutes on a CPU

The JPEG files are those of input_pipeline.py; they are decoded into the cache before the clock starts.
Waiting is the time in which the loop stands still because the next batch is not there yet, the first of each
task included. A card may be busy with the step before at that time, so it is idle for less; a copy to the
card, which waits in the card's own queue, is not counted. Images a second are those of the whole loop:
reading, augmenting, OE, GR, heads.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from janus.bench.variants import KNOWN
from janus.data import datasets
from janus.doctor.photographs import waiting, write_photographs
from janus.errors import JanusError
from janus.runtime.checkpoint import write_json
from janus.runtime.device import pick_device
from janus.runtime.result import hardware, versions

ROWS = ("LoRA", "exact+DML", "OE+GR+DML")


def measure(folder: Path, images: int, rows: list[str], **settings: Any) -> dict[str, dict[str, float]]:
    """Row → images a second of the training loop, and the share of its time it waited, in per cent."""
    found = {}
    for row in rows:
        found[row] = waiting(folder, images, **KNOWN[row] | settings)
        speed, waited = found[row]["images_per_second"], found[row]["waiting_percent"]
        print(f"{row:12s} {speed:7.1f} images/s, waits {waited:.2f} % of the time", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224", help="a timm ViT, with random weights")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=KNOWN, metavar="ROW")
    parser.add_argument("--images", type=int, default=5120, help="photographs, of ten classes in two tasks")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rank", type=int, default=10)
    parser.add_argument("--device", default="auto")
    what = "half precision: bf16, or fp16 on cards without it"
    parser.add_argument("--amp", action="store_true", help=what)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    try:
        device = pick_device(args.device)
    except JanusError as error:
        parser.exit(2, f"waiting: {error}\n")
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "model": args.model,
        "weights": "random",
        "epochs": args.epochs,
        "batch_size": args.batch,
        "rank": args.rank,
        "device": device.type,
        "amp": args.amp,
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["JANUS_CACHE"] = str(Path(folder) / "cache")
        print(f"making {args.images} photographs", flush=True)
        photographs = Path(folder) / "photographs"
        write_photographs(photographs, args.images)
        data = datasets.load(photographs, size=224, cache="disk")
        data.train.batch(torch.arange(1))  # decodes all of them
        found = measure(photographs, args.images, args.rows, **settings)
    record = {"images": args.images, **settings, "rows": found}
    if args.out:
        write_json(args.out, record | {"hardware": hardware(device), "versions": versions()})


if __name__ == "__main__":
    main()
