"""Checkpoints: a safetensors file, JSON in its header, written atomically, checked by digest. No pickle."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from ..errors import JanusError


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a nested dict of tensors and JSON values. The old file stands until the new one is on disk.

    Raises:
        JanusError: no space, no rights.
    """
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    tensors = {name: t.detach().contiguous().cpu().clone() for name, t in tensors.items()}
    metadata = {"janus": json.dumps(tree), "sha256": digest(tensors, json.dumps(tree))}
    data = to_bytes(tensors, metadata)
    write_atomic(path, lambda temporary: Path(temporary).write_bytes(data))


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote.

    Raises:
        JanusError: the file is missing, truncated, or was changed after it was written; the file is named.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except FileNotFoundError:
        raise JanusError(f"{path}: no checkpoint there") from None
    except (SafetensorError, OSError) as error:
        raise JanusError(
            f"{path}: the checkpoint is damaged ({error}); delete it to start this run again"
        ) from None
    tree = metadata.get("janus", "")
    if metadata.get("sha256") != digest(tensors, tree):
        raise JanusError(
            f"{path}: the checkpoint was changed after it was written (its digest does not match); "
            "delete it to start this run again"
        )
    return _join(json.loads(tree), tensors)


def header(path: Path) -> dict[str, Any]:
    """What `save` wrote, without tensors and unchecked: the file is not read beyond its header.

    Empty if it cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tree = (file.metadata() or {}).get("janus", '{"$dict": []}')
        return _join(json.loads(tree), None)
    except (SafetensorError, OSError, ValueError):
        return {}


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically (same promises as `save`).

    JanusError too for NaN and infinity, which JSON does not have.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    except ValueError:
        raise JanusError(
            f"cannot write {path}: a value in it is not a number (NaN or infinite), "
            "so training has diverged; try a smaller lr"
        ) from None
    write_atomic(path, lambda temporary: Path(temporary).write_text(text))


def write_atomic(path: Path, write: Callable[[str], None]) -> None:
    """Call `write(temporary name)`, then put the result in place of `path` in one step."""
    # made by `write`, so the umask sets its mode
    temporary = str(path.with_name(f".{path.name}-{uuid.uuid4().hex}.part"))
    try:
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise JanusError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another --out, "
            "then run the same command again"
        ) from None
    finally:
        Path(temporary).unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the unfinished files of writers that were killed. Only for who holds the folder's lock."""
    for file in folder.glob(".*.part"):
        file.unlink(missing_ok=True)


def digest(tensors: Mapping[str, Tensor], tree: str = "") -> str:
    """Hexadecimal SHA-256 of a text and of tensors on the CPU: of their names, dtypes, shapes and values."""
    sha = hashlib.sha256(tree.encode())
    for name in sorted(tensors):
        t = tensors[name]
        sha.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        sha.update(t.flatten().view(torch.uint8).numpy())
    return sha.hexdigest()


def _split(value: Any, where: str, tensors: dict[str, Tensor]) -> Any:
    """Move tensors out of a nested value into `tensors`; leave `{"$tensor": name}` behind."""
    if isinstance(value, Tensor):
        while where in tensors:  # keys 0 and "0", or "a/b" and "b" in "a"
            where += "'"
        tensors[where] = value
        return {"$tensor": where}
    if isinstance(value, dict):
        keys = [[key, _split(item, f"{where}/{key}", tensors)] for key, item in value.items()]
        return {"$dict": keys}  # a list of pairs keeps integer keys (an optimiser's) integers
    if isinstance(value, (list, tuple)):
        return [_split(item, f"{where}/{i}", tensors) for i, item in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Tensor] | None) -> Any:
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tensor" in value:
        return None if tensors is None else tensors[value["$tensor"]]
    return {key: _join(item, tensors) for key, item in value["$dict"]}
