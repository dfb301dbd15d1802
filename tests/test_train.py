"""The loop: what a run leaves behind, what it leaves alone, and that it survives being killed."""

from __future__ import annotations

import copy
import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.runs import CONFIGS, REPARAMETRISED, broken_run, numbers, same_state
from helpers.toys import toy_backbone
from torch import Tensor

from janus import configure, learner, lora, methods, metrics, train
from janus.data.images import Images
from janus.errors import JanusError, UsageError
from janus.methods.base import Method
from janus.runtime import checkpoint
from janus.runtime.result import Result
from janus.train import CHECKPOINT, RESULT, Run

pytestmark = pytest.mark.usefixtures("with_toy_backbone")

# ── what a run leaves behind ────────────────────────────────────────────────────────────────────────────────

KEYS = set(
    "config hash versions hardware seconds accuracy acc maa bwt forgetting learning_acc task_aware_acc "
    "violation violation_step past_output_norm drift danger basis_rank".split()
)


def strict_json(path: Path) -> dict[str, Any]:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_the_time_in_which_steps_wait_for_images_is_told_apart(settings, monkeypatch):
    now = 0.0

    class Slow(train.Prefetcher):
        def __next__(self) -> tuple[Tensor, Tensor]:
            nonlocal now
            now += 5.0
            return super().__next__()

    monkeypatch.setattr(train, "Prefetcher", Slow)
    monkeypatch.setattr(learner, "Prefetcher", Slow)  # evaluation waits, too
    monkeypatch.setattr(train, "time", SimpleNamespace(perf_counter=lambda: now, monotonic=lambda: 0.0))
    seconds = train.run(**settings("frozen")).seconds
    assert seconds["data"] == seconds["train"] == 20 * 5.0 and seconds["eval"] > 0


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_ends_with_a_complete_result(name, settings, tmp_path, monkeypatch):
    lines = []
    result = train.run(tmp_path, progress=lines.append, **settings(name))
    written = strict_json(tmp_path / RESULT)
    assert written.keys() >= KEYS and written == json.loads(json.dumps(result.to_dict()))
    config = configure.restore(written["config"], tmp_path)
    assert written["hash"] == configure.config_hash(config) and config.data.class_seed == 0
    assert configure.changed(config, class_seed=None) == configure.make(settings(name))
    assert written["seconds"].keys() == {"train", "eval", "oe", "gr", "data"}
    assert min(written["seconds"].values()) >= 0
    assert written["hardware"]["threads"] == torch.get_num_threads() and written["versions"]["torch"]
    T = 1 if name == "joint" else 3
    sizes = [56] if name == "joint" else [24, 16, 16]  # 8 test images a class
    assert [len(row) for row in written["accuracy"]] == list(range(1, T + 1))
    assert [len(row) for row in written["task_aware"]] == list(range(1, T + 1))
    for row, aware, size in zip(written["accuracy"], written["task_aware"], sizes):
        assert all(0 <= a <= b <= 100 for a, b in zip(row, aware))
        right = row[-1] * size / 100
        assert round(right, 3) == pytest.approx(round(right), abs=1e-2)  # whole images
    scores = {k: written[k] for k in ("acc", "maa", "bwt", "forgetting", "learning_acc")}
    assert scores.items() <= metrics.summary(written["accuracy"], sizes).items()
    right = sum(n * a for n, a in zip(sizes, written["task_aware"][-1]))
    assert written["task_aware_acc"] == pytest.approx(right / sum(sizes))
    if T == 1:
        assert written["bwt"] is None
    else:
        gains = sum(written["accuracy"][2][i] - written["accuracy"][i][i] for i in range(2))
        assert written["bwt"] == pytest.approx(gains / 2)

    kinds = ("fc1", "fc2", "proj", "q") if name == "oe" else ("k", "v")
    for score in ("violation", "past_output_norm"):
        assert len(written[score]["tasks"]) == T - 1  # tasks 2…T, every matrix
        for task in written[score]["tasks"]:
            assert len(task) == 2 * len(kinds)
            assert {matrix.rpartition(".")[2] for matrix in task} == set(kinds)
        if T > 1:
            assert written[score]["mean"].keys() == {"all", *kinds}
            every = [x for task in written[score]["tasks"] for x in task.values()]
            assert written[score]["mean"]["all"] == pytest.approx(sum(every) / len(every), abs=1e-12)
            of_kind = [x for task in written[score]["tasks"] for k, x in task.items() if k.endswith(kinds[0])]
            assert written[score]["mean"][kinds[0]] == pytest.approx(sum(of_kind) / len(of_kind), abs=1e-12)
    assert len(written["basis_rank"]) == T and all(min(ranks.values()) > 0 for ranks in written["basis_rank"])
    assert (written["drift"] is None) == (T == 1) and len(written["danger"]["tasks"]) == T - 1
    assert all(-1 <= x <= 1 for x in written["danger"]["tasks"])
    passes = [] if name == "ncm" else [2] * T  # of each task a number for each epoch
    assert [len(losses) for losses in written["loss"]] == passes and all(map(all, written["loss"]))
    trained = name not in ("frozen", "ncm")
    if T > 1:
        assert (written["drift"] > 0) == trained and (written["violation"]["mean"]["all"] > 0) == trained
        assert (written["violation_step"]["mean"] or 0) >= 0
        assert (len(written["violation_step"]["tasks"]) == 2) == trained
    if name in ("exact", "exact-amp", "gpm+exact", "oe"):
        assert max(x for task in written["violation"]["tasks"] for x in task.values()) <= 1e-5
    elif T > 1 and trained:
        assert written["violation"]["mean"]["all"] > 1e-2 and written["violation_step"]["mean"] > 1e-3
    assert "uneven" in written["stream"]["note"] or T == 1
    assert f"task {T}/{T}" in lines[-2] and "left" in lines[-2] and "acc" in lines[-1]

    def trains(*_: Any) -> None:
        raise AssertionError("a finished run trained again")

    monkeypatch.setattr(Run, "__init__", trains)
    again = train.run(tmp_path, progress=lines.append, **settings(name, threads=1, save_every=7))
    assert again.to_dict() == result.to_dict() and "nothing was trained" in lines[-1]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", CHECKPOINT, RESULT]


