"""What a run trains and a prediction loads: the adapted backbone, its heads, what is kept of past tasks."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as kept_as_input

from . import classifiers, lora, methods
from .config import Config
from .data import transforms
from .data.images import Images
from .data.prefetch import Prefetcher, of
from .data.stream import Task
from .history import History, SecondMoments
from .models import backbones
from .models.backbones import PreprocessConfig
from .runtime import distributed, paths
from .runtime.device import autocast, choose_attention
from .separation import Prototypes


class Learner:
    """The state of a learner between two images: nothing in it is about a loop, a folder or a clock.

    model, preprocess, backbone: the adapted ViT, how its input is prepared, the fingerprint of its weights
    before adaptation. pairs: the adapted matrices. heads: one linear head a task. moments: second moments of
    layer inputs in the task at hand. history: the estimated past. prototypes: class means. start_factors:
    each pair's (A, B) when the task at hand began. classifier: how features become scores. method: what is
    particular to the method. plain: the test transform.
    """

    def __init__(
        self, config: Config, device: torch.device, processes: distributed.Processes = distributed.ALONE
    ) -> None:
        self.config, self.device, self.processes = config, device, processes
        self.model, self.preprocess, self.backbone = build_model(config, self.generator("factors", 0), device)
        self.plain = transforms.test_transform(augmentation(config), self.preprocess)
        self.pairs = lora.pairs(self.model)
        self.heads = nn.ModuleList()
        self.moments = SecondMoments(self.pairs)
        self.history = History(self.pairs, config.backbone.rank)
        self.prototypes = Prototypes(self.model.num_features, device)
        self.start_factors: list[tuple[Tensor, Tensor]] = []
        kind = methods.get(config.method.name)
        for pair in self.pairs:
            pair.A.requires_grad_(kind.trains_factors)
            pair.B.requires_grad_(kind.trains_factors)
        self.classifier = classifiers.KINDS[config.classifier.name](self, self.generator("classifier"))
        self.method = kind(self)
        self.history.protects = self.method.basis() is self.history.basis

    @property
    def tasks(self) -> int:
        """How many tasks the stream has, those of extensions included."""
        return (1 if self.config.method.joint else self.config.data.tasks) + len(self.config.data.extended)

    def generator(self, *purpose: Any) -> torch.Generator:
        """A CPU generator for one purpose ("batches", task, epoch).

        Nothing random depends on what ran before it.
        """
        text = "/".join(map(str, (self.config.training.seed, *purpose)))
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        return torch.Generator().manual_seed(seed)

    def energy(self, t: int) -> float:
        """ε of task t."""
        c = self.config.method
        share = t / max(1, self.tasks - 1)
        return c.energy if c.energy_end is None else c.energy + (c.energy_end - c.energy) * share

    # ── images → features ───────────────────────────────────────────────────────────────────────────────────

    def forward(self, x: Tensor) -> Tensor:
        """Images ready for the backbone, (b, 3, S, S) → final CLS features (b, d).

        In half precision where `amp` says so. With `runtime.micro_batch` images go through it in slices. What
        the backward pass needs is kept of the last slice only; the others, each in its turn, go through once
        more then. So the loss is that of the whole batch, whatever it is, and only rounding tells the
        gradients from those of one pass.
        """
        if not len(x):  # a process's part of a small batch
            return torch.zeros(0, self.model.num_features, device=self.device)
        with autocast(self.config.training.amp, self.device):
            *others, last = x.split(self.config.runtime.micro_batch or len(x))
            how = {"use_reentrant": False, "preserve_rng_state": False}  # nothing in it is random
            how["context_fn"] = lambda: (nullcontext(), self.recomputing())
            features = [kept_as_input(self.model, part, **how) for part in others]
            return torch.cat([*features, self.model(last)])

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """(N, d) float32 features under the test transform, on the CPU."""
        parts = []
        mine = torch.arange(len(images))[self.processes.part(len(images))]
        with Prefetcher(of(images, mine.split(4 * self.config.training.batch_size)), self.device) as batches:
            for _, batch in batches:
                parts.append(self.forward(self.plain(batch)).float().cpu())
        found = torch.cat(parts) if parts else torch.zeros(0, self.model.num_features)
        return self.processes.gather(found, len(images))

    @contextmanager
    def watching(self, active: bool = True) -> Iterator[None]:
        """Inside, Online Estimation watches: passes' layer inputs join the second moments (if `active`)."""
        self.moments.active = active
        try:
            yield
        finally:
            self.moments.active = False

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Inside, a slice goes through the backbone a second time: nothing is counted twice."""
        with self.watching(False), self.method.recomputing():
            yield

    # ── a task ──────────────────────────────────────────────────────────────────────────────────────────────

    def begin_task(self, task: Task) -> None:
        """A new head, fresh sums, and what the method does before its first batch."""
        self.method.begin_task(task)
        self.add_head(task.index, len(task.positions))
        self.moments.reset()
        self.prototypes.begin_task(len(task.positions))
        self.start_factors = self.factors()

    def end_task(self, task: Task) -> None:
        """Let the task's inputs join the past."""
        self.method.end_task(task)
        if not self.method.trains_heads:
            self.watch_once(task)
        with self.moments.over(self.processes):
            self.history.end_task(self.moments, self.energy(task.index))

    def watch_once(self, task: Task) -> None:
        """Second moments for a method that never trains: one pass, for diagnosis."""
        with self.watching():
            self.features(task.train)
        self.moments.watch.take()  # in the seconds of the whole pass

    def add_head(self, t: int, classes: int) -> nn.Linear:
        """Task t's linear head on the final CLS feature, drawn as torch does from a generator of its own."""
        width = self.model.num_features
        head = nn.Linear(width, classes, device="meta").to_empty(device="cpu")
        generator, bound = self.generator("head", t), 1 / math.sqrt(width)
        with torch.no_grad():
            head.weight.uniform_(-bound, bound, generator=generator)
            head.bias.uniform_(-bound, bound, generator=generator)
        self.heads.append(head.to(self.device))
        return self.heads[-1]

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        """Copies of each pair's A (r, n) and B (m, r)."""
        return [(pair.A.detach().clone(), pair.B.detach().clone()) for pair in self.pairs]

    def protected(self) -> dict[str, Tensor]:
        """The bases violations are measured against: the method's own, else the estimate for diagnosis."""
        return self.method.basis() or self.history.basis

    # ── saving and restoring ────────────────────────────────────────────────────────────────────────────────

    def state(self) -> dict[str, Any]:
        """All of it, as tensors and JSON values.

        No image, and no random state: that follows from the seed.
        """
        return {
            "backbone": self.backbone,
            "model": lora.state(self.model),
            "start_factors": self.start_factors,
            "heads": [dict(head.state_dict()) for head in self.heads],
            "moments": self.moments.state_dict(),
            "history": self.history.state_dict(),
            "prototypes": self.prototypes.state_dict(),
            "classifier": self.classifier.state_dict(),
            "method": self.method.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned, into a fresh learner of the same config.

        Raises:
            JanusError: the backbone's weights are others than they were.
        """
        c = self.config.backbone
        backbones.check(self.backbone, state.get("backbone"), c.weights or c.model)
        lora.load_state(self.model, state["model"], any_rank=True)
        self.start_factors = [(A.to(self.device), B.to(self.device)) for A, B in state["start_factors"]]
        for t, weights in enumerate(state["heads"]):
            self.add_head(t, len(weights["bias"])).load_state_dict(weights)
        self.moments.load_state_dict(state["moments"])
        self.history.load_state_dict(state["history"])
        self.prototypes.load_state_dict(state["prototypes"])
        self.classifier.load_state_dict(state["classifier"])
        self.method.load_state_dict(state["method"])
        if not self.processes.main:
            self.moments.reset()  # the main process holds the sums of all


def build_model(
    config: Config, generator: torch.Generator, device: torch.device
) -> tuple[nn.Module, PreprocessConfig, str]:
    """The config's backbone with fresh LoRA pairs, how its input is prepared, its weights' fingerprint."""
    # weights="random" draws from torch's global generator, on the CPU
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.training.seed)
        c = paths.resolved(config).backbone
        model, preprocess = backbones.create(c.model, c.weights, c.image_size)
    fingerprint = backbones.fingerprint(model)
    lora.adapt(model, c.rank, c.targets, c.scale, generator)
    choose_attention(model, config.training.amp, device)
    return model.to(device), backbones.normalised(preprocess, c.normalise), fingerprint


def augmentation(config: Config) -> str:
    """The kind of transform; `auto` is gentle for icons and the field's crop-and-flip for photographs."""
    if config.data.augment != "auto":
        return config.data.augment
    return "icons" if config.data.dataset in ("icons-r", "fashion-mnist") else "photo"
