"""Heads: what they compute by hand; training does not know of them; they survive breaks, predict alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.processes import two_processes
from helpers.runs import broken_run, numbers, same_state
from helpers.toys import toy_backbone, write_image_folder

from janus import classifiers, predict, train
from janus.config import CLASSIFIERS
from janus.configure import config_hash, make
from janus.errors import JanusError, UsageError
from janus.models import backbones
from janus.runtime import checkpoint
from janus.runtime.result import Result
from janus.separation import class_means
from janus.train import CHECKPOINT, RESULT, Run

pytestmark = pytest.mark.usefixtures("with_toy_backbone")

SMALL = {"dim": 40}
FEW = {"ranpac": SMALL, "aligned": {"samples": 10, "classifier.epochs": 2}}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ranpac(d: int = 6, M: int = 40, seed: int = 1) -> classifiers.RanPAC:
    config = SimpleNamespace(classifier=SimpleNamespace(dim=M))
    run = SimpleNamespace(device=torch.device("cpu"), model=SimpleNamespace(num_features=d), config=config)
    return classifiers.RanPAC(run, generator(seed))


def examples(
    classes: int = 6, each: int = 25, d: int = 6, seed: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features around a centre a class, in order of the classes."""
    g = generator(seed)
    labels = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, d, generator=g)
    return centres[labels] + 0.3 * torch.randn(len(labels), d, generator=g), labels


# ── nearest class mean ──────────────────────────────────────────────────────────────────────────────────────


def test_ncm_by_hand():
    features = torch.tensor([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])
    means = class_means(features, torch.tensor([0, 0, 1]), 2)  # of (.6, .8) and (0, 1): (.3, .9); of (1, 0)
    head = classifiers.NearestClassMean(SimpleNamespace(prototypes=SimpleNamespace(old=means)), generator(0))
    scores = head.scores(torch.tensor([[0.0, 7.0], [2.0, 2.0]]))
    root = np.sqrt([0.9, 2.0])
    expected = np.array([[0.9 / root[0], 0.0], [1.2 / (root[0] * root[1]), 1 / root[1]]])
    assert scores.numpy() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["finetune", "joint"])
def test_ncm_takes_each_class_mean_when_its_task_ends(name, settings):
    """Adapted features: the means are of the model as it was then, the test features of it as it is now."""
    run = Run(make(settings(name, classifier="ncm")), None)
    means: list[np.ndarray] = []
    for task in run.stream.tasks:
        run.learn(task)
        for label in task.positions:
            f = run.learner.features(task.train)[task.train.labels == label].double().numpy()
            means.append((f / np.linalg.norm(f, axis=1, keepdims=True)).mean(0))
    M = np.array(means) / np.linalg.norm(means, axis=1, keepdims=True)
    for i, task in enumerate(run.stream.tasks):
        guess = (run.learner.features(task.evaluation).double().numpy() @ M.T).argmax(1)
        right = (guess == task.evaluation.labels.numpy()).mean()
        assert run.evaluation.records["accuracy"][-1][i] == pytest.approx(100 * right)


# ── RanPAC ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("sizes", [[6], [3, 3], [1, 2, 3], [1] * 6])
def test_ranpac_is_ridge_regression_on_all_data_at_once_whatever_the_tasks(sizes):
    features, labels = examples()
    head, start = ranpac(), 0
    for t, size in enumerate(sizes):
        mine = (labels >= start) & (labels < start + size)
        start += size
        head.end_task(features[mine], labels[mine], start, generator(10 + t))
        seen = labels < start
        H = np.maximum(features[seen].double().numpy() @ head.P.numpy(), 0)  # (N, M)
        Y = np.eye(start)[labels[seen].numpy()]
        assert np.allclose(head.G, H.T @ H, rtol=1e-12) and np.allclose(head.C, H.T @ Y, rtol=1e-12)
        W = np.linalg.solve(H.T @ H + head.ridge * np.eye(40), H.T @ Y)
        assert head.W.dtype == torch.float64 and head.W.shape == (40, start)
        assert head.ridge in classifiers.RIDGES
        assert np.allclose(head.W, W, rtol=1e-6, atol=1e-9)
    probe = torch.randn(9, 6, generator=generator(3))
    expected = np.maximum(probe.double().numpy() @ head.P.numpy(), 0) @ W
    assert head.scores(probe).numpy() == pytest.approx(expected, abs=1e-5)
    assert (head.scores(features).argmax(1) == labels).float().mean() > 0.9