@pytest.mark.parametrize("name", CONFIGS)
def test_frozen_weights_and_batchnorm_stay_byte_identical(name, settings):
    run = Run(configure.make(settings(name)), None)
    fresh = {k: v.clone() for k, v in toy_backbone()[0].state_dict().items()}
    run.finish()
    assert not run.learner.model.training and not any(m.training for m in run.learner.model.modules())
    factor = {n for n, p in run.learner.model.named_parameters() if p.requires_grad}
    assert all(".A_" in n or ".B_" in n for n in factor) and bool(factor) == (name not in ("frozen", "ncm"))
    now = run.learner.model.state_dict()
    assert sum("running" in key for key in fresh) == 6
    for key, before in fresh.items():
        after = now[key]
        if run.config.method.adapter == "merged" and key.endswith("qkv.weight"):
            d = 32
            rows = {"q": slice(0, d), "k": slice(d, 2 * d), "v": slice(2 * d, 3 * d)}
            for row, block in rows.items():
                change = after[block] - before[block]
                if row in run.config.backbone.targets:  # two boundaries merged something of rank 2 each
                    assert 1 <= torch.linalg.matrix_rank(change, rtol=1e-4) <= 4, (key, row)
                else:
                    assert torch.equal(after[block], before[block]), (key, row)
        elif run.config.method.adapter == "merged" and any(
            key.endswith(f"{t}.weight") for t in run.config.backbone.targets if len(t) > 1
        ):
            assert not torch.equal(after, before)
        else:
            assert torch.equal(after, before), key


