"""A finished run as plain files, which ten lines of Python load without janus.

They are timm's weights with all that was learned merged into them, and the classifier; the ten lines come
with them. (`janus.export_peft` writes the adapter instead.)
"""

from __future__ import annotations

import inspect
import json
import os
import runpy
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from .. import configure
from ..data.images import MARGIN, SMALL
from ..errors import JanusError, UsageError
from ..learner import augmentation
from ..lora import unadapt
from ..methods.prompts import Prompted
from ..predict import Predictor, finished
from ..runtime import checkpoint
from .backbones import ConvStem

STEM = "ViT with a convolutional stem"
CLOSE = 1e-5  # relative: how far the scores of the files may be from the run's own
# by classifier: what `load.py` makes of features f (b, d) and classifier.safetensors' tensors T; what that is
SCORES = {
    "linear": (
        "F.linear(f, T['weight'], T['bias'])",
        "logits, trained task by task: they rank classes and are not calibrated",
    ),
    "aligned": (
        "F.linear(f, T['weight'], T['bias'])",
        "logits, trained together on a Gaussian a class: they are not calibrated",
    ),
    "ncm": ("F.normalize(f, dim=1) @ T['means'].T", "cosines to the class means"),
    "ranpac": (
        "((f.double() @ T['P']).relu() @ T['W']).float()",
        "estimates of 0 and 1, by ridge regression on random features",
    ),
}


def export(run: str | Path, out: str | Path) -> Path:
    """Write a finished run so that it needs janus no more, and return the folder.

    Files: model.safetensors (the backbone by timm's names, LoRA merged), classifier.safetensors (linear and
    aligned: weight (C, d) and bias; ncm: means (C, d) of length 1; ranpac: P (d, M) and W (M, C), float64),
    config.json (architecture, preprocessing, classes), load.py and README.md. Scores are those of the run in
    float32 (a run with `amp` rounds its own), which is checked before anything is written.

    Raises:
        UsageError: a method with prompts, which plain weights cannot hold; a backbone that timm cannot build
            by its name alone.
        JanusError: no finished run in `run`; the folder cannot be written.
    """
    state = finished(Path(run))
    config = configure.restore(state["config"], run)
    predictor = Predictor(config, state, torch.device("cpu"))
    learner, kind = predictor.learner, config.classifier.name
    if isinstance(learner.method, Prompted):
        raise UsageError(
            f"{run}: method={config.method.name} asks for prompts with each image, which plain weights "
            "cannot hold: keep the run's folder, which janus.load reads"
        )
    cfg, size = learner.preprocess, learner.preprocess.size
    x = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = learner.method.scores(learner.model(x).float())
    tensors, plain = classifier(predictor), unadapt(learner.model)
    about = described(plain, config.backbone.model, size, config.backbone.image_size is not None) | {
        "size": size,
        "side": predictor.side,
        "crop": augmentation(config) == "photo",
        "mean": list(cfg.mean),
        "std": list(cfg.std),
        "interpolation": cfg.interpolation,
        "classes": predictor.class_names,
        "classifier": kind,
        "backbone": config.backbone.model,
        "method": config.method.name,
        "hash": configure.config_hash(config),
    }
    files = {
        "model.safetensors": _packed(plain.state_dict()),
        "classifier.safetensors": _packed(tensors),
        "config.json": (json.dumps(about, indent=1) + "\n").encode(),
        "load.py": loader(about).encode(),
        "README.md": readme(about, list(tensors)).encode(),
    }
    return _written(files, Path(out), lambda folder: _check(folder, x, expected, config.method.name))


