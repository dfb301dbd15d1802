"""Gradient Rectification against dense linear algebra in float64, and in real training loops."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.toys import make_tiny_vit
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import janus
from janus import lora, rectify
from janus.errors import JanusError, UsageError
from janus.linalg import gram_pinv, project_out
from janus.rectify import DenseGradient, RectifiedAdam, cap_step, nullspace_start, tangent_update

# ── helpers: everything the expectations rest on ────────────────────────────────────────────────────────────


def matrix(rng: np.random.Generator, rows: int, cols: int, rank: int, smallest: float = 1e-2) -> np.ndarray:
    """(rows, cols) of exactly this rank; singular values between `smallest` and 1."""
    rank = min(rank, rows, cols)
    left = np.linalg.qr(rng.normal(size=(rows, rows)))[0][:, :rank]
    right = np.linalg.qr(rng.normal(size=(cols, cols)))[0][:, :rank]
    return left * np.geomspace(1, smallest, rank) @ right.T if rank else np.zeros((rows, cols))


def orthonormal(n: int, k: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(n, k, generator=generator, dtype=torch.float64))[0]


def least_squares_product(Z: np.ndarray, A: np.ndarray, B: np.ndarray, s: float) -> np.ndarray:
    """The best `s(B ΔA + ΔB A)` over *all* ΔA, ΔB: the dense map of (vec ΔA, vec ΔB) to vec, by lstsq."""
    m, n, r = Z.shape[0], Z.shape[1], A.shape[0]
    M = s * np.hstack([np.kron(B, np.eye(n)), np.kron(np.eye(m), A.T)])  # (mn, rn + mr), row-major vec
    x = np.linalg.lstsq(M, Z.ravel(), rcond=1e-9)[0]
    dA, dB = x[: r * n].reshape(r, n), x[r * n :].reshape(m, r)
    product = s * (B @ dA + dB @ A)
    assert np.allclose(product.ravel(), M @ x)  # the vec convention of this reference is right
    return product


shapes = st.fixed_dictionaries(
    {
        "m": st.integers(1, 7),
        "n": st.integers(1, 7),
        "r": st.integers(1, 4),
        "rank_A": st.integers(0, 4),
        "rank_B": st.integers(0, 4),
        "scale": st.sampled_from([1.0, 0.5, 2.0, -3.0, 16.0]),
        "seed": st.integers(0, 10**6),
    }
)


def problem(m, n, r, rank_A, rank_B, scale, seed):
    rng = np.random.default_rng(seed)
    Z, A, B = rng.normal(size=(m, n)), matrix(rng, r, n, rank_A), matrix(rng, m, r, rank_B)
    return rng, Z, A, B, scale


def tensors(*arrays: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(a) for a in arrays]


# ── the closed forms ────────────────────────────────────────────────────────────────────────────────────────


@given(shapes)
def test_tangent_update_is_the_least_squares_solution(case):
    _, Z, A, B, s = problem(**case)
    dA, dB = (t.numpy() for t in tangent_update(*tensors(Z, A, B), scale=s))
    product = s * (B @ dA + dB @ A)
    assert np.abs(product - least_squares_product(Z, A, B, s)).max() <= 1e-8 * np.linalg.norm(Z)
    residual = Z - product  # the normal equations: nothing reachable is left in the residual
    assert np.abs(B.T @ residual).max() <= 1e-8 * np.linalg.norm(Z)
    assert np.abs(residual @ A.T).max() <= 1e-8 * np.linalg.norm(Z)


@given(shapes)
def test_tangent_update_is_the_symmetric_one_of_the_design(case):
    _, Z, A, B, s = problem(**case)
    dA, dB = (t.numpy() for t in tangent_update(*tensors(Z, A, B), scale=s))
    B_plus, A_plus = np.linalg.pinv(B, rcond=1e-6), np.linalg.pinv(A, rcond=1e-6)
    P_A, P_B = A_plus @ A, B @ B_plus
    atol = 1e-8 * np.linalg.norm(Z) / 1e-2
    assert np.allclose(dA, B_plus @ Z @ (np.eye(len(P_A)) - P_A / 2) / s, atol=atol)
    assert np.allclose(dB, (np.eye(len(P_B)) - P_B / 2) @ Z @ A_plus / s, atol=atol)


@given(shapes)
def test_what_is_left_on_the_past_for_a_safe_target(case):
    """`Z_T V = (I − P_B) Z P_A V` for Z = Z P; not zero unless A V = 0, in which case it is."""
    rng, Z, A, B, s = problem(**case)
    n = Z.shape[1]
    V = np.linalg.qr(rng.normal(size=(n, n)))[0][:, : max(1, n // 2)]
    P = np.eye(n) - V @ V.T
    Z = Z @ P

    def on_the_past(A: np.ndarray) -> np.ndarray:
        dA, dB = (t.numpy() for t in tangent_update(*tensors(Z, A, B), scale=s))
        return s * (B @ dA + dB @ A) @ V

    P_A, P_B = np.linalg.pinv(A, rcond=1e-6) @ A, B @ np.linalg.pinv(B, rcond=1e-6)
    assert np.allclose(on_the_past(A), (np.eye(len(B)) - P_B) @ Z @ P_A @ V, atol=1e-8)
    assert np.abs(on_the_past(matrix(rng, len(A), n, 4, smallest=0.3) @ P)).max() <= 1e-8


def test_the_residual_on_the_past_is_not_zero_in_general():
    rng = np.random.default_rng(0)
    Z, A, B = rng.normal(size=(6, 5)), rng.normal(size=(2, 5)), rng.normal(size=(6, 2))
    V = np.linalg.qr(rng.normal(size=(5, 2)))[0]
    Z = Z - Z @ V @ V.T
    dA, dB = (t.numpy() for t in tangent_update(*tensors(Z, A, B)))
    assert np.linalg.norm((B @ dA + dB @ A) @ V) > 0.05 * np.linalg.norm(Z)


def test_zero_B_moves_only_B():
    rng = np.random.default_rng(1)
    Z, A = rng.normal(size=(6, 5)), rng.normal(size=(2, 5))
    dA, dB = tangent_update(*tensors(Z, A, np.zeros((6, 2))), scale=0.5)
    assert torch.count_nonzero(dA) == 0
    assert np.allclose(dB.numpy(), Z @ np.linalg.pinv(A) / 0.5)
    # nothing can be reached at first order
    dA, dB = tangent_update(*tensors(Z, np.zeros((2, 5)), np.zeros((6, 2))))
    assert torch.count_nonzero(dA) == torch.count_nonzero(dB) == 0


@given(shapes)
def test_the_product_does_not_depend_on_how_W_is_factored(case):
    """(B, A) and (B Q⁻¹, Q A) are the same adapter: the same step in W."""
    rng, Z, A, B, s = problem(**case)
    Q = np.linalg.qr(rng.normal(size=(len(A), len(A))))[0] * np.geomspace(0.5, 2, len(A))
    products = []
    for A_, B_ in ((A, B), (Q @ A, B @ np.linalg.inv(Q))):
        dA, dB = (t.numpy() for t in tangent_update(*tensors(Z, A_, B_), scale=s))
        products.append(s * (B_ @ dA + dB @ A_))
    assert np.allclose(*products, atol=1e-8 * np.linalg.norm(Z))


def test_batches_and_types():
    rng = np.random.default_rng(2)
    Z, A, B = rng.normal(size=(2, 3, 6, 5)), rng.normal(size=(2, 3, 2, 5)), rng.normal(size=(2, 3, 6, 2))
    B[0, 1] = 0  # one of the batch freshly started
    dA, dB = tangent_update(*tensors(Z, A, B), scale=2.0)
    for i, j in itertools.product(range(2), range(3)):
        one_A, one_B = tangent_update(*tensors(Z[i, j], A[i, j], B[i, j]), scale=2.0)
        assert torch.allclose(dA[i, j], one_A, atol=1e-12) and torch.allclose(dB[i, j], one_B, atol=1e-12)
    single = tangent_update(*(t.float() for t in tensors(Z, A, B)), scale=2.0)
    assert all(t.dtype == torch.float32 for t in single)
    assert torch.allclose(single[0].double(), dA, rtol=1e-3, atol=1e-4)


def test_rank_deficient_factors_in_float32_do_not_blow_up():
    """Rounded to float32, a rank-deficient B has singular values near 1e-8, which must count as zero."""
    rng = np.random.default_rng(3)
    Z, A, B = rng.normal(size=(20, 15)), matrix(rng, 4, 15, 2, 0.5), matrix(rng, 20, 4, 2, 0.5)
    reference = least_squares_product(Z, A, B, 1.0)
    Z32, A32, B32 = (t.float() for t in tensors(Z, A, B))
    dA, dB = tangent_update(Z32, A32, B32)
    product = B @ dA.double().numpy() + dB.double().numpy() @ A
    assert np.linalg.norm(product - reference) <= 1e-4 * np.linalg.norm(Z)


def test_ridge_shrinks_by_hand():
    A, B = torch.tensor([[2.0, 0.0]], dtype=torch.float64), torch.tensor([[3.0], [0.0]], dtype=torch.float64)
    Z = torch.eye(2, dtype=torch.float64)
    # r = 1, ridge ρ: B⁺ = bᵀ/(‖b‖²(1 + ρ)); with ρ = 1 half of 1/3, and A⁺ half of 1/2
    dA, dB = tangent_update(Z, A, B, ridge=1.0)
    left, right, both = torch.tensor([[1 / 6, 0.0]]), torch.tensor([[1 / 4], [0.0]]), 1 / 24
    assert torch.allclose(dA, (left - 0.5 * both * A).double())
    assert torch.allclose(dB, (right - 0.5 * both * B).double())


def test_gram_pinv():
    assert torch.count_nonzero(gram_pinv(torch.zeros(3, 4, 4))) == 0
    F_ = torch.from_numpy(matrix(np.random.default_rng(4), 6, 4, 2, 0.1))
    assert torch.allclose(gram_pinv(F_.T @ F_), torch.linalg.pinv(F_.T @ F_, rtol=1e-9), rtol=1e-6, atol=1e-9)


def test_cap_step():
    A = torch.tensor([[[3.0, 4.0]], [[3.0, 4.0]], [[0.0, 0.0]], [[1.0, 0.0]]])  # norms 5, 5, 0, 1
    dA = torch.tensor([[[0.0, 10.0]], [[0.3, 0.0]], [[1.0, 0.0]], [[0.0, 0.0]]])
    capped = cap_step(dA, A, 0.1)
    assert torch.allclose(capped, torch.tensor([[[0.0, 0.5]], [[0.3, 0.0]], [[0.0, 0.0]], [[0.0, 0.0]]]))


# ── the null-space start ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("k", [0, 1, 10, 15])
def test_nullspace_start(k):
    A = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    V = orthonormal(16, k).float()
    safe = nullspace_start(A, V)
    assert safe.dtype == A.dtype
    assert torch.linalg.norm(safe.double() @ V.double()) <= 1e-6 * torch.linalg.norm(A)
    assert torch.linalg.norm(safe).item() == pytest.approx(torch.linalg.norm(A).item(), rel=1e-6)
    direction = A.double() @ (torch.eye(16) - V.double() @ V.double().T)  # projected, not drawn anew
    assert torch.allclose(safe.double() / safe.double().norm(), direction / direction.norm(), atol=1e-5)


def test_nullspace_start_without_room_is_refused():
    """A projected on nothing is rounding noise; scaled up to A's norm it would be unsafe and look safe."""
    with pytest.raises(JanusError, match="no direction is left"):
        nullspace_start(torch.randn(3, 16), orthonormal(16, 16).float())


