"""Pre-train the embedded backbone on the Icons-R vocabulary.

    python data/scripts/pretrain_backbone.py            # about eleven minutes on two CPU cores

Supervised classification of the vocabulary's concepts, in grey: a random ink on a random ground of both
polarities, with mild noise and mild geometry, never a colour and never a texture. Those are the shift in
style that the stream brings, so that a model has to adapt. Writes `icons-vit.safetensors` (fp16, no head) and
`icons-vit.json`, the card.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from janus.data import icons
from janus.models.backbones import embedded_vit

DATA = Path(__file__).resolve().parents[1]


def jitter(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """Mild geometry: shift by up to 3 px, scale .8-1.15, rotation up to 12 degrees.

    float (B, 1, S, S) in [0, 1].
    """
    u = torch.rand(4, len(alpha), generator=generator) * 2 - 1  # (4, B) in [-1, 1]
    turn = u[0] * math.radians(12)
    zoom = torch.where(u[1] < 0, 1 + 0.2 * u[1], 1 + 0.15 * u[1])
    shift = u[2:] * 3 * 2 / alpha.shape[-1]  # affine_grid counts the image side as 2
    cos, sin = turn.cos() / zoom, turn.sin() / zoom
    rows = [torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)]
    theta = torch.stack(rows, 1)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(alpha.shape), align_corners=False)
    return F.grid_sample(alpha, grid, align_corners=False)


def grey(alpha: Tensor, generator: torch.Generator) -> Tensor:
    """A grey ink on a grey ground, at least 0.35 apart, and mild noise.

    float (B, 1, S, S) -> (B, 3, S, S) in [0, 1].
    """
    contrast, position, polarity, noise = torch.rand(4, len(alpha), 1, 1, 1, generator=generator)
    contrast = 0.35 + 0.65 * contrast
    low = position * (1 - contrast)
    dark_ink = polarity < 0.5
    ink = torch.where(dark_ink, low, low + contrast)
    ground = torch.where(dark_ink, low + contrast, low)
    image = ground + alpha * (ink - ground) + 0.04 * noise * torch.randn(alpha.shape, generator=generator)
    return image.clamp(0, 1).expand(-1, 3, -1, -1)


def normalise(images: Tensor) -> Tensor:
    """[0, 1] -> [-1, 1]: the mean and deviation of 0.5 that the backbone is used with."""
    return images * 2 - 1


@torch.no_grad()
def accuracy(model: nn.Module, alpha: Tensor, labels: Tensor) -> float:
    """Per cent of the images named rightly, black on white and white on black counted alike."""
    model.eval()
    right = 0
    for part, truth in zip(alpha.split(256), labels.split(256), strict=True):
        images = part.float().div(255)[:, None].expand(-1, 3, -1, -1)
        right += sum((model(normalise(x)).argmax(1) == truth).sum().item() for x in (images, 1 - images))
    model.train()
    return 100 * right / (2 * len(labels))


def backbone_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights without the head, fp16 where they are floats."""
    state = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    return {k: (v.half() if v.is_floating_point() else v).contiguous() for k, v in state.items()}


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--label-smoothing", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=DATA / "backbone" / "icons-vit.safetensors")
    what = "folder for weights after 40%% and 70%% of the epochs, and the end"
    parser.add_argument("--checkpoints", type=Path, help=what)
    return parser


def fit(
    model: nn.Module,
    count: int,
    loss_of: Callable[[Tensor], Tensor],
    accuracy_of: Callable[[], float],
    args: argparse.Namespace,
    generator: torch.Generator,
    after: Callable[[int], None],
) -> list[dict[str, float]]:
    """AdamW under a cosine with a warm-up over `args.epochs` epochs of `count` images.

    Gives epoch, loss and accuracy of each epoch. loss_of(indices (B,)) is the loss of a batch, accuracy_of()
    the validation accuracy in per cent; `after(epoch)` is called after each epoch.
    """
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decay, "weight_decay": args.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=args.lr)
    steps = args.epochs * (count // args.batch)
    warm = max(1, steps // 20)

    def rate(i: int) -> float:
        return min((i + 1) / warm, 0.5 * (1 + math.cos(math.pi * max(0, i - warm) / (steps - warm))))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    print(f"{count} images, {steps} steps", flush=True)
    history: list[dict[str, float]] = []
    start = time.time()
    for epoch in range(1, args.epochs + 1):
        order = torch.randperm(count, generator=generator)
        total = 0.0
        for batch in order[: count // args.batch * args.batch].split(args.batch):
            loss = loss_of(batch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            total += loss.item() * len(batch)
        val = accuracy_of()
        spent = time.time() - start
        history.append({"epoch": epoch, "loss": round(total / count, 4), "val_accuracy": round(val, 2)})
        left = spent / epoch * (args.epochs - epoch)
        print(
            f"epoch {epoch}/{args.epochs}  loss {total / count:.3f}  val {val:.1f} %  "
            f"{spent:.0f} s, {left:.0f} s left",
            flush=True,
        )
        after(epoch)
    return history


def recipe(args: argparse.Namespace, history: list[dict[str, float]], start: float) -> dict[str, object]:
    """What the backbone's card says of its training."""
    return {
        "val_accuracy": history[-1]["val_accuracy"],
        "epochs": args.epochs,
        "seed": args.seed,
        "batch": args.batch,
        "lr": args.lr,
        "weight_decay": args.weight_decay,
        "label_smoothing": args.label_smoothing,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "hardware": f"{platform.machine()}, {os.cpu_count()} CPU cores, {args.threads} threads",
        "seconds": round(time.time() - start),
        "torch": torch.__version__,
        "history": history,
    }


def main() -> None:
    args = options().parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)  # timm initialises from the global generator
    generator = torch.Generator().manual_seed(args.seed)
    classes, parts = icons.vocabulary()
    alpha, labels = (torch.from_numpy(parts["train"][k]) for k in (0, 1))
    val_alpha, val_labels = (torch.from_numpy(parts["val"][k]) for k in (0, 1))
    print(f"{len(classes)} concepts", flush=True)

    model = embedded_vit(num_classes=len(classes)).train()
    keep = {round(share * args.epochs) for share in (0.4, 0.7, 1.0)} if args.checkpoints else set()

    def loss_of(batch: Tensor) -> Tensor:
        images = grey(jitter(alpha[batch].float().div(255)[:, None], generator), generator)
        return F.cross_entropy(model(normalise(images)), labels[batch], label_smoothing=args.label_smoothing)

    def after(epoch: int) -> None:
        if epoch in keep:
            args.checkpoints.mkdir(parents=True, exist_ok=True)
            save_file(backbone_state(model), args.checkpoints / f"icons-vit-epoch{epoch:02d}.safetensors")

    def accuracy_of() -> float:
        return accuracy(model, val_alpha, val_labels)

    start = time.time()
    history = fit(model, len(labels), loss_of, accuracy_of, args, generator, after)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(backbone_state(model), args.out)
    manifest = json.loads((DATA / "icons-r" / "manifest.json").read_text())
    card = {
        "architecture": "janus.models.backbones.embedded_vit",
        "vocabulary": {"concepts": len(classes), "train_images": len(labels), "val_images": len(val_labels)},
        "vocabulary_sha256": manifest["icons-vocab"]["train"]["sha256"],
    } | recipe(args, history, start)
    args.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(
        f"wrote {args.out}: {history[-1]['val_accuracy']:.1f} % of the validation icons named rightly",
        flush=True,
    )


if __name__ == "__main__":
    main()
