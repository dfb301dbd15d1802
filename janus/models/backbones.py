"""Backbones: the embedded ViT, any timm ViT with attention; weights of files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_model_data_config
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..data import registry
from ..errors import JanusError, UsageError, unknown
from ..runtime import assets, checkpoint
from .vit import matrices

EMBEDDED, WIDE = "icons-vit", "icons-vit-wide"
SIDE = 32  # of their images, in pixels
_FAMILIES = {  # timm's modules whose models `janus.models.vit` knows
    "vision_transformer": "ViT: plain, DeiT III, DINO, CLIP, SigLIP",
    "deit": "DeiT",
    "eva": "EVA, rotary ViT, DINOv3",
    "beit": "BEiT",
    "vision_transformer_relpos": "ViT with relative positions",
}
_HUB_PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:")


@dataclass(frozen=True)
class PreprocessConfig:
    """What a backbone expects of images: side, mean and std a channel (of values in 0…1), resampling."""

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str


class ConvStem(nn.Module):
    """log2 P stride-2 3x3 conv-BatchNorm-ReLU and a 1x1 convolution.

    A patch embedding that learns from few images. It maps (B, 3, S, S) to S/P x S/P tokens of `embed_dim`, P
    a power of two. The signature is the one timm's `embed_layer` expects.
    """

    def __init__(self, img_size: int, patch_size: int, in_chans: int, embed_dim: int, **_: object) -> None:
        super().__init__()
        side = img_size // patch_size
        self.num_patches, self.patch_size, self.grid_size = side**2, (patch_size, patch_size), (side, side)
        halvings = reversed(range(patch_size.bit_length() - 1))
        doubling = [embed_dim // 2**i for i in halvings]  # up to embed_dim
        layers: list[nn.Module] = []
        for c_in, c_out in pairwise([in_chans, *doubling]):
            convolution = nn.Conv2d(c_in, c_out, 3, 2, 1, bias=False)
            layers += [convolution, nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)]
        self.stem = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, S, S) -> (B, (S/P)^2, D)
        return self.stem(x).flatten(2).transpose(1, 2)


def embedded_vit(num_classes: int = 0) -> VisionTransformer:
    """The architecture of the embedded backbones: 32 px, width 192, 6 blocks, 3 heads, 17 tokens."""
    return VisionTransformer(
        img_size=SIDE,
        patch_size=8,
        embed_dim=192,
        depth=6,
        num_heads=3,
        num_classes=num_classes,
        embed_layer=ConvStem,
    )


def models() -> dict[str, str]:
    """Name -> description of every model that `create` knows by name.

    Hub names ("hf-hub:…") come on top of these.
    """
    found = {
        EMBEDDED: "the embedded ViT: 32 px, width 192, 6 blocks, pre-trained on 292 concepts of icons",
        WIDE: "the same ViT, pre-trained further on 2,542 concepts: its features serve the stream far better",
    }
    for module, description in _FAMILIES.items():
        found |= {name: description for name in timm.list_models(module=module)}
    return found


def create(
    name: str, weights: str | Path | None = None, img_size: int | None = None, **options: Any
) -> tuple[nn.Module, PreprocessConfig]:
    """A frozen backbone in eval mode that gives features (no classifier), and the preprocessing it expects.

    name: "icons-vit", "icons-vit-wide", any ViT of timm ("vit_small_patch14_dinov2", with a tag if wanted) or
    "hf-hub:owner/model".
    weights: a local safetensors file (as it stands, or below $JANUS_DATA), "random" (the same each time), or
    None: the embedded file, or those that timm has on the hub under that name.
    img_size: another side in pixels; timm resizes the positions.
    options: passed to timm (depth, embed_dim …).

    Loading is strict: every tensor of the backbone must be in the file and no others but a classifier.
    Raises UsageError for an unknown name, option or kind of file and a model without known attention,
    JanusError for weights that are missing, damaged, of another model, or that cannot be fetched.
    """
    if name in registry.EMBEDDED:
        if options or img_size not in (None, SIDE):
            raise UsageError(
                f"{name} has one size, {SIDE} px, and no options: leave them out or choose another model"
            )
        model = _seeded(embedded_vit)
        preprocess = PreprocessConfig(SIDE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear")
        if weights is None:
            weights = assets.path(registry.EMBEDDED[name])
    else:
        hub = name.startswith(_HUB_PREFIXES)
        if not hub and not timm.is_model(name.split(".")[0]):
            raise unknown("model", name, models())
        if img_size is not None:
            options["img_size"] = img_size
        if weights is None:
            model = _create_timm(name, pretrained=True, hub=hub, **options)
        else:
            model = _seeded(_create_timm, name, pretrained=False, hub=hub, **options)
        preprocess = _preprocess(model)
    list(matrices(model, ("k", "v")))  # refuses by name what has no attention we know
    if weights is not None and weights != "random":
        _load(model, _located(Path(weights)), name)
    return model.requires_grad_(False).eval(), preprocess


def normalised(preprocess: PreprocessConfig, how: str) -> PreprocessConfig:
    """The preprocessing with another normalisation.

    "checkpoint" or "auto" keep its mean and std, "none" feeds values in 0…1. InfLoRA and the methods compared
    with it feed 0…1 to a ViT-B/16 whose own config says mean 0.5, std 0.5.
    """
    return replace(preprocess, mean=(0.0,) * 3, std=(1.0,) * 3) if how == "none" else preprocess


def fingerprint(model: nn.Module) -> str:
    """Names the weights of a plain backbone on the CPU by their values: 12 hexadecimal digits.

    The name of a file does not.
    """
    return checkpoint.digest(model.state_dict())[:12]


def check(mine: str, trained_with: str | None, source: str) -> None:
    """JanusError if a run was trained with other weights than those that `source` holds now.

    What it learned is a difference to them. Two fingerprints; None: the run is older than they are, and is
    taken as it is.
    """
    if trained_with not in (None, mine):
        raise JanusError(
            f"the weights of the backbone ({source}) are not those this run was trained with (fingerprint "
            f"{mine}, not {trained_with}); put those back, or train again with another --out"
        )


def read_safetensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises JanusError, naming the file, if it is missing, truncated or damaged.
    """
    path = Path(path)
    try:
        return load_file(path)
    except FileNotFoundError as e:
        raise JanusError(f"{path} does not exist: check the name{assets.photographs(path.name)}") from e
    except OSError as e:
        raise JanusError(f"cannot read {path}: {e.strerror or e}") from e
    except SafetensorError as e:
        raise JanusError(f"{path} is truncated or no safetensors file ({e}): copy or convert it again") from e


