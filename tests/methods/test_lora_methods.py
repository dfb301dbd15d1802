"""The LoRA family of baselines: what each promises of its factors and loss, and that a run can be resumed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.runs import broken_run, numbers, same_state
from helpers.toys import make_tiny_vit, toy_backbone
from torch import Tensor

import janus
from janus import configure, lora, methods, train
from janus.errors import JanusError, UsageError
from janus.history import extend_basis
from janus.linalg import complement
from janus.lora import set_factors, subtracted
from janus.methods.bilora import from_spectrum
from janus.methods.inflora import designed_A
from janus.methods.olora import overlap
from janus.models import backbones
from janus.runtime import checkpoint
from janus.separation import augmented_triplet_loss
from janus.settings.methods import KINDS
from janus.train import Run

CONFIGS: dict[str, dict[str, Any]] = {
    "inflora": {"method": "inflora", "energy": 0.999, "energy_end": 0.9999},
    "olora": {"method": "olora"},
    "drs": {"method": "drs", "energy": 0.98},
    "drs+tangent": {"method": "drs", "gr": "tangent", "energy": 0.98},
    "drs+exact": {"method": "drs", "gr": "exact", "init": "nullspace", "energy": 0.98},
    "bilora": {"method": "bilora", "coefficients": 40, "lr": 1e-2},
    "sdlora": {"method": "sdlora"},
    "lorafa": {"method": "lorafa"},
}


@pytest.fixture(autouse=True)
def _toy_backbone(monkeypatch):
    monkeypatch.setattr(backbones, "create", toy_backbone)


@pytest.fixture
def settings(image_folder: Path):
    """`settings("olora", lr=…)`: two tasks of 4 and 3 classes, 18 steps."""

    def make(name: str, **more: Any) -> dict[str, Any]:
        common = {"dataset": str(image_folder), "tasks": 2, "epochs": 2, "batch_size": 16, "rank": 2}
        common |= {"lr": 3e-3, "head_lr": 1e-2, "augment": "icons", "step_score_every": 2, "device": "cpu"}
        return {**common, **CONFIGS[name], **more}

    return make


def second_task(config: dict[str, Any]) -> Run:
    """A run that has learned its first task."""
    run = Run(configure.make(config), None)
    run.learn(run.stream.tasks[0])
    return run


def begin(run: Run) -> list[tuple[Tensor, Tensor]]:
    """Open the second task as `learn` does, up to its first batch; the factors there."""
    task = run.stream.tasks[1]
    run.learner.method.begin_task(task)
    run.learner.add_head(1, len(task.positions))
    run.learner.prototypes.begin_task(len(task.positions))
    return run.learner.factors()


def seen(run: Run, images: Any) -> dict[str, Tensor]:
    """C = E[x xᵀ] of each layer's inputs, float64, from the layer norms before the adapted layers."""
    caught: dict[str, list[Tensor]] = {}
    handles = []
    for i, block in enumerate(run.learner.model.blocks):

        def keep(_: object, __: object, out: Tensor, key: str = f"blocks.{i}.attn") -> None:
            caught.setdefault(key, []).append(out.flatten(0, -2).double())

        handles.append(block.norm1.register_forward_hook(keep))
    run.learner.features(images)
    for handle in handles:
        handle.remove()
    return {key: (X := torch.cat(parts)).T @ X / len(X) for key, parts in caught.items()}


