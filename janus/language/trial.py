"""Fine-tune a causal language model on one text after another, and measure what it forgets.

Forgetting is what PEFT's method comparison calls so: the held-out cross-entropy of general text after
training, minus that before. It is noted along the way, so that methods can be compared at the same loss of
the text that is learned: who has learned nothing has forgotten nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Any

import torch
from torch import Tensor, nn

from .. import lora
from ..errors import UsageError, unknown
from ..metrics import violation
from ..protect import Basis, create_rectified_optimizer, estimate_basis
from ..runtime.timing import Stopwatch
from . import texts
from .texts import Encode

Weights = dict[tuple[str, str], Tensor]  # (pair, its input) → W

METHODS = ("LoRA", "exact", "frozen A", "OSF")
GENERAL = "manual"  # V is estimated on it
UNSEEN = "english"  # what the model could do, too, and V has not seen


@dataclass(frozen=True)
class Trial:
    """The settings of one run: a method, its learning rate, its ε, and how long it trains on each text.

    LoRA: PEFT's, by AdamW, one adapter for all texts. exact: `janus.create_rectified_optimizer`. frozen A:
    the same start (A V = 0), then B alone is trained (InfLoRA's way). OSF: PEFT's orthogonal subspace
    fine-tuning, half of each matrix's singular directions kept, merged and cut anew after each text.

    energy: ε of V. tokens are `batch` windows of `length` a step. held: windows of each text that are
    evaluated, from its part `evaluate` (val or test). seen: windows of general text that V is estimated on.
    """

    method: str = "exact"
    lr: float = 1e-3
    energy: float = 0.95
    seed: int = 0
    learn: tuple[str, ...] = ("italian", "spanish")
    steps: int = 40
    every: int = 10
    batch: int = 4
    length: int = 128
    rank: int = 8
    targets: tuple[str, ...] = ("k_proj", "v_proj")
    evaluate: str = "test"
    held: int = 16
    seen: int = 128
    half: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise unknown("method", self.method, METHODS)
        if self.evaluate not in ("val", "test"):
            raise UsageError(f"evaluate is val or test, not {self.evaluate!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """The texts that are evaluated."""
        return GENERAL, UNSEEN, *self.learn


def run(
    trial: Trial,
    model: nn.Module,
    encode: Encode,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Wrap the model by PEFT, train it on each text in turn, and return what was measured.

    curve: for each point {text, step, loss: name → cross-entropy in nats per token}, the first one (step 0 of
    the first text) being the model as it came. ranks: layer input → columns of V, before each text.
    violation: per text ‖ΔW V‖ / ‖ΔW‖, mean over layers (none for OSF, which has no factors). seconds: of a
    step, and of the estimate of V.
    """
    say = progress or (lambda line: None)
    held, new, past = _windows(trial, encode)
    generator = torch.Generator().manual_seed(trial.seed)
    torch.manual_seed(trial.seed)  # PEFT draws A from torch's own generator
    before = evaluate(model, held, trial.half)
    curve: list[dict[str, Any]] = [{"text": trial.learn[0], "step": 0, "loss": before}]
    ranks, shares, clock, watch = [], [], {"step": [], "basis": []}, Stopwatch(past.device)
    basis: Basis | None = None
    wrapped = wrap(model, trial)
    for name in trial.learn:
        if trial.method == "OSF" and name != trial.learn[0]:
            wrapped = wrap(wrapped.merge_and_unload(), trial)
        if trial.method != "OSF":
            with watch.running():
                basis = _basis(wrapped, past, trial, basis)
            clock["basis"].append(watch.take())
            ranks.append({key: V.shape[1] for key, V in basis.items()})
        optimizer, start = make_optimizer(wrapped, trial, basis), _weights(wrapped)
        for step in range(1, trial.steps + 1):
            rows = torch.randint(0, len(new[name]), (trial.batch,), generator=generator)
            with watch.running():
                cross_entropy(wrapped, new[name][rows], trial.half).backward()
                optimizer.step()
                optimizer.zero_grad()
            clock["step"].append(watch.take())
            if step % trial.every == 0 or step == trial.steps:
                loss = evaluate(wrapped, held, trial.half)
                curve.append({"text": name, "step": step, "loss": loss})
                rise = f"{GENERAL} {loss[GENERAL] - before[GENERAL]:+.3f}"
                say(f"{trial.method}, {name}, step {step} of {trial.steps}: loss {loss[name]:.3f}, {rise}")
        shares.append(_violation(start, _weights(wrapped), basis or {}))
        past = new[name]
    return {
        "trial": asdict(trial),
        "curve": curve,
        "ranks": ranks,
        "violation": shares,
        "seconds": {what: median(seen) if seen else None for what, seen in clock.items()},
        "trained": sum(p.numel() for p in wrapped.parameters() if p.requires_grad),
    }


def _windows(trial: Trial, encode: Encode) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """Windows of each text to evaluate, of each to learn, and of general text that V is estimated on."""
    loaded, length = {name: texts.load(name) for name in trial.names}, trial.length
    parts = {name: getattr(text, trial.evaluate) for name, text in loaded.items()}
    held = {name: texts.windows(part, encode, length, trial.held) for name, part in parts.items()}
    new = {name: texts.windows(loaded[name].train, encode, length) for name in trial.learn}
    return held, new, texts.windows(loaded[GENERAL].train, encode, length, trial.seen)


def points(result: Mapping[str, Any], name: str = GENERAL) -> list[tuple[float, float]]:
    """(loss of the first learned text, rise of another text's), point by point while the first is learned."""
    first, before = result["trial"]["learn"][0], result["curve"][0]["loss"][name]
    learned = (point["loss"] for point in result["curve"] if point["text"] == first)
    return [(loss[first], loss[name] - before) for loss in learned]


def forgetting_at(result: Mapping[str, Any], level: float, name: str = GENERAL) -> float | None:
    """How much the loss of a text has risen where that of the first learned text falls to `level`.

    In nats per token, between two points of the curve by a straight line; None: the run does not get there.
    """
    curve = points(result, name)
    for (left, before), (right, after) in zip(curve, curve[1:]):
        if right <= level <= left:
            share = (left - level) / (left - right) if left > right else 0.0
            return before + share * (after - before)
    return None


def wrap(model: nn.Module, trial: Trial) -> nn.Module:
    """The model with PEFT's adapter of this method on the trial's target layers."""
    import peft

    if trial.method == "OSF":
        config = peft.OSFConfig(target_modules=list(trial.targets), effective_rank=0.5)
        return peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    config = peft.LoraConfig(r=trial.rank, lora_alpha=trial.rank, target_modules=list(trial.targets))
    return peft.get_peft_model(model, config)


def make_optimizer(
    model: nn.Module, trial: Trial, basis: Mapping[str, Tensor] | None
) -> torch.optim.Optimizer:
    """The optimiser of this method; exact and frozen A move the factors off V first."""
    if trial.method in ("LoRA", "OSF"):
        return torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], lr=trial.lr, weight_decay=0
        )
    if trial.method == "frozen A":
        for pair in lora.pairs(model):
            pair.A.requires_grad_(False)
    return create_rectified_optimizer(model, basis=basis, lr=trial.lr, gr="exact")