def _seeded(make: Callable[..., nn.Module], *args: Any, **kwargs: Any) -> nn.Module:
    """make(…) with random weights that are the same each time.

    It leaves torch's global generator where it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # of the CPU alone: a GPU's is not forked
        return make(*args, **kwargs)


def _create_timm(name: str, pretrained: bool, hub: bool, **options: Any) -> nn.Module:
    if pretrained and not hub:  # a first build without weights tells a wrong option from a failed download
        config = _create_timm(name, pretrained=False, hub=False, **options).pretrained_cfg
        if not config.get("hf_hub_id"):
            raise UsageError(
                f"timm has no weights on the hub for {name}: pass weights=<file.safetensors> or 'random'"
            )
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, **options)
    except Exception as e:  # noqa: BLE001 - the hub's client raises its own errors, its HTTP library's …
        reason = f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else 'no details'}"
        if pretrained or hub:
            raise JanusError(
                f"cannot fetch {name} ({reason}): go online, or pass weights=<file.safetensors> or 'random'"
            ) from e
        raise UsageError(f"timm cannot build {name} with {options or 'its defaults'} ({reason})") from e


def _preprocess(model: nn.Module) -> PreprocessConfig:
    config = resolve_model_data_config(model)
    height, width = getattr(getattr(model, "patch_embed", None), "img_size", None) or config["input_size"][1:]
    if height != width:
        raise UsageError(
            f"{type(model).__name__} wants images of {height}×{width}: only square ones are supported"
        )
    return PreprocessConfig(height, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])


def _located(path: Path) -> Path:
    """A file as it stands, else below $JANUS_DATA if it is there."""
    below = (assets.home() or Path()) / path
    return below if not path.exists() and below.exists() else path


def _load(model: nn.Module, path: Path, name: str) -> None:
    if path.suffix != ".safetensors":
        raise UsageError(f"{path} {assets.PICKLED}")
    file = _without_classifier(model, read_safetensors(path))
    if mismatch := _mismatch(model, file):
        # timm's own filter knows other layouts (original DINO, CLIP and BEiT files) and resizes the positions
        convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        try:
            file = _without_classifier(model, convert(dict(file), model)) if convert else file
        except Exception as e:  # noqa: BLE001 - the filters index foreign files without checks
            raise JanusError(f"{path} does not fit {name}: {mismatch}") from e
        if mismatch := _mismatch(model, file):
            raise JanusError(f"{path} does not fit {name}: {mismatch}")
    model.load_state_dict(file, strict=True)


def _without_classifier(model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    classifier = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or "head"
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    own = model.state_dict().keys()
    return {k: t for k, t in tensors.items() if k in own or k.rpartition(".")[0] not in names}


def _mismatch(model: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """What a strict load would complain of, in one line; empty if nothing."""
    own = model.state_dict()
    differ = [k for k in own if k in tensors and tensors[k].shape != own[k].shape]
    wrong = {
        "missing": [k for k in own if k not in tensors],
        "unexpected": [k for k in tensors if k not in own],
        "shape": [f"{k} {tuple(tensors[k].shape)} for {tuple(own[k].shape)}" for k in differ],
    }
    faults = []
    for what, keys in wrong.items():
        more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
        faults += [f"{what} {', '.join(keys[:4])}{more}"] if keys else []
    return "; ".join(faults)
