"""The loop: one run = one method x stream x seed → one result.

A training step (`step`) reads as the method does: images → adapted ViT (Online Estimation watches the layer
inputs) → feature → local cross-entropy + margin loss → backward → Gradient Rectification turns the step into
safe factor updates.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import configure, metrics
from .config import Config
from .data import stream, transforms
from .data.images import Images
from .data.prefetch import Prefetcher
from .data.renditions import in_epoch
from .data.restore import MissingImages
from .errors import JanusError
from .evaluation import Evaluation
from .learner import Learner, augmentation
from .methods import one_class
from .runtime import checkpoint, distributed, paths
from .runtime.device import emulation_note, pick_device
from .runtime.progress import Progress, forwarded
from .runtime.result import Result, hardware, versions
from .runtime.start import build_stream, check_same_run, lock, settled
from .runtime.timing import clock
from .runtime.updates import Diverged, Updates

CHECKPOINT, RESULT = "checkpoint.safetensors", "result.json"
logger = logging.getLogger(__name__)


def step(learner: Learner, images: Tensor, labels: Tensor, updates: Updates, watch: bool = True) -> None:
    """One training step, whatever the method.

    Args:
        learner: its last head is that of the task at hand.
        images: (b, 3, S, S), augmented. labels: (b,), in 0…c−1 of the task's c classes.
        updates: what turns the loss into changes of the factors and the head.
        watch: whether Online Estimation looks at the layer inputs of this step.

    Raises:
        Diverged: the loss is not finite; nothing was changed.
    """
    updates.zero_grad()
    learner.method.begin_step(images)
    with learner.watching(watch), torch.set_grad_enabled(updates.factors is not None):
        features = learner.forward(images)  # (b, d); Online Estimation sums x xᵀ of each layer's inputs x
    logits = learner.heads[-1](features.float())  # (b, c): the current task's classes only
    loss = learner.method.loss(features, logits, labels)  # cross-entropy; Janus adds the margin loss
    updates.backward(loss)
    updates.step()  # the head's, and the factors': Gradient Rectification makes their product ΔW safe


def run(
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    variant: str | None = None,
    **config: Any,
) -> Result:
    """Train and evaluate one method on one stream.

    Args:
        out: folder for the result and checkpoints. A finished run there is read back, a broken one resumes
            and ends with the numbers of an uninterrupted run. None keeps nothing.
        progress: called with one line now and then; None: silent.
        variant: what tables call the run; None: the method's name.
        config: settings by name (`janus.Config`, `janus.configure.make`): `lr=1e-3`, `method="gpm"`,
            `data={"strength": 0.5}`, `**{"method.energy": 0.9}`.

    Raises:
        UsageError: unknown names, wrong types, illegal combinations, another run in `out`.
        JanusError: damaged checkpoint, NaN loss (the last checkpoint is kept), no space or rights.
    """
    return execute(configure.layered(paths.folder_of(out), config), out, progress, variant)


def execute(
    config: Config,
    out: str | Path | None = None,
    progress: Progress | None = None,
    variant: str | None = None,
) -> Result:
    """`run` with a ready config."""
    processes = distributed.start(config.runtime.device)
    with ExitStack() as held:
        held.enter_context(forwarded(progress if processes.main else None))
        if out is None:
            return Run(config, None, processes, variant).finish()
        folder = Path(out)

        def claim() -> bool:
            held.enter_context(lock(folder))
            checkpoint.remove_leftovers(folder)
            return (folder / RESULT).exists()

        if processes.on_main(claim):
            result = Result.load(folder)
            check_same_run(settled(config, result.config), result.config, folder)
            logger.info(f"{folder}: finished already, acc {result.acc:.2f} (nothing was trained)")
            return result
        return Run(config, folder, processes, variant).finish()


class Run:
    """The loop over a stream's tasks, and where it stands: training step `step` of task `task` comes next."""

    def __init__(
        self,
        config: Config,
        folder: Path | None,
        processes: distributed.Processes = distributed.ALONE,
        variant: str | None = None,
    ) -> None:
        if config.runtime.threads:
            torch.set_num_threads(config.runtime.threads)
        self.folder, self.processes = folder, processes
        self.variant = variant or config.method.name
        path = folder / CHECKPOINT if folder else None
        self.resumed = checkpoint.load(path) if path and path.exists() else None
        device = processes.device or pick_device(config.runtime.device)
        self.config = config = settled(config, self.resumed["config"] if self.resumed else {}, device)
        if self.resumed:
            check_same_run(config, self.resumed["config"], folder)
        with processes.main_first():
            self.learner = Learner(config, device, processes)
            found = build_stream(config, self.learner.preprocess.size, self.resumed)
        self.stream = one_class.with_notes(found, config, self.resumed["task"] if self.resumed else 0)
        self.augment = transforms.train_transform(augmentation(config), self.learner.preprocess)
        self.evaluation = Evaluation(self.learner)
        self.updates: Updates | None = None  # while a task is trained
        self.optimizers: dict[str, Any] = {}  # a checkpoint's, until its task goes on
        # of each task, epoch by epoch; None: an older janus, which did not look, began the run
        self.loss: list[list[float]] | None = []
        self.seconds = {"train": 0.0, "eval": 0.0, "oe": 0.0, "gr": 0.0, "data": 0.0}
        self.task, self.step = 0, 0
        self.began = self.saved = time.monotonic()
        self.fraction_at_start = 0.0

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - start

    # ── the stream ──────────────────────────────────────────────────────────────────────────────────────────

    def finish(self) -> Result:
        """Run what is left of the stream and write the result."""
        if self.resumed:
            self.load_state(self.resumed)
            self.resumed = None
            logger.info(f"resumed at task {self.task + 1}/{len(self.stream)}, step {self.step}")
        if self.processes.on_main(lambda: (self.task, self.step)) != (self.task, self.step):
            raise JanusError(
                f"process {self.processes.rank} does not find in {self.folder} what the main one finds "
                "there; choose an --out that all machines share"
            )
        if any(isinstance(task.evaluation, MissingImages) for task in self.stream.tasks):
            logger.info(f"note: {self.stream.note}")
        if note := emulation_note(self.learner.config.training.amp, self.learner.device):
            logger.info(f"note: {note}")
        self.fraction_at_start = self.fraction_done()
        while self.task < len(self.stream):
            self.learn(self.stream.tasks[self.task])
        return self.write_result()

    def learn(self, task: stream.Task) -> None:
        """Train on one task, look at everything seen so far, let the task join the past."""
        learner = self.learner
        if self.step == 0 and len(learner.heads) == task.index:
            with self.timed("oe"):  # a pass of the method's own, if it has one
                learner.begin_task(task)
        self.train(task)
        self.evaluation.displacement(task.index)  # before `end_task`: the task may join the past there
        with self.timed("oe"):
            learner.end_task(task)
        self.evaluation.ranks()
        with self.timed("eval"):
            features = learner.features(task.train).to(learner.device)
            labels = task.train.labels.to(learner.device)
            old = learner.prototypes.old
            learner.prototypes.end_task(features, labels - task.positions.start, len(task.positions))
        with self.timed("oe"):  # learning, not evaluation
            generator = learner.generator("classifier", task.index)
            learner.classifier.end_task(features, labels, task.positions.stop, generator)
        with self.timed("eval"):
            self.evaluation.accuracy(self.stream.tasks[: task.index + 1], old)
        self.task, self.step = self.task + 1, 0
        self.save()
        self.report(task)

    def train(self, task: stream.Task) -> None:
        """The epochs of one task, from step `self.step` on."""
        c, learner = self.config.training, self.learner
        batches = math.ceil(len(task.train) / c.batch_size)
        total, watch = batches * c.epochs * learner.method.trains_heads, self.config.method.oe_epochs
        self.updates = updates = Updates(learner, task, self.seconds)
        updates.load_state(self.optimizers)
        self.optimizers = {}
        with Prefetcher(self.asked(task, total), learner.device) as loader:
            while self.step < total:
                epoch, position = divmod(self.step, batches)
                due = self.step % c.step_score_every == 0
                scored = updates.factors is not None and task.index > 0 and due
                before = learner.factors() if scored else []
                with self.timed("train"):
                    with self.timed("data"):
                        index, batch = next(loader)
                    # of all processes together: they share a batch
                    whole = min(c.batch_size, len(task.train) - position * c.batch_size)
                    generator = learner.generator("augment", task.index, self.step)
                    images = self.augment(batch, generator, whole, self.processes.part(whole))
                    labels = (task.train.labels[index] - task.positions.start).to(learner.device)
                    updates.begin(self.step / total, len(index), whole)
                    try:
                        step(learner, images, labels, updates, watch=watch == "all" or epoch == c.epochs - 1)
                    except Diverged as error:
                        raise JanusError(self.diverged(error)) from None
                if scored:
                    self.evaluation.step(task.index, before)
                self.step += 1
                if position == batches - 1:
                    updates.losses.end_epoch()
                self.maybe_save(task, epoch)
        updates.end()
        self.updates = None
        if self.loss is not None:
            self.loss.append(updates.losses.epochs)

    def diverged(self, value: Diverged) -> str:
        c = self.config.training
        kept = f"; the last checkpoint is kept in {self.folder}" if self.folder else ""
        return (
            f"the loss became {value} in task {self.task + 1}, step {self.step + 1}; try a smaller lr (now "
            f"{c.lr:g}) or head_lr (now {c.head_lr:g}){kept}"
        )

    def asked(self, task: stream.Task, total: int) -> Iterator[tuple[Images, Tensor]]:
        """Which images this process takes in each training step from `self.step` on to `total`.

        An epoch is one shuffle, the same every time, of renditions of its own where they are drawn anew.
        """
        size, first = self.config.training.batch_size, self.step
        batches, images, order = math.ceil(len(task.train) / size), task.train, None
        for epoch, position in (divmod(step, batches) for step in range(first, total)):
            if order is None or position == 0:
                generator = self.learner.generator("batches", task.index, epoch)
                order = torch.randperm(len(task.train), generator=generator)
                images = in_epoch(task.train, self.learner.generator("renditions", epoch).initial_seed())
            whole = order[position * size : (position + 1) * size]
            yield images, whole[self.processes.part(len(whole))]

    # ── progress, checkpoints, the result ───────────────────────────────────────────────────────────────────

    def fraction_done(self) -> float:
        c = self.config.training

        def steps_of(images: Images) -> int:
            return max(1, math.ceil(len(images) / c.batch_size) * c.epochs) if images else 1

        steps = [steps_of(task.train) for task in self.stream.tasks]
        return (sum(steps[: self.task]) + self.step) / sum(steps)

    def report(self, task: stream.Task, epoch: int | None = None) -> None:
        done = self.fraction_done()
        elapsed = time.monotonic() - self.began
        left = elapsed * (1 - done) / max(1e-9, done - self.fraction_at_start)
        where = "" if epoch is None else f" epoch {epoch + 1}/{self.config.training.epochs}"
        table = self.evaluation.records["accuracy"]
        sizes = [len(task.evaluation) for task in self.stream.tasks]
        acc = f"  acc so far {metrics.over_samples(table[-1], sizes):5.2f}" if table else ""
        logger.info(
            f"task {task.index + 1}/{len(self.stream)}{where}{acc}  {clock(elapsed)} gone, {clock(left)} left"
        )

    def maybe_save(self, task: stream.Task, epoch: int) -> None:
        """In long tasks: a checkpoint and a line of progress every `save_every` seconds."""
        if self.processes.on_main(lambda: time.monotonic() - self.saved >= self.config.runtime.save_every):
            self.save()
            self.report(task, epoch)

    def save(self) -> None:
        if self.folder:
            with self.learner.moments.over(self.processes):
                self.processes.on_main(lambda: checkpoint.save(self.folder / CHECKPOINT, self.state()))
        self.saved = time.monotonic()

    def state(self) -> dict[str, Any]:
        """Everything the rest of the run depends on."""
        return {
            "config": self.config.to_dict(),
            "versions": versions(),
            "task": self.task,
            "step": self.step,
            "stream": self.stream.to_json(),
            "seconds": self.seconds,
            "loss": self.loss,
            "optimizers": self.updates.state() if self.updates and self.step else {},
            **self.learner.state(),
            **self.evaluation.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint of the same config and backbone."""
        self.learner.load_state(state)
        self.evaluation.load_state(state)
        self.optimizers = state["optimizers"]
        self.seconds, self.loss = state["seconds"], state.get("loss")
        self.task, self.step = state["task"], state["step"]

    def result(self) -> Result:
        """What the finished run found out."""
        config = self.config.to_dict()
        config["data"]["class_seed"] = self.stream.seed
        return Result(
            variant=self.variant,
            config=config,
            hash=configure.config_hash(self.config),
            **self.evaluation.summary([len(task.evaluation) for task in self.stream.tasks]),
            seconds={k: round(v, 3) for k, v in self.seconds.items()},
            stream=self.stream.to_json(),
            versions=versions(),
            hardware=hardware(self.learner.device, self.processes.count),
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            loss=self.loss if self.loss and any(self.loss) else [],
            backbone=self.learner.backbone,
        )

    def write_result(self) -> Result:
        result = self.result()
        if self.folder:
            self.processes.on_main(lambda: checkpoint.write_json(self.folder / RESULT, result.to_dict()))
        logger.info(result.line())
        return result
