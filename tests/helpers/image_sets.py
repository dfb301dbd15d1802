"""Image sets in the layouts people have, made for a test, and what is looked at in them."""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from janus.errors import JanusError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def every(part) -> torch.Tensor:
    return part.batch(torch.arange(len(part)))


def encoded(value: int, size: tuple[int, int] = (12, 10), form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, 255 - value, 7)).save(buffer, form)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def class_folder(root: Path, counts: dict[str, int], start: int = 0) -> Path:
    """Every image its own shade, so that one that lands in two splits is seen."""
    for name, count in counts.items():
        for i in range(count):
            write(root / name / f"{i:03}.png", encoded(start))
            start += 1
    return root


def table(
    rows: list[tuple[bytes | None, object]],
    names: list[str] | None = None,
    image="image",
    label="label",
    **more,
):
    """A table as the hub stores it: {bytes, path} images and, with `names`, the ClassLabel metadata."""
    cells = [{"bytes": data, "path": f"{i}.png"} for i, (data, _) in enumerate(rows)]
    columns = {image: pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    columns[label] = pa.array([value for _, value in rows])
    built = pa.table(columns | {k: pa.array(v) for k, v in more.items()})
    if names is None:
        return built
    features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
    return built.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def rows(counts: dict[int, int], start: int = 0) -> list[tuple[bytes, int]]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [(encoded(start + i), label) for i, label in enumerate(labels)]


def save(path: Path, built) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(built, path)
    return path


def said(kind: type[JanusError], call) -> str:
    """The message of the error that must come: of exactly this kind, on one line."""
    with pytest.raises(JanusError) as caught:
        call()
    assert type(caught.value) is kind, caught.value
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fake_hub(monkeypatch, load_dataset) -> None:
    class ClassLabel:
        def __init__(self, names):
            self.names = names

    hub = SimpleNamespace(load_dataset=load_dataset, ClassLabel=ClassLabel)
    monkeypatch.setitem(sys.modules, "datasets", hub)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


def fashion(root: Path, zipped: bool = False) -> Path:
    generator = np.random.default_rng(0)
    for stem, count in (("train", 40), ("t10k", 20)):
        pictures = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in ((f"{stem}-images-idx3-ubyte", pictures), (f"{stem}-labels-idx1-ubyte", labels)):
            data = idx(values)
            write(root / (name + ".gz" * zipped), gzip.compress(data) if zipped else data)
    return root


def shades(*parts) -> list[int]:
    """Every image of these tests has its own shade of red."""
    return sorted(shade for part in parts if part is not None for shade in every(part)[:, 0, 0, 0].tolist())


def all_shades(data) -> list[int]:
    return shades(data.train, data.val, data.test)


def noted(data, *words: str) -> bool:
    """Whether one note holds all these words."""
    return any(all(word in note for word in words) for note in data.notes)
