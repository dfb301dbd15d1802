"""Online Estimation against explicit samples."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from helpers.toys import make_tiny_vit
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from janus import lora
from janus.history import History, SecondMoments, extend_basis
from janus.linalg import project_out

EVERYTHING = ("q", "k", "v", "proj", "fc1", "fc2")


def gpm(V: np.ndarray, X: np.ndarray, energy: float) -> np.ndarray:
    """Gradient Projection Memory's rule on explicit samples X (n, N), from the paper, not from the code.

    Singular vectors of what V does not hold, until ‖VVᵀX‖² + Σσ² ≥ ε‖X‖².
    """
    total, held = (X**2).sum(), ((V.T @ X) ** 2).sum()
    if held >= energy * total:
        return V
    U, s, _ = np.linalg.svd(X - V @ (V.T @ X), full_matrices=False)
    count = next(i for i in range(1, len(s) + 1) if held + (s[:i] ** 2).sum() >= energy * total * (1 - 1e-12))
    return np.hstack([V, U[:, :count]])


def samples(rng: np.random.Generator, n: int, N: int, rank: int) -> np.ndarray:
    """X (n, N) of the given rank with clearly separate singular values."""
    left, right = (np.linalg.qr(rng.normal(size=(d, d)))[0][:, :rank] for d in (n, N))
    return left * (0.6 ** np.arange(rank) * 10) @ right.T


@given(
    n=st.integers(2, 24),
    N=st.integers(1, 30),
    old=st.integers(0, 8),
    energy=st.floats(0.01, 0.995),
    seed=st.integers(0, 10**6),
)
def test_extend_basis_is_the_svd_of_the_samples(n, N, old, energy, seed):
    rng = np.random.default_rng(seed)
    V = np.linalg.qr(rng.normal(size=(n, n)))[0][:, : min(old, n - 1)]
    X = samples(rng, n, N, min(n, N))
    expected = gpm(V, X, energy)
    found = extend_basis(torch.from_numpy(V), torch.from_numpy(X @ X.T / N), energy)
    assert found.dtype == torch.float64
    assert found.shape[1] == expected.shape[1]
    assert np.allclose(found[:, : V.shape[1]], V, atol=0)  # the old columns stay as they are
    assert np.allclose(found @ found.T, expected @ expected.T, atol=1e-6)  # the same subspace
    assert (found.T @ found - torch.eye(found.shape[1])).abs().max() <= 1e-12

    # minimal: with its last new direction missing, too little energy is held
    def share(W) -> float:
        return float(((np.asarray(W).T @ X) ** 2).sum() / (X**2).sum())

    assert share(found) >= energy - 1e-9
    if found.shape[1] > V.shape[1]:
        assert share(found[:, :-1]) < energy


def test_largest_direction_first_by_hand():
    C = torch.diag(torch.tensor([1.0, 6.0, 3.0]))  # tr = 10
    for energy, expected in (
        (0.0, []),
        (0.5, [1]),
        (0.6, [1]),
        (0.61, [1, 2]),
        (0.9, [1, 2]),
        (0.91, [1, 2, 0]),
        (1.0, [1, 2, 0]),
    ):
        V = extend_basis(torch.zeros(3, 0), C, energy)
        assert torch.allclose(V.abs(), torch.eye(3, dtype=torch.float64)[:, expected]), energy
    V = torch.eye(3)[:, :1]  # the past holds 10 % already
    assert extend_basis(V, C, 0.7).shape == (3, 2)
    assert extend_basis(V, C, 0.71).shape == (3, 3)
    assert extend_basis(V, C, 0.1).shape == (3, 1)


def test_orthonormal_after_fifty_tasks():
    rng = np.random.default_rng(0)
    V = torch.zeros(160, 0, dtype=torch.float64)
    ranks, stored = [], V  # `stored` is rounded to float32 after each task, as a run does
    for _ in range(50):
        X = samples(rng, 160, 40, 30) + 1e-3 * rng.normal(size=(160, 40))
        V = extend_basis(V, torch.from_numpy(X @ X.T), 0.9)
        stored = extend_basis(stored, torch.from_numpy(X @ X.T), 0.9).float()
        ranks.append(V.shape[1])
    assert ranks == sorted(ranks) and 100 < ranks[-1] <= 160 and len(set(ranks)) > 30
    assert (V.T @ V - torch.eye(V.shape[1])).abs().max() <= 1e-10
    stored = stored.double()
    assert (stored.T @ stored - torch.eye(stored.shape[1])).abs().max() <= 1e-5


def test_orthonormal_where_the_new_is_tiny_beside_the_old():
    """Weak directions at ε = 1, which were projected off the past.

    The eigenvectors of P C P alone would mix them with it.
    """
    rng = np.random.default_rng(5)
    Q = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    C = Q * np.concatenate([np.full(20, 1.0), np.geomspace(1e-6, 1e-9, 20)]) @ Q.T
    V = extend_basis(torch.from_numpy(Q[:, :20]), torch.from_numpy(C), 1.0)
    assert V.shape[1] == 40
    assert (V.T @ V - torch.eye(40)).abs().max() <= 1e-12


def test_energy_one_takes_what_there_is_and_no_noise():
    rng = np.random.default_rng(1)
    X = samples(rng, 20, 50, 5)
    V = extend_basis(torch.zeros(20, 0), torch.from_numpy(X @ X.T), 1.0)
    assert V.shape[1] == 5
    assert extend_basis(V, torch.from_numpy(X @ X.T), 1.0).shape[1] == 5  # all held: nothing is added
    assert extend_basis(torch.zeros(20, 0), torch.eye(20), 1.0).shape[1] == 20


@given(k=st.integers(0, 10), seed=st.integers(0, 10**6))
def test_energy_zero_adds_nothing_even_to_a_past_without_overlap(k, seed):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.normal(size=(20, 20)))[0]
    V, X = Q[:, :k], Q[:, 10:] @ rng.normal(size=(10, 30))
    assert extend_basis(torch.from_numpy(V), torch.from_numpy(X @ X.T), 0.0).shape[1] == k


def test_nothing_seen_adds_nothing():
    assert extend_basis(torch.zeros(6, 0), torch.zeros(6, 6), 0.9).shape == (6, 0)
    assert extend_basis(torch.eye(6)[:, :2], torch.zeros(6, 6), 1.0).shape == (6, 2)


def test_max_rank():
    C = torch.diag(torch.arange(1.0, 11.0))
    V = extend_basis(torch.zeros(10, 0), C, 1.0, max_rank=4)
    assert torch.allclose(V.abs(), torch.eye(10, dtype=torch.float64)[:, [9, 8, 7, 6]])  # the four largest
    assert extend_basis(V, C, 1.0, max_rank=4).shape[1] == 4
    assert extend_basis(V, C, 1.0, max_rank=0).shape[1] == 4  # what is protected is never given up
    assert extend_basis(V, C, 1.0, max_rank=99).shape[1] == 10


@pytest.mark.parametrize(
    "bad",
    [
        (torch.zeros(6, 0), torch.eye(6), 1.1),
        (torch.zeros(6, 0), torch.eye(6), -0.1),
        (torch.zeros(6, 0), torch.eye(6), float("nan")),
        (torch.zeros(5, 0), torch.eye(6), 0.9),
        (torch.zeros(6, 0), torch.ones(6, 5), 0.9),
    ],
)
def test_bad_arguments(bad):
    with pytest.raises(ValueError):
        extend_basis(*bad)


def test_project_out():
    V = torch.linalg.qr(torch.randn(9, 4, dtype=torch.float64))[0]
    M = torch.randn(3, 5, 9, dtype=torch.float64)
    assert torch.allclose(project_out(M, V), M @ (torch.eye(9) - V @ V.T))
    assert project_out(M, None) is M


# ── second moments, taken by hooks ──────────────────────────────────────────────────────────────────────────


class Recorder:
    """Keeps the inputs of the adapted layers: the reference of SecondMoments.

    They are taken where they leave the layer before.
    """

    def __init__(self, model) -> None:
        self.inputs: dict[str, list[Tensor]] = {}
        for i, block in enumerate(model.blocks):
            for key, source in (
                (f"blocks.{i}.attn", block.norm1),
                (f"blocks.{i}.mlp.fc1", block.norm2),
                (f"blocks.{i}.mlp.fc2", block.mlp.norm),
            ):
                source.register_forward_hook(lambda _, __, out, key=key: self.keep(key, out))

    def keep(self, key: str, out: Tensor) -> None:
        self.inputs.setdefault(key, []).append(out.detach().reshape(-1, out.shape[-1]).double())

    def matrix(self, key: str) -> Tensor:
        return torch.cat(self.inputs[key])  # (tokens, n)


def batches(*sizes: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(size, 3, 8, 8, generator=generator) for size in sizes]


@pytest.mark.parametrize("amp", [False, True])
def test_second_moments_are_those_of_the_inputs(amp):
    model = lora.adapt(make_tiny_vit(), 2, EVERYTHING)
    recorder, moments = Recorder(model), SecondMoments(lora.pairs(model))
    parts = ("attn", "attn.proj", "mlp.fc1", "mlp.fc2")  # q, k, v: once
    assert sorted(moments.sum) == sorted(f"blocks.{i}.{part}" for i in range(2) for part in parts)
    moments.active = True
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=amp):
        for images in batches(4, 7, 1):
            model(images).sum().backward()  # a training pass
    for key in recorder.inputs:
        X = recorder.matrix(key)
        assert moments.count[key] == len(X) == 12 * 5  # every token, CLS included
        assert moments.sum[key].dtype == torch.float32
        assert torch.allclose(moments.mean(key), X.T @ X / len(X), rtol=1e-4, atol=1e-4)
        assert torch.equal(moments.mean(key), moments.mean(key).T)
        assert moments.mean(key).dtype == torch.float64


@pytest.mark.parametrize("n", range(1, 11))
def test_second_moments_of_any_width_are_whole(n):
    layer, generator = torch.nn.Linear(n, 3), torch.Generator().manual_seed(n)
    A, B = (torch.nn.Parameter(torch.ones(shape)) for shape in ((1, n), (3, 1)))
    pair = lora.Pair("layer", layer, "layer", A, B, slice(0, 3), 1.0)
    moments, x = SecondMoments([pair]), torch.randn(5, n, generator=generator)
    moments.active = True
    layer(x[:2]), layer(x[2:])
    assert torch.allclose(moments.mean("layer"), (x.T @ x / 5).double(), atol=1e-6)


def test_inactive_adds_nothing_and_reset_forgets():
    model = lora.adapt(make_tiny_vit(), 2)
    moments = SecondMoments(lora.pairs(model))
    model(batches(3)[0])
    assert all(count == 0 for count in moments.count.values())
    assert all(torch.count_nonzero(total) == 0 for total in moments.sum.values())
    assert torch.count_nonzero(moments.mean("blocks.0.attn")) == 0  # nothing seen: zero, not NaN
    moments.active = True
    model(batches(3)[0])
    assert moments.count["blocks.0.attn"] == 15 and moments.sum["blocks.0.attn"].trace() > 0
    moments.reset()
    assert moments.count["blocks.0.attn"] == 0 and torch.count_nonzero(moments.sum["blocks.0.attn"]) == 0
    moments.remove()
    model(batches(3)[0])
    assert moments.count["blocks.0.attn"] == 0


def test_sums_add_over_batches_and_devices():
    a, b = batches(5, 8)
    whole, parts = {}, []
    for images in ((a, b), (a,), (b,)):
        model = lora.adapt(make_tiny_vit(), 2)
        moments = SecondMoments(lora.pairs(model))
        moments.active = True
        for batch in images:
            model(batch)
        if len(images) == 2:
            whole = moments.state_dict()
        else:
            parts.append(moments.state_dict())
    for key in whole["sum"]:
        both = parts[0]["sum"][key] + parts[1]["sum"][key]
        assert torch.allclose(whole["sum"][key], both, rtol=1e-5, atol=1e-5)
        assert whole["count"][key] == parts[0]["count"][key] + parts[1]["count"][key]
    again = SecondMoments(lora.pairs(model))
    again.load_state_dict(whole)
    assert all(torch.equal(again.sum[key], whole["sum"][key]) for key in whole["sum"])
    assert again.count == whole["count"]


# ── the history of a stream ─────────────────────────────────────────────────────────────────────────────────


def watched(model, seed: int) -> SecondMoments:
    moments = SecondMoments(lora.pairs(model))
    moments.active = True
    generator = torch.Generator().manual_seed(seed)
    model(torch.randn(64, 3, 8, 8, generator=generator) * torch.rand(3, 8, 8, generator=generator))
    moments.remove()
    return moments


def test_history_over_tasks():
    model = lora.adapt(make_tiny_vit(), 2)
    history = History(lora.pairs(model), rank=2)
    assert history.ranks() == {"blocks.0.attn": 0, "blocks.1.attn": 0}
    means = []
    for t in range(4):
        moments = watched(model, t)
        means.append(moments.mean("blocks.1.attn"))
        history.end_task(moments, 0.7)
        V = history.basis["blocks.1.attn"].double()
        assert (V.T @ V - torch.eye(V.shape[1])).abs().max() <= 1e-5
        for C in means[-1:]:  # the rule holds for the task just seen
            assert (V.T @ C @ V).trace() / C.trace() >= 0.7 - 1e-6
    assert torch.allclose(history.mean["blocks.1.attn"], sum(means) / 4)
    other = History(lora.pairs(model), rank=2)
    other.load_state_dict(history.state_dict())
    for h in (history, other):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            h.end_task(watched(model, 9), 0.9)
    assert history.ranks() == other.ranks() and history.tasks == other.tasks == 5
    assert all(torch.equal(history.basis[k], other.basis[k]) for k in history.basis)
    assert all(torch.equal(history.mean[k], other.mean[k]) for k in history.mean)


def test_exhaustion_is_said_once_with_the_name_of_the_layer():
    model = lora.adapt(make_tiny_vit(), 2)
    history = History(lora.pairs(model), rank=2)
    with pytest.warns(UserWarning) as caught:
        history.end_task(watched(model, 0), 1.0)
    assert sorted(str(w.message).split(":")[0] for w in caught) == ["blocks.0.attn", "blocks.1.attn"]
    assert history.ranks() == {"blocks.0.attn": 12, "blocks.1.attn": 12}  # 2r = 4 of 16 stay free
    again = History(lora.pairs(model), rank=2)
    again.load_state_dict(history.state_dict())
    for h in (history, again):  # said already, also by the process before
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            h.end_task(watched(model, 1), 1.0)
        assert h.ranks() == {"blocks.0.attn": 12, "blocks.1.attn": 12}


def test_a_layer_too_narrow_for_its_rank_is_protected_not_at_all():
    model = lora.adapt(make_tiny_vit(), 8)  # 2r = n
    history = History(lora.pairs(model), rank=8)
    with pytest.warns(UserWarning, match="used up"):
        history.end_task(watched(model, 0), 0.9)
    assert set(history.ranks().values()) == {0}
