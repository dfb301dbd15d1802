"""EWC, LwF and SLCA: their terms by hand, what they hold still, and what their runs survive."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.processes import two_processes
from helpers.runs import broken_run, numbers, same_run, same_state
from helpers.toys import toy_backbone

from janus import lora, predict, train
from janus.configure import config_hash, deciding, make
from janus.errors import UsageError
from janus.methods.ewc import EWC
from janus.methods.lwf import LwF, distillation
from janus.models import backbones
from janus.runtime import checkpoint
from janus.train import CHECKPOINT, Run

pytestmark = pytest.mark.usefixtures("with_toy_backbone")

METHODS: dict[str, dict[str, Any]] = {
    "ewc": {"method": "ewc", "lambda_": 300.0, "samples": 30, "decay": 0.5},
    "lwf": {"method": "lwf", "weight": 2.0},
    "slca": {"method": "slca", "classifier.samples": 20, "classifier.epochs": 3, "classifier.lr": 0.05},
}


def after(tasks: int, config: dict[str, Any]) -> Run:
    """A run that has learned its first tasks."""
    run = Run(make(config), None)
    for task in run.stream.tasks[:tasks]:
        run.learn(task)
    return run


def gradients_of_single_images(run: Run, t: int, index: list[int]) -> list[list[torch.Tensor]]:
    """∂ log p / ∂(A, B, A, B, …) of each image, by backward passes on a copy of the model."""
    model, head = copy.deepcopy(run.learner.model), copy.deepcopy(run.learner.heads[t])
    task = run.stream.tasks[t]
    found = []
    for i in index:
        model.zero_grad()
        logits = head(model(run.learner.plain(task.train.batch(torch.tensor([i])))))
        (-logits.log_softmax(1)[0, int(task.train.labels[i]) - task.positions.start]).backward()
        found.append([factor.grad.clone() for pair in lora.pairs(model) for factor in (pair.A, pair.B)])
    return found


# ── EWC ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_fisher_is_the_mean_of_squared_gradients_of_single_images(settings):
    run = after(1, settings("finetune", method="ewc", samples=10**6))
    single = gradients_of_single_images(run, 0, list(range(len(run.stream.tasks[0].train))))
    assert len(single) == 60
    for i, found in enumerate(run.learner.method.fisher):
        expected = torch.stack([gradients[i] for gradients in single]).square().mean(0)
        assert found.shape == run.learner.method.factors[i].shape and found.max() > 0
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-9)
        # what a gradient of the batch would give
        batch = torch.stack([gradients[i] for gradients in single]).mean(0).square()
        assert not torch.allclose(found, batch, rtol=0.1)


def test_no_more_images_than_allowed_and_each_once(settings, monkeypatch):
    run = after(1, settings("finetune", method="ewc", samples=7))
    seen: list[torch.Tensor] = []
    forward = run.learner.forward
    monkeypatch.setattr(run.learner, "forward", lambda images: seen.append(images) or forward(images))
    found, task = run.learner.method.information(run.stream.tasks[0]), run.stream.tasks[0]
    every = run.learner.plain(task.train.batch(torch.arange(60)))
    index = [int(torch.isclose(every, image).flatten(1).all(1).nonzero()) for image in seen]
    assert len(index) == len(set(index)) == 7 and index != list(range(7))
    single = gradients_of_single_images(run, 0, index)
    for i, f in enumerate(found):
        assert torch.allclose(f, torch.stack([g[i] for g in single]).square().mean(0), rtol=1e-4, atol=1e-9)


def test_fisher_of_older_tasks_decays_and_the_anchor_is_the_last(settings):
    run = after(1, settings("finetune", **METHODS["ewc"]))
    first = [f.clone() for f in run.learner.method.fisher]
    run.learn(run.stream.tasks[1])
    second = run.learner.method.information(run.stream.tasks[1])
    for total, one, two in zip(run.learner.method.fisher, first, second):
        assert torch.allclose(total, 0.5 * one + two, rtol=1e-4, atol=1e-10)
    method = run.learner.method
    assert all(torch.equal(anchor, factor) for anchor, factor in zip(method.anchor, method.factors))


def test_the_penalty_is_zero_when_a_task_begins_and_its_gradient_is_by_hand(settings):
    run = after(1, settings("finetune", **METHODS["ewc"]))
    method: EWC = run.learner.method
    assert method.penalty() == 0
    generator = torch.Generator().manual_seed(5)
    moved = [0.1 * torch.randn(f.shape, generator=generator) for f in method.factors]
    with torch.no_grad():
        for factor, change in zip(method.factors, moved):
            factor.add_(change)
    by_hand = sum((150 * f.double() * m.double() ** 2).sum().item() for f, m in zip(method.fisher, moved))
    assert method.penalty().item() == pytest.approx(by_hand, rel=1e-4) and by_hand > 0
    for gradient, f, m in zip(torch.autograd.grad(method.penalty(), method.factors), method.fisher, moved):
        assert torch.allclose(gradient, 300 * f * m, rtol=1e-3, atol=1e-6)
    features, labels = torch.zeros(4, 32), torch.tensor([0, 1, 0, 1])
    logits = torch.randn(4, 2, generator=generator)
    expected = F.cross_entropy(logits, labels).item() + by_hand
    assert method.loss(features, logits, labels).item() == pytest.approx(expected, rel=1e-4)


def test_what_mattered_moves_less(settings):
    """Far from the anchor, weighted by F: the more, the smaller λ."""

    def moved(weight: float) -> tuple[float, float]:
        run = after(1, settings("finetune", method="ewc", lambda_=weight))
        fisher = [f.clone() for f in run.learner.method.fisher]
        anchor = [a.clone() for a in run.learner.method.anchor]
        run.learn(run.stream.tasks[1])
        changes = [(now - then).detach() for now, then in zip(run.learner.method.factors, anchor)]
        return (
            sum((f * d**2).sum().item() for f, d in zip(fisher, changes)),
            sum((d**2).sum().item() for d in changes),
        )

    free, held = moved(0.0), moved(1e4)
    assert held[0] < 0.3 * free[0] and held[0] / held[1] < free[0] / free[1]


def test_without_a_penalty_ewc_is_finetune(settings):
    both = ({}, {"method": "ewc", "lambda_": 0.0})
    plain, none = (numbers(train.run(**settings("finetune", **more))) for more in both)
    for key in ("accuracy", "violation", "drift"):
        assert none[key] == plain[key]


# ── LwF ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_distillation_by_hand():
    old, new = np.array([[2.0, 0.0, -1.0], [0.0, 4.0, 0.0]]), np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 4.0]])

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x / 2) / np.exp(x / 2).sum(1, keepdims=True)

    p, q = softmax(old), softmax(new)
    logits = torch.tensor(new, requires_grad=True)
    term = distillation(torch.tensor(old), logits, 2.0)
    assert term.item() == pytest.approx(4 * (p * np.log(p / q)).sum(1).mean())
    term.backward()
    assert logits.grad.numpy() == pytest.approx(2 * (q - p) / 2)  # T (q − p), mean over two
    assert distillation(torch.tensor(old), torch.tensor(old)).item() == pytest.approx(0, abs=1e-12)


def watched(run: Run, monkeypatch) -> list[dict[str, Any]]:
    """What LwF has before it at each step, and its loss beyond the cross-entropy."""
    steps: list[dict[str, Any]] = []
    begin, loss = LwF.begin_step, LwF.loss

    def begin_step(self: LwF, images: torch.Tensor) -> None:
        before = self.learner.factors()
        begin(self, images)
        # put back
        assert all(torch.equal(a, b) for x, y in zip(before, self.learner.factors()) for a, b in zip(x, y))
        steps.append({"task": run.task, "images": images})

    def with_loss(
        self: LwF, features: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        value = loss(self, features, logits, labels)
        term = value - F.cross_entropy(logits, labels)
        gradient = torch.zeros(1)
        if run.task:
            (gradient,) = torch.autograd.grad(term, features, retain_graph=True)
        steps[-1] |= {"term": term.item(), "gradient": gradient, "features": features.detach()}
        return value

    monkeypatch.setattr(LwF, "begin_step", begin_step)
    monkeypatch.setattr(LwF, "loss", with_loss)
    return steps


def test_the_term_is_zero_when_a_task_begins_and_compares_with_the_model_of_then(settings, monkeypatch):
    run = Run(make(settings("finetune", **METHODS["lwf"], lr=1e-2)), None)
    steps, models = watched(run, monkeypatch), []
    for task in run.stream.tasks:
        models.append((copy.deepcopy(run.learner.model), copy.deepcopy(run.learner.heads)))
        run.learn(task)
    assert all(step["term"] == 0 for step in steps if step["task"] == 0)
    for t in (1, 2):
        mine = [step for step in steps if step["task"] == t]
        assert abs(mine[0]["term"]) < 1e-5 and mine[0]["gradient"].norm() < 1e-5
        model, heads = models[t]
        assert len(heads) == t
        for step in mine[1:]:
            with torch.no_grad():
                was = model(step["images"])
                terms = [2.0 * distillation(head(was), head(step["features"]), 2.0) for head in heads]
                expected = sum(terms).item()
            assert step["term"] == pytest.approx(expected, rel=1e-3, abs=1e-6)
        assert mine[-1]["term"] > 1e-4


def test_old_heads_answer_as_before_the_more_they_weigh(settings):
    def change(weight: float) -> float:
        run = after(1, settings("finetune", method="lwf", weight=weight))
        images = run.stream.tasks[1].train  # new images, old head
        before = run.learner.heads[0](run.learner.features(images)).softmax(1)
        run.learn(run.stream.tasks[1])
        return (run.learner.heads[0](run.learner.features(images)).softmax(1) - before).abs().mean().item()

    assert change(50.0) < 0.6 * change(0.0)


def test_without_weight_lwf_is_finetune(settings):
    both = ({}, {"method": "lwf", "weight": 0.0})
    plain, none = (numbers(train.run(**settings("finetune", **more))) for more in both)
    for key in ("accuracy", "violation", "drift"):
        assert none[key] == plain[key]


# ── all ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", METHODS)
def test_a_broken_run_ends_with_the_numbers_of_an_uninterrupted_one(name, settings, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = numbers(train.run(whole, **settings("finetune", **METHODS[name])))
    config = settings("finetune", **METHODS[name], save_every=0)
    for where in [(0, 3), (1, 0), (1, 4), (1, 6), (2, 0), (2, 6), (3, 0)]:
        broken_run(parts, where, config, monkeypatch)
    assert numbers(train.run(parts, **config)) == expected and same_state(whole, parts)


@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_those_of_the_run(name, settings, image_folder, tmp_path):
    result = train.run(tmp_path, **settings("finetune", **METHODS[name]))
    labels = result.stream["class_names"]
    paths = [p for label in labels for p in sorted((image_folder / "test" / label).iterdir())]
    answers = predict.load(tmp_path, "cpu").predict(paths, top=1)
    right = [answer[0][0] == path.parent.name for path, answer in zip(paths, answers)]
    assert 100 * sum(right) / len(right) == pytest.approx(result.acc, abs=1e-4)


def two_runs(out: Path, config: dict[str, Any]) -> None:
    backbones.create = toy_backbone
    for name, more in (METHODS | {"ewc-one": METHODS["ewc"] | {"samples": 1}}).items():
        train.run(out / name, **config, **more)


def test_two_processes_find_what_one_finds(settings, tmp_path):
    """13 images a batch.

    Of the last batch's single image the main process has none, nor of Fisher's (`ewc-one`).
    """
    pytest.importorskip("accelerate")
    config = settings("finetune", batch_size=13, lr=1e-3, energy=0.99)
    del config["method"]
    two_runs(tmp_path / "one", config)
    assert two_processes(two_runs, tmp_path / "two", config) == [0, 0]
    for name in (*METHODS, "ewc-one"):
        same_run(tmp_path / "one" / name, tmp_path / "two" / name)
    for name in ("ewc", "ewc-one"):
        one, two = (
            checkpoint.load(tmp_path / count / name / CHECKPOINT)["method"]["fisher"]
            for count in ("one", "two")
        )
        assert all(torch.linalg.norm(a - b) < 1e-3 * torch.linalg.norm(a) for a, b in zip(one, two))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"lambda_": 5.0}, "lambda is a setting of method=ewc and does nothing with method=janus"),
        (
            {"method": "ewc", "weight": 2.0},
            "weight is a setting of method=lwf and does nothing with method=ewc",
        ),
        ({"method": "lwf", "samples": 5}, "samples is a setting of method=ewc and of classifier=aligned"),
        ({"method": "ewc", "gr": "tangent"}, "gr=tangent does not go with method=ewc"),
        ({"method": "lwf", "adapter": "merged"}, "adapter=merged does not go with method=lwf"),
        ({"method": "ewc", "lambda_": -1.0}, "method.lambda must not be negative"),
        ({"method": "ewc", "decay": 1.5}, "method.decay must be at most 1"),
        ({"method": "ewc", "samples": 0}, "at least 1"),
        ({"method": "lwf", "temperature": 0.0}, "method.temperature must be positive"),
        ({"method": "lwf", "weight": -1.0}, "method.weight must not be negative"),
        ({"method": "finetune", "classifier.lr": 1.0}, "classifier.lr is a setting of classifier=aligned"),
        ({"method": "slca", "classifier.epochs": 0}, "classifier.epochs must be at least 1"),
    ],
)
def test_settings_of_another_method_and_values_out_of_range_are_refused_by_name(values, said):
    with pytest.raises(UsageError, match=said):
        make(values)


def test_settings_decide_where_they_belong_and_only_there():
    assert not {"method.lambda", "method.decay"} & deciding(make()).keys()
    assert {"method.lambda", "method.decay", "method.samples"} <= deciding(make(method="ewc")).keys()
    assert config_hash(make(method="ewc", lambda_=7.0)) != config_hash(make(method="ewc"))
