"""What `janus methods` says of a method is what a run of it keeps, trains and looks at."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers import vits
from torch import Tensor

from janus import configure, lora, methods
from janus.bench import store
from janus.data.images import Images
from janus.data.prefetch import Prefetcher
from janus.errors import UsageError
from janus.methods.base import BASIS
from janus.methods.prompts import Prompted
from janus.models import backbones
from janus.report import properties
from janus.report.properties import Setting
from janus.train import Run

pytestmark = pytest.mark.usefixtures("with_toy_backbone")

SMALL = {
    "bilora": {"coefficients": 40},
    "ranpac": {"dim": 50},
    "slca": {"samples": 10, "classifier.epochs": 2},
    "ewc": {"samples": 35},
    "l2p": {"pool": 6, "length": 4, "top": 2},
    "dualprompt": {"general": 2, "expert": 4},
    "coda": {"components": 6, "length": 4},
}
CASES = {name: {"method": name, **SMALL.get(name, {})} for name in methods.all_methods()} | {
    "shared": {"method": "janus", "gr": "tangent", "adapter": "shared", "init": "free"},
    "without oe": {"method": "janus", "oe": False, "gr": "none", "adapter": "merged", "init": "free"},
    "without dml": {"method": "janus", "dml": False},
    "all targets": {"method": "gpm", "targets": ("q", "k", "v", "proj", "fc1", "fc2")},
    "drs+exact": {"method": "drs", "gr": "exact", "init": "nullspace"},
    "olora, classifier=ncm": {"method": "olora", "classifier": "ncm"},
    "frozen, classifier=aligned": {
        "method": "frozen",
        "classifier": "aligned",
        "samples": 10,
        "classifier.epochs": 2,
    },
    "classifier=aligned, shared": {
        "method": "janus",
        "classifier": "aligned",
        "samples": 10,
        "classifier.epochs": 2,
        "covariance": "shared",
    },
    "gpm, classifier=ranpac": {"method": "gpm", "classifier": "ranpac", "dim": 50},
}
AT_ONCE = ("joint", "probe")  # one task
every_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture
def start(settings):
    """`start(case, learned=2)`: a run of three tasks that has learned so many of them.

    They have 3, 2 and 2 classes; `joint` has one task of 7.
    """

    def make(case: str, learned: int = 0, **more: Any) -> Run:
        common = {key: value for key, value in settings().items() if key not in ("energy_end", "oe_epochs")}
        run = Run(configure.make(common | CASES[case] | more), None)
        for task in run.stream.tasks[:learned]:
            run.learn(task)
        return run

    return make


def sizes(run: Run):
    """By `Setting`, with the settings of the run, which `janus methods` does not take."""
    return Setting("toy", tasks=3, classes=7, rank=2).sizes(type(run.learner.method), run.config)


def tensors(held: Any) -> list[Tensor]:
    if isinstance(held, Tensor):
        return [held]
    parts = held.values() if isinstance(held, dict) else held if isinstance(held, list) else []
    return [t for part in parts for t in tensors(part)]


def split(run: Run, state: dict[str, Any]) -> tuple[dict[str, list[Tensor]], list[Tensor]]:
    """A checkpoint's tensors: what the method is said to keep, by where it stands, and all others."""
    own, estimated = run.learner.method.basis(), run.learner.history.basis
    protected = own and all(own[key] is V for key, V in estimated.items())
    kept = {
        "model": state["model"] if run.learner.method.trains_factors else {},
        "heads": state["heads"] if run.learner.method.trains_heads else {},
        "method": state["method"],
        "classifier": state["classifier"],
        "basis": state["history"]["basis"] if protected else {},
        "prototypes": state["prototypes"]["old"] if run.learner.method.keeps_prototypes(run.config) else {},
    }
    found = {name: tensors(part) for name, part in kept.items() if tensors(part)}
    mine = {id(t) for part in found.values() for t in part}
    # every model has pairs; without training they are worth nothing
    if not run.learner.method.trains_factors:
        assert all(torch.count_nonzero(pair.B) == 0 for pair in run.learner.pairs)
        mine |= {id(t) for t in tensors(state["model"])}
    return found, [t for key in state if key != "records" for t in tensors(state[key]) if id(t) not in mine]


# ── what it keeps ───────────────────────────────────────────────────────────────────────────────────────────


@every_case
def test_stored_are_the_bytes_of_a_checkpoint_after_the_last_task(case, start):
    run = start(case, learned=3)
    stored = run.learner.method.stored(sizes(run))
    held = sum(t.nbytes for part in split(run, run.state())[0].values() for t in part)
    assert held < sum(stored.values()) if BASIS in stored else held == sum(stored.values())
    if BASIS in stored:  # the bound is reached when everything is protected
        end = {"energy_end": 1.0} if run.config.method.energy_end else {}
        run = start(case, learned=3, energy=1.0, **end)
        held = split(run, run.state())[0]
        assert sum(t.nbytes for part in held.values() for t in part) == sum(stored.values())


