"""Adapters in PEFT's format: `export_peft` writes one, `import_peft` reads one, neither needs PEFT itself.

PEFT holds one pair a layer. A fused qkv with LoRA on K and V has two, and they stack exactly to one of rank
2r: A = [A_k; A_v] (2r, n) and B (3d, 2r) with B_k and B_v on their own rows and columns and zeros elsewhere.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from ..errors import JanusError, UsageError
from ..lora import install, pairs, places
from .backbones import read_safetensors
from .lora_layer import Pair
from .peft_layers import is_peft
from .prefix import PrefixAttention
from .vit import split

NOT_CARRIED = {
    "classifier heads": "heads.safetensors, if given",
    "class names": "the field classes of janus.json, if given",
    "null-space basis": "not in this folder: training cannot go on from here with old tasks protected",
    "class prototypes": "not in this folder",
    "optimiser state": "not in this folder",
}

_PREFIX = "base_model.model."  # PEFT's names for the tensors: prefix + path + .lora_A.weight
_QKV_BIAS = (
    "set attn.qkv_bias_separate = True in every block before PEFT wraps it, or its qkv layer is never called"
)


@torch.no_grad()
def export_peft(
    model: nn.Module,
    folder: str | Path,
    base: str | None = None,
    heads: dict[str, Tensor] | None = None,
    classes: Sequence[str] | None = None,
) -> Path:
    """Write the adapter of an adapted model, for `PeftModel.from_pretrained(backbone, folder)`.

    That gives the model's features. base: the backbone's name, e.g. "vit_small_patch16_224.augreg_in21k" (a
    note to the reader, PEFT does not need it). heads, classes: classifier tensors and class names, kept
    beside the adapter; PEFT does not read them.

    Files: adapter_config.json and adapter_model.safetensors (PEFT's), janus.json (which rows the pairs are
    on, and NOT_CARRIED: what PEFT cannot carry), README.md, heads.safetensors. A model that was never merged
    keeps its factors; after `merge` each matrix is the SVD of its displacement W − W0 since `adapt`, at its
    numerical rank (`_factorise`).

    A model that PEFT wrapped is exported, too: needed once `janus.merge` has put factors into its weights.

    Raises UsageError for a model that is not adapted or has prompts, JanusError if the folder cannot be
    written.
    """
    layers: dict[str, list[Pair]] = {}
    for path, pair in places(model):
        layers.setdefault(path, []).append(pair)
    if not layers:
        raise UsageError(f"{type(model).__name__} was not adapted by janus or PEFT: janus.adapt(model) first")
    if any(isinstance(module, PrefixAttention) for module in model.modules()):
        raise UsageError(
            "the model has prompts, which a LoRA adapter cannot hold: "
            "keep the run's folder, which janus.load reads"
        )
    tensors: dict[str, Tensor] = {}
    ranks, alphas, modules = {}, {}, {}
    needs = []
    for place, found in layers.items():
        path = place.removeprefix(_PREFIX)
        scale, factors = _layer_factors(found)
        A, B, blocks = _joined(found, factors, path)
        tensors |= {f"{_PREFIX}{path}.lora_A.weight": A.cpu(), f"{_PREFIX}{path}.lora_B.weight": B.cpu()}
        ranks[path], alphas[path] = len(A), scale * len(A)  # PEFT's scaling is alpha / rank
        modules[path] = {"scale": scale, "blocks": blocks}
        fused = getattr(model.get_submodule(split(place)[0]), "qkv_bias_was_fused", False)
        if fused and _QKV_BIAS not in needs:
            needs.append(_QKV_BIAS)
    every = [pair for found in layers.values() for pair in found]
    merged = any(pair.original is not None for pair in every)
    config = _peft_config(base, ranks, alphas) | {"fan_in_fan_out": any(pair.transposed for pair in every)}
    note = {"format": 1, "base": base, "merged": merged, "modules": modules, "peft_needs": needs}
    note |= {"not_carried_by_peft": NOT_CARRIED, "classes": list(classes) if classes is not None else None}
    files = {
        "adapter_model.safetensors": save({k: t.contiguous() for k, t in tensors.items()}, {"format": "pt"}),
        "adapter_config.json": json.dumps(config, indent=2).encode(),
        "janus.json": json.dumps(note, indent=2).encode(),
        "README.md": _readme(base, needs).encode(),
    }
    if heads:
        files["heads.safetensors"] = save({k: t.detach().cpu().contiguous() for k, t in heads.items()})
    return _write(Path(folder), files)


def _joined(
    found: list[Pair], factors: list[tuple[Tensor, Tensor]], path: str
) -> tuple[Tensor, Tensor, dict[str, list[int]]]:
    """The pairs of one layer as PEFT's single pair, A (R, n) and B (m, R), and each one's rows of it."""
    blocks, start = {}, 0
    A = torch.cat([A for A, _ in factors])  # (R, n)
    B = A.new_zeros(found[0].layer.out_features, len(A))  # (m, R)
    for pair, (A_i, B_i) in zip(found, factors):
        rows, r = pair.rows, len(A_i)
        B[rows, start : start + r] = B_i
        blocks[_block(pair, path)] = [rows.start, rows.stop, r]
        start += r
    return A, B, blocks


def _write(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files of an adapter, each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if "heads.safetensors" not in files:
            (folder / "heads.safetensors").unlink(missing_ok=True)  # never the heads of an earlier export
        for name, data in files.items():
            partial = folder / f".{name}.partial"
            partial.write_bytes(data)
            os.replace(partial, folder / name)
    except OSError as e:
        raise JanusError(
            f"cannot write the adapter to {folder}: {e.strerror or e}; choose another folder"
        ) from e
    return folder


def import_peft(model: nn.Module, folder: str | Path) -> nn.Module:
    """Adapt a plain backbone, in place, with the LoRA adapter in `folder`, and return it.

    An adapter written by `export_peft` comes back with its pairs (K and V apart). One that PEFT wrote on a
    fused qkv has one pair for all its rows, named "….qkv". Heads lie in heads.safetensors and are read by
    `load_heads`.

    Raises UsageError for variants other than plain LoRA on linear layers and a model that is adapted already,
    JanusError for missing or damaged files and for an adapter made for another backbone.
    """
    folder = Path(folder)
    if (folder / "adapter_model.bin").exists() and not (folder / "adapter_model.safetensors").exists():
        raise UsageError(
            f"{folder} holds adapter_model.bin, a pickle, which can run code and is not read: if you trust "
            "it, load it with PEFT, and model.save_pretrained(folder) writes adapter_model.safetensors"
        )
    config = _read_json(folder / "adapter_config.json")
    tensors = read_safetensors(folder / "adapter_model.safetensors")
    note = _read_json(folder / "janus.json") if (folder / "janus.json").exists() else {}
    if pairs(model):
        raise UsageError("the model is adapted already: import into a plain backbone")
    layers = dict(model.named_modules())
    blocks: dict[str, dict[str, tuple[slice, int]]] = {}
    scales: dict[str, float] = {}
    values: dict[str, list[tuple[str, Tensor, Tensor]]] = {}
    for path, factors in _plain_factors(folder, config, tensors).items():
        linear, A, B = layers.get(path), factors.get("A"), factors.get("B")
        if path in layers and not isinstance(linear, nn.Linear):
            raise UsageError(
                f"{folder}: LoRA on {path}, a {type(linear).__name__}, is not supported: train an adapter "
                "whose target_modules are linear layers"
            )
        fits = isinstance(linear, nn.Linear) and A is not None and B is not None and A.dim() == B.dim() == 2
        if not fits or (B.shape[0], A.shape[1]) != tuple(linear.weight.shape) or A.shape[0] != B.shape[1]:
            raise JanusError(
                f"{folder}: {path} does not fit this {type(model).__name__}: made for another backbone?"
            )
        values[path] = _split_blocks(path, A, B, note.get("modules", {}).get(path, {}).get("blocks"))
        blocks[path] = {name: (rows, len(A_i)) for name, rows, A_i, _ in values[path]}
        scales[path] = _scaling(config, path, len(A))
    if not blocks:
        raise JanusError(f"{folder / 'adapter_model.safetensors'} holds no LoRA factors")
    order = [path for path in layers if path in blocks]
    install(model, {path: blocks[path] for path in order}, scales)
    with torch.no_grad():
        for path in order:
            layer = model.get_submodule(path)
            for name, _, A, B in values[path]:
                getattr(layer, f"A_{name}").copy_(A)
                getattr(layer, f"B_{name}").copy_(B)
    return model


def _plain_factors(
    folder: Path, config: dict[str, Any], tensors: dict[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Layer → {"A", "B"} of an adapter. UsageError: it is no plain LoRA on linear layers."""
    more = ("use_dora", "modules_to_save", "fan_in_fan_out", "layer_replication")
    used = [key for key in more if config.get(key)]
    if config.get("peft_type") != "LORA" or used or config.get("bias", "none") != "none":
        raise UsageError(
            f"{folder} is not plain LoRA ({', '.join(used) or config.get('peft_type')}): not supported"
        )
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        match = re.fullmatch(rf"(?:{re.escape(_PREFIX)})?(.+)\.lora_([AB])\.weight", key)
        if not match:
            raise UsageError(
                f"{folder} holds {key}, which is no LoRA factor of a linear layer: not supported"
            )
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    return found


