"""Pre-train a backbone for small photographs on 50 classes of Tiny-ImageNet that the stream does not contain.

    python data/scripts/build_tin100.py tiny-imagenet-200 --out photographs           # the four parquet files
    python data/scripts/pretrain_photos.py photographs --out photographs/photos-vit.safetensors

Supervised classification, with random crops, mirroring and CutMix: 25 000 images are few for a ViT. Writes
the weights (fp16, no head) and, beside them, the card as JSON.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pretrain_backbone import backbone_state, fit, options, recipe
from safetensors.torch import save_file
from timm.data import Mixup
from torch import Tensor, nn

from janus.data import datasets
from janus.data.images import Images
from janus.data.transforms import test_transform, train_transform
from janus.models.backbones import PreprocessConfig, embedded_vit

PREPROCESS = PreprocessConfig(64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
CUTMIX = 0.5  # share of the batches that are mixed


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """Per cent of the images named rightly."""
    model.eval()
    transform, right = test_transform("photo", PREPROCESS), 0
    for index in torch.arange(len(images)).split(256):
        right += (model(transform(images.batch(index))).argmax(1) == images.labels[index]).sum().item()
    model.train()
    return 100 * right / len(images)


def main() -> None:
    parser = options(__doc__, Path("photos-vit.safetensors"), epochs=30)
    parser.add_argument(
        "data", type=Path, help="the folder with tinpre-train.parquet and tinpre-test.parquet"
    )
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)  # timm initialises from the global generator
    np.random.seed(args.seed)  # and its CutMix draws from numpy's
    generator = torch.Generator().manual_seed(args.seed)
    data = datasets.load(args.data / "tinpre-*.parquet", size=64)
    model = embedded_vit(num_classes=len(data.classes), img_size=64, patch_size=16).train()
    augment = train_transform("photo", PREPROCESS, scale=(0.25, 1.0))
    mixing = {"mixup_alpha": 0, "cutmix_alpha": 1.0, "prob": CUTMIX}
    mixup = Mixup(**mixing, label_smoothing=args.label_smoothing, num_classes=len(data.classes))

    def loss_of(batch: Tensor) -> Tensor:
        augmented = augment(data.train.batch(batch), generator)
        images, soft = mixup(augmented, data.train.labels[batch])  # soft (B, classes)
        return F.cross_entropy(model(images), soft)

    start = time.time()
    history = fit(model, len(data.train), loss_of, lambda: accuracy(model, data.test), args, generator)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(backbone_state(model), args.out)
    card = {
        "architecture": "janus.models.backbones.embedded_vit, 64 px, patches of 16",
        "data": {"classes": data.classes, "train_images": len(data.train), "val_images": len(data.test)},
        "cutmix": CUTMIX,
    } | recipe(args, history, start)
    args.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    print(
        f"wrote {args.out}: {history[-1]['val_accuracy']:.1f} % of the validation photographs named rightly",
        flush=True,
    )


if __name__ == "__main__":
    main()