def test_what_is_scored_is_what_happened(settings):
    """Accuracy, drift and danger once more, from the finished run's parts."""
    run = Run(configure.make(settings("tangent")), None)
    result = run.finish()
    final = [run.learner.features(task.evaluation) for task in run.stream.tasks]
    for t, (task, features) in enumerate(zip(run.stream.tasks, final)):
        logits = torch.cat([F.linear(features, head.weight, head.bias) for head in run.learner.heads], dim=1)
        right = (logits.argmax(1) == task.evaluation.labels).float().mean().item()
        assert result.accuracy[-1][t] == pytest.approx(100 * right)
        own = logits[:, task.positions.start : task.positions.stop].argmax(1) + task.positions.start
        right = (own == task.evaluation.labels).float().mean().item()
        assert result.task_aware[-1][t] == pytest.approx(100 * right)
    moved = [
        ((f - before).norm(dim=1) / before.norm(dim=1)).mean()
        for f, before in zip(final[:2], run.evaluation.learned)
    ]
    assert result.drift == pytest.approx((sum(moved) / 2).item(), rel=1e-5)
    assert len(run.learner.prototypes.old) == 7
    # task 3 to old classes
    cosines = F.normalize(final[2], dim=1) @ F.normalize(run.learner.prototypes.old[:5], dim=1).T
    assert result.danger["tasks"][1] == pytest.approx(cosines.max(1).values.mean().item(), rel=1e-4)
    labels = run.stream.tasks[2].evaluation.labels
    own = (F.normalize(final[2], dim=1) * F.normalize(run.learner.prototypes.old[labels], dim=1)).sum(1)
    assert result.own_similarity["tasks"][1] == pytest.approx(own.mean().item(), rel=1e-4)
    features = F.normalize(run.learner.features(run.stream.tasks[2].train), dim=1)
    last = run.stream.tasks[2].train.labels == 6
    assert torch.allclose(run.learner.prototypes.old[6], features[last].mean(0), atol=1e-5)


