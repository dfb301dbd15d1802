"""From a loss to changes of the factors and the head: a task's optimisers, fp16's loss scale, processes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..data.stream import Task
from ..errors import JanusError
from ..learner import Learner
from .timing import Stopwatch


class Diverged(JanusError):
    """The loss is not finite any more; the message is its value."""


class Losses:
    """A task's mean training loss in each epoch: summed where it is computed, read once an epoch."""

    def __init__(self, device: torch.device) -> None:
        self.epochs: list[float] = []
        self.sum, self.images = torch.zeros((), device=device), 0  # of the epoch at hand

    def add(self, mean: Tensor, images: int) -> None:
        """A step's mean loss over its images. Nothing waits for the device here."""
        self.sum += mean.detach() * images
        self.images += images

    def end_epoch(self) -> None:
        self.epochs.append((self.sum / self.images).item())
        self.sum.zero_()
        self.images = 0

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": self.epochs, "sum": self.sum, "images": self.images}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs, self.images = list(state["epochs"]), state["images"]
        self.sum.copy_(state["sum"])


class Updates:
    """The optimisers of one task, and what lies between a loss and their steps.

    That is fp16's loss scale and the sum over processes. losses: what the loss was. factors: the method's
    optimiser of what it trains beside the head; None where that is nothing. head: AdamW. seconds: where the
    time of Online Estimation's hooks ("oe") and of the factors' steps ("gr") is added.
    """

    def __init__(self, learner: Learner, task: Task, seconds: dict[str, float]) -> None:
        c, device = learner.config.training, learner.device
        self.learner, self.seconds, self.watch = learner, seconds, Stopwatch(device)
        self.losses = Losses(device)
        self.factors = learner.method.factor_optimizer(task)
        self.head = torch.optim.AdamW(learner.heads[-1].parameters(), lr=c.head_lr, weight_decay=0.0)
        self.rates = [(o, rate) for o, rate in ((self.factors, c.lr), (self.head, c.head_lr)) if o]
        self.scaler = torch.amp.GradScaler(device.type, enabled=c.amp == "fp16")
        self.part = self.whole = 1  # images of the batch: in this process, and in all

    def begin(self, done: float, part: int, whole: int) -> None:
        """Before a step: `done` of the task's steps are made, and the batch has `whole` images.

        `done` is a share; the rates fall to zero by a cosine. Of the batch this process has `part`.
        """
        self.part, self.whole = part, whole
        for optimizer, rate in self.rates:
            optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * done))

    def zero_grad(self) -> None:
        for optimizer, _ in self.rates:
            optimizer.zero_grad()

    def backward(self, loss: Tensor) -> None:
        """Gradients of the mean loss over the whole batch, in every process. Raises Diverged."""
        processes = self.learner.processes
        loss, mean = processes.share(loss, self.part, self.whole)
        if not torch.isfinite(mean):
            raise Diverged(str(mean.item()))
        self.losses.add(mean, self.whole)
        self.seconds["oe"] += self.learner.moments.watch.take()  # isfinite has waited for the device
        self.seconds["gr"] += self.watch.take()
        self.scaler.scale(loss).backward()
        processes.sum_gradients(self.head, self.factors)

    def step(self) -> None:
        self.scaler.step(self.head)
        with self.watch.running():
            if self.factors:
                self.scaler.step(self.factors)
            self.scaler.update()

    def end(self) -> None:
        """After the task's last step."""
        self.seconds["gr"] += self.watch.take()
        if hasattr(self.factors, "remove"):
            self.factors.remove()

    def state(self) -> dict[str, Any]:
        scaler = {"scaler": self.scaler} if self.scaler.is_enabled() else {}
        parts = {"factors": self.factors, "head": self.head, "losses": self.losses} | scaler
        return {name: part.state_dict() for name, part in parts.items() if part}

    def load_state(self, state: dict[str, Any]) -> None:
        parts = {"factors": self.factors, "head": self.head, "scaler": self.scaler, "losses": self.losses}
        for name, values in state.items():
            parts[name].load_state_dict(values)
