"""Toy runs: their settings, how they are broken off, and when two of them are the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from janus import train
from janus.linalg import principal_angles
from janus.runtime import checkpoint
from janus.runtime.result import Result
from janus.train import CHECKPOINT, RESULT, Run

TANGENT = {"gr": "tangent", "adapter": "shared", "init": "free"}
FREE = {"adapter": "merged", "init": "free"}
CONFIGS: dict[str, dict[str, Any]] = {
    "finetune": {"method": "finetune"},
    "gpm": {"method": "gpm"},
    "gpm+exact": {"method": "gpm", "gr": "exact", "adapter": "merged", "init": "nullspace"},
    "exact": {"method": "janus", "energy_end": 0.9, "oe_epochs": "all"},
    "exact-amp": {"method": "janus", "amp": "bf16", "weight_decay": 0.1},
    "tangent": {"method": "janus", **TANGENT, "lr": 1e-3, "form": "logsumexp"},
    "oe": {"method": "janus", "gr": "none", "dml": False, "targets": ("q", "proj", "fc1", "fc2")},
    "dml": {"method": "janus", "oe": False, "gr": "none", **FREE, "form": "softmax"},
    "frozen": {"method": "frozen"},
    "ncm": {"method": "ncm"},
    "joint": {"method": "joint"},
}
REPARAMETRISED = {"bilora": {"method": "bilora", "coefficients": 40}, "sdlora": {"method": "sdlora"}}


def numbers(result: Result) -> dict[str, Any]:
    """All that a run found out: everything but when, where and how fast."""
    kept = result.to_dict()
    for key in ("seconds", "date", "versions", "hardware"):
        del kept[key]
    del kept["config"]["runtime"]
    return kept


def same_state(a: Path, b: Path) -> bool:
    """Equal checkpoints, tensor by tensor and number by number."""

    def equal(x: Any, y: Any) -> bool:
        if isinstance(x, Tensor):
            return x.dtype == y.dtype and torch.equal(x, y)
        if isinstance(x, dict):
            kept = x.keys() - {"seconds", "config"}
            return x.keys() == y.keys() and all(equal(x[k], y[k]) for k in kept)
        return len(x) == len(y) and all(map(equal, x, y)) if isinstance(x, list) else x == y

    return equal(checkpoint.load(a / CHECKPOINT), checkpoint.load(b / CHECKPOINT))


class Broken(BaseException):
    """The power went out."""


def broken_run(out: Path, where: tuple[int, int], settings: dict[str, Any], monkeypatch) -> None:
    """Run until the checkpoint of (task, step) is written, then die. Step 0: between two tasks."""
    save = Run.save

    def dies(self: Run) -> None:
        save(self)
        if (self.task, self.step) == where:
            raise Broken

    with monkeypatch.context() as patched:
        patched.setattr(Run, "save", dies)
        with pytest.raises(Broken):
            train.run(out, **settings)
    state = checkpoint.load(out / CHECKPOINT)
    assert (state["task"], state["step"]) == where and not (out / RESULT).exists()


def same_run(one: Path, other: Path) -> None:
    """Two folders hold the same run up to rounding: accuracies, bases, factors, heads, prototypes.

    Tensors are compared by their norm: where an entry's gradient is nearly zero, Adam makes of its rounding a
    good part of a step. The bounds tell that from one process weighed 1 % too high: a test below asserts it.
    """
    a, b = Result.load(one), Result.load(other)
    assert a.accuracy == b.accuracy and a.task_aware == b.task_aware and a.basis_rank == b.basis_rank
    assert a.drift == pytest.approx(b.drift, rel=1e-3, abs=1e-5) and a.hash == b.hash
    assert sum(a.loss, []) == pytest.approx(sum(b.loss, []), rel=1e-3)
    a, b = checkpoint.load(one / CHECKPOINT), checkpoint.load(other / CHECKPOINT)
    method = a["config"]["method"]["name"]
    for history in ("history", "method"):
        for key, V in a[history].get("basis", {}).items():
            W = b[history]["basis"][key]
            assert V.shape == W.shape and V.shape[1] > 2
            # in degrees; InfLoRA's second pass sees what rounding made of B
            bound = 0.5 if method == "inflora" else 0.1
            assert max(principal_angles(V, W)) < bound, key
    for key, C in a["history"]["mean"].items():
        assert distance(C, b["history"]["mean"][key]) < 1e-5, key
    for key, tensor in a["model"].items():
        other = b["model"][key]
        if method == "bilora":
            # the entries of a new LayerNorm's output sum to 0, so that the mean of a row of ΔW does nothing;
            # its gradient is rounding alone
            tensor, other = (t - t.mean(1, keepdim=True) for t in (tensor, other))
        assert distance(tensor, other) < 1e-3, key
    for mine, others in zip(a["heads"], b["heads"]):
        assert all(distance(mine[k], others[k]) < 1e-3 for k in mine)
    for key in ("old", "centres"):
        assert distance(a["prototypes"][key], b["prototypes"][key]) < 1e-3, key


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """‖a − b‖ / ‖a‖; 0 of two zeros."""
    return float((a - b).norm() / a.norm().clamp(min=1e-30))