def test_the_ridge_is_chosen_on_a_fifth_of_the_task_that_is_held_out(monkeypatch):
    features, labels = examples()
    head, asked = ranpac(), []
    monkeypatch.setattr(classifiers, "choose_ridge", lambda *given: asked.append(given) or 10.0)
    for t, (first, last) in enumerate(((0, 2), (2, 6))):
        mine = (labels >= first) & (labels < last)
        head.end_task(features[mine], labels[mine], last, generator(t))
        (G, C, h, y), N = asked[-1], int(mine.sum())
        assert h.shape == (N // 5, 40) and y.shape == (N // 5, last) and (y.sum(1) == 1).all()
        assert y[:, :first].sum() == 0  # of the current task alone
        H = head.random(features[labels < last])
        # the past and four fifths
        assert torch.allclose(G + h.T @ h, H.T @ H) and torch.allclose(C + h.T @ y, head.C)
    assert head.ridge == 10.0


@pytest.mark.parametrize(("noise", "N"), [(0.1, 200), (3.0, 60), (0.5, 15)])  # 15 < M: G is singular
def test_the_ridge_has_the_least_error_of_all(noise, N):
    g = generator(4)
    h = torch.randn(N + 30, 20, generator=g, dtype=torch.float64).relu()
    weights = torch.randn(20, 3, generator=g, dtype=torch.float64)
    y = h @ weights + noise * torch.randn(N + 30, 3, generator=g).double()
    G, C = h[:N].T @ h[:N], h[:N].T @ y[:N]
    held, truth = h[N:].numpy(), y[N:].numpy()
    errors = [
        ((held @ np.linalg.solve(G.numpy() + ridge * np.eye(20), C.numpy()) - truth) ** 2).mean()
        for ridge in classifiers.RIDGES
    ]
    found = classifiers.choose_ridge(G, C, h[N:], y[N:])
    assert found == classifiers.RIDGES[int(np.argmin(errors))]
    assert 1e-8 < found < 1e8 or noise == 0.1


def test_features_that_are_not_finite_are_an_error():
    features, labels = examples()
    features[3] = float("nan")
    with pytest.raises(JanusError, match="classifier=ranpac.*smaller lr"):
        ranpac().end_task(features, labels, 6, generator(0))
    with pytest.raises(JanusError, match="classifier=aligned.*smaller lr"):
        aligned(d=6).end_task(features, labels, 6, generator(0))


def test_one_image_is_enough():
    head = ranpac()
    head.end_task(torch.ones(1, 6), torch.tensor([0]), 1, generator(0))
    assert head.scores(torch.ones(1, 6)) == pytest.approx(1.0, abs=1e-4)


# ── Gaussian alignment ──────────────────────────────────────────────────────────────────────────────────────


def aligned(covariance: str = "class", d: int = 4, **more: Any) -> classifiers.Aligned:
    config = SimpleNamespace(classifier=CLASSIFIERS["aligned"](covariance=covariance, **more))
    model, heads = SimpleNamespace(num_features=d), torch.nn.ModuleList()
    run = SimpleNamespace(device=torch.device("cpu"), model=model, heads=heads, config=config)
    return classifiers.Aligned(run, generator(0))


def test_the_gaussians_are_mean_and_covariance_of_each_class():
    features, labels = torch.randn(31, 4, generator=generator(0)), torch.tensor([0, 1, 0] * 10 + [2])
    head = aligned()
    head.end_task(features, labels, 3, generator(1))
    for c in range(2):
        f = features[labels == c].double().numpy()
        assert head.mean[c].numpy() == pytest.approx(f.mean(0), abs=1e-6)
        covariance = np.cov(f.T) + 1e-4 * np.eye(4)
        assert (head.root[c] @ head.root[c].T).numpy() == pytest.approx(covariance, abs=1e-6)
        assert torch.equal(head.root[c], head.root[c].tril())
    assert torch.equal(head.mean[2], features[30])
    assert torch.allclose(head.root[2], 0.01 * torch.eye(4))  # one image: the ridge


@pytest.mark.parametrize("sizes", [[6], [1, 2, 3]])
def test_the_shared_covariance_is_that_within_classes_whatever_the_tasks(sizes):
    features, labels = examples(d=4)
    head, start = aligned("shared", epochs=1, samples=2), 0
    for size in sizes:
        mine = (labels >= start) & (labels < start + size)
        start += size
        head.learner.heads.append(torch.nn.Linear(4, size))
        head.end_task(features[mine], labels[mine], start, generator(1))
    means = np.stack([features[labels == c].double().numpy().mean(0) for c in range(6)])
    F = features.double().numpy() - means[labels.numpy()]
    assert classifiers.covariance_of(head.root)[0].numpy() == pytest.approx(F.T @ F / (150 - 6), abs=1e-6)
    assert head.root.shape == (1, 4, 4) and head.freedom == 150 - 6
    drawn = torch.cat([f - head.mean[y] for f, y in head.samples(4000, generator(2))])
    covariance = F.T @ F / (150 - 6) + 1e-4 * np.eye(4)
    assert (drawn.T @ drawn / len(drawn)).numpy() == pytest.approx(covariance, abs=5e-3)


def test_the_aligned_loss_by_hand():
    heads = torch.nn.ModuleList([torch.nn.Linear(2, 1), torch.nn.Linear(2, 2)])
    f = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
    z = np.concatenate([head(f).detach().double().numpy() for head in heads], axis=1)
    z = z / np.linalg.norm(z, axis=1, keepdims=True) / 0.5
    by_hand = (np.log(np.exp(z).sum(1)) - z[[0, 1], [2, 0]]).mean()
    assert classifiers.aligned(heads, f, torch.tensor([2, 0]), 0.5).item() == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("method", ["finetune", "frozen", "exact"])
def test_heads_are_aligned_on_samples_of_all_classes_and_only_after_the_first_task(
    method, settings, monkeypatch
):
    more = {"samples": 20, "classifier.epochs": 3, "classifier.lr": 0.05}
    run = Run(make(settings(method, classifier="aligned", **more)), None)
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []
    loss = classifiers.aligned
    monkeypatch.setattr(
        classifiers, "aligned", lambda heads, f, y, t: batches.append((f, y)) or loss(heads, f, y, t)
    )
    task = run.stream.tasks[0]
    run.learn(task)
    assert not batches
    first, features = [p.clone() for p in run.learner.heads.parameters()], run.learner.features(task.train)
    run.learn(run.stream.tasks[1])
    kept = run.learner.classifier
    for c in task.positions:  # as they were when the task ended
        assert torch.allclose(kept.mean[c], features[task.train.labels == c].mean(0), atol=1e-5)
    assert torch.allclose(run.learner.features(task.train), features, atol=1e-3) == (method == "frozen")
    # old heads too
    assert all(not torch.equal(before, now) for before, now in zip(first, run.learner.heads.parameters()))
    f, y = torch.cat([f for f, _ in batches]), torch.cat([y for _, y in batches])
    assert torch.equal(torch.bincount(y), torch.full((5,), 60))  # 20 of each of 5 classes in 3 epochs
    for c in range(5):
        deviation = (f[y == c].mean(0) - kept.mean[c]).norm() / kept.root[c].norm()
        assert deviation < 4 / 60**0.5
        spread = (f[y == c] - kept.mean[c]).square().sum(1).mean() / kept.root[c].square().sum()
        assert 0.6 < spread < 1.5


def test_slca_is_slow_lora_under_the_aligned_classifier(settings):
    assert make(method="slca").training.lr == 1e-4 < make(method="finetune").training.lr
    both = ({"method": "slca"}, {"classifier": "aligned"})
    slca, same = (train.run(**settings("finetune", **more, **FEW["aligned"])) for more in both)
    assert slca.accuracy == same.accuracy and slca.drift == same.drift and slca.violation == same.violation
    assert slca.hash != same.hash


def test_alignment_lets_old_heads_compete(settings):
    """What only samples know: which head wins. Chance is 14 %."""
    more = {"classifier": "aligned", "samples": 200, "classifier.lr": 0.05}
    gains = [
        train.run(**settings("finetune", lr=1e-4, seed=seed, **more)).acc
        - train.run(**settings("finetune", lr=1e-4, seed=seed)).acc
        for seed in range(5)
    ]
    assert np.mean(gains) > 5


# ── in a run ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["exact", "gpm", "joint"])
def test_training_does_not_know_of_the_head(name, settings, tmp_path):
    results = {
        head: train.run(tmp_path / head, **settings(name, classifier=head, **FEW.get(head, {})))
        for head in classifiers.KINDS
    }
    states = {head: checkpoint.load(tmp_path / head / CHECKPOINT) for head in classifiers.KINDS}
    linear = results["linear"].to_dict()
    for head in ("ncm", "ranpac", "aligned"):
        found = results[head].to_dict()
        same = ("violation", "violation_step", "drift", "danger", "basis_rank", "stream")
        assert all(found[key] == linear[key] for key in same)
        for part in ("model", "history", "prototypes", *(["heads"] if head != "aligned" else [])):
            assert str(states[head][part]) == str(states["linear"][part])
        assert all(torch.equal(a, states["linear"]["model"][k]) for k, a in states[head]["model"].items())
    # of one task nothing is aligned
    assert len({str(r.accuracy) for r in results.values()}) == (4 if name != "joint" else 3)


def test_the_method_ranpac_is_the_head_on_the_frozen_backbone(settings):
    both = ({"method": "ranpac"}, {"classifier": "ranpac"})
    alone, head = (train.run(**settings("frozen", **SMALL, **more)) for more in both)
    assert alone.accuracy == head.accuracy and alone.acc > 50
    assert alone.config["classifier"]["name"] == "ranpac" and alone.hash != head.hash
    assert alone.violation["mean"]["all"] == 0


@pytest.mark.parametrize(
    "more",
    [
        {"classifier": "ncm"},
        {"classifier": "ranpac", **SMALL},
        {"classifier": "aligned", **FEW["aligned"]},
        {"classifier": "aligned", "covariance": "shared", **FEW["aligned"]},
    ],
)
def test_a_broken_run_ends_with_the_numbers_of_an_uninterrupted_one(more, settings, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = numbers(train.run(whole, **settings("finetune", **more)))
    config = settings("finetune", **more, save_every=0)
    for where in [(0, 3), (1, 0), (1, 6), (2, 0), (3, 0)]:
        broken_run(parts, where, config, monkeypatch)
    assert numbers(train.run(parts, **config)) == expected and same_state(whole, parts)


def test_a_run_does_not_go_on_with_another_head(settings, tmp_path, monkeypatch):
    broken_run(tmp_path, (1, 0), settings("finetune"), monkeypatch)
    with pytest.raises(UsageError, match="differs in classifier.name"):
        train.run(tmp_path, **settings("finetune", classifier="ranpac"))


@pytest.mark.parametrize(
    ("more", "score"),
    [
        ({"classifier": "ncm"}, "cosine"),
        ({"classifier": "ranpac", **SMALL}, "regression"),
        ({"classifier": "aligned", **FEW["aligned"]}, "probability"),
        ({"method": "ranpac", **SMALL}, "regression"),
        ({"method": "ncm"}, "cosine"),
        ({"method": "joint", "classifier": "ranpac", **SMALL}, "regression"),
    ],
)
def test_predictions_are_those_of_the_run(more, score, settings, image_folder, tmp_path):
    result = train.run(tmp_path, **settings("finetune", **more))
    predictor = predict.load(tmp_path, "cpu")
    names = result.stream["class_names"]
    paths = [p for name in names for p in sorted((image_folder / "test" / name).iterdir())]
    answers = predictor.predict(paths, top=7)
    right = [answer[0][0] == path.parent.name for path, answer in zip(paths, answers)]
    assert 100 * sum(right) / len(right) == pytest.approx(result.acc, abs=1e-4)
    assert predictor.score == score and all(len(answer) == 7 for answer in answers)
    if score == "regression":  # estimates of a one-hot vector
        sums = torch.tensor([[value for _, value in answer] for answer in answers]).sum(1)
        assert sums.mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("head", ["ranpac", "aligned"])
def test_extending_equals_knowing_from_the_start(head, settings, tmp_path):
    new = write_image_folder(tmp_path / "new", classes=2, train=12, test=5, seed=1)
    for split in ("train", "test"):
        for c in range(2):
            (new / split / f"class{c}").rename(new / split / f"other{c}")
    config = settings("finetune", classifier=head, **FEW[head])
    train.run(tmp_path / "run", **config)
    extended = predict.extend(tmp_path / "run", new, tmp_path / "extended", device="cpu")
    assert numbers(extended) == numbers(train.run(**config, extended=[str(new)]))
    assert len(extended.accuracy) == 4


def two_runs(folder: Path, out: Path, settings: dict[str, Any]) -> None:
    backbones.create = toy_backbone
    for head, more in (("ncm", {}), ("ranpac", SMALL), ("aligned", FEW["aligned"])):
        train.run(out / head, **settings, classifier=head, **more)


def test_two_processes_find_what_one_finds(settings, image_folder, tmp_path):
    pytest.importorskip("accelerate")
    config = settings("finetune", batch_size=13)
    two_runs(image_folder, tmp_path / "one", config)
    assert two_processes(two_runs, image_folder, tmp_path / "two", config) == [0, 0]
    # `images` of a task's 16: the toy's means lie so close that rounding tips one
    for head, images in (("ncm", 1), ("ranpac", 0), ("aligned", 1)):
        one, two = (Result.load(tmp_path / count / head) for count in ("one", "two"))
        assert two.hardware["processes"] == 2
        for mine, others in zip(one.accuracy, two.accuracy, strict=True):
            assert mine == pytest.approx(others, abs=100 / 16 * images + 1e-4), head
    one, two = (
        checkpoint.load(tmp_path / count / "ncm" / CHECKPOINT)["prototypes"] for count in ("one", "two")
    )
    assert torch.linalg.norm(one["old"] - two["old"]) < 1e-4 * torch.linalg.norm(one["old"])
    one, two = (
        checkpoint.load(tmp_path / count / "ranpac" / CHECKPOINT)["classifier"] for count in ("one", "two")
    )
    assert torch.equal(one["P"], two["P"]) and one["ridge"] == two["ridge"]
    assert torch.linalg.norm(one["G"] - two["G"]) < 1e-4 * torch.linalg.norm(one["G"])


# ── the setting ─────────────────────────────────────────────────────────────────────────────────────────────


def test_every_kind_of_the_setting_has_its_classifier():
    assert CLASSIFIERS.keys() == classifiers.KINDS.keys()


def test_classifiers_have_hashes_of_their_own():
    configs = [
        {},
        {"classifier": "ncm"},
        {"classifier": "ranpac"},
        {"classifier": "ranpac", "dim": 10},
        {"method": "ranpac"},
        {"classifier": "aligned"},
        {"classifier": "aligned", "covariance": "shared"},
        {"method": "slca"},
        {"method": "ranpac", "dim": 10},
        {"method": "frozen", "classifier": "ranpac"},
        {"method": "ncm"},
    ]
    assert len({config_hash(make(config)) for config in configs}) == len(configs)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"dim": 10}, "dim is a setting of classifier=ranpac and does nothing with classifier=linear"),
        (
            {"classifier": "ncm", "dim": 10},
            "dim is a setting of classifier=ranpac and does nothing with classifier=ncm",
        ),
        ({"classifier": "ranpac", "dim": 0}, "classifier.dim must be at least 1"),
        ({"classifier": "nmc"}, "did you mean 'ncm'"),
        (
            {"method": "ncm", "classifier": "ranpac"},
            "classifier=ranpac does not go with method=ncm, which has classifier=ncm",
        ),
        ({"method": "ranpac", "classifier": "linear"}, "classifier=linear does not go with method=ranpac"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(values, said):
    with pytest.raises(UsageError, match=said):
        make(values)


def test_a_complete_config_is_taken_as_it_is(tmp_path):
    for values in ({}, {"classifier": "ranpac", "dim": 10}, {"method": "ranpac"}, {"method": "ncm"}):
        config = make(values)
        assert make(config.to_dict()) == config


def test_an_older_result_or_checkpoint_is_refused_by_name(settings, tmp_path):
    flat_config = {"dataset": "icons-r", "method": "finetune", "head": "linear", "lr": 1e-3, "data": {}}
    train.run(tmp_path / "run", **settings("finetune"))
    state = checkpoint.load(tmp_path / "run" / CHECKPOINT) | {"config": flat_config}
    checkpoint.save(tmp_path / "run" / CHECKPOINT, state)
    said = "run: made by an older janus, whose settings had other names; run it again in another"
    with pytest.raises(JanusError, match=said):
        predict.load(tmp_path / "run", "cpu")
    (tmp_path / "run" / RESULT).unlink()
    with pytest.raises(JanusError, match="run: made by an older janus"):
        train.run(tmp_path / "run", **settings("finetune"))