@pytest.mark.parametrize("name", ["tangent", "frozen"])
def test_the_loss_is_that_of_each_epochs_images(name, settings, monkeypatch):
    """The mean over images, not over steps: the last batch of an epoch is a smaller one."""
    method, steps = methods.get(CONFIGS[name]["method"]), []
    local = method.loss

    def watched(self: Method, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        loss = local(self, features, logits, labels)
        steps.append((loss.item(), len(labels)))
        return loss

    monkeypatch.setattr(method, "loss", watched)
    found, at, means = train.run(**settings(name)).loss, 0, []
    for images, batches in ((60, 4), (60, 4), (40, 3), (40, 3), (40, 3), (40, 3)):
        epoch, at = steps[at : at + batches], at + batches
        assert sum(n for _, n in epoch) == images and epoch[-1][1] < 16
        means.append(sum(loss * n for loss, n in epoch) / images)
        # so that a mean over steps would be noticed
        assert abs(sum(loss for loss, _ in epoch) / batches - means[-1]) > 1e-5
    assert at == len(steps) and sum(found, []) == pytest.approx(means, rel=1e-6)


def test_a_result_without_losses_is_read(settings, tmp_path):
    result = train.run(tmp_path, **settings("frozen"))
    values = strict_json(tmp_path / RESULT)
    del values["loss"]
    (tmp_path / RESULT).write_text(json.dumps(values))
    assert len(result.loss) == 3 and Result.load(tmp_path).loss == []
    assert numbers(Result.load(tmp_path)) == numbers(result) | {"loss": []}


def test_a_probe_is_frozen_in_one_task(settings):
    probe, frozen = train.run(**settings("frozen", method="probe")), train.run(**settings("frozen", tasks=1))
    assert probe.accuracy == frozen.accuracy and len(probe.accuracy) == 1
    assert probe.violation == frozen.violation


def test_ncm_is_the_nearest_class_mean_of_the_frozen_backbone(settings):
    run = Run(configure.make(settings("ncm")), None)
    result = run.finish()
    model = toy_backbone()[0]

    def features(images) -> Tensor:
        with torch.no_grad():
            return F.normalize(model(run.learner.plain(images.batch(torch.arange(len(images))))), dim=1)

    tasks = run.stream.tasks
    x, y = torch.cat([features(t.train) for t in tasks]), torch.cat([t.train.labels for t in tasks])
    means = torch.stack([x[y == c].mean(0) for c in range(7)])
    for i, task in enumerate(tasks):
        guess = (features(task.evaluation) @ F.normalize(means, dim=1).T).argmax(1)
        right = (guess == task.evaluation.labels).float().mean().item()
        assert result.accuracy[-1][i] == pytest.approx(100 * right)


@pytest.mark.parametrize("name", ["frozen", "ncm", "finetune"])
def test_test_images_go_through_a_backbone_that_never_changes_once(name, settings, monkeypatch):
    """And every time where it changes; the result is the same as if they went through it every time."""

    def finished() -> tuple[Result, list[int]]:
        run = Run(configure.make(settings(name)), None)
        tested, features = [], run.learner.features

        def counted(images: Images) -> Tensor:
            tested.extend(t.index for t in run.stream.tasks if images is t.evaluation)
            return features(images)

        monkeypatch.setattr(run.learner, "features", counted)
        return run.finish(), tested

    result, tested = finished()
    assert tested == ([0, 1, 2] if name != "finetune" else [0, 0, 1, 0, 1, 2])
    monkeypatch.setattr(methods.get(result.config["method"]["name"]), "trains_features", True)
    every_time, tested = finished()
    assert tested == [0, 0, 1, 0, 1, 2]
    assert every_time.accuracy == result.accuracy and every_time.drift == result.drift


@pytest.mark.parametrize("name", ["finetune", "gpm", "tangent", "exact", "gpm+exact"])
def test_violation_is_against_the_past_alone(name, settings, monkeypatch):
    """ΔW of each task from its factors, V as it stood when the task began."""
    expected, training = [], Run.train

    def watched(self: Run, task: Any) -> None:
        basis = self.learner.method.basis() or self.learner.history.basis
        bases = {k: V.double().clone() for k, V in basis.items()}
        before = [(p.A.detach().double().clone(), p.B.detach().double().clone()) for p in self.learner.pairs]
        training(self, task)
        task_scores = {}
        for pair, (A, B) in zip(self.learner.pairs, before):
            dW = pair.B.detach().double() @ pair.A.detach().double() - B @ A
            V = bases[pair.input_key]
            task_scores[pair.name] = (torch.linalg.norm(dW @ V) / torch.linalg.norm(dW)).item()
            assert V.shape[1] == 0 or torch.allclose(V.T @ V, torch.eye(V.shape[1], dtype=V.dtype), atol=1e-5)
        expected.append(task_scores)

    monkeypatch.setattr(Run, "train", watched)
    result = train.run(**settings(name, energy=0.995, energy_end=None))
    first, second = result.basis_rank[:2]
    # V with the second task in it would give other numbers
    assert any(second[key] > first[key] > 1 for key in first)
    assert len(result.violation["tasks"]) == 2
    for found, task_scores in zip(result.violation["tasks"], expected[1:]):
        assert found == pytest.approx(task_scores, rel=1e-6, abs=1e-9)


def test_estimation_and_the_absolute_score_on_the_very_inputs(settings):
    """Inputs of both blocks caught in training; the basis, its energy rule, `past_output_norm` from them."""
    run = Run(configure.make(settings("finetune", epochs=1, energy=0.9)), None)
    caught: dict[str, list[Tensor]] = {}

    def catch(key: str):
        def hook(_: Any, __: Any, out: Tensor) -> None:
            if torch.is_grad_enabled():  # a training pass; evaluation has no graph
                caught[key].append(out.detach().reshape(-1, out.shape[-1]).double())

        return hook

    for i, block in enumerate(run.learner.model.blocks):
        caught[f"blocks.{i}.attn"] = []
        block.norm1.register_forward_hook(catch(f"blocks.{i}.attn"))
    past: dict[str, list[Tensor]] = {key: [] for key in caught}
    scores = []
    for task in run.stream.tasks:
        before = [(p.A.detach().double().clone(), p.B.detach().double().clone()) for p in run.learner.pairs]
        old = dict(run.learner.history.basis)
        run.learn(task)
        if task.index:
            scores.append({})
            for pair, (A, B) in zip(run.learner.pairs, before):
                dW = pair.B.detach().double() @ pair.A.detach().double() - B @ A
                # ‖ΔW X‖²/N of each past task
                squares = [(dW @ X.T).square().sum() / len(X) for X in past[pair.input_key]]
                scores[-1][pair.name] = (sum(squares) / len(squares)).sqrt().item()
        for key, batches in caught.items():
            X, V = torch.cat(batches), run.learner.history.basis[key].double()
            assert len(X) == 17 * len(task.train)  # each image once, every token
            assert torch.equal(run.learner.history.basis[key][:, : old[key].shape[1]], old[key])
            assert (X @ V).square().sum() / X.square().sum() >= 0.9 - 1e-5
            if V.shape[1] > old[key].shape[1]:
                assert (X @ V[:, :-1]).square().sum() / X.square().sum() < 0.9 + 1e-5
            past[key].append(X)
            batches.clear()
    for found, expected in zip(run.evaluation.records["past_output_norm"], scores):
        assert found == pytest.approx(expected, rel=1e-3)


# ── seeds ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["exact", "tangent"])
def test_same_seed_same_numbers(name, settings, tmp_path):
    torch.manual_seed(1)
    first = numbers(train.run(tmp_path, **settings(name, save_every=0)))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = numbers(train.run(**settings(name)))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)  # nobody's random numbers are used up
    other = numbers(train.run(**settings(name, seed=1, class_seed=0)))
    assert other["stream"]["class_order"] == first["stream"]["class_order"]
    assert other["violation_step"] != first["violation_step"] and other["drift"] != first["drift"]
    order = Run(configure.make(settings(name, class_seed=1)), None).stream.to_json()["class_order"]
    assert order != first["stream"]["class_order"]


