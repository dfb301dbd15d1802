"""Scores on hand-worked matrices and on explicit samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from janus import metrics

R = [[90.0], [80.0, 70.0], [60.0, 75.0, 50.0]]


def test_summary_by_hand():
    s = metrics.summary(R)
    assert s["acc"] == pytest.approx((60 + 75 + 50) / 3)
    assert s["maa"] == pytest.approx((90 + 75 + (60 + 75 + 50) / 3) / 3)
    assert s["bwt"] == pytest.approx(((60 - 90) + (75 - 70)) / 2)  # -12.5: the second task gained
    assert s["forgetting"] == pytest.approx(((90 - 60) + (70 - 75)) / 2)
    assert s["learning_acc"] == pytest.approx((90 + 70 + 50) / 3)
    assert s["acc_task_mean"] == pytest.approx((60 + 75 + 50) / 3)


def test_forgetting_is_from_the_best_not_the_first():
    s = metrics.summary([[50.0], [80.0, 70.0], [60.0, 75.0, 50.0]])
    assert s["forgetting"] == pytest.approx(((80 - 60) + (70 - 75)) / 2)
    assert s["bwt"] == pytest.approx(((60 - 50) + (75 - 70)) / 2)


def test_summary_of_uneven_tasks_weighs_samples():
    s = metrics.summary(R, sizes=[10, 30, 60])
    last = (10 * 60 + 30 * 75 + 60 * 50) / 100
    assert s["acc"] == pytest.approx(last)
    assert s["maa"] == pytest.approx((90 + (10 * 80 + 30 * 70) / 40 + last) / 3)
    assert s["acc_task_mean"] == pytest.approx((60 + 75 + 50) / 3)
    # tasks weigh the same here
    assert s["bwt"] == pytest.approx(-12.5) and s["forgetting"] == pytest.approx(12.5)


def test_summary_reads_only_what_was_seen():
    square = [[90.0, 1.0, 2.0], [80.0, 70.0, 3.0], [60.0, 75.0, 50.0]]  # zero-shot entries above the diagonal
    assert metrics.summary(square) == metrics.summary(R)
    assert metrics.summary(square, [10, 30, 60]) == metrics.summary(R, [10, 30, 60])


def test_summary_of_one_task():
    s = metrics.summary([[42.0]], [7])
    assert s == {
        "acc": 42.0,
        "maa": 42.0,
        "bwt": None,
        "forgetting": None,
        "learning_acc": 42.0,
        "acc_task_mean": 42.0,
    }


def test_summary_where_old_tasks_could_not_be_evaluated():
    s = metrics.summary([[90.0], [None, 70.0], [None, 75.0, 50.0]], sizes=[10, 30, 60])
    last = (30 * 75 + 60 * 50) / 90
    assert s["acc"] == pytest.approx(last) and s["maa"] == pytest.approx((90 + 70 + last) / 3)
    # over the one old task that is known
    assert s["bwt"] == pytest.approx(5) and s["forgetting"] == pytest.approx(-5)
    assert s["acc_task_mean"] == pytest.approx(62.5) and s["learning_acc"] == pytest.approx(70)
    s = metrics.summary([[90.0], [None, 70.0]], sizes=[10, 30])
    assert s["acc"] == 70 and s["bwt"] is None and s["forgetting"] is None


def test_violation_by_hand():
    V = torch.eye(4)[:, :2]
    inside = torch.tensor([[1.0, 2.0, 0, 0], [0, 3.0, 0, 0]])
    outside = torch.tensor([[0, 0, 1.0, 2.0], [0, 0, 0, 3.0]])
    assert metrics.violation(inside, V) == pytest.approx(1.0)
    assert metrics.violation(outside, V) == 0.0
    assert metrics.violation(3 * inside + 4 * outside, V) == pytest.approx(3 / 5)
    assert metrics.violation(-inside, V) == pytest.approx(1.0)
    assert metrics.violation(torch.zeros(2, 4), V) == 0.0
    assert metrics.violation(inside, torch.zeros(4, 0)) == 0.0
    # a float32 basis, a float64 displacement
    assert metrics.violation(inside.double(), V) == pytest.approx(1.0)


def test_a_displacement_that_is_not_a_number_is_not_called_safe():
    assert math.isnan(metrics.violation(torch.full((2, 4), float("nan")), torch.eye(4)[:, :2]))
    assert math.isnan(metrics.past_output_norm(torch.full((2, 4), float("nan")), torch.eye(4)))


@given(m=st.integers(1, 8), n=st.integers(1, 8), N=st.integers(1, 20), seed=st.integers(0, 10**6))
def test_the_absolute_score_on_explicit_samples(m, n, N, seed):
    generator = torch.Generator().manual_seed(seed)
    dW, X = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((m, n), (n, N)))
    expected = torch.linalg.norm(dW @ X).item() / math.sqrt(N)
    assert metrics.past_output_norm(dW, X @ X.T / N) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_the_absolute_score_of_a_safe_displacement_is_zero():
    X = torch.randn(6, 2, dtype=torch.float64)
    dW = torch.randn(3, 6, dtype=torch.float64) @ (torch.eye(6) - X @ torch.linalg.pinv(X))
    assert metrics.past_output_norm(dW, X @ X.T / 2) <= 1e-7


def test_displacement():
    A0, B0, A1, B1 = torch.randn(2, 5), torch.randn(4, 2), torch.randn(2, 5), torch.randn(4, 2)
    dW = metrics.displacement((A0, B0), (A1, B1), 0.5)
    assert dW.dtype == torch.float64 and dW.shape == (4, 5)
    assert torch.allclose(dW.float(), 0.5 * (B1 @ A1 - B0 @ A0), atol=1e-5)
    # a tiny step is not lost to the rounding of the products
    step = metrics.displacement((A0, B0), (A0, B0 + 1e-6), 1.0)
    assert torch.allclose(step, (B0 + 1e-6 - B0).double() @ A0.double(), rtol=1e-9, atol=1e-15)


def test_drift():
    before = torch.tensor([[3.0, 4.0], [1.0, 0.0]])
    after = torch.tensor([[3.0, 4.0 + 2.5], [0.0, 0.0]])
    assert metrics.drift(before, after) == pytest.approx((2.5 / 5 + 1) / 2)
    assert metrics.drift(before, before) == 0.0