# ── every method ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CONFIGS)
def test_two_tasks_end_to_end_and_taken_up_after_every_kind_of_break(name, settings, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    result = train.run(whole, **settings(name))
    assert result.drift > 0 and result.seconds["oe"] > 0 and len(result.accuracy[1]) == 2
    for where in [(0, 3), (1, 0), (1, 4), (1, 8), (2, 0)]:  # (1, 8): all steps of task 2 done, not the rest
        broken_run(parts, where, settings(name, save_every=0), monkeypatch)
    assert numbers(train.run(parts, **settings(name, save_every=0))) == numbers(result)
    assert same_state(whole, parts)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_random_state_of_others_is_left_alone_and_nothing_is_drawn_from_it(name, settings):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = numbers(train.run(**settings(name)))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert numbers(train.run(**settings(name))) == first


@pytest.mark.parametrize(("owner", "key"), [("drs", "margin"), ("bilora", "coefficients")])
def test_settings_of_single_methods_are_refused_elsewhere_by_name(owner, key):
    for name in methods.all_methods():
        if name == owner:
            assert getattr(configure.make({"method": name, key: 2}).method, key) == 2
        else:
            said = f"{key} is a setting of method={owner} and does nothing with method={name}"
            with pytest.raises(UsageError, match=said):
                configure.make({"method": name, key: 2})
    with pytest.raises(UsageError, match=f"method.{key} must "):
        configure.make({"method": owner, key: -1})


def test_every_method_has_settings_of_its_name_and_no_others_do():
    assert methods.all_methods().keys() == KINDS.keys()


def test_factors_of_another_rank_keep_their_parameters_and_come_back_from_a_state():
    model, fresh = lora.adapt(make_tiny_vit(), rank=2), lora.adapt(make_tiny_vit(), rank=2)
    for pair in lora.pairs(model):
        A = pair.A
        lora.set_factors(pair, torch.randn(5, 16), torch.randn(16, 5))
        assert pair.A is A and A.shape == (5, 16) and A.requires_grad
        assert pair.layer.factors()[0].shape == (5, 16)
    images = torch.randn(3, 3, 8, 8)
    model(images).sum().backward()
    assert all(pair.A.grad.shape == (5, 16) and pair.B.grad.shape == (16, 5) for pair in lora.pairs(model))
    with pytest.raises(JanusError, match="another adaptation"):
        lora.load_state(fresh, lora.state(model))
    lora.load_state(fresh, lora.state(model), any_rank=True)
    assert torch.equal(fresh(images), model(images))
    foreign = lora.state(model) | {"blocks.0.attn.qkv.A_k": torch.zeros(5, 12)}
    with pytest.raises(JanusError, match="another adaptation"):
        lora.load_state(fresh, foreign, any_rank=True)


# ── LoRA-FA ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_lorafa_trains_B_alone_and_begins_each_task_with_another_random_A(settings):
    run = second_task(settings("lorafa"))
    first = run.learner.factors()
    images = run.stream.tasks[0].evaluation
    before = run.learner.features(images)
    start = begin(run)
    assert torch.allclose(run.learner.features(images), before, atol=1e-5)  # merged: nothing is lost
    for (A, B), (new, zero) in zip(first, start):
        assert torch.count_nonzero(B) > 0 and torch.count_nonzero(zero) == 0 and not torch.allclose(A, new)
    run.train(run.stream.tasks[1])
    for pair, (A, _) in zip(run.learner.pairs, start):
        assert torch.equal(pair.A, A) and torch.count_nonzero(pair.B) > 0


# ── InfLoRA ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_inflora_freezes_an_A_that_is_designed_from_the_new_task_and_orthogonal_to_the_old(settings):
    run = second_task(settings("inflora"))
    M = {key: V.double() for key, V in run.learner.method.basis().items()}
    C = seen(run, run.stream.tasks[1].train)  # through W0 + B_1 A_1, not yet merged
    start = begin(run)
    for pair in run.learner.pairs:
        A, V = pair.A.detach().double(), M[pair.input_key]
        assert V.shape[1] > 0 and torch.linalg.norm(A @ V) <= 1e-6 * torch.linalg.norm(A)
        assert torch.allclose(A @ A.T, torch.eye(2, dtype=A.dtype) / 3, atol=1e-6)
        U = torch.linalg.svd(C[pair.input_key] - V @ V.T @ C[pair.input_key]).U[:, :2]  # the definition
        assert torch.allclose(A.T @ A * 3, U @ U.T, atol=1e-4)  # the same space
        assert torch.count_nonzero(pair.B) == 0
    for k, v in zip(run.learner.pairs[::2], run.learner.pairs[1::2]):
        assert torch.equal(k.A, v.A)
    run.train(run.stream.tasks[1])
    for pair, (A, _) in zip(run.learner.pairs, start):
        assert torch.equal(pair.A, A) and torch.count_nonzero(pair.B) == pair.B.numel()


def test_inflora_moves_nothing_that_the_past_needs(settings):
    result = train.run(**settings("inflora", tasks=3))
    assert max(x for task in result.violation["tasks"] for x in task.values()) <= 1e-6
    assert result.violation_step["mean"] <= 1e-6 and result.drift > 0
    assert all(min(ranks.values()) > 0 for ranks in result.basis_rank)


def test_infloras_basis_grows_by_the_squares_of_the_eigenvalues(settings):
    """DualGPM as the authors write it.

    Singular values of C and of (I − MMᵀ) C, their squares added up until ε.
    """
    run = Run(configure.make(settings("inflora", tasks=3)), None)
    M = {key: torch.zeros(32, 0, dtype=torch.float64) for key in run.learner.moments.sum}
    for task, epsilon in zip(run.stream.tasks, (0.999, 0.99945, 0.9999)):
        run.learn(task)
        for key, C in seen(run, task.train).items():
            total = torch.linalg.svdvals(C).square().sum()
            rest = C - M[key] @ M[key].T @ C
            U, S, _ = torch.linalg.svd(rest)
            held, taken = (total - S.square().sum()) / total, 0
            while held < epsilon:
                held, taken = held + S[taken] ** 2 / total, taken + 1
            M[key] = torch.cat([M[key], U[:, :taken]], dim=1)
            found = run.learner.method.basis()[key].double()
            assert found.shape == M[key].shape
            assert torch.allclose(found @ found.T, M[key] @ M[key].T, atol=1e-3)
            if task.index == 0:  # far fewer than GPM keeps
                assert 2 * M[key].shape[1] < extend_basis(M[key][:, :0], C, epsilon).shape[1]


def test_an_input_without_new_directions_still_gets_an_A_outside_the_past():
    generator = torch.Generator().manual_seed(0)
    V = torch.linalg.qr(torch.randn(12, 5, dtype=torch.float64, generator=generator))[0]
    A = designed_A(V @ V.T, V, 3)  # (I − MMᵀ) C = 0: every left singular vector is as good as any
    assert torch.linalg.norm(A @ V) < 1e-12 and torch.allclose(A @ A.T, torch.eye(3, dtype=A.dtype) / 3)
    whole = torch.cat([V, complement(V)], 1)
    assert torch.allclose(whole.T @ whole, torch.eye(12, dtype=V.dtype))


# ── O-LoRA ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_oloras_penalty_and_its_gradient_by_hand():
    A = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]], requires_grad=True)
    old = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
    # old Aᵀ = [[-1, 1], [0, 6], [3, 0]]
    penalty = overlap(A, old)
    assert penalty.item() == 11
    penalty.backward()
    signs = torch.tensor([[-1.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert torch.equal(A.grad, signs.T @ old)
    assert overlap(A, old[:0]).item() == 0  # task 1


def test_oloras_loss_is_cross_entropy_plus_the_overlap_of_every_layer_with_every_earlier_task(settings):
    run = Run(configure.make(settings("olora", tasks=3, penalty=0.3)), None)
    first, second = run.stream.tasks[:2]
    As = [[], []]
    for task, kept in zip((first, second), As):
        run.learn(task)
        kept += [pair.A.detach().clone() for pair in run.learner.pairs]
    run.learner.method.begin_task(run.stream.tasks[2])
    features, logits, labels = torch.randn(4, 32), torch.randn(4, 2), torch.tensor([0, 1, 1, 0])
    expected = F.cross_entropy(logits, labels)
    for i, pair in enumerate(run.learner.pairs):
        assert torch.count_nonzero(pair.B) == 0 and not torch.equal(pair.A, As[1][i])
        for task in As:
            expected = expected + 0.3 * sum(abs(torch.dot(a, b)) for a in task[i] for b in pair.A)
    loss = run.learner.method.loss(features, logits, labels)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    loss.backward()
    assert all(pair.A.grad.abs().sum() > 0 for pair in run.learner.pairs)


def test_the_penalty_makes_a_new_A_more_orthogonal_to_the_old(settings):
    def left(penalty: float) -> float:
        run = second_task(settings("olora", penalty=penalty, epochs=10))
        old = {pair.name: pair.A.detach().clone() for pair in run.learner.pairs}
        run.learn(run.stream.tasks[1])
        return sum(overlap(pair.A, old[pair.name]).item() for pair in run.learner.pairs)

    assert left(0.5) < 0.5 * left(0.0)


# ── LoRA-DRS ────────────────────────────────────────────────────────────────────────────────────────────────


def test_drs_sees_the_new_task_through_weights_less_the_old_adapters(settings):
    run = second_task(settings("drs"))
    old = toy_backbone()[0].state_dict()
    expected = Run(configure.make(settings("drs")), None)
    # a fresh model, from which B_1 A_1 is taken away by hand
    for theirs, pair in zip(expected.learner.pairs, run.learner.pairs):
        theirs.layer.weight.data[theirs.rows] -= (pair.B @ pair.A).detach()
    begin(run)
    before = {name: t.clone() for name, t in run.learner.model.state_dict().items()}
    for key, C in seen(expected, run.stream.tasks[1].train).items():
        U, outside = extend_basis(C[:, :0], C, 0.98), run.learner.method.outside
        assert 0 < U.shape[1] < 32 and (outside[key].double().T @ U).abs().max() < 1e-4
        assert outside[key].shape == (32, 32 - U.shape[1])
    with subtracted(run.learner.pairs):
        inside = run.learner.model.state_dict()
        for i in range(2):
            name = f"blocks.{i}.attn.qkv.weight"
            assert torch.allclose((before[name] + inside[name]) / 2, old[name], atol=1e-6)
            assert torch.equal(inside[name][:32], old[name][:32])
            assert not torch.equal(inside[name][32:], old[name][32:])
    assert all(torch.equal(t, before[name]) for name, t in run.learner.model.state_dict().items())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_drs_updates_lie_in_the_range_of_P(weight_decay, settings):
    run = second_task(settings("drs", weight_decay=weight_decay))
    start = begin(run)
    run.train(run.stream.tasks[1])
    for pair, (A, B) in zip(run.learner.pairs, start):
        V = run.learner.method.outside[pair.input_key]
        dA, dB = (pair.A - A).detach(), (pair.B - B).detach()
        assert V.shape[1] > 0 and torch.linalg.norm(A @ V) > 0.1
        assert torch.linalg.norm(dA @ V) < 1e-4 * torch.linalg.norm(dA) and torch.linalg.norm(dA) > 0
        assert torch.linalg.norm(V.T @ dB) < 1e-4 * torch.linalg.norm(dB) and torch.linalg.norm(dB) > 0


def test_one_drs_step_is_adams_times_P(settings):
    run = second_task(settings("drs", targets=("v", "fc1")))  # fc1: 64 x 32, P does not fit its B
    start = begin(run)
    optimizer = run.learner.method.factor_optimizer(run.stream.tasks[1])
    generator = torch.Generator().manual_seed(0)
    for pair in run.learner.pairs:
        pair.A.grad, pair.B.grad = (torch.randn(p.shape, generator=generator) for p in (pair.A, pair.B))
    optimizer.step()
    for pair, (A, B) in zip(run.learner.pairs, start):
        U = complement(run.learner.method.outside[pair.input_key]).float()
        P = U @ U.T / torch.linalg.norm(U @ U.T)
        uA, uB = -3e-3 * pair.A.grad.sign(), -3e-3 * pair.B.grad.sign()  # Adam's first step
        assert torch.allclose((pair.A - A).detach(), uA @ P, atol=1e-6)
        k = U.shape[1]
        assert torch.allclose((pair.B - B).detach(), P @ uB if len(B) == 32 else uB / k**0.5, atol=1e-6)


def test_drs_with_exact_rectification_acts_on_the_drift_resistant_space_alone(settings):
    moved = {}
    for name in ("drs", "drs+tangent", "drs+exact"):
        run = second_task(settings(name))
        before = begin(run)
        run.train(run.stream.tasks[1])
        shares = []
        for pair, (A, B) in zip(run.learner.pairs, before):
            dW = (pair.B.double() @ pair.A.double()).detach() - B.double() @ A.double()
            outside = run.learner.method.outside[pair.input_key].double()
            shares.append((torch.linalg.norm(dW @ outside) / torch.linalg.norm(dW)).item())
        moved[name] = max(shares)
    assert moved["drs+exact"] < 1e-5 < moved["drs+tangent"] and moved["drs"] > 1e-2


def test_the_augmented_triplet_loss_by_hand():
    features = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    none, root = torch.zeros(0, 2), 2**0.5
    # anchors 1, 2: farthest of the own class √2; nearest other 2 and √2; anchor 3 is alone in its class: 0
    # against √2
    loss = augmented_triplet_loss(features, labels, none, 1.0)
    assert loss.item() == pytest.approx(((1 + root - 2) + (1 + root - root) + 0) / 3, abs=1e-5)
    loss.backward()
    assert torch.isfinite(features.grad).all() and features.grad.abs().sum() > 0
    # an old prototype beside anchor 1 is nearer than any feature: distance 0 to it, √2 to the second, 2 to
    # the third
    loss = augmented_triplet_loss(features, labels, torch.tensor([[5.0, 0.0]]), 1.0)
    assert loss.item() == pytest.approx(((1 + root - 0) + (1 + root - root) + 0) / 3, abs=1e-3)
    # no negative
    assert augmented_triplet_loss(features, torch.zeros(3, dtype=torch.long), none, 1.0).item() == 0
    # a process's empty part: its mean is nan
    assert augmented_triplet_loss(features[:0], labels[:0], none, 1.0).isnan()


def test_drs_adds_the_triplets_of_old_prototypes_to_the_cross_entropy(settings):
    run = second_task(settings("drs", penalty=0.7, margin=0.4))
    begin(run)
    generator = torch.Generator().manual_seed(0)
    features, logits = torch.randn(6, 32, generator=generator), torch.randn(6, 3, generator=generator)
    labels = torch.tensor([0, 1, 2, 0, 1, 2])
    triplet = augmented_triplet_loss(features, labels, run.learner.prototypes.old, 0.4)
    assert len(run.learner.prototypes.old) == 4 and triplet > 0
    expected = F.cross_entropy(logits, labels) + 0.7 * triplet
    assert torch.allclose(run.learner.method.loss(features, logits, labels), expected)


# ── BiLoRA ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_spectrum_of_biloras_update_is_non_zero_at_its_positions_and_their_mirror_images_alone(settings):
    config = settings("bilora", targets=("v", "fc1"))
    run = second_task(config)
    begin(run)
    run.train(run.stream.tasks[1])
    shared: dict[tuple[int, int], set[int]] = {}
    for pair in run.learner.pairs:
        m, n = shape = tuple(pair.B.shape)
        positions = run.learner.method.positions(1, m, n)
        assert len(set(positions.tolist())) == 40
        assert not torch.equal(positions, run.learner.method.positions(0, m, n))
        # in all matrices of a shape
        assert shared.setdefault(shape, {*positions.tolist()}) == {*positions.tolist()}
        c = run.learner.method.values[pair.name].detach().double()
        assert torch.count_nonzero(c) == 40
        u, v = torch.arange(m)[:, None].double(), torch.arange(n)[None].double()
        by_hand = sum(
            value * torch.cos(2 * torch.pi * (u * (p // n) / m + v * (p % n) / n))
            for value, p in zip(c, positions)
        )
        by_hand = by_hand / (m * n)
        dW = (pair.B @ pair.A).detach().double()
        assert torch.equal(pair.A, torch.eye(n))
        assert torch.allclose(dW, by_hand, rtol=1e-4, atol=1e-5 * dW.abs().max().item())
        found = torch.fft.fft2(dW).abs()
        mirror = (-(positions // n) % m) * n + -(positions % n) % n
        expected = torch.zeros(m * n, dtype=torch.bool).index_fill(0, torch.cat([positions, mirror]), True)
        assert torch.equal((found > 1e-5 * found.max()).flatten(), expected) and 40 <= expected.sum() <= 80
    assert len(shared) == 2


def test_a_spectrum_of_c_coefficients_has_c_non_zeros_before_the_real_part_and_disjoint_ones_are_orthogonal():
    positions = torch.randperm(96, generator=torch.Generator().manual_seed(0))
    values = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    first = from_spectrum(values, positions[:12], (8, 12))
    mirrored = {(-(p // 12) % 8) * 12 + -(p % 12) % 12 for p in positions[:12].tolist()}
    free = torch.tensor([p for p in positions[12:].tolist() if p not in mirrored][:12])
    second = from_spectrum(values, free, (8, 12))
    assert abs((first * second).sum()) < 1e-14 < (first * first).sum()
    spectrum = torch.zeros(96, dtype=torch.complex128)
    F_ = spectrum.index_put((positions[:12],), values.to(torch.complex128)).view(8, 12)
    assert torch.allclose(torch.fft.ifft2(F_).real, first, atol=1e-15) and torch.count_nonzero(F_) == 12


def test_biloras_coefficients_follow_the_gradient_of_the_loss(settings):
    """One step of Adam goes against the sign of the derivative, by differences of the loss in float64."""
    run = Run(configure.make(settings("bilora", targets=("v",), coefficients=6)), None)
    begin_first(run)
    optimizer = run.learner.method.factor_optimizer(run.stream.tasks[0])
    run.learner.model.double()
    images = run.learner.plain(run.stream.tasks[0].train.batch(torch.arange(6))).double()

    def loss() -> Tensor:
        return run.learner.model(images).sin().sum()

    loss().backward()
    found = [grad.clone() for grad in optimizer.gradients()]
    assert min(grad.abs().max() for grad in found) > 1e-2
    for value, grad in zip(optimizer.values, found):
        for i in range(6):
            sides = []
            for sign in (1, -1):
                value.data[i] += sign * 1e-3
                for factor, t in zip(optimizer.factors, optimizer.compute()):
                    factor.data.copy_(t)
                sides.append(loss().item())
                value.data[i] -= sign * 1e-3
            assert grad[i].item() == pytest.approx((sides[0] - sides[1]) / 2e-3, rel=1e-2, abs=1e-5)
    optimizer.step()
    both = zip(optimizer.values, found)
    assert all(torch.equal(value.detach().sign(), -grad.sign()) for value, grad in both)


def begin_first(run: Run) -> None:
    """Open the first task up to its first batch."""
    run.learner.method.begin_task(run.stream.tasks[0])


def test_a_number_of_coefficients_that_does_not_fit_is_refused(settings):
    for count in (0, 32 * 32 + 1):
        with pytest.raises(UsageError, match="method.coefficients must be (between 1 and 1024|at least 1)"):
            train.run(**settings("bilora", coefficients=count))


# ── SD-LoRA ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_sdlora_trains_magnitudes_of_frozen_normalised_directions_and_one_new_pair(settings):
    run, pairs = Run(configure.make(settings("sdlora", tasks=3)), None), []
    for task in run.stream.tasks[:2]:
        run.learn(task)
        parts = run.learner.method.parts
        pairs.append(
            {name: (part["A"].detach().clone(), part["B"].detach().clone()) for name, part in parts.items()}
        )
    run.learner.method.begin_task(run.stream.tasks[2])
    old = {}
    for pair in run.learner.pairs:
        factors = [learned[pair.name] for learned in pairs]
        old[pair.name] = [B @ A / (A.square().sum() * B.square().sum()).sqrt() for A, B in factors]
    parts = run.learner.method.parts
    before = {name: {key: t.detach().clone() for key, t in part.items()} for name, part in parts.items()}
    assert torch.equal(run.learner.method.magnitudes, torch.full((3,), 0.8))
    for pair in run.learner.pairs:  # every task begins with .8 of each old direction, and nothing of its own
        assert torch.allclose(pair.B @ pair.A, 0.8 * sum(old[pair.name]), atol=1e-6)
        assert pair.A.shape == (6, 32)
        assert torch.count_nonzero(before[pair.name]["B"]) == 0
    run.learner.add_head(2, 2)
    run.train(run.stream.tasks[2])
    a = run.learner.method.magnitudes.detach()
    assert ((a - 0.8).abs() > 1e-4).all()
    for pair in run.learner.pairs:
        part = run.learner.method.parts[pair.name]
        assert all(torch.equal(part[key], before[pair.name][key]) for key in ("A_old", "B_old"))
        assert all(not torch.equal(part[key], before[pair.name][key]) for key in ("A", "B"))
        earlier = sum(a[i] * direction for i, direction in enumerate(old[pair.name]))
        by_hand = earlier + a[2] * part["B"] @ part["A"]
        assert torch.allclose(pair.B @ pair.A, by_hand, atol=1e-6)


def test_sdlora_has_one_gradient_a_magnitude_summed_over_all_matrices(settings):
    """By autograd through the layers.

    With the magnitudes in place of what `ReparametrizedAdamW` takes back to them.
    """
    run = Run(configure.make(settings("sdlora")), None)
    run.learn(run.stream.tasks[0])
    task = run.stream.tasks[1]
    run.learner.method.begin_task(task)
    x, parts = run.learner.plain(task.train.batch(torch.arange(8))), run.learner.method.parts
    generator = torch.Generator().manual_seed(0)
    g = torch.randn(8, 32, generator=generator)
    with torch.no_grad():
        for part in parts.values():
            part["B"].normal_(std=0.1, generator=generator)
        for pair in run.learner.pairs:
            set_factors(pair, *run.learner.method.factors(parts[pair.name]))
    optimizer = run.learner.method.factor_optimizer(task)
    optimizer.zero_grad()
    (run.learner.forward(x) * g).sum().backward()
    found = optimizer.gradients()[0]
    a = torch.full((2,), 0.8, requires_grad=True)
    weights = {}
    for pair in run.learner.pairs:
        W = pair.layer.weight if pair.layer not in weights else weights[pair.layer]
        part = parts[pair.name]
        dW = a[0] * part["B_old"] @ part["A_old"] + a[1] * part["B"].detach() @ part["A"].detach()
        weights[pair.layer] = torch.cat([W[: pair.rows.start], W[pair.rows] + dW, W[pair.rows.stop :]])
    for layer, W in weights.items():
        layer.forward = lambda x, W=W, bias=layer.bias: F.linear(x, W, bias)
    (run.learner.forward(x) * g).sum().backward()
    assert torch.allclose(found, a.grad, rtol=1e-4) and a.grad.abs().min() > 1e-3


def test_what_a_bilora_or_sdlora_run_has_learned_can_be_used_and_extended(settings, tmp_path, image_folder):
    images = sorted((image_folder / "test" / "class0").glob("*.png"))
    for name in ("bilora", "sdlora"):
        result = train.run(tmp_path / name, **settings(name))
        run = Run(configure.make(settings(name)), tmp_path / name)
        run.load_state(run.resumed)
        predictor = janus.load(tmp_path / name)
        task = run.stream.tasks[0].evaluation
        scores = predictor.scores(task.batch(torch.arange(len(task))))
        hits = (scores.argmax(1) == task.labels).float().mean().item()
        assert len(predictor.predict(images)) == 8 and 100 * hits == pytest.approx(result.accuracy[-1][0])
        new = tmp_path / f"new-{name}"
        for split in ("train", "test"):
            shutil.copytree(image_folder / split / "class0", new / split / "another")
        assert len(janus.extend(tmp_path / name, new, tmp_path / f"{name}-extended").accuracy) == 3


def test_an_sdlora_run_of_many_magnitudes_says_that_it_cannot_go_on(settings, tmp_path):
    train.run(tmp_path, **settings("sdlora"))
    state = checkpoint.load(tmp_path / train.CHECKPOINT)
    del state["method"]["magnitudes"]
    with pytest.raises(JanusError, match="magnitude for each matrix.*train it anew"):
        Run(configure.make(settings("sdlora")), tmp_path).load_state(state)
