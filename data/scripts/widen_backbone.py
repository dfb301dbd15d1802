"""Pre-train the next embedded backbone: from the small vocabulary's weights to the wide vocabulary.

    python data/scripts/build_vocabulary.py iconify-json-2.2.535.tgz
    nohup nice -n 19 env OMP_NUM_THREADS=1 python data/scripts/widen_backbone.py > log.txt 2>&1 &

The second half of a curriculum: `pretrain_backbone.py` has learned 292 concepts, this goes on with some 2500
(from scratch so many stay on their plateau for 200 000 image passes and more). The same
architecture, in the same grey: see there. Kill it whenever you like: the same command goes on from the last
checkpoint to the same weights. Never reads the stream's test split.

Writes to --out: `state.safetensors` (the whole state), `curve.json` (passes, held-out accuracy, probe), every
--every passes `icons-vit-<thousands of passes>k.safetensors` (fp16, no head); at the end
`icons-vit.safetensors` and its card `icons-vit.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from build_vocabulary import DEFAULT_OUT as VOCABULARY
from drawings import content_hash, read
from platformdirs import user_cache_path
from pretrain_backbone import DATA, accuracy, backbone_state, grey, jitter, normalise
from probe_backbone import probe
from safetensors.torch import load_file, save_file
from stepwise import Plan, Training, run
from torch import Tensor, nn

from janus.models.backbones import embedded_vit

STRENGTHS = (0.0, 0.75, 1.0)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def model_from(start: Path, classes: int, seed: int) -> nn.Module:
    """The embedded architecture with the start's weights and a fresh head.

    Attention in plain matrix products: with 17 tokens torch's fused one takes half of the time on a CPU.
    """
    torch.manual_seed(seed)  # of the head
    model = embedded_vit(num_classes=classes)
    weights = {k: t.float() if t.is_floating_point() else t for k, t in load_file(start).items()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or [k for k in missing if not k.startswith("head.")]:
        raise SystemExit(
            f"{start} does not fit the embedded architecture: begin with data/backbone/icons-vit.safetensors"
        )
    for block in model.blocks:
        block.attn.fused_attn = False
    return model.to(memory_format=torch.channels_last).train()


def loss_on(
    model: nn.Module, masks: Tensor, labels: Tensor, label_smoothing: float
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The loss of a batch as `Training` wants it. masks uint8 (N, 32, 32), labels int64 (N,)."""

    def loss_of(batch: Tensor, generator: torch.Generator) -> Tensor:
        alpha = masks[batch].float().div(255)[:, None]
        images = normalise(grey(jitter(alpha, generator), generator))
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images)
        return F.cross_entropy(logits.float(), labels[batch], label_smoothing=label_smoothing)

    return loss_of


class Features(nn.Module):
    """The features before the head, in eval mode: what the probe and the adapted backbone see."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, d)
        return self.model.forward_head(self.model.forward_features(images), pre_logits=True)


def measure(model: nn.Module, held_out: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Held-out accuracy on the vocabulary, and the probe on the stream's validation split, in per cent."""
    numbers = {"held_out": round(accuracy(model, *held_out), 2)}
    model.eval()
    for strength, found in probe(Features(model), STRENGTHS).items():
        numbers |= {f"{classifier}@{strength}": value for classifier, value in found.items()}
    model.train()
    return numbers


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--passes", type=int, default=3_000_000, help="image passes in all; fixes the rate's schedule"
    )
    parser.add_argument("--every", type=int, default=250_000, help="passes between evaluations")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--vocabulary",
        type=Path,
        default=VOCABULARY,
        help="folder of build_vocabulary.py (default: %(default)s)",
    )
    parser.add_argument(
        "--start",
        type=Path,
        default=DATA / "backbone" / "icons-vit.safetensors",
        help="weights to begin with",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=user_cache_path("janus") / "pretrain",
        help="folder (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    args = options()
    torch.set_num_threads(args.threads)
    classes, masks, labels = read(args.vocabulary / "train.parquet")
    _, *held_out = read(args.vocabulary / "val.parquet")
    plan = Plan(len(labels), args.passes, content_hash(masks, labels), sha256(args.start), seed=args.seed)
    model = model_from(args.start, len(classes), args.seed)
    drawings = torch.from_numpy(masks), torch.from_numpy(labels)
    training = Training(model, plan, loss_on(model, *drawings, plan.label_smoothing))
    state = args.out / "state.safetensors"
    if state.exists():
        training.load(state)
    print(
        f"{len(classes)} concepts, {len(labels)} drawings; {training.passes} of {plan.passes} passes done",
        flush=True,
    )

    def evaluate() -> dict[str, float]:
        numbers = measure(model, tuple(torch.from_numpy(x) for x in held_out))
        args.out.mkdir(parents=True, exist_ok=True)
        save_file(backbone_state(model), args.out / f"icons-vit-{training.passes // 1000:04d}k.safetensors")
        return numbers

    def card(path: Path) -> None:
        text = {
            "architecture": "janus.models.backbones.embedded_vit",
            "vocabulary": {
                "concepts": len(classes),
                "train_images": len(labels),
                "val_images": len(held_out[1]),
            },
            **asdict(plan),
            "precision": "bfloat16 autocast",
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, {args.threads} threads",
            "torch": torch.__version__,
            "curve": training.curve,
        }
        path.write_text(json.dumps(text, indent=2) + "\n")

    run(training, state, evaluate, args.every, after_mark=lambda: card(args.out / "curve.json"))
    save_file(backbone_state(model), args.out / "icons-vit.safetensors")
    card(args.out / "icons-vit.json")
    print(f"wrote {args.out / 'icons-vit.safetensors'}: {training.curve[-1]}", flush=True)


if __name__ == "__main__":
    main()