@every_case
def test_what_a_finished_run_has_kept_is_what_its_checkpoint_holds(case, start):
    run = start(case)
    result = run.finish()
    held = sum(t.nbytes for part in split(run, run.state())[0].values() for t in part)
    assert properties.of_run(store.line(result.to_dict()))["stored_bytes"] == held


def test_before_the_second_task_nothing_is_merged(start):
    for case in ("janus", "olora", "sdlora"):
        run = start(case, learned=1)
        stored = run.learner.method.stored(replace(sizes(run), tasks=1, classes=3))
        held = {name: sum(t.nbytes for t in part) for name, part in split(run, run.state())[0].items()}
        assert sum(held.values()) - held.get("basis", 0) == sum(stored.values()) - stored.get(BASIS, 0)


def finished(run: Run, state: dict[str, Any]) -> list[Tensor]:
    """A run of the same config that takes up `state`: its scores at once, and after the last task.

    Then also its factors and heads.
    """
    again, images = Run(run.config, None), run.stream.tasks[0].evaluation
    again.load_state(copy.deepcopy(state))
    found = [again.learner.method.scores(again.learner.features(images)).detach()] if again.task else []
    again.learn(again.stream.tasks[-1])
    found.append(again.learner.method.scores(again.learner.features(images)).detach())
    found += lora.state(again.learner.model).values()
    return found + (list(again.learner.heads.parameters()) if again.learner.method.trains_heads else [])


@torch.no_grad()
def noise(tensors: list[Tensor]) -> None:
    generator = torch.Generator().manual_seed(7)
    for t in tensors:
        t.copy_(torch.randn(t.shape, generator=generator))


@every_case
def test_what_it_keeps_is_enough_to_go_on_and_to_classify_and_all_of_it_is_needed(case, start):
    run = start(case, learned=0 if case in AT_ONCE else 2, epochs=1)
    state = copy.deepcopy(run.state())
    expected, others = finished(run, state), copy.deepcopy(state)
    noise(split(run, others)[1])
    assert all(map(torch.equal, finished(run, others), expected))
    for part in split(run, state)[0] if case not in AT_ONCE else ():  # which has nothing to go on from
        broken = copy.deepcopy(state)
        noise(split(run, broken)[0][part])
        assert not all(map(torch.equal, finished(run, broken), expected)), part


# ── what it trains and looks at ─────────────────────────────────────────────────────────────────────────────


@every_case
def test_trainable_are_the_numbers_in_the_optimisers_of_the_last_task(case, start, monkeypatch):
    run = start(case, learned=0 if case in AT_ONCE else 2)
    taken: dict[int, tuple[Tensor, Tensor]] = {}  # whatever an optimiser is given, and as it was then
    add = torch.optim.Optimizer.add_param_group

    def watched(self: torch.optim.Optimizer, group: dict[str, Any]) -> None:
        add(self, group)
        for parameter in group["params"]:
            taken.setdefault(id(parameter), (parameter, parameter.detach().clone()))

    monkeypatch.setattr(torch.optim.Optimizer, "add_param_group", watched)
    run.learn(run.stream.tasks[-1])
    moved = [then for now, then in taken.values() if not torch.equal(now, then)]
    assert sum(t.numel() for t in moved) == sum(run.learner.method.trainable(sizes(run)).values())


