"""The IDX files in which MNIST and its like are published."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import JanusError, UsageError


def present(places: list[Path]) -> bool:
    """Whether one of the folders holds such files."""
    return any(p.is_dir() and next(p.glob("*ubyte*"), None) for p in places)


def find(places: list[Path], stem: str, kind: str, instead: str) -> Path:
    """The file of a part, in the first of the folders that has it.

    UsageError: none has; `instead` says how to get it.
    """
    for place in places:
        for file in (f"{stem}-{kind}-ubyte", f"{stem}.{kind}-ubyte"):
            for ending in ("", ".gz"):
                if (place / (file + ending)).is_file():
                    return place / (file + ending)
    where = f"not in {places[0]}" if places else "not found: neither root nor JANUS_DATA says where to look"
    raise UsageError(
        f"Fashion-MNIST's {stem}-{kind}-ubyte[.gz] is {where}; give root=FOLDER with its four IDX files, "
        f"or its parquet files: {instead}"
    )


def read(file: Path, dims: int) -> Tensor:
    """An IDX file of unsigned bytes: magic 0x0000 08 dims, big-endian sizes, then the values.

    JanusError: damaged.
    """
    try:
        data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise JanusError(
            f"cannot read {file} ({error}); it is truncated or damaged, download it again"
        ) from error
    head = 4 + 4 * dims
    if len(data) < head or data[:4] != bytes([0, 0, 8, dims]):
        start = data[:4].hex() or "nothing"
        raise JanusError(f"{file} is not an IDX file of {dims}-dimensional bytes (it starts with {start})")
    shape = struct.unpack(f">{dims}I", data[4:head])
    expected = head + int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        state = "truncated" if len(data) < expected else "too long"
        raise JanusError(f"{file} is {state}: {len(data)} bytes, {expected} expected; download it again")
    return torch.from_numpy(np.frombuffer(data, dtype=np.uint8, offset=head).reshape(shape).copy())