# ── going on after a break ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["exact", "tangent", "gpm", "exact-amp", "dml", "ncm", "frozen"])
def test_a_broken_run_ends_with_the_numbers_of_an_uninterrupted_one(name, settings, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    expected = numbers(train.run(whole, **settings(name)))
    config, lines = settings(name, save_every=0), []
    # (1, 6), (2, 6): all steps done, not the rest
    steps = [(0, 3), (1, 4), (1, 6), (2, 0), (2, 6)] if name != "ncm" else []
    for where in [*steps, (3, 0)] if steps else [(1, 0), (2, 0)]:
        broken_run(parts, where, config, monkeypatch)
    found = numbers(train.run(parts, progress=lines.append, **config))
    assert lines[0].startswith("resumed at task")
    assert found == expected
    assert same_state(whole, parts)


@pytest.mark.parametrize("where", [(0, 3), (1, 0)])
def test_a_run_that_an_older_janus_began_has_no_losses(where, settings, tmp_path, monkeypatch):
    """Its checkpoint says nothing of them, and a part of a curve would look like a whole one."""
    expected = numbers(train.run(**settings()))
    broken_run(tmp_path, where, settings(save_every=0), monkeypatch)
    state = checkpoint.load(tmp_path / CHECKPOINT)
    del state["loss"]
    state["optimizers"].pop("losses", None)
    checkpoint.save(tmp_path / CHECKPOINT, state)
    broken_run(tmp_path, (2, 2), settings(save_every=0), monkeypatch)  # nor does the next one
    assert len(expected["loss"]) == 3
    assert numbers(train.run(tmp_path, **settings())) == expected | {"loss": []}


@pytest.mark.parametrize("name", ["exact", "tangent", *REPARAMETRISED])
def test_fp16_with_its_scaled_loss_resumes_and_comes_near_to_float32(name, settings, tmp_path, monkeypatch):
    """As on a card without bf16; here on the CPU, which can do it as well."""
    config = settings(name, amp="fp16")
    result = train.run(tmp_path / "whole", **config)
    assert abs(result.acc - train.run(**settings(name)).acc) < 5
    broken_run(tmp_path / "parts", (1, 4), config | {"save_every": 0}, monkeypatch)
    assert checkpoint.load(tmp_path / "parts" / CHECKPOINT)["optimizers"]["scaler"]["scale"] == 65536.0
    assert numbers(train.run(tmp_path / "parts", **config)) == numbers(result)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
@pytest.mark.parametrize("name", ["exact", "tangent"])
def test_sigkill_in_mid_task(name, settings, tmp_path):
    """A process of its own, killed without warning; while it lives, a second one on its folder is told so."""
    config, out = settings(name, save_every=0), tmp_path / "run"
    options = json.dumps({k: v for k, v in config.items() if k != "dataset"})
    toys = str(Path(__file__).parent / "helpers" / "toys.py")
    root = Path(__file__).parents[1]
    argv = [sys.executable, toys, config["dataset"], str(out), options]
    env = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=root, env=env) as child:
        for line in child.stdout:
            if "task 2/3 epoch 2/2" in line:
                with pytest.raises(JanusError, match="in use") as error:
                    train.run(out, **config)
                assert str(out) in str(error.value)
                child.kill()
                break
        child.wait(60)
    assert child.returncode == -9 and not (out / RESULT).exists()
    state = checkpoint.load(out / CHECKPOINT)
    assert state["task"] == 1 and 3 < state["step"] <= 6
    (out / f".{CHECKPOINT}-00.part").write_bytes(b"what a writer killed a moment earlier leaves behind")
    found = train.run(out, **config)
    assert numbers(found) == numbers(train.run(tmp_path / "whole", **settings(name)))
    assert same_state(tmp_path / "whole", out)
    assert sorted(p.name for p in out.iterdir()) == [".lock", CHECKPOINT, RESULT]


