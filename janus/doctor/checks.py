"""What a device computes: training steps, half precision, a resumed run, the projection's guarantee."""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .. import lora, methods, metrics
from ..config import Config
from ..errors import UsageError
from ..history import History, SecondMoments
from ..linalg import precise
from ..rectify import RectifiedAdam, nullspace_start
from ..runtime import checkpoint
from ..runtime.device import HALF, resolve
from ..runtime.progress import forwarded
from ..runtime.result import hardware
from ..train import CHECKPOINT, Run, execute
from .cost import CLASSES, CPU, Case
from .place import VIT_B, Finding, Place, PlannedChecks, SkippedError, arithmetic, config, threads

METHODS = {name: {"method": name} for name in sorted(methods.all_methods())}
TANGENT = {"method": "janus", "gr": "tangent", "adapter": "shared", "init": "free"}
STEPS: dict[str, dict[str, Any]] = METHODS | {"janus, tangent": TANGENT}


def tensors(value: Any) -> list[Tensor]:
    """All floating-point tensors in a nested value, in float64 on the CPU."""
    if isinstance(value, Tensor):
        return [value.detach().cpu().double()] if value.is_floating_point() else []
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [t for item in items for t in tensors(item)]


def norm(values: list[Tensor]) -> float:
    return sum(float(t.square().sum()) for t in values) ** 0.5


def apart(mine: list[Tensor], theirs: list[Tensor], start: list[Tensor] | None = None) -> float:
    """‖mine − theirs‖ / ‖theirs − start‖ over all tensors; start None: 0."""
    start = start or [torch.zeros_like(t) for t in theirs]
    difference = norm([a - b for a, b in zip(mine, theirs, strict=True)])
    size = norm([b - c for b, c in zip(theirs, start, strict=True)])
    return difference / size if size else float(difference > 0)


# ── the machine ─────────────────────────────────────────────────────────────────────────────────────────────


def machine(place: Place) -> PlannedChecks:
    """What there is, and whether it multiplies matrices."""

    def look() -> Finding:
        device, generator = place.device, torch.Generator().manual_seed(0)
        a, b = torch.randn(512, 768, generator=generator), torch.randn(768, 512, generator=generator)
        product = a.double() @ b.double()
        found: dict[str, Any] = {"product": apart([(a.to(device) @ b.to(device)).cpu().double()], [product])}
        found |= {"python": platform.python_version(), "amp": resolve("auto", device)}
        found |= {key: hardware(device)[key] for key in ("card", "cpu", "threads")}
        if device.type == "cuda" and torch.cuda.is_initialized():
            p = torch.cuda.get_device_properties(device)
            found |= {"card_gigabytes": p.total_memory / 1e9, "capability": f"{p.major}.{p.minor}"}
            found["cuda"] = torch.version.cuda
        return Finding({k: v for k, v in found.items() if v is not None}, {"product": 1e-5})

    yield "machine", look


# ── one training step ───────────────────────────────────────────────────────────────────────────────────────


class Stop(Exception):
    """A run has been seen enough of."""


@dataclass
class Seen:
    """A run around one training step: its state before, its loss, its state after."""

    before: dict[str, Any]
    loss: float
    after: dict[str, Any]


def watch(config: Config, state: dict[str, Any] | None = None, on: bool = False) -> Seen:
    """A run up to the second step of its second task (of `joint`, which has one task: of that).

    Args:
        state: of a run after the first step of that task, which is resumed. None: the run starts afresh.
        on: afterwards it goes on to its end.
    """
    losses, states = [], [state] if state else []

    def look(line: str) -> None:
        if run.task + 1 == min(2, len(run.stream)) and len(states) < 2 and run.step:
            states.append(kept(run.state()))
            losses.append(float(loss.last))
            if len(states) == 2 and not on:
                raise Stop

    run = Run(config, None)
    loss = run.learner.method.loss = LastLoss(run.learner.method.loss)
    if state:
        run.load_state(kept(state))
    with warnings.catch_warnings(), forwarded(look):
        warnings.simplefilter("ignore")  # so small a task uses up the null space, for instance
        try:
            run.finish()
        except Stop:
            pass
    return Seen(states[0], losses[-1], states[1])


