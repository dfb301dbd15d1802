"""A perceptual hash in integers, so that near-duplicates are the same ones on every machine.

Needs NumPy >= 2.
"""

from __future__ import annotations

import numpy as np

SIZE = 32


def _dct_rows(rows: int = 8, n: int = SIZE) -> np.ndarray:
    k, x = np.arange(rows)[:, None], np.arange(n)[None]
    waves = np.rint(4096 * np.cos(np.pi * k * (2 * x + 1) / (2 * n)))
    return waves.astype(np.int64)  # integers: the same bits everywhere


def perceptual_hash(images: np.ndarray) -> np.ndarray:
    """pHash: the signs, against their median, of the 63 lowest DCT coefficients.

    uint8 (N, 32, 32) -> uint64 (N,).
    """
    basis = _dct_rows()
    low = (basis @ images.astype(np.int64) @ basis.T).reshape(len(images), 64)[:, 1:]
    bits = low > np.sort(low, axis=1)[:, 31:32]
    return (bits.astype(np.uint64) << np.arange(63, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)


def nearest(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """For each hash of a, the smallest Hamming distance to a hash of b: uint64 (N,), (M,) -> int (N,)."""
    if not len(b):
        return np.full(len(a), 64)
    parts = np.array_split(a, len(a) // 256 + 1)
    return np.concatenate([np.bitwise_count(part[:, None] ^ b).min(axis=1) for part in parts]).astype(int)