def test_another_config_in_the_same_folder_is_refused(settings, tmp_path, monkeypatch):
    broken_run(tmp_path, (1, 0), settings(), monkeypatch)
    for _ in ("unfinished", "finished"):
        before = (tmp_path / CHECKPOINT).read_bytes()
        with pytest.raises(UsageError) as error:
            train.run(tmp_path, **settings(lr=1e-4, dml=False))
        assert "method.dml, training.lr" in str(error.value) and str(tmp_path) in str(error.value)
        assert "epochs" not in str(error.value) and (tmp_path / CHECKPOINT).read_bytes() == before
        train.run(tmp_path, **settings(threads=1, save_every=5, class_seed=0))  # these do not matter
        assert (tmp_path / RESULT).exists()


def test_damaged_files_are_named(settings, tmp_path, monkeypatch):
    broken_run(tmp_path, (1, 0), settings(), monkeypatch)
    path = tmp_path / CHECKPOINT
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[-5] ^= 4
    for damaged in (whole[:-100], whole[:7], b"", bytes(flipped)):
        path.write_bytes(damaged)
        with pytest.raises(JanusError) as error:
            train.run(tmp_path, **settings())
        assert str(path) in str(error.value) and "\n" not in str(error.value)
        assert path.read_bytes() == damaged  # left as it is, for whoever wants to look
    path.write_bytes(whole)
    train.run(tmp_path, **settings())
    for text in ("{", "[]", '{"format": 99}', '{"format": 1}'):
        (tmp_path / RESULT).write_text(text)
        with pytest.raises(JanusError, match=RESULT):
            train.run(tmp_path, **settings())