class Looks:
    """How many images pass through the backbone in which part of a task, and whose."""

    def __init__(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counts: Counter[str] = Counter()
        self.read: set[int] = set()
        self.parts = ["loop"]
        run.learner.model.register_forward_pre_hook(
            lambda _, inputs: self.counts.update({self.parts[-1]: len(inputs[0])})
        )
        for owner, names in (
            (run, ("train",)),
            (run.evaluation, ("accuracy",)),
            (run.learner, ("watch_once",)),
            (run.learner.method, ("begin_task", "factor_optimizer", "begin_step", "loss", "end_task")),
        ):
            for name in names:
                monkeypatch.setattr(owner, name, self.inside(name, getattr(owner, name)))
        read = Prefetcher._read
        monkeypatch.setattr(
            Prefetcher,
            "_read",
            lambda loader, images, index: self.reads(images) or read(loader, images, index),
        )

    def inside(self, name: str, call: Any) -> Any:
        def wrapped(*args: Any) -> Any:
            self.parts.append(name)
            try:
                return call(*args)
            finally:
                self.parts.pop()

        return wrapped

    def reads(self, images: Images) -> None:
        if "accuracy" not in self.parts:
            self.read.add(id(images))


@every_case
def test_extra_passes_are_those_counted_and_no_old_image_is_looked_at(case, start, monkeypatch):
    run = start(case)
    looks, stated = Looks(run, monkeypatch), run.learner.method.passes
    times = {"before", "with each training pass", "with each pass", "after"}
    assert {key.removesuffix(", from task 2") for key in stated} <= times
    double = 1 + stated.get("with each pass", 0)
    for task in run.stream.tasks:
        looks.counts.clear(), looks.read.clear()
        run.learn(task)
        size = len(task.train)
        trained = size * run.config.training.epochs * run.learner.method.trains_heads

        def expected(when: str, whole: int, t: int = task.index, n: int = size) -> int:
            keys = [key for key in (when, f"{when}, from task 2") if key in stated and (t or key == when)]
            values = configure.flat(run.config)
            known = [stated[key] for key in keys]
            return sum(min(n, values[k]) if isinstance(k, str) else k * whole for k in known)

        counts = looks.counts
        assert counts["train"] == double * trained and counts["factor_optimizer"] == 0
        assert counts["begin_task"] == expected("before", size)
        assert counts["begin_step"] + counts["loss"] == expected("with each training pass", trained)
        assert counts["end_task"] == expected("after", size)
        # for class means or the head, where the method needs them: see above
        assert counts["loop"] == double * size
        assert looks.read == {id(task.train)}
    assert len(run.stream) == (1 if run.config.method.joint else 3)


@every_case
def test_inference_costs_nothing_where_factors_can_be_merged(case, start):
    run = start(case, learned=len(start(case).stream))
    if run.learner.method.inference == "nothing after merging":
        images = run.stream.tasks[0].evaluation
        before = run.learner.features(images)
        assert any(torch.count_nonzero(pair.B) for pair in run.learner.pairs)
        lora.unadapt(run.learner.model)
        assert not lora.pairs(run.learner.model)
        assert torch.allclose(run.learner.features(images), before, atol=1e-4)


# ── what is printed ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "family", ["icons-vit", "plain", "dinov2-swiglu", "eva02-separate", "beit", "relpos"]
)
def test_shapes_are_those_of_the_adapted_model_and_no_weight_is_made(family, monkeypatch):
    real = vits.make(family)
    made = []
    monkeypatch.setattr(
        backbones, "create", lambda name, weights: made.append(vits.make(name)) or (made[-1], None)
    )
    found = Setting(family, rank=2).sizes(methods.get("finetune"))
    assert len(made) == 1 and all(parameter.is_meta for parameter in made[0].parameters())
    pairs = lora.pairs(lora.adapt(real, rank=2))
    assert found.matrices == tuple((pair.input_key, len(pair.B), pair.A.shape[1]) for pair in pairs)
    assert found.width == real(vits.images(real)).shape[1]


def test_what_a_task_adds_is_the_difference_of_two_streams():
    shorter, longer = (properties.every(Setting(tasks=T, classes=10 * T))["methods"] for T in (20, 21))
    for before, after in zip(shorter, longer):
        # all streams have as many components; only `janus extend` adds to them, a share
        if before["name"] == "coda":
            assert before["each_task_adds"]["prompts and keys"] == before["stored"]["prompts and keys"] / 20
            continue
        grown = after["stored_bytes"] - before["stored_bytes"]
        assert sum(before["each_task_adds"].values()) == grown > 0, before["name"]


def test_a_stream_may_have_more_tasks_than_coda_has_components():
    assert "| coda |" in str(properties.table(properties.Setting(tasks=200, classes=200))).replace("`", "")


def test_every_method_says_what_it_is():
    for name, method in methods.all_methods().items():
        assert "family" in vars(method) or issubclass(method, Prompted), name
        assert method.family and method.summary, name
        said, values = properties.described(name, Setting()), configure.make(method=name)
        assert method.paper in said and "Both for icons-vit, 10 tasks, 100 classes, rank 8." in said
        elsewhere = (*values.method.defaults, *values.method.fixed)
        for path, value in configure.flat(values).items():
            if path != "method.name" and (path.startswith("method.") or path in elsewhere):
                assert f"{path}={value}" in said, path
        assert sum(properties.facts(method, Setting())["stored"].values()) > 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (Setting(model="icon-vit"), "unknown model 'icon-vit': did you mean 'icons-vit'"),
        (Setting(rank=193), "backbone.rank=193 does not fit icons-vit: choose a whole number from 1 to 192"),
        (Setting(tasks=11, classes=10), "10 classes cannot be cut into 11 tasks"),
        (Setting(tasks=0), "tasks must be at least 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(setting, said, monkeypatch):
    monkeypatch.undo()  # the real backbones
    with pytest.raises(UsageError, match=said):
        properties.every(setting)