def kept(value: Any) -> Any:
    """A copy of a nested value, its tensors on the CPU, as in a checkpoint."""
    if isinstance(value, dict):
        return {key: kept(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [kept(item) for item in value]
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


class LastLoss:
    """A method's loss, which remembers its value."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self.loss, self.last = loss, torch.tensor(float("nan"))

    def __call__(self, *args: Tensor) -> Tensor:
        found = self.loss(*args)
        self.last = found.detach()
        return found


TRAINED = {"factors": "model", "heads": "heads", "own": "method"}  # in a run's state


def compared(place: Place, settings: dict[str, Any]) -> Finding:
    """One training step from the same state on the same batch, on the device and on the CPU.

    What a step moves is compared, relative to how far it moves it; `own` is what a method trains besides
    (prompts, coefficients). On the CPU itself the reference is computed by one thread. On another device the
    run then goes on to its end.
    """
    if not methods.get(settings["method"]).trains_heads:
        raise SkippedError("it takes no training step")
    try:
        here, there = config(place, CPU, **settings), config(place, place.device, **settings)
        with threads(1 if place.device.type == "cpu" else torch.get_num_threads()):
            reference = watch(here)
        seen = watch(there, reference.before, on=place.device.type != "cpu")
    except UsageError as error:
        raise SkippedError(str(error)) from None
    found = {"loss": abs(seen.loss - reference.loss) / abs(reference.loss)}
    for name, key in TRAINED.items():
        states = (reference.before, seen.after, reference.after)
        start, mine, theirs = (tensors(state[key]) for state in states)
        if norm([a - b for a, b in zip(theirs, start, strict=True)]):
            found[name] = apart(mine, theirs, start)
    return Finding(found, {"loss": 1e-4} | dict.fromkeys(found.keys() & TRAINED, 2e-2))


def steps(place: Place) -> PlannedChecks:
    """One training step of every method; on a GPU also of ViT-B/16."""
    for name, settings in STEPS.items():
        if place.methods is None or name in place.methods:
            yield f"step: {name}", lambda settings=settings: compared(place, settings)
    if place.large:
        for name, settings in {"exact": METHODS["janus"], "tangent": TANGENT}.items():
            settings = settings | {"model": VIT_B, "weights": "random", "per_class": 8, "batch_size": 8}
            yield f"step: {name}, ViT-B/16", lambda settings=settings: compared(place, settings)


# ── half precision ──────────────────────────────────────────────────────────────────────────────────────────


def taken(case: Case) -> tuple[float, list[Tensor]]:
    """The first step of `exact` with all on: its loss, and the factors' gradients in float64 on the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # of the head
        variant = case.variant("exact + OE + DML")
    x, y = case.example()
    for _ in range(20):
        scale = variant.scaler.get_scale()
        loss = float(variant.step(x, y))
        if variant.scaler.get_scale() >= scale:
            break  # else the gradient overflowed fp16: no step was taken, and the scale is lower now
    return loss, [p.grad.cpu().double() for pair in lora.pairs(variant.model) for p in (pair.A, pair.B)]


def autocast(place: Place) -> PlannedChecks:
    """Half precision against float32."""
    for name, half in HALF.items():

        def look(half: torch.dtype = half) -> Finding:
            if half is torch.float16 and place.device.type != "cuda":
                raise SkippedError("fp16 is for CUDA devices")
            loss, gradients = taken(place.case())
            mine, others = taken(place.case(half=half))
            found = {"loss": abs(mine - loss) / abs(loss), "gradients": apart(others, gradients)}
            return Finding(found, {"loss": 2e-2, "gradients": 0.2})

        yield f"autocast {name}", look


# ── resume ──────────────────────────────────────────────────────────────────────────────────────────────────


def resume(place: Place) -> PlannedChecks:
    """A run that is broken off in the middle of a task."""

    def interrupt(line: str) -> None:
        if line.startswith("task 2"):
            raise Stop

    def look() -> Finding:
        described = config(place, place.device, tasks=2)
        folders = [place.folder / "whole", place.folder / "broken"]
        whole = execute(described, folders[0])
        try:
            execute(described, folders[1], interrupt)
        except Stop:
            pass
        again = execute(described, folders[1])
        first, second = (checkpoint.load(folder / CHECKPOINT) for folder in folders)
        found = {}
        for name in ("factors", "heads"):
            key = TRAINED[name]
            found[name] = apart(tensors(second[key]), tensors(first[key]))
        found["accuracy"] = abs(whole.acc - again.acc)
        if place.device.type == "cpu":
            return Finding(found, dict.fromkeys(found, 0.0))
        return Finding(found, {"factors": 1e-3, "heads": 1e-3})  # sums of a GPU differ in their order

    yield "resume", look


# ── the guarantee ───────────────────────────────────────────────────────────────────────────────────────────


def guarantee(case: Case, count: int = 20) -> dict[str, float]:
    """`count` steps of `exact` by hand after a task whose inputs are protected.

    Returns:
        The largest over all matrices, in float64: AV: ‖A V‖ / ‖A‖. violation: ‖ΔW V‖ / ‖ΔW‖ of the factors'
        displacement. merged: the same of what a merge adds to the weights.
    """
    generator = torch.Generator().manual_seed(0)
    model = lora.adapt(case.build(), case.rank).to(case.device)
    pairs = lora.pairs(model)
    moments, past = SecondMoments(pairs), History(pairs, case.rank)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        head = nn.Linear(model.num_features, CLASSES).to(case.device)
    x, y = case.example()

    def forward(images: Tensor) -> Tensor:
        with torch.autocast(case.device.type, case.half, enabled=case.half is not None):
            return nn.functional.cross_entropy(head(model(images)).float(), y)

    moments.active = True
    forward(x)
    moments.active = False
    past.end_task(moments, energy=0.95)
    lora.reset(model, generator)
    with torch.no_grad():
        for pair in pairs:
            pair.A.copy_(nullspace_start(pair.A, past.basis[pair.input_key]))
    start = [(pair.A.detach().clone(), pair.B.detach().clone()) for pair in pairs]
    optimizer = RectifiedAdam(pairs, 1e-2, gr="exact", basis=past.basis)
    for i in range(count):
        optimizer.zero_grad()
        forward(x.roll(i + 1, 2)).backward()
        optimizer.step()
    end = [(pair.A.detach().clone(), pair.B.detach().clone()) for pair in pairs]
    weights = [precise(pair.layer.weight[pair.rows]) for pair in pairs]
    lora.merge(model)
    found = {"AV": 0.0, "violation": 0.0, "merged": 0.0}
    for pair, a, b, W in zip(pairs, start, end, weights):
        V = precise(past.basis[pair.input_key])
        of_merge = metrics.violation(precise(pair.layer.weight[pair.rows]) - W, V)
        A = precise(b[0])
        left = float(torch.linalg.norm(A @ V) / torch.linalg.norm(A))
        scores = (left, metrics.violation(metrics.displacement(a, b, pair.scale), V), of_merge)
        found = {name: max(found[name], score) for name, score in zip(found, scores)}
    return found


def projection(place: Place) -> PlannedChecks:
    """A V = 0 in each arithmetic that a user may choose."""
    bounds = {"AV": 5e-6, "violation": 5e-6, "merged": 2e-5}

    def look(precision: str = "highest", half: torch.dtype | None = None) -> Finding:
        with arithmetic(precision):
            return Finding(guarantee(place.case(half=half), 5 if place.quick else 20), bounds)

    def tf32() -> Finding:
        if place.device.type != "cuda":
            raise SkippedError("TF32 is arithmetic of CUDA devices")
        return look("high")

    yield "A V = 0, float32", look
    yield "A V = 0, TF32 allowed", tf32
    yield "A V = 0, bf16 autocast", lambda: look(half=torch.bfloat16)