@torch.no_grad()
def evaluate(model: nn.Module, held: Mapping[str, Tensor], half: bool = False) -> dict[str, float]:
    """Mean cross-entropy of each text's windows (count, length), in nats per token."""
    model.eval()
    return {
        name: sum(cross_entropy(model, part, half).item() * len(part) for part in windows.split(4))
        / len(windows)
        for name, windows in held.items()
    }


def _basis(model: nn.Module, past: Tensor, trial: Trial, basis: Basis | None) -> Basis:
    device = past.device.type

    def forward(model: nn.Module, ids: Tensor) -> None:
        with torch.autocast(device, torch.bfloat16, enabled=trial.half):
            model(input_ids=ids)

    return estimate_basis(model, past.split(trial.batch), energy=trial.energy, past=basis, forward=forward)


def cross_entropy(model: nn.Module, ids: Tensor, half: bool = False) -> Tensor:
    """Of windows (b, length), each token from those before it: the mean, in nats. half: under bfloat16."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
        return model(input_ids=ids, labels=ids).loss


@torch.no_grad()
def _weights(model: nn.Module) -> Weights:
    """(pair, its input) → W0 + s·B·A, of each adapted matrix."""
    pairs = lora.pairs(model)
    return {(p.name, p.input_key): (p.weight + p.scale * p.B @ p.A).detach().clone() for p in pairs}


def _violation(before: Weights, after: Weights, basis: Mapping[str, Tensor]) -> float | None:
    """‖ΔW V‖ / ‖ΔW‖, mean over layers; None without factors."""
    shares = [violation(after[pair] - W, basis[pair[1]]) for pair, W in before.items()]
    return fmean(shares) if shares else None
