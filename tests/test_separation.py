"""The margin loss: values by hand, gradients by finite differences; prototypes, centres, danger."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from janus.errors import UsageError
from janus.separation import FORMS, Prototypes, class_means, danger, decoupled_margin_loss, own_similarity


def at(*degrees: float) -> Tensor:
    """Unit vectors in the plane, float64, one a row."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


# one feature at 0°, its centre at 20°, another current class at 100°; old prototypes at 30° and -50°
FEATURE, LABEL, CENTRES, OLD = at(0) * 5, torch.tensor([0]), at(20, 100) * 3, at(30, -50) * 0.5
PUSH_ONLY = {"pull_weight": 0.0, "push_margin": 0.4}


def loss(form: str, features=FEATURE, labels=LABEL, old=OLD, centres=CENTRES, **options) -> float:
    return decoupled_margin_loss(features, labels, old, centres, form=form, **options).item()


def test_pull_by_hand():
    assert loss("hinge", push_weight=0.0, pull_margin=0.99) == pytest.approx(0.99 - cos(20))
    pulled = loss("hinge", push_weight=0.0, pull_margin=0.99, pull_weight=3.0)
    assert pulled == pytest.approx(3 * (0.99 - cos(20)))
    assert loss("hinge", push_weight=0.0, pull_margin=0.9) == 0.0


def test_hinge_by_hand():
    assert loss("hinge", **PUSH_ONLY) == pytest.approx(cos(30) - 0.4)
    both = (cos(30) - 0.4 + cos(50) - 0.4) / 2
    assert loss("hinge", nearest=False, **PUSH_ONLY) == pytest.approx(both)
    pushed = loss("hinge", nearest=False, pull_weight=0.0, push_margin=0.7)
    assert pushed == pytest.approx((cos(30) - 0.7) / 2)
    pushed = loss("hinge", pull_weight=0.0, push_margin=0.4, push_weight=2.0)
    assert pushed == pytest.approx(2 * (cos(30) - 0.4))


def test_squared_by_hand():
    assert loss("squared", **PUSH_ONLY) == pytest.approx((cos(30) - 0.4) ** 2)
    both = ((cos(30) - 0.4) ** 2 + (cos(50) - 0.4) ** 2) / 2
    assert loss("squared", nearest=False, **PUSH_ONLY) == pytest.approx(both)


def test_logsumexp_by_hand():
    tau, c = 0.2, cos(20)
    inner = 1 + math.exp((cos(30) - c + 0.4) / tau) + math.exp((cos(50) - c + 0.4) / tau)
    assert loss("logsumexp", temperature=tau, **PUSH_ONLY) == pytest.approx(tau * math.log(inner))
    # τ → 0: the hinge of the nearest, relative to the own centre
    cold = loss("logsumexp", temperature=1e-4, **PUSH_ONLY)
    assert cold == pytest.approx(cos(30) - c + 0.4, abs=1e-3)


def test_softmax_by_hand():
    tau = 0.2
    logits = [(cos(20) - 0.4) / tau, cos(100) / tau, cos(30) / tau, cos(50) / tau]
    expected = math.log(sum(math.exp(x) for x in logits)) - logits[0]
    assert loss("softmax", temperature=tau, **PUSH_ONLY) == pytest.approx(expected)
    other = torch.tensor([1])  # the margin is the label's, not the first class's
    logits = [cos(20) / tau, (cos(100) - 0.4) / tau, cos(30) / tau, cos(50) / tau]
    expected = math.log(sum(math.exp(x) for x in logits)) - logits[1]
    assert loss("softmax", labels=other, temperature=tau, **PUSH_ONLY) == pytest.approx(expected)


