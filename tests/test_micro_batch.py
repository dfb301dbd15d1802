"""`runtime.micro_batch`: a step whose images go through the backbone in slices is the whole batch's step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.runs import same_run
from torch import Tensor

from janus import configure, train
from janus.methods import all_methods
from janus.runtime import distributed
from janus.runtime.updates import Updates
from janus.train import Run

pytestmark = pytest.mark.usefixtures("with_toy_backbone")

BATCH, SLICE = 128, 16
TANGENT = {"gr": "tangent", "adapter": "shared", "init": "free"}
UNFIT = ("ncm", "ranpac", "joint", "probe")  # nothing is trained, or there is one task
CONFIGS: dict[str, dict[str, Any]] = {name: {"method": name} for name in all_methods() if name not in UNFIT}
CONFIGS |= {
    "bilora": {"method": "bilora", "coefficients": 40},
    "l2p": {"method": "l2p", "pool": 12, "length": 4, "top": 3, "pull": 3.0},
    "dualprompt": {"method": "dualprompt", "general": 2, "expert": 4, "match": 3.0},
    "coda": {"method": "coda", "components": 12, "length": 4, "penalty": 3.0},
    "drs": {"method": "drs", "penalty": 3.0},  # each image's loss depends on the others
    "ewc": {"method": "ewc", "lambda_": 1e5},
    "janus tangent": {"method": "janus", **TANGENT},
    "janus softmax": {"method": "janus", "form": "softmax"},
    "janus logsumexp": {"method": "janus", "form": "logsumexp", "push": 5.0},
    "janus all": {"method": "janus", "nearest": False, "form": "squared", "push_margin": -0.5},
    "gpm tangent": {"method": "gpm", "gr": "tangent"},
}


def second_task(config: dict[str, Any]) -> Run:
    """A run at the beginning of task 2."""
    run = Run(configure.make(config), None)
    run.learn(run.stream.tasks[0])
    run.learner.begin_task(run.stream.tasks[1])
    return run


def stepped(
    config: dict[str, Any], micro_batch: int | None, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[Any]]:
    """What a training step on 128 images comes to: loss, gradients, second moments, centres.

    And how many images the backbone had at once, pass by pass.
    """
    run, found = second_task(config), {}
    learner, classes = run.learner, len(run.stream.tasks[1].positions)
    learner.config = configure.changed(learner.config, {"runtime.micro_batch": micro_batch})
    updates = Updates(learner, run.stream.tasks[1], run.seconds)
    backward, seen = updates.backward, []
    learner.model.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))

    def noted(loss: Tensor) -> None:
        backward(loss)
        found["loss"] = [loss.detach()]
        for name, optimizer in (("factors", updates.factors), ("head", updates.head)):
            if optimizer is not None:
                own = (
                    optimizer.gradients()
                    if hasattr(optimizer, "gradients")
                    else distributed.gradients(optimizer)
                )
                found[name] = [gradient.clone() for gradient in own]

    monkeypatch.setattr(updates, "backward", noted)
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(BATCH, 3, 32, 32, generator=generator)
    labels = torch.randint(classes, (BATCH,), generator=generator)
    updates.begin(0.0, BATCH, BATCH)
    train.step(learner, images, labels, updates)
    found["moments"] = [learner.moments.mean(key) for key in learner.moments.sum]
    found["tokens"] = [torch.tensor(count) for count in learner.moments.count.values()]
    return found | {"centres": [learner.prototypes.centres], "at once": seen}


def distance(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / a.norm().clamp(min=1e-12))


@pytest.mark.parametrize("name", CONFIGS)
def test_slices_of_16_make_the_step_of_a_batch_of_128(name, settings, monkeypatch):
    config = settings("finetune", **CONFIGS[name])
    whole, sliced = (stepped(config, size, monkeypatch) for size in (None, SLICE))
    passes = {"l2p": 2, "dualprompt": 2, "coda": 2}.get(name, 1)
    more = passes * (BATCH // SLICE - 1) * (name != "frozen")  # once more for all slices but the last
    passes += name == "lwf"  # the pass that has no gradient
    assert whole.pop("at once") == passes * [BATCH]
    assert sliced.pop("at once") == (passes * BATCH // SLICE + more) * [SLICE]
    assert {key: len(values) for key, values in whole.items()} == {
        key: len(values) for key, values in sliced.items()
    }
    for key, values in whole.items():
        assert max(map(distance, values, sliced[key])) < 1e-5, key


@pytest.mark.parametrize("name", ["exact", "tangent", "coda", "drs"])
def test_a_run_in_slices_is_the_same_run(name, settings, tmp_path):
    more = {"tangent": TANGENT | {"lr": 3e-4}}.get(name, CONFIGS.get(name, {}))
    config = settings("exact", batch_size=13, energy=0.99, **more)
    train.run(tmp_path / "whole", **config)
    train.run(tmp_path / "sliced", **config, micro_batch=4)
    same_run(tmp_path / "whole", tmp_path / "sliced")
    again = train.run(tmp_path / "sliced", **config)  # slices do not make it another run
    assert again.config["runtime"]["micro_batch"] == 4


def test_a_slice_as_large_as_the_batch_changes_no_bit(settings, tmp_path):
    results = [train.run(**settings("exact"), micro_batch=size).to_dict() for size in (None, 10_000)]
    for scores in ("accuracy", "violation", "drift", "danger"):
        assert results[0][scores] == results[1][scores]


def test_what_micro_batch_may_be(settings: Any, tmp_path: Path) -> None:
    config = configure.make(micro_batch="8")
    assert config.runtime.micro_batch == 8
    assert configure.config_hash(config) == configure.config_hash(configure.make())
    with pytest.raises(Exception, match="runtime.micro_batch must be at least 1, got 0"):
        configure.make(micro_batch=0)