def load_heads(folder: str | Path) -> dict[str, Tensor]:
    """The classifier tensors that `export_peft` was given. Raises JanusError if the folder holds none."""
    return read_safetensors(Path(folder) / "heads.safetensors")


def _block(pair: Pair, path: str) -> str:
    """The name of a pair in janus.json; of a PEFT layer with one adapter, the one `import_peft` gives it."""
    return _whole(path) if is_peft(pair.layer) and len(pair.layer.active_adapters) == 1 else pair.block


def _whole(path: str) -> str:
    """The name of a pair on all rows of a layer: k of attn.k_proj, else the layer's own."""
    leaf = split(path)[1]
    return leaf[0] if leaf in ("q_proj", "k_proj", "v_proj") else leaf


def _layer_factors(layer: list[Pair]) -> tuple[float, list[tuple[Tensor, Tensor]]]:
    """(scale, (A, B) of each pair): their product is the layer's displacement since `adapt`, in float32."""
    factors = [(pair.A.float(), pair.B.float()) for pair in layer]
    if all(pair.original is None for pair in layer) and len({pair.scale for pair in layer}) == 1:
        return layer[0].scale, factors
    for i, (pair, (A, B)) in enumerate(zip(layer, factors)):
        delta = pair.scale * (B.cpu().double() @ A.cpu().double())
        if pair.original is None:
            factors[i] = A, pair.scale * B
        else:
            moved = pair.weight.cpu().double() - pair.original.cpu().double()
            factors[i] = _factorise(moved + delta, pair.original)
    return 1.0, factors