@pytest.mark.parametrize("form", FORMS)
def test_mean_over_the_batch_and_no_scale(form):
    features, labels = at(0, 70, -30), torch.tensor([0, 1, 0])
    one_by_one = [loss(form, features=features[i : i + 1], labels=labels[i : i + 1]) for i in range(3)]
    assert loss(form, features=features, labels=labels) == pytest.approx(sum(one_by_one) / 3)
    assert loss(form, features=features * 7, labels=labels, old=OLD * 9) == pytest.approx(sum(one_by_one) / 3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("old", [0, 3])
def test_gradients_are_those_of_the_loss(form, nearest, old):
    generator = torch.Generator().manual_seed(4)
    features, prototypes, centres = (
        torch.randn(n, 6, generator=generator, dtype=torch.float64) for n in (5, old, 2)
    )
    labels = torch.tensor([0, 1, 1, 0, 1])
    features.requires_grad_()

    margins = dict(push_margin=-0.2, pull_margin=0.9, push_weight=0.7, pull_weight=0.4)

    def f(z: Tensor) -> Tensor:
        return decoupled_margin_loss(z, labels, prototypes, centres, form=form, nearest=nearest, **margins)

    assert torch.autograd.gradcheck(f, (features,), eps=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(f(features), features)
    assert gradient.abs().max() > 1e-3  # not a check of zero against zero
    # only directions count: no gradient along the feature
    assert (gradient * features).sum(1).abs().max() < 1e-10


@pytest.mark.parametrize("form", ["hinge", "squared"])
def test_inside_the_margins_nothing_pushes_or_pulls(form):
    features = at(0.0, 5.0).requires_grad_()
    value = decoupled_margin_loss(features, torch.tensor([0, 0]), at(120, -120), at(3), form=form)
    value.backward()
    assert value.item() == 0.0 and torch.count_nonzero(features.grad) == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_step_downhill_moves_off_the_old_and_to_the_own(form):
    features = at(0).requires_grad_()
    old, centres = at(25), at(-40)
    decoupled_margin_loss(
        features, torch.tensor([0]), old, centres, form=form, push_margin=0.2, pull_margin=0.9
    ).backward()
    moved = features.detach() - 0.01 * features.grad
    assert F.cosine_similarity(moved, old) < cos(25) and F.cosine_similarity(moved, centres) > cos(40)


@pytest.mark.parametrize("form", ["hinge", "squared", "logsumexp"])
def test_no_old_prototypes_leave_only_the_pull(form):
    assert loss(form, old=OLD[:0], pull_margin=0.99) == pytest.approx(0.99 - cos(20))


def test_unknown_form():
    with pytest.raises(UsageError, match="did you mean 'hinge'"):
        loss("hing")


def test_half_precision_features_are_compared_in_float32():
    features = (torch.randn(4, 8) * 3).to(torch.bfloat16)
    old, centres = torch.randn(3, 8), torch.randn(2, 8)
    labels = torch.tensor([0, 1, 0, 1])
    value = decoupled_margin_loss(features, labels, old, centres, push_margin=-1.0, pull_margin=1.0)
    assert value.dtype == torch.float32
    single = decoupled_margin_loss(features.float(), labels, old, centres, push_margin=-1.0, pull_margin=1.0)
    assert torch.equal(value, single)


# ── prototypes and centres ──────────────────────────────────────────────────────────────────────────────────


def test_centres_are_running_means():
    prototypes = Prototypes(2, momentum=0.75)
    prototypes.begin_task(3)
    prototypes.observe(torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([0, 0]))
    # a first sight sets the mean of the unit features
    expected = torch.tensor([[0.5, 0.5], [0.0, 0.0], [0.0, 0.0]])
    assert torch.allclose(prototypes.centres, expected)
    prototypes.observe(torch.tensor([[0.0, 3.0], [-4.0, 0.0]]), torch.tensor([0, 2]))
    # 0.75·0.5 + 0.25·(0, 1); class 1 never seen
    expected = torch.tensor([[0.375, 0.625], [0.0, 0.0], [-1.0, 0.0]])
    assert torch.allclose(prototypes.centres, expected)
    features = torch.ones(1, 2, requires_grad=True)
    prototypes.observe(features, torch.tensor([1]))
    assert not prototypes.centres.requires_grad
    prototypes.begin_task(2)
    assert torch.equal(prototypes.centres, torch.zeros(2, 2)) and prototypes.old.shape == (0, 2)


def test_prototypes_are_frozen_class_means():
    features = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, -7.0], [3.0, 4.0]])
    labels = torch.tensor([0, 0, 1, 2])
    means = torch.tensor([[0.5, 0.5], [0.0, -1.0], [0.6, 0.8]])
    assert torch.allclose(class_means(features, labels, 3), means)
    prototypes = Prototypes(2)
    prototypes.begin_task(3)
    prototypes.end_task(features, labels, 3)
    prototypes.begin_task(1)
    prototypes.observe(torch.randn(5, 2), torch.zeros(5, dtype=torch.long))
    prototypes.end_task(torch.tensor([[0.0, 9.0]]), torch.tensor([0]), 1)
    assert torch.allclose(prototypes.old, torch.cat([means, torch.tensor([[0.0, 1.0]])]))
    other = Prototypes(2)
    other.load_state_dict(prototypes.state_dict())
    assert torch.equal(other.old, prototypes.old) and torch.equal(other.centres, prototypes.centres)


def test_own_similarity_by_hand():
    features, centres = at(0, 90, 45) * 3, at(30, 180) * 2
    found = own_similarity(features, torch.tensor([0, 1, 0]), centres)
    assert found == pytest.approx((cos(30) + cos(90) + cos(15)) / 3)


def test_danger_by_hand():
    features, prototypes = at(0, 90) * 3, at(30, 180, 60) * 2
    assert danger(features, prototypes) == pytest.approx((cos(30) + cos(30)) / 2)
    assert danger(features, prototypes[1:2]) == pytest.approx((-1 + 0) / 2, abs=1e-6)
    assert danger(at(45), at(45)) == pytest.approx(1.0)
