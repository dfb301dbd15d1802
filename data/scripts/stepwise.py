"""Training that can be killed at any moment and goes on as if nothing had happened.

All randomness comes from the seed and the number of the step, and the learning rate from that number and the
planned total: so the state is the model, the optimiser's moments and a counter. It is one safetensors file,
replaced in one step.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Plan:
    """What fixes a training from its beginning: resumed with another plan it would be another training."""

    images: int  # in the training set
    passes: int  # image passes in all
    data: str  # digest of the training set
    start: str  # digest of the weights it begins with
    batch: int = 128
    seed: int = 0
    lr: float = 1e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warm_up: float = 0.05  # share of the passes

    @property
    def steps(self) -> int:
        return self.passes // self.batch

    def rate(self, step: int) -> float:
        """Learning rate of step 0, 1, …: a linear warm-up, then a cosine to zero."""
        warm = max(1, round(self.warm_up * self.steps))
        cosine = 0.5 * (1 + math.cos(math.pi * max(0, step - warm) / max(1, self.steps - warm)))
        return self.lr * min((step + 1) / warm, cosine)


def generator(seed: int, use: str, number: int) -> torch.Generator:
    """A generator for one use and one step or epoch; the same whenever it is asked for."""
    digest = hashlib.sha256(f"{seed} {use} {number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def batch_at(plan: Plan, step: int) -> Tensor:
    """The images of a step, int64 (batch,): each epoch a fresh order of all; what fills no batch is out."""
    epoch, place = divmod(step, plan.images // plan.batch)
    order = torch.randperm(plan.images, generator=generator(plan.seed, "order", epoch))
    return order[place * plan.batch : (place + 1) * plan.batch]


def optimiser_of(model: nn.Module, plan: Plan) -> torch.optim.AdamW:
    """AdamW that decays matrices and kernels, not biases and scales."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=plan.lr, fused=True)


class Training:
    """A model in training under a plan, with its counter and its curve.

    `loss_of(indices (B,), generator)` is the loss of a batch.
    """

    def __init__(
        self, model: nn.Module, plan: Plan, loss_of: Callable[[Tensor, torch.Generator], Tensor]
    ) -> None:
        self.model, self.plan, self.loss_of = model, plan, loss_of
        self.optimiser = optimiser_of(model, plan)
        self.step = 0
        self.curve: list[dict[str, float]] = []
        self.lost, self.counted = 0.0, 0  # sum of losses and steps since the last point of the curve

    @property
    def passes(self) -> int:
        return self.step * self.plan.batch

    def advance(self) -> float:
        """One step; its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.plan.rate(self.step)
        loss = self.loss_of(batch_at(self.plan, self.step), generator(self.plan.seed, "step", self.step))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        value = loss.item()
        if not math.isfinite(value):
            raise SystemExit(
                f"the loss is {value} at step {self.step}: training has diverged; begin with a smaller rate"
            )
        self.lost, self.counted = self.lost + value, self.counted + 1
        return value

    def mark(self, numbers: dict[str, float]) -> dict[str, float]:
        """A point of the curve: passes, mean loss since the last point, and what was measured."""
        point: dict[str, float] = {"passes": self.passes}
        if self.counted:
            point["loss"] = round(self.lost / self.counted, 4)
        self.curve.append(point | numbers)
        self.lost, self.counted = 0.0, 0
        return self.curve[-1]

    # ---- state ----------------------------------------------------------
    def save(self, path: Path) -> None:
        """Write the whole state; an older file stays whole until this one is."""
        tensors = {f"model.{k}": t.contiguous() for k, t in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimiser.state[parameter].items():
                tensors[f"optimiser.{name}:{key}"] = value.contiguous()
        state = {
            "plan": asdict(self.plan),
            "step": self.step,
            "curve": self.curve,
            "lost": self.lost,
            "counted": self.counted,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        save_file(tensors, part, {"state": json.dumps(state)})
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Go on from a file of `save`. SystemExit if it was saved under another plan."""
        with safe_open(path, "pt") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}
        mine = asdict(self.plan)
        if differ := [k for k in mine if state["plan"].get(k) != mine[k]]:
            told = ", ".join(f"{k} {state['plan'].get(k)}, now {mine[k]}" for k in differ)
            raise SystemExit(
                f"{path} belongs to another training ({told}): choose another --out, or the old settings"
            )
        weights = {k: t for k, t in tensors.items() if k.startswith("model.")}
        self.model.load_state_dict({k.removeprefix("model."): t for k, t in weights.items()})
        for name, parameter in self.model.named_parameters():
            head = f"optimiser.{name}:"
            kept = {k.removeprefix(head): t for k, t in tensors.items() if k.startswith(head)}
            # with the parameter's strides (kernels lie channels last): the fused step goes through memory in
            # order, not through indices
            self.optimiser.state[parameter] = {
                k: torch.empty_like(parameter, requires_grad=False).copy_(t) if t.ndim else t
                for k, t in kept.items()
            }
        self.step, self.curve = state["step"], state["curve"]
        self.lost, self.counted = state["lost"], state["counted"]


def run(
    training: Training,
    path: Path,
    evaluate: Callable[[], dict[str, float]],
    every: int,
    after_mark: Callable[[], None] = lambda: None,
    save_seconds: float = 180.0,
    report_steps: int = 250,
) -> None:
    """Train to the end of the plan, from wherever `training` stands.

    Evaluates at the start, whenever `every` more passes are done, and at the end, and calls `after_mark`;
    saves the state to `path` then and every `save_seconds`.
    """

    def point() -> None:
        print(training.mark(evaluate()), flush=True)
        after_mark()
        training.save(path)

    if not training.curve:
        point()
    saved = reported = time.monotonic()
    total, summed = 0.0, 0
    while training.step < training.plan.steps:
        before = training.passes
        total, summed = total + training.advance(), summed + 1
        if training.passes // every > before // every or training.step == training.plan.steps:
            point()
            saved = time.monotonic()
        elif time.monotonic() - saved > save_seconds:
            training.save(path)
            saved = time.monotonic()
        if training.step % report_steps == 0:
            speed = summed * training.plan.batch / (time.monotonic() - reported)
            hours = (training.plan.passes - training.passes) / speed / 3600
            print(
                f"{training.passes} passes  loss {total / summed:.3f}  {speed:.0f} images/s  {hours:.1f} h",
                flush=True,
            )
            reported, total, summed = time.monotonic(), 0.0, 0
