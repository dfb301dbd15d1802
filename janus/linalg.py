"""Linear algebra in full precision: projections, pseudo-inverses, angles between subspaces."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


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


def precise(t: Tensor) -> Tensor:
    """The tensor in the best floating-point type its device has: float64, or float32 on Apple's mps."""
    return t.float() if t.device.type == "mps" else t.double()


def project_out(M: Tensor, basis: Tensor | None) -> Tensor:
    """`M (I − V Vᵀ)`: the part of the rows of M (…, m, n) outside span(V), V (…, n, k) orthonormal."""
    return M if basis is None else M - (M @ basis) @ basis.mT


def complement(basis: Tensor) -> Tensor:
    """(n, n − k): an orthonormal basis of all that the orthonormal V (n, k) leaves, in `precise`'s type."""
    return torch.linalg.qr(precise(basis), mode="complete")[0][:, basis.shape[1] :]


def gram_pinv(gram: Tensor, cutoff: float = 1e-10, ridge: float = 0.0) -> Tensor:
    """Pseudo-inverse of symmetric positive semi-definite matrices (…, r, r) by eigen-decomposition.

    Eigenvalues below `cutoff` x the largest are treated as zero, so a zero matrix has the pseudo-inverse
    zero. `ridge` adds `ridge` x the largest eigenvalue to those that are kept.
    """
    values, vectors = torch.linalg.eigh(gram)
    top = values[..., -1:].clamp(min=0)
    keep = values > cutoff * top
    inverse = torch.where(keep, 1.0 / torch.where(keep, values + ridge * top, 1.0), 0.0)
    return (vectors * inverse.unsqueeze(-2)) @ vectors.mT


def principal_angles(U: Tensor, V: Tensor) -> list[float]:
    """Degrees between span(U) and span(V), smallest first.

    U (n, k) and V (n, l) are orthonormal; there are min(k, l) angles.
    """
    cosines = torch.linalg.svdvals(precise(U).T @ precise(V)).clamp(max=1.0)
    return torch.rad2deg(torch.arccos(cosines)).tolist()
