"""Linear algebra that promises rest on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Inside, products of float32 matrices are float32 products: neither `torch.set_float32_matmul_precision`
    (TF32, bf16) nor autocast shortens them. For the small products that a guarantee rests on."""
    backends = torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)
    newer = hasattr(backends[0], "fp32_precision")  # torch ≥ 2.9
    name, full = ("fp32_precision", "ieee") if newer else ("allow_tf32", False)
    older = "" if newer else torch.get_float32_matmul_precision()  # of which allow_tf32 is only a part
    found = [(backend, getattr(backend, name)) for backend in backends if hasattr(backend, name)]
    shortened = [(backend, before) for backend, before in found if before != full]
    for backend, _ in shortened:
        setattr(backend, name, full)
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, before in shortened:
            setattr(backend, name, before)
        if older and shortened:
            torch.set_float32_matmul_precision(older)