def test_nullspace_start_without_a_past_changes_nothing():
    A = torch.randn(3, 16)
    assert nullspace_start(A, None) is A


# ── training loops ──────────────────────────────────────────────────────────────────────────────────────────

RANK = 3


def adapted(targets=("k", "v"), dtype=torch.float32):
    return lora.adapt(
        make_tiny_vit().to(dtype), RANK, targets, scale=0.5, generator=torch.Generator().manual_seed(0)
    )


def bases(model, k=6) -> dict[str, Tensor]:
    """A random protected subspace for each layer input, one dimension more in each."""
    keys = dict.fromkeys(p.input_key for p in lora.pairs(model))
    return {key: orthonormal(16, k + i, seed=i).float() for i, key in enumerate(keys)}


def factors(model) -> list[tuple[Tensor, Tensor]]:
    return [(p.A.detach().double().clone(), p.B.detach().double().clone()) for p in lora.pairs(model)]


def objective(model, step: int, head: Tensor) -> Tensor:
    """A classification loss on a batch of its own for each step."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(0, 4, (8,), generator=generator)
    images = torch.randn(8, 3, 8, 8, generator=generator) + labels[:, None, None, None]
    dtype = next(model.parameters()).dtype
    return F.cross_entropy(model(images.to(dtype)) @ head.to(dtype), labels)


HEAD = torch.randn(16, 4, generator=torch.Generator().manual_seed(99))


def train(model, optimizer, steps: int, first: int = 0) -> list[float]:
    losses = []
    for step in range(first, first + steps):
        optimizer.zero_grad()
        loss = objective(model, step, HEAD)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def violations(model, before, V) -> list[float]:
    """‖ΔW V‖/‖ΔW‖ of each matrix over everything since `before`: all terms of ΔW, in float64.

    Terms of second order included.
    """
    found = []
    for pair, (A0, B0), (A1, B1) in zip(lora.pairs(model), before, factors(model)):
        dW = pair.scale * (B1 @ A1 - B0 @ A0)
        assert torch.linalg.norm(dW) > 1e-3  # it did learn
        found.append((torch.linalg.norm(dW @ V[pair.input_key].double()) / torch.linalg.norm(dW)).item())
    return found


def start_safe(model, V) -> None:
    with torch.no_grad():
        for pair in lora.pairs(model):
            pair.A.copy_(nullspace_start(pair.A, V[pair.input_key]))


def test_exact_stays_in_the_null_space_for_100_steps_with_weight_decay():
    model = adapted()
    V = bases(model)
    start_safe(model, V)
    before = factors(model)
    losses = train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="exact", basis=V, weight_decay=0.1), 100)
    assert sum(losses[-20:]) < 0.8 * sum(losses[:20])  # it learns something meanwhile
    assert max(violations(model, before, V)) <= 1e-5
    for pair, (A0, _) in zip(lora.pairs(model), before):
        assert torch.linalg.norm(pair.A.double() @ V[pair.input_key].double()) <= 1e-5 * torch.linalg.norm(A0)
        # A moves: it is not InfLoRA
        assert torch.linalg.norm(pair.A.double() - A0) > 0.05 * torch.linalg.norm(A0)


def test_exact_keeps_the_safe_subspace_in_float64_to_rounding():
    model = adapted(dtype=torch.float64)
    V = {key: torch.linalg.qr(basis.double())[0] for key, basis in bases(model).items()}
    start_safe(model, V)
    before = factors(model)
    train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="exact", basis=V, weight_decay=0.1), 30)
    assert max(violations(model, before, V)) <= 1e-13


def test_projecting_only_A_violates():
    """`none` with a basis is LoRA-GPM: ΔA is safe, but ΔB·A is not."""
    model = adapted()
    V, before = bases(model), factors(model)
    A_before = [A @ V[p.input_key].double() for p, (A, _) in zip(lora.pairs(model), before)]
    train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="none", basis=V), 100)
    assert min(violations(model, before, V)) > 1e-2
    for pair, AV in zip(lora.pairs(model), A_before):  # A V never changes: what violates is ΔB·A V
        assert torch.allclose(pair.A.double() @ V[pair.input_key].double(), AV, atol=1e-5)


def test_projecting_only_A_is_safe_if_it_starts_in_the_null_space():
    model = adapted()
    V = bases(model)
    start_safe(model, V)
    before = factors(model)
    train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="none", basis=V), 100)
    assert max(violations(model, before, V)) <= 1e-5


def test_adam_on_a_projected_gradient_violates():
    """Why the *update* must be projected: element-wise rescaling leaves the subspace its gradient lay in."""
    model = adapted()
    V = bases(model)
    start_safe(model, V)
    before = factors(model)
    optimizer = torch.optim.AdamW([f for p in lora.pairs(model) for f in (p.A, p.B)], 1e-2, weight_decay=0.0)
    for step in range(100):
        optimizer.zero_grad()
        objective(model, step, HEAD).backward()
        for pair in lora.pairs(model):
            pair.A.grad = project_out(pair.A.grad, V[pair.input_key])
        optimizer.step()
    assert min(violations(model, before, V)) > 1e-2


def test_tangent_violates_less_than_projecting_only_A():
    found = {}
    for gr in ("none", "tangent"):
        model = adapted()
        V = bases(model)
        train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="none"), 20)  # a past: B ≠ 0
        before = factors(model)
        train(model, RectifiedAdam(lora.pairs(model), 1e-3, gr=gr, basis=V), 20, first=20)
        found[gr] = sum(violations(model, before, V)) / 4
    assert 1e-4 < found["tangent"] < 0.8 * found["none"]


def test_tangent_is_the_same_however_many_layers_are_computed_at_once(monkeypatch):
    found = []
    for dense in (1, 3 * 16 * 16, rectify.DENSE):  # one matrix at once, three, all
        monkeypatch.setattr(rectify, "DENSE", dense)
        model = adapted()
        optimizer = RectifiedAdam(lora.pairs(model), lr=1e-2, gr="tangent", basis=bases(model))
        train(model, optimizer, 5)
        found.append(torch.cat([factor.flatten() for pair in factors(model) for factor in pair]))
    assert found[0].abs().max() > 0.01
    assert all(torch.allclose(other, found[0], atol=1e-6) for other in found[1:])


def test_cap_after_B_is_zero():
    """The second tangent step is the dangerous one: B is tiny, B⁺ huge."""
    moved = {}
    for cap in (0.1, 1e9):
        model = adapted()
        optimizer = RectifiedAdam(lora.pairs(model), 1e-3, gr="tangent", cap=cap)
        fresh = factors(model)
        train(model, optimizer, 1)
        first = factors(model)
        assert all(torch.equal(A0, A1) for (A0, _), (A1, _) in zip(fresh, first))  # at B = 0 only B moves
        train(model, optimizer, 1, first=1)
        moved[cap] = [
            (torch.linalg.norm(A2 - A1) / torch.linalg.norm(A1)).item()
            for (A1, _), (A2, _) in zip(first, factors(model))
        ]
    assert max(moved[0.1]) <= 0.1 * (1 + 1e-5)
    assert max(moved[1e9]) > 0.1


def test_dense_gradient_is_that_of_the_dense_layer():
    model = adapted(("q", "k", "v", "proj", "fc1", "fc2"))
    train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="none"), 3)  # B ≠ 0
    taps = {pair.name: DenseGradient(pair) for pair in lora.pairs(model)}
    objective(model, 7, HEAD).backward()
    objective(model, 8, HEAD).backward()  # gradients add up, like .grad
    with torch.no_grad():
        model(torch.randn(1, 3, 8, 8))  # no graph: nothing is collected
    rows = {pair.name: pair.rows for pair in lora.pairs(model)}
    layer_of = {pair.name: pair.layer for pair in lora.pairs(model)}
    paths = {id(module): path for path, module in model.named_modules()}
    dense = lora.unadapt(copy.deepcopy(model)).requires_grad_(True)
    (objective(dense, 7, HEAD) + objective(dense, 8, HEAD)).backward()
    assert len(taps) == 12
    for name, tap in taps.items():
        expected = dense.get_submodule(paths[id(layer_of[name])]).weight.grad[rows[name]]
        assert torch.linalg.norm(expected) > 1e-3
        assert torch.allclose(tap.value, expected, rtol=1e-3, atol=1e-5 * expected.abs().max().item()), name
        tap.remove()
        tap.value = None
    objective(model, 7, HEAD).backward()
    assert all(tap.value is None for tap in taps.values())


@pytest.mark.parametrize("gr", ["none", "tangent", "exact"])
def test_first_step_by_hand_in_float64(gr):
    """One step from the gradients of a dense layer, written out."""
    model = adapted(dtype=torch.float64)
    train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="none"), 3)
    V = {key: torch.linalg.qr(basis.double())[0] for key, basis in bases(model).items()}
    before, lr, wd, eps = factors(model), 1e-3, 0.1, 1e-8
    dense = lora.unadapt(copy.deepcopy(model)).requires_grad_(True)
    objective(dense, 5, HEAD).backward()
    optimizer = RectifiedAdam(lora.pairs(model), lr, gr=gr, basis=V, weight_decay=wd, cap=0.05)
    train(model, optimizer, 1, first=5)

    def adam(g: Tensor) -> Tensor:  # first step: m̂ = g, v̂ = g²
        return -lr * g / (g.abs() + eps)

    for i, (pair, (A, B)) in enumerate(zip(lora.pairs(model), before)):
        G = dense.blocks[i // 2].attn.qkv.weight.grad[pair.rows]
        P = torch.eye(16, dtype=torch.float64) - V[pair.input_key] @ V[pair.input_key].T
        if gr == "tangent":
            dA, dB = tangent_update(adam(G @ P) @ P, A, B, scale=0.5)
            dA = dA * min(1.0, (0.05 * torch.linalg.norm(A) / torch.linalg.norm(dA)).item())
        else:
            gA, gB = 0.5 * B.T @ G, 0.5 * G @ A.T
            dA, dB = adam(gA @ P if gr == "exact" else gA) @ P, adam(gB)
        assert torch.allclose(pair.A, (1 - lr * wd) * A + dA, atol=1e-9), pair.name
        assert torch.allclose(pair.B, (1 - lr * wd) * B + dB, atol=1e-9), pair.name


# ── an ordinary optimiser ───────────────────────────────────────────────────────────────────────────────────


def test_without_a_basis_it_is_adamw():
    ours, theirs = adapted(), adapted()
    options = {"betas": (0.8, 0.99), "eps": 1e-7, "weight_decay": 0.05}
    train(ours, RectifiedAdam(lora.pairs(ours), 3e-3, gr="none", **options), 30)
    train(theirs, torch.optim.AdamW([f for p in lora.pairs(theirs) for f in (p.A, p.B)], 3e-3, **options), 30)
    for mine, other in zip(lora.pairs(ours), lora.pairs(theirs)):
        assert (mine.A - other.A).abs().max() <= 1e-6 and (mine.B - other.B).abs().max() <= 1e-6
        assert mine.B.abs().max() > 1e-2


@pytest.mark.parametrize("gr", ["none", "tangent", "exact"])
def test_state_dict_round_trip_continues_identically(gr):
    model = adapted()
    V = bases(model)
    optimizer = RectifiedAdam(lora.pairs(model), 1e-3, gr=gr, basis=V, weight_decay=0.01)
    train(model, optimizer, 5)
    other = copy.deepcopy(model)
    for _, module in other.named_modules():
        module._forward_hooks.clear()  # the copies of the first optimiser's taps
    again = RectifiedAdam(lora.pairs(other), 123.0, gr=gr, basis=V)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 5, first=5)
    train(other, again, 5, first=5)
    for (A1, B1), (A2, B2) in zip(factors(model), factors(other)):
        assert torch.equal(A1, A2) and torch.equal(B1, B2)
    fresh = copy.deepcopy(model)  # and the state matters: a fresh optimiser goes elsewhere
    for _, module in fresh.named_modules():
        module._forward_hooks.clear()
    train(fresh, RectifiedAdam(lora.pairs(fresh), 1e-3, gr=gr, basis=V, weight_decay=0.01), 1, first=10)
    train(model, optimizer, 1, first=10)
    assert not torch.equal(factors(fresh)[0][1], factors(model)[0][1])


@pytest.mark.parametrize("gr", ["none", "tangent", "exact"])
def test_zero_grad_clears_and_a_step_without_gradients_does_nothing(gr):
    model = adapted()
    optimizer = RectifiedAdam(lora.pairs(model), 1e-2, gr=gr)
    objective(model, 0, HEAD).backward()
    optimizer.zero_grad()
    assert all(p.A.grad is None and p.B.grad is None for p in lora.pairs(model))
    before = factors(model)
    optimizer.step()
    assert all(torch.equal(a, b) for old, new in zip(before, factors(model)) for a, b in zip(old, new))
    # one batch in two halves, gradients accumulated, is one batch
    steps = []
    for parts in (1, 2):
        # eps 1: the step is linear in the gradient
        optimizer = RectifiedAdam(lora.pairs(model), 1e-2, gr=gr, eps=1.0)
        optimizer.zero_grad()
        for _ in range(parts):
            (objective(model, 0, HEAD) / parts).backward()
        optimizer.step()
        steps.append(factors(model))
        with torch.no_grad():
            for pair, (A, B) in zip(lora.pairs(model), before):
                pair.A.copy_(A), pair.B.copy_(B)
    assert all(torch.allclose(a, b, atol=1e-7) for x, y in zip(*steps) for a, b in zip(x, y))


@pytest.mark.parametrize("gr", ["none", "tangent", "exact"])
def test_a_grad_scaler_changes_nothing_but_leaves_out_a_step_whose_gradient_overflowed(gr):
    plain, scaled = adapted(), adapted()
    V, scaler = bases(plain), torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=1000)
    steps = [(model, RectifiedAdam(lora.pairs(model), 1e-2, gr=gr, basis=V)) for model in (plain, scaled)]
    for i in range(3):
        for model, optimizer in steps:
            optimizer.zero_grad()
            loss = objective(model, i, HEAD)
            (loss if model is plain else scaler.scale(loss)).backward()
        steps[0][1].step()
        scaler.step(steps[1][1]), scaler.update()
    # 2**10 loses no bit
    assert all(torch.equal(a, b) for x, y in zip(factors(plain), factors(scaled)) for a, b in zip(x, y))
    before = factors(scaled)
    scaler.scale(objective(scaled, 3, HEAD) * float("inf")).backward()
    scaler.step(steps[1][1]), scaler.update()
    assert all(torch.equal(a, b) for x, y in zip(before, factors(scaled)) for a, b in zip(x, y))
    assert scaler.get_scale() == 2.0**9


@pytest.mark.parametrize("gr", ["none", "tangent", "exact"])
def test_unscaled_gradients_are_stepped_by_or_refused_where_only_the_factors_are_unscaled(gr):
    plain, scaled = adapted(), adapted()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    steps = [RectifiedAdam(lora.pairs(model), 1e-2, gr=gr) for model in (plain, scaled)]
    for model, optimizer in zip((plain, scaled), steps):
        optimizer.zero_grad()
        loss = objective(model, 1, HEAD)
        (loss if model is plain else scaler.scale(loss)).backward()
    scaler.unscale_(steps[1])
    before = factors(scaled)
    if gr == "tangent":
        with pytest.raises(UsageError, match="`unscale_` does not reach the dense gradients.*use gr=exact"):
            scaler.step(steps[1])
        assert all(torch.equal(a, b) for x, y in zip(before, factors(scaled)) for a, b in zip(x, y))
        return
    steps[0].step(), scaler.step(steps[1])
    assert all(torch.equal(a, b) for x, y in zip(factors(plain), factors(scaled)) for a, b in zip(x, y))


@pytest.mark.parametrize("watched", [("k",), ("v",), ("k", "v")])
def test_the_factors_gradients_are_the_same_whether_or_not_somebody_watches_for_the_dense_one(watched):
    model = adapted(("k", "v", "fc1"))
    train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="none"), 3)  # B ≠ 0
    found = lora.pairs(model)

    def gradients() -> list[Tensor]:
        model.zero_grad()
        objective(model, 7, HEAD).backward()
        return [p.grad for pair in found for p in (pair.A, pair.B)]

    plain = gradients()
    seen = [pair for pair in found if pair.name.rpartition(".")[2] in watched]
    taps, others = [DenseGradient(pair) for pair in seen], [DenseGradient(pair) for pair in seen]
    for a, b in zip(plain, gradients(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-7)
    for pair, tap, other in zip(seen, taps, others):
        assert torch.allclose(pair.B.grad, pair.scale * tap.value @ pair.A.T, rtol=1e-4, atol=1e-7)
        # an optimiser scales its own
        assert torch.equal(tap.value, other.value) and tap.value.data_ptr() != other.value.data_ptr()
    for tap in (*taps, *others):
        tap.remove()
        tap.value = None
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients()))
    assert all(tap.value is None for tap in (*taps, *others))


def test_the_dense_gradient_of_half_precision_does_not_overflow():
    pair = lora.pairs(adapted())[0]
    tap = DenseGradient(pair)
    with torch.autocast("cpu", torch.float16):
        y = pair.layer(torch.full((1, 3000, pair.A.shape[1]), 8.0))
    y.backward(torch.full_like(y, 64.0))
    assert y.dtype == torch.float16 and tap.value.dtype == torch.float32
    expected = torch.full_like(tap.value, 3000 * 8.0 * 64.0)  # 23 times fp16's largest number
    assert torch.allclose(tap.value, expected, rtol=1e-2)


def test_closure_and_scheduler():
    model = adapted()
    optimizer = RectifiedAdam(lora.pairs(model), 1e-2, gr="exact", basis=bases(model))
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=2)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = objective(model, 0, HEAD)
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(objective(adapted(), 0, HEAD).item())
    scheduler.step(), scheduler.step()
    before = factors(model)
    optimizer.step(closure)  # lr is 0 now
    assert all(torch.equal(a, b) for old, new in zip(before, factors(model)) for a, b in zip(old, new))


@pytest.mark.parametrize("gr", ["none", "tangent", "exact"])
def test_a_layer_without_gradient_does_not_stop_the_others(gr):
    """A block that was skipped (stochastic depth) has no gradient.

    Its peers of equal shape learn all the same.
    """
    model = adapted()
    optimizer = RectifiedAdam(lora.pairs(model), 1e-2, gr=gr, basis=bases(model))
    skipped, model.blocks[1] = model.blocks[1], torch.nn.Identity()
    before = factors(model)
    pairs = lora.pairs(model)
    objective(model, 0, HEAD).backward()
    optimizer.step()
    assert all(p.B.abs().max() > 0 for p in pairs)
    assert len(pairs) == 2 and len(before) == 2
    model.blocks[1] = skipped
    assert all(torch.count_nonzero(p.B) == 0 for p in lora.pairs(model)[2:])


def test_wrong_use_is_refused():
    model = adapted()
    with pytest.raises(UsageError, match="did you mean 'exact'"):
        RectifiedAdam(lora.pairs(model), gr="exat")
    # a basis that protects nothing must not look as if it did
    with pytest.raises(UsageError, match="blocks.7.attn"):
        RectifiedAdam(lora.pairs(model), basis={"blocks.7.attn": orthonormal(16, 2).float()})


# ── PEFT, in a user's own loop ──────────────────────────────────────────────────────────────────────────────


def peft_model():
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["qkv", "fc1"], lora_dropout=0.0)
    return peft.get_peft_model(make_tiny_vit(), config)


@pytest.mark.parametrize("gr", ["tangent", "exact"])
def test_peft_model_in_a_users_own_loop(gr):
    model = peft_model()
    pairs = lora.pairs(model)
    assert len(pairs) == 4 and {p.scale for p in pairs} == {2.0}
    moments = janus.history.SecondMoments(pairs)
    history = janus.history.History(pairs, RANK)
    moments.active = True
    with torch.no_grad():
        model(torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5)))
    moments.remove()
    history.end_task(moments, 0.5)
    V = history.basis
    assert all(0 < k <= 10 for k in history.ranks().values())
    if gr == "exact":
        start_safe(model, V)
    frozen = {k: v.clone() for k, v in model.state_dict().items() if "lora_" not in k}
    before = factors(model)
    losses = train(model, RectifiedAdam(pairs, 3e-3, gr=gr, basis=V), 60)
    assert sum(losses[-15:]) < 0.9 * sum(losses[:15])
    assert all(torch.equal(v, frozen[k]) for k, v in model.state_dict().items() if "lora_" not in k)
    found = violations(model, before, V)
    if gr == "exact":
        assert max(found) <= 1e-5
    else:
        assert all(torch.isfinite(p.A).all() for p in pairs)


def test_peft_dense_gradient():
    model = peft_model()
    train(model, RectifiedAdam(lora.pairs(model), 1e-2, gr="none"), 3)
    taps = [(pair, DenseGradient(pair)) for pair in lora.pairs(model)]
    model.zero_grad()
    objective(model, 7, HEAD).backward()
    for pair, tap in taps:
        # the factor gradients follow from G: g_A = s·BᵀG, g_B = s·G·Aᵀ
        assert torch.allclose(pair.A.grad, pair.scale * pair.B.T @ tap.value, rtol=1e-3, atol=1e-5)
        assert torch.allclose(pair.B.grad, pair.scale * tap.value @ pair.A.T, rtol=1e-3, atol=1e-5)
