"""Scores of a continual-learning run: accuracies, forgetting, null-space violation, drift."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .linalg import precise


def over_samples(row: Sequence[float | None], sizes: Sequence[float]) -> float:
    """Mean of the accuracies in `row`, weighted by `sizes`; None entries (not evaluated) are left out.

    NaN if all are.
    """
    known = [(n, a) for n, a in zip(sizes, row) if a is not None]
    return sum(n * a for n, a in known) / sum(n for n, _ in known) if known else math.nan


def summary(
    R: Sequence[Sequence[float | None]], sizes: Sequence[int] | None = None
) -> dict[str, float | None]:
    """The field's numbers from an accuracy matrix.

    Args:
        R: R[t][i] = accuracy (in per cent) on task i after learning task t; only i ≤ t is read. T rows. None
            where a task could not be evaluated any more (an extended run whose old images are gone): left out
            of every mean.
        sizes: test images per task. With them accuracies are over samples (the InfLoRA protocol);
            without, tasks weigh the same.

    Returns:
        acc: accuracy over all seen classes after the last task. maa: mean of that curve over tasks.
        bwt: mean over i < T of R[T][i] − R[i][i]. forgetting: mean over i < T of max_{t<T} R[t][i] − R[T][i].
        learning_acc: mean of R[t][t]. acc_task_mean: unweighted mean of the last row.
        bwt and forgetting are None for a single task, or if no old task could be evaluated. All in per cent.
    """
    T = len(R)
    weights = [1] * T if sizes is None else list(sizes)
    curve = [over_samples(row[: t + 1], weights) for t, row in enumerate(R)]
    last = R[T - 1]
    old = [i for i in range(T - 1) if last[i] is not None]
    out: dict[str, float | None] = {
        "acc": curve[-1],
        "maa": sum(curve) / T,
        "bwt": None,
        "forgetting": None,
        "learning_acc": sum(R[t][t] for t in range(T)) / T,
        "acc_task_mean": over_samples(last[:T], [1] * T),
    }
    if old:
        out["bwt"] = sum(last[i] - R[i][i] for i in old) / len(old)
        best = {i: max(R[t][i] for t in range(i, T - 1) if R[t][i] is not None) for i in old}
        out["forgetting"] = sum(best[i] - last[i] for i in old) / len(old)
    return out


def displacement(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor], scale: float) -> Tensor:
    """`ΔW = s(B₁A₁ − B₀A₀)` (m, n) in float64, from factor pairs (A, B)."""
    (A0, B0), (A1, B1) = before, after
    return scale * (precise(B1) @ precise(A1) - precise(B0) @ precise(A0))


def violation(dW: Tensor, basis: Tensor) -> float:
    """`‖ΔW V‖_F / ‖ΔW‖_F` in [0, 1]: the share of a displacement that acts on past inputs.

    0 for ΔW = 0, NaN for NaN. dW (m, n), basis V (n, k) with orthonormal columns.
    """
    size = torch.linalg.norm(dW)
    return float(torch.linalg.norm(dW @ basis.to(dW.dtype)) / size) if size != 0 else 0.0


def past_output_norm(dW: Tensor, past: Tensor) -> float:
    """The paper's absolute score: `sqrt(tr(ΔW C̄ ΔWᵀ))`, the root mean square over past inputs x of `‖ΔW x‖`.

    dW (m, n), past C̄ = E[x xᵀ] (n, n). For explicit inputs X (n, N): `‖ΔW X‖_F = √N ×` this, with
    C̄ = X Xᵀ / N.
    """
    return math.sqrt(max(float(((dW @ past.to(dW.dtype)) * dW).sum()), 0.0))  # in this order NaN stays NaN


def drift(before: Tensor, after: Tensor) -> float:
    """Mean relative change of features (N, d): `mean ‖f′ − f‖ / ‖f‖`."""
    moved, length = torch.linalg.norm(after - before, dim=1), torch.linalg.norm(before, dim=1)
    return float((moved / length.clamp(min=1e-12)).mean())