@pytest.mark.parametrize("name", ["exact", "tangent", "frozen"])
def test_nan_loss_stops_and_keeps_the_last_checkpoint(name, settings, tmp_path, monkeypatch):
    expected = numbers(train.run(**settings(name)))
    local, calls = Method.loss, []

    def diverges(self: Method, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        wrong = len(calls) == 12  # step 4 of task 2
        return local(self, features, logits, labels) * (float("nan") if wrong else 1)

    with monkeypatch.context() as patched:
        patched.setattr(Method, "loss", diverges)
        with pytest.raises(JanusError, match="loss became nan in task 2, step 4") as error:
            train.run(tmp_path, **settings(name))
    assert "smaller lr" in str(error.value) and str(tmp_path) in str(error.value)
    assert not (tmp_path / RESULT).exists()
    state = checkpoint.load(tmp_path / CHECKPOINT)
    assert (state["task"], state["step"]) == (1, 0)
    assert all(torch.isfinite(t).all() for t in state["model"].values())
    assert numbers(train.run(tmp_path, **settings(name))) == expected  # nothing of it stuck, the lock is free


@pytest.mark.parametrize("name", ["finetune", "tangent", "exact"])
def test_a_learning_rate_far_too_high_is_an_error_not_a_result(name, settings, tmp_path):
    with pytest.raises(JanusError, match="smaller lr"):
        train.run(tmp_path, **settings(name, lr=1e30))
    assert not (tmp_path / RESULT).exists()


def test_no_space_and_no_rights(settings, tmp_path, monkeypatch):
    def full(source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(JanusError, match="No space left on device.*free some space"):
            train.run(out, **settings())
    assert sorted(p.name for p in out.iterdir()) == [".lock"]
    train.run(out, **settings())
    (tmp_path / "file").touch()
    with pytest.raises(JanusError, match="cannot write to .*file"):
        train.run(tmp_path / "file", **settings())
    if hasattr(os, "geteuid") and os.geteuid() != 0:
        tmp_path.chmod(0o555)
        with pytest.raises(JanusError, match="Permission denied"):
            train.run(tmp_path / "other", **settings())
        tmp_path.chmod(0o755)


@pytest.mark.parametrize(("tasks", "sizes"), [(1, [7]), (2, [4, 3]), (7, [1] * 7)])
def test_any_number_of_tasks(tasks, sizes, settings):
    result = train.run(**settings(tasks=tasks, epochs=1))
    assert [task["positions"][1] - task["positions"][0] for task in result.stream["tasks"]] == sizes
    assert len(result.accuracy) == tasks and (result.bwt is None) == (tasks == 1)
    with pytest.raises(UsageError, match="between 1 and 7"):
        train.run(**settings(tasks=8))


def test_a_rank_that_does_not_fit_and_an_unknown_target(settings):
    with pytest.raises(UsageError, match="rank 64 does not fit"):
        train.run(**settings(rank=64))
    with pytest.raises(UsageError, match="target"):
        train.run(**settings(targets=("keys",)))
    with pytest.raises(UsageError, match="device"):
        train.run(**settings(device="tpu9"))


def test_energy_grows_linearly(settings):
    run = Run(configure.make(settings("exact", energy=0.5, energy_end=0.9)), None)
    assert [run.learner.energy(t) for t in range(3)] == pytest.approx([0.5, 0.7, 0.9])
    run = Run(configure.make(settings("exact", energy=0.5, energy_end=None)), None)
    assert [run.learner.energy(t) for t in range(3)] == [0.5] * 3


def test_merging_at_a_boundary_changes_no_feature_and_starts_in_the_null_space(settings):
    run = Run(configure.make(settings("exact")), None)
    run.learn(run.stream.tasks[0])
    images = run.stream.tasks[0].evaluation
    before = run.learner.features(images)
    old = copy.deepcopy([(p.A.detach(), p.B.detach()) for p in run.learner.pairs])
    run.learner.method.begin_task(run.stream.tasks[1])
    assert torch.allclose(run.learner.features(images), before, rtol=1e-4, atol=1e-5)
    for pair, (A, _) in zip(lora.pairs(run.learner.model), old):
        V = run.learner.history.basis[pair.input_key]
        assert torch.count_nonzero(pair.B) == 0 and not torch.allclose(pair.A, A) and V.shape[1] > 0
        assert torch.linalg.norm(pair.A.double() @ V.double()) <= 1e-6 * torch.linalg.norm(pair.A)
        bound = torch.linalg.norm(A)  # Kaiming's scale is kept
        assert 0.5 * bound < torch.linalg.norm(pair.A) < 2 * bound


@pytest.mark.parametrize(
    ("name", "warns"), [("exact", True), ("gpm", True), ("dml", False), ("frozen", False)]
)
def test_only_what_protects_is_said_to_be_used_up(settings, name, warns):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train.run(**settings(name, epochs=1, energy=1.0, energy_end=None))
    assert any("used up" in str(w.message) for w in caught) == warns