def _check(folder: Path, x: Tensor, expected: Tensor, method: str) -> None:
    """Do what the reader of the files will do.

    UsageError: it does not give the run's scores of the images x (b, 3, S, S).
    """
    try:
        code = runpy.run_path(str(folder / "load.py"))
        found = code["scores"](code["load"](), x)
    except (RuntimeError, TypeError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise UsageError(
            f"timm cannot build this run's backbone by the name of its architecture ({why}): export its "
            "adapter by janus.export_peft"
        ) from None
    if not torch.linalg.norm(found - expected) <= CLOSE * torch.linalg.norm(expected):
        raise UsageError(
            f"the scores of method={method} do not follow from its weights and its classifier alone: keep "
            "the run's folder, which janus.load reads"
        )


def described(model: nn.Module, name: str, size: int, resized: bool = False) -> dict[str, Any]:
    """What builds an empty model like this one: timm's name of the architecture, or a ViT's arguments.

    With timm's name goes the size of its images if it is `resized`. The arguments are for a ViT with our
    stem.
    """
    if isinstance(getattr(model, "patch_embed", None), ConvStem):
        block = model.blocks[0]
        ratio = block.mlp.fc1.out_features / model.embed_dim
        return {
            "architecture": STEM,
            "arguments": {
                "img_size": size,
                "patch_size": model.patch_embed.patch_size[0],
                "embed_dim": model.embed_dim,
                "depth": len(model.blocks),
                "num_heads": block.attn.num_heads,
                "mlp_ratio": ratio,
            },
        }
    own = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    known = timm.is_model(name.partition(".")[0])
    return {
        "architecture": name.partition(".")[0] if known else own,
        "arguments": {"img_size": size} if resized else {},
    }


def classifier(predictor: Predictor) -> dict[str, Tensor]:
    """The tensors that make scores of features, see `SCORES`."""
    learner = predictor.learner
    if predictor.config.classifier.name == "ncm":
        return {"means": F.normalize(learner.prototypes.old, dim=1)}
    if predictor.config.classifier.name == "ranpac":
        return {"P": learner.classifier.P, "W": learner.classifier.W}
    heads = [head.state_dict() for head in learner.heads]
    return {key: torch.cat([head[key] for head in heads]) for key in ("weight", "bias")}


def loader(about: Mapping[str, Any]) -> str:
    """The text of load.py."""
    ours = about["architecture"] == STEM
    model = 'timm.create_model(C["architecture"], num_classes=0, **C["arguments"])'
    if ours:
        model = 'VisionTransformer(num_classes=0, embed_layer=ConvStem, **C["arguments"])'
    return LOADER.format(
        small=SMALL,
        margin=repr(MARGIN),
        what=SCORES[about["classifier"]][1],
        scores=SCORES[about["classifier"]][0],
        pairwise="from itertools import pairwise\n" if ours else "",
        timm="" if ours else "import timm\n",
        vit=VIT if ours else "",
        stem=f"\n\n{inspect.getsource(ConvStem)}" if ours else "",
        model=model,
    )


VIT = "from timm.models.vision_transformer import VisionTransformer\nfrom torch import Tensor, nn\n"
LOADER = '''"""Names what is on images, without janus: `python load.py IMAGE …`.

In Python: scores(load(), pixels(image)).
"""

from __future__ import annotations

import json
import sys
{pairwise}from pathlib import Path

{timm}import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors.torch import load_file
{vit}
HERE = Path(__file__).parent
C = json.loads((HERE / "config.json").read_text(encoding="utf-8"))
T = load_file(HERE / "classifier.safetensors")
{stem}

def load():
    model = {model}
    model.load_state_dict(load_file(HERE / "model.safetensors"))
    return model.eval().requires_grad_(False)


def scores(model, x):  # (b, 3, S, S) → (b, classes): {what}
    f = model(x)
    return {scores}


def pixels(image):  # a PIL image → (1, 3, S, S), as the backbone takes it
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        raise ValueError("a grey image of more than 8 bits: convert it to 8 bits first")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image, shorter, side = image.convert("RGB"), min(image.size), C["side"]
    w, h = (max(side, round(length * (side / shorter))) for length in image.size)
    image = image if (w, h) == image.size else image.resize((w, h), Image.Resampling.BILINEAR)
    left, top = (w - side) // 2, (h - side) // 2
    image = image.crop((left, top, left + side, top + side))
    x = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, side, side, 3)
    x = x.permute(0, 3, 1, 2).float().contiguous()
    if C["crop"] and side > {small}:  # the central part of a photograph
        inner = round(side * (1 / {margin}))
        start = (side - inner) // 2
        x = x[:, :, start : start + inner, start : start + inner]
    if x.shape[-1] != C["size"]:
        size, mode = (C["size"],) * 2, C["interpolation"]
        x = F.interpolate(x.contiguous(), size=size, mode=mode, antialias=True).clamp(0, 255)
    mean, std = (255 * torch.tensor(C[key])[:, None, None] for key in ("mean", "std"))
    return (x - mean) / std


if __name__ == "__main__":
    model = load()
    for path in sys.argv[1:]:
        values, index = scores(model, pixels(Image.open(path)))[0].topk(min(5, len(C["classes"])))
        found = zip(index.tolist(), values.tolist())
        print(f"{{path}}: " + ", ".join(f"{{C['classes'][i]}} {{v:.3f}}" for i, v in found))
'''


def readme(about: Mapping[str, Any], tensors: Sequence[str]) -> str:
    """The text of README.md. tensors: names in classifier.safetensors."""
    what = f"timm's `{about['architecture']}`"
    if about["architecture"] == STEM:
        what = "our ViT with a convolutional stem"
    return f"""# A classifier of {len(about["classes"])} classes, trained by janus ({about["method"]})

{what[0].upper()}{what[1:]} with what was learned merged into its weights, \
and a classifier on its features. Needed are
torch, timm, safetensors and Pillow; not janus.

```python
from PIL import Image
from load import C, load, pixels, scores  # load.py lies beside this file

model = load()
row = scores(model, pixels(Image.open("photo.jpg")))[0]
print(C["classes"][row.argmax()])
```

or `python load.py photo.jpg …`. Scores are {SCORES[about["classifier"]][1]}.

| file | what it holds |
|---|---|
| model.safetensors | the backbone's weights by timm's names |
| classifier.safetensors | {", ".join(f"`{name}`" for name in tensors)} |
| config.json | architecture, preprocessing, the names of the classes in the order of the scores |

Not in it: what janus needs to learn more classes (`janus extend` takes the run's own folder), \
and the LoRA factors
(`janus.export_peft` writes them in PEFT's format).
"""


def _packed(tensors: Mapping[str, Tensor]) -> bytes:
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return save(plain, {"format": "pt"})


def _written(files: Mapping[str, bytes], folder: Path, check: Callable[[Path], None]) -> Path:
    """Put the files into the folder, all of them once they have passed the check in a place of their own."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise JanusError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as place:
        for name, data in files.items():
            checkpoint.write_atomic(Path(place, name), lambda part, data=data: Path(part).write_bytes(data))
        check(Path(place))
        for name in files:
            os.replace(Path(place, name), folder / name)
    return folder