def _factorise(delta: Tensor, W0: Tensor) -> tuple[Tensor, Tensor]:
    """delta (m, n) = B A at its numerical rank, with B = U√S and A = √S Vᵀ.

    At least rank 1, which PEFT asks for. Singular values up to 2·eps·rms(W0)·(√m + √n) are dropped: the norm
    of the rounding errors that dozens of merges leave in W (each entry is rounded by at most eps·|w|/2, and a
    random m×n matrix with unit entries has norm √m + √n).
    """
    m, n = delta.shape
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    rms = W0.double().square().mean().sqrt().item()
    cutoff = 2 * torch.finfo(W0.dtype).eps * rms * (math.sqrt(m) + math.sqrt(n))
    rank = max(int((S > cutoff).sum()), 1)
    root = S[:rank].sqrt()
    return (root[:, None] * Vh[:rank]).float(), (U[:, :rank] * root).float()


def _split_blocks(
    path: str, A: Tensor, B: Tensor, blocks: dict[str, list[int]] | None
) -> list[tuple[str, slice, Tensor, Tensor]]:
    """(name, rows, A, B) for each pair stacked in A and B; without a note of ours, one pair on all rows."""
    if not blocks:
        return [(_whole(path), slice(0, B.shape[0]), A, B)]
    parts, rest, start = [], B.clone(), 0
    for name, (first, last, rank) in blocks.items():
        columns = slice(start, start + rank)
        parts.append((name, slice(first, last), A[columns], B[first:last, columns]))
        rest[first:last, columns] = 0
        start += rank
    if start != len(A) or rest.any():
        raise JanusError(
            f"janus.json and adapter_model.safetensors disagree about {path}: delete janus.json to use it"
        )
    return parts


def _scaling(config: dict[str, Any], path: str, rank: int) -> float:
    """alpha / r (alpha / √r for rank-stabilised LoRA); of PEFT's patterns the first that ends the path."""
    alpha = config.get("lora_alpha", 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            alpha = value
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _peft_config(base: str | None, ranks: dict[str, int], alphas: dict[str, float]) -> dict[str, Any]:
    r, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    patterns = {  # PEFT reads the keys as regular expressions
        "rank_pattern": {re.escape(p): v for p, v in ranks.items() if v != r},
        "alpha_pattern": {re.escape(p): v for p, v in alphas.items() if v != alpha},
    }
    return {
        "peft_type": "LORA",
        "task_type": None,
        "inference_mode": True,
        "bias": "none",
        "lora_dropout": 0.0,
        "base_model_name_or_path": base,
        "r": r,
        "lora_alpha": alpha,
        "target_modules": list(ranks),
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        **patterns,
    }


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text())
    except OSError as e:
        raise JanusError(f"cannot read {path}: {e.strerror or e}") from e
    except ValueError as e:
        raise JanusError(f"{path} is not valid JSON ({e}): truncated or edited?") from e
    if not isinstance(data, dict):
        raise JanusError(f"{path} does not hold a JSON object: truncated or edited?")
    return data


def _readme(base: str | None, needs: list[str]) -> str:
    name = base or "the backbone's name in timm"
    lines = ["---", "library_name: peft", *([f"base_model: {base}"] if base else []), "---", ""]
    lines += ["# A LoRA adapter trained by Janus-LoRA", "", "```python", "import timm"]
    lines += ["from peft import PeftModel", ""]
    lines += [f'model = timm.create_model("{name}", pretrained=True, num_classes=0)']
    lines += [f"# {need}" for need in needs]
    lines += ['model = PeftModel.from_pretrained(model, "this folder").eval()', "```", ""]
    lines += ["or, without PEFT,", ""]
    lines += ['`janus.import_peft(model, "this folder")`.', "", "What PEFT cannot carry:", ""]
    lines += [f"- {what}: {where}" for what, where in NOT_CARRIED.items()]
    return "\n".join(lines) + "\n"
