"""The loop: one run = one method x stream x seed → one result.

A training step reads as the method does: images → adapted ViT (Online Estimation watches the layer inputs) → feature →
local cross-entropy + margin loss → backward → Gradient Rectification turns the step into safe factor updates.
"""

from __future__ import annotations

import hashlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn

from . import backbones, checkpoint, datasets, heads, lora, methods, metrics, parallel, recall, stream, transforms
from .backbones import PreprocessConfig
from .config import Config, deciding
from .errors import JanusError, UsageError
from .history import History, SecondMoments
from .images import Images
from .prefetch import Prefetcher
from .recall import Lost
from .result import Result, versions
from .separation import Prototypes, danger
from .timing import Stopwatch, clock

CHECKPOINT, RESULT = "checkpoint.safetensors", "result.json"
Progress = Callable[[str], None]


def run(out: str | Path | None = None, *, progress: Progress | None = None, variant: str | None = None,
        **config: Any) -> Result:
    """Train and evaluate one method on one stream.

    Args:
        out: folder for the result and checkpoints. A finished run there is read back, a broken one goes on and ends with the
            numbers of an unbroken run. None keeps nothing.
        progress: called with one line now and then; None: silent.
        variant: what tables call the run; None: the method's name.
        config: fields of `janus.Config`, checked by name and type.

    Raises:
        UsageError: unknown names, wrong types, illegal combinations, another run in `out`.
        JanusError: damaged checkpoint, NaN loss (the last checkpoint is kept), no space or rights.
    """
    return execute(Config.create(**config), out, progress, variant)


def execute(config: Config, out: str | Path | None = None, progress: Progress | None = None,
            variant: str | None = None) -> Result:
    """`run` with a ready config."""
    processes = parallel.start(config.device)
    say = progress if progress and processes.main else lambda line: None
    if out is None:
        return Run(config, None, say, processes, variant).finish()
    folder = Path(out)
    with ExitStack() as held:

        def claim() -> bool:
            held.enter_context(lock(folder))
            checkpoint.remove_leftovers(folder)
            return (folder / RESULT).exists()

        if processes.on_main(claim):
            result = Result.load(folder)
            _same_run(config, result.config, folder)
            say(f"{folder}: finished already, acc {result.acc:.2f} (nothing was trained)")
            return result
        return Run(config, folder, say, processes, variant).finish()


def lock(folder: Path) -> FileLock:
    """Hold a run's folder; made if it is not there. Let go by the operating system when the process dies."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        guard = FileLock(folder / ".lock")
        guard.acquire(timeout=0)
    except Timeout:
        raise JanusError(f"{folder} is in use by another janus process; wait for it, or choose another --out") from None
    except OSError as error:
        raise JanusError(f"cannot write to {folder}: {error.strerror}; choose another --out") from None
    return guard


class Run:
    """The state of a run, and the loop over its tasks. Methods reach what they need through it."""

    def __init__(self, config: Config, folder: Path | None, say: Progress = lambda line: None,
                 processes: parallel.Processes = parallel.ALONE, variant: str | None = None) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.config, self.folder, self.say, self.processes = config, folder, say, processes
        self.variant = variant or config.method
        self.device = processes.device or pick_device(config.device)
        path = folder / CHECKPOINT if folder else None
        self.resumed = checkpoint.load(path) if path and path.exists() else None
        if self.resumed:
            _same_run(config, self.resumed["config"], folder)
        self.method_class = methods.get(config.method)
        with processes.main_first():
            self.model, self.preprocess, self.backbone = build_model(config, self.generator("factors", 0), self.device)
            self.stream = build_stream(config, self.preprocess.size, self.resumed, say)
        self.pairs = lora.pairs(self.model)
        for pair in self.pairs:
            pair.A.requires_grad_(self.method_class.trains_factors)
            pair.B.requires_grad_(self.method_class.trains_factors)
        kind = augmentation(config)
        self.augment = transforms.train_transform(kind, self.preprocess)
        self.plain = transforms.test_transform(kind, self.preprocess)
        self.heads = nn.ModuleList()
        self.moments = SecondMoments(self.pairs)
        self.history = History(self.pairs, config.rank)
        self.prototypes = Prototypes(self.model.num_features, self.device)
        self.classifier = heads.KINDS[config.head](self, self.generator("classifier"))
        self.method = self.method_class(self)
        self.history.protects = self.method.basis() is self.history.basis
        self.stepping = Stopwatch(self.device)
        self.seconds = {"train": 0.0, "eval": 0.0, "oe": 0.0, "gr": 0.0, "data": 0.0}
        self.records: dict[str, Any] = {"accuracy": [], "task_aware": [], "violation": [], "violation_step": [],
                                        "past_output_norm": [], "danger": [], "drift": None, "basis_rank": []}
        self.learned: list[Tensor] = []  # test features of each task when it ended (diagnosis)
        self.task, self.step = 0, 0  # where the run stands: training step `step` of task `task` comes next
        self.start_factors: list[tuple[Tensor, Tensor]] = []
        self.began = self.saved = time.monotonic()
        self.fraction_at_start = 0.0

    # ── randomness, features ────────────────────────────────────────────────────────────────────────────────────────────

    def generator(self, *purpose: Any) -> torch.Generator:
        """A CPU generator for one purpose ("batches", task, epoch): nothing random depends on what ran before it."""
        text = "/".join(map(str, (self.config.seed, *purpose)))
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big"))

    def energy(self, t: int) -> float:
        """ε of task t."""
        c = self.config
        share = t / max(1, len(self.stream) - 1)
        return c.energy if c.energy_end is None else c.energy + (c.energy_end - c.energy) * share

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """(N, d) float32 features under the test transform, on the CPU."""
        parts = []
        mine = torch.arange(len(images))[self.processes.part(len(images))]
        with Prefetcher(images, mine.split(4 * self.config.batch_size), self.device) as batches:
            for _, batch in batches:
                parts.append(self.forward(self.plain(batch)).float().cpu())
        return self.processes.gather(torch.cat(parts) if parts else torch.zeros(0, self.model.num_features), len(images))

    def forward(self, x: Tensor) -> Tensor:
        if not len(x):  # a process's part of a small batch
            return torch.zeros(0, self.model.num_features, device=self.device)
        with torch.autocast(self.device.type, dtype=half_precision(self.device), enabled=self.config.amp):
            return self.model(x)

    # ── the stream ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def finish(self) -> Result:
        """Run what is left of the stream and write the result."""
        if self.resumed:
            self.load_state(self.resumed)
            self.resumed = None
            self.say(f"resumed at task {self.task + 1}/{len(self.stream)}, step {self.step}")
        if self.processes.on_main(lambda: (self.task, self.step)) != (self.task, self.step):
            raise JanusError(f"process {self.processes.rank} does not find in {self.folder} what the main one finds there; "
                             "choose an --out that all machines share")
        if any(isinstance(task.evaluation, Lost) for task in self.stream.tasks):
            self.say(f"note: {self.stream.note}")
        self.fraction_at_start = self.fraction_done()
        while self.task < len(self.stream):
            self.learn(self.stream.tasks[self.task])
        return self.write_result()

    def learn(self, task: stream.Task) -> None:
        """Train on one task, look at everything seen so far, let the task join the past."""
        classes = len(task.positions)
        if self.step == 0 and len(self.heads) == task.index:
            self.method.begin_task(task)
            self.heads.append(self.new_head(task.index, classes))
            self.moments.reset()
            self.prototypes.begin_task(classes)
            self.start_factors = self.factors()
        self.train(task)
        self.score_displacement(task)  # before the method's end_task, where a method may let this task join its past
        self.method.end_task(task)
        start = time.perf_counter()
        if not self.method.trains_heads:
            self.watch_once(task)
        with self.moments.over(self.processes):
            self.history.end_task(self.moments, self.energy(task.index))
        self.seconds["oe"] += time.perf_counter() - start
        self.records["basis_rank"].append({key: V.shape[1] for key, V in self.protected().items()})
        start = time.perf_counter()
        old = self.prototypes.old
        features, labels = self.features(task.train).to(self.device), task.train.labels.to(self.device)
        self.prototypes.end_task(features, labels - task.positions.start, classes)
        fit = time.perf_counter()
        self.classifier.end_task(features, labels, task.positions.stop, self.generator("classifier", task.index))
        fit = time.perf_counter() - fit
        self.seconds["oe"], start = self.seconds["oe"] + fit, start + fit  # learning, not evaluation
        self.evaluate(task, old)
        self.seconds["eval"] += time.perf_counter() - start
        self.task, self.step = self.task + 1, 0
        self.save()
        self.report(task)

    def train(self, task: stream.Task) -> None:
        """The epochs of one task, from step `self.step` on."""
        c = self.config
        batches = math.ceil(len(task.train) / c.batch_size)
        total = batches * c.epochs * self.method.trains_heads
        factors = self.method.factor_optimizer(task)
        head = torch.optim.AdamW(self.heads[task.index].parameters(), lr=c.head_lr, weight_decay=0.0)
        scaler = torch.amp.GradScaler(self.device.type, enabled=c.amp and half_precision(self.device) is torch.float16)
        self.optimizers = {"factors": factors, "head": head} | ({"scaler": scaler} if scaler.is_enabled() else {})
        if self.pending_optimizers:
            for name, state in self.pending_optimizers.items():
                if name != "scaler" or name in self.optimizers:  # another card may compute in bf16, which needs none
                    self.optimizers[name].load_state_dict(state)
            self.pending_optimizers = {}
        rates = [(o, rate) for o, rate in ((factors, c.lr), (head, c.head_lr)) if o]
        with Prefetcher(task.train, self.indices(task, total), self.device) as loader:
            while self.step < total:
                epoch, position = divmod(self.step, batches)
                whole = min(c.batch_size, len(task.train) - position * c.batch_size)  # several processes share a batch
                start = time.perf_counter()
                index, batch = next(loader)
                self.seconds["data"] += time.perf_counter() - start
                for optimizer, rate in rates:
                    optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * self.step / total))
                    optimizer.zero_grad()
                images = self.augment(batch, self.generator("augment", task.index, self.step), whole, self.processes.part(whole))
                labels = (task.train.labels[index] - task.positions.start).to(self.device)
                self.method.begin_step(images)
                self.moments.active = c.oe_epochs == "all" or epoch == c.epochs - 1
                with torch.set_grad_enabled(factors is not None):
                    features = self.forward(images)  # (b, d)
                self.moments.active = False
                loss = self.method.loss(features, self.heads[task.index](features.float()), labels)
                loss, mean = self.processes.share(loss, len(index), whole)
                if not torch.isfinite(mean):
                    raise JanusError(f"the loss became {mean.item()} in task {task.index + 1}, step {self.step + 1}; try a smaller "
                                     f"lr (now {c.lr:g}) or head_lr (now {c.head_lr:g})"
                                     + (f"; the last checkpoint is kept in {self.folder}" if self.folder else ""))
                for part, watch in (("oe", self.moments.watch), ("gr", self.stepping)):  # isfinite has waited for the device
                    self.seconds[part] += watch.take()
                scaler.scale(loss).backward()
                self.processes.sum_gradients(head, factors)
                scaler.step(head)
                scored = factors is not None and task.index > 0 and self.step % c.step_score_every == 0
                before = self.factors() if scored else []
                with self.stepping.running():
                    if factors:
                        scaler.step(factors)
                    scaler.update()
                self.seconds["train"] += time.perf_counter() - start
                if scored:
                    self.score_step(task, before)
                self.step += 1
                self.maybe_save(task, epoch, batches)
        self.seconds["gr"] += self.stepping.take()
        self.optimizers = {}
        if hasattr(factors, "remove"):
            factors.remove()

    def indices(self, task: stream.Task, total: int) -> Iterator[Tensor]:
        """Which images this process takes in each training step from `self.step` on to `total`: an epoch is one shuffle, the same
        every time."""
        size, first = self.config.batch_size, self.step
        batches, order = math.ceil(len(task.train) / size), None
        for epoch, position in (divmod(step, batches) for step in range(first, total)):
            if order is None or position == 0:
                order = torch.randperm(len(task.train), generator=self.generator("batches", task.index, epoch))
            whole = order[position * size : (position + 1) * size]
            yield whole[self.processes.part(len(whole))]

    def new_head(self, t: int, classes: int) -> nn.Linear:
        """One linear head a task, on the final CLS feature; torch's default initialisation from the run's own generator."""
        width = self.model.num_features
        head = nn.Linear(width, classes, device="meta").to_empty(device="cpu")
        generator, bound = self.generator("head", t), 1 / math.sqrt(width)
        with torch.no_grad():
            head.weight.uniform_(-bound, bound, generator=generator)
            head.bias.uniform_(-bound, bound, generator=generator)
        return head.to(self.device)

    def watch_once(self, task: stream.Task) -> None:
        """Second moments for a method that never trains: one pass, for diagnosis."""
        self.moments.active = True
        self.features(task.train)
        self.moments.active = False
        self.moments.watch.take()  # in the seconds of the whole pass

    # ── scores ──────────────────────────────────────────────────────────────────────────────────────────────────────────

    def factors(self) -> list[tuple[Tensor, Tensor]]:
        return [(pair.A.detach().clone(), pair.B.detach().clone()) for pair in self.pairs]

    def protected(self) -> dict[str, Tensor]:
        """The bases violations are measured against: the method's own, else the estimate kept for diagnosis."""
        return self.method.basis() or self.history.basis

    def score_displacement(self, task: stream.Task) -> None:
        """A task's whole displacement against the past (tasks 2…T)."""
        if task.index == 0:
            return
        bases, relative, absolute = self.protected(), {}, {}
        for pair, before, after in zip(self.pairs, self.start_factors, self.factors()):
            dW = metrics.displacement(before, after, pair.scale)
            relative[pair.name] = metrics.violation(dW, bases[pair.input_key])
            absolute[pair.name] = metrics.past_output_norm(dW, self.history.mean[pair.input_key])
        self.records["violation"].append(relative)
        self.records["past_output_norm"].append(absolute)

    def score_step(self, task: stream.Task, before: list[tuple[Tensor, Tensor]]) -> None:
        """A single step's violation, mean over matrices; kept as a running mean per task."""
        bases, steps = self.protected(), self.records["violation_step"]
        scores = [metrics.violation(metrics.displacement(b, (pair.A.detach(), pair.B.detach()), pair.scale), bases[pair.input_key])
                  for pair, b in zip(self.pairs, before)]
        while len(steps) < task.index:
            steps.append({"sum": 0.0, "steps": 0})
        steps[-1]["sum"] += sum(scores) / len(scores)
        steps[-1]["steps"] += 1

    def evaluate(self, task: stream.Task, old_prototypes: Tensor) -> None:
        """Accuracy on every task seen so far, by argmax over all heads and within the right one; danger; at the end, drift."""
        seen = self.stream.tasks[: task.index + 1]
        row, aware, moved = [], [], []
        for past in seen:
            if isinstance(past.evaluation, Lost):  # an extended run whose old images are no longer there
                row.append(None), aware.append(None)
                continue
            fixed = past is not task and not self.method.trains_features  # then they are what they were
            features = self.learned[past.index] if fixed else self.features(past.evaluation)
            with torch.no_grad():
                scores = self.method.scores(features.to(self.device)).cpu()  # (N, classes seen)
            span, labels = past.positions, past.evaluation.labels
            row.append(100 * (scores.argmax(1) == labels).float().mean().item())
            aware.append(100 * (scores[:, span.start : span.stop].argmax(1) + span.start == labels).float().mean().item())
            if past is task:
                self.learned.append(features)
                if task.index > 0:
                    self.records["danger"].append(danger(features.to(self.device), old_prototypes))
            else:
                moved.append(metrics.drift(self.learned[past.index], features))
        self.records["accuracy"].append(row)
        self.records["task_aware"].append(aware)
        if task.index == len(self.stream) - 1:
            self.records["drift"] = sum(moved) / len(moved) if moved else None

    # ── progress, checkpoints ───────────────────────────────────────────────────────────────────────────────────────────

    def fraction_done(self) -> float:
        steps = [max(1, math.ceil(len(t.train) / self.config.batch_size) * self.config.epochs) if t.train else 1
                 for t in self.stream.tasks]
        return (sum(steps[: self.task]) + self.step) / sum(steps)

    def report(self, task: stream.Task, epoch: int | None = None) -> None:
        done = self.fraction_done()
        elapsed = time.monotonic() - self.began
        left = elapsed * (1 - done) / max(1e-9, done - self.fraction_at_start)
        where = f"task {task.index + 1}/{len(self.stream)}" + ("" if epoch is None else f" epoch {epoch + 1}/{self.config.epochs}")
        table = self.records["accuracy"]
        acc = f"  acc so far {weighted(table[-1], self.stream):5.2f}" if table else ""
        self.say(f"{where}{acc}  {clock(elapsed)} gone, {clock(left)} left")

    def maybe_save(self, task: stream.Task, epoch: int, batches: int) -> None:
        """In long tasks: a checkpoint and a line of progress every `save_every` seconds."""
        if self.processes.on_main(lambda: time.monotonic() - self.saved >= self.config.save_every):
            self.save()
            self.report(task, epoch)

    def save(self) -> None:
        if self.folder:
            with self.moments.over(self.processes):
                self.processes.on_main(lambda: checkpoint.save(self.folder / CHECKPOINT, self.state()))
        self.saved = time.monotonic()

    optimizers: dict[str, torch.optim.Optimizer | None] = {}
    pending_optimizers: dict[str, Any] = {}

    def state(self) -> dict[str, Any]:
        """Everything the rest of the run depends on. No image, and no random state: that follows from the seed."""
        return {
            "config": self.config.to_dict(), "versions": versions(), "task": self.task, "step": self.step,
            "backbone": self.backbone,
            "stream": self.stream.to_json(), "heads": [dict(head.state_dict()) for head in self.heads],
            "model": lora.state(self.model), "start_factors": self.start_factors,
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items() if o and self.step},
            "moments": self.moments.state_dict(), "history": self.history.state_dict(),
            "prototypes": self.prototypes.state_dict(), "classifier": self.classifier.state_dict(),
            "method": self.method.state_dict(), "records": self.records, "learned": self.learned, "seconds": self.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up a checkpoint of the same config and backbone."""
        backbones.check(self.backbone, state.get("backbone"), self.config.weights or self.config.model)
        lora.load_state(self.model, state["model"], any_rank=True)
        for t, weights in enumerate(state["heads"]):
            head = self.new_head(t, len(weights["bias"]))
            head.load_state_dict(weights)
            self.heads.append(head)
        self.moments.load_state_dict(state["moments"])
        self.history.load_state_dict(state["history"])
        self.prototypes.load_state_dict(state["prototypes"])
        self.classifier.load_state_dict(state.get("classifier", {}))  # a run older than the setting has a linear head
        self.method.load_state_dict(state["method"])
        self.start_factors = [(A.to(self.device), B.to(self.device)) for A, B in state["start_factors"]]
        self.pending_optimizers = state["optimizers"]
        self.records, self.learned = state["records"], state["learned"]
        self.seconds |= state["seconds"]  # an older run's have no `data`
        self.task, self.step = state["task"], state["step"]
        if not self.processes.main:
            self.moments.reset()  # the main process holds the sums of all

    def write_result(self) -> Result:
        result = Result.from_run(self)
        if self.folder:
            self.processes.on_main(lambda: checkpoint.write_json(self.folder / RESULT, result.to_dict()))
        self.say(result.line())
        return result


def build_stream(config: Config, size: int | None = None, state: dict[str, Any] | None = None,
                 tell: Progress | None = None) -> stream.Stream:
    """The config's data set, cut into tasks (one task of all classes for the joint upper bound); then the new classes of
    an extended run, one task for each data set. `size`: the input side photographs are prepared for; `state`: the checkpoint
    that is taken up, whose finished tasks need no images; `tell`: see `janus.datasets.load`."""
    tasks = 1 if methods.get(config.method).joint else config.tasks
    order = config.seed if config.class_seed is None else config.class_seed

    def first() -> stream.Stream:
        images = datasets.load(config.dataset, root=config.root, **({"size": size, "tell": tell} | config.data))
        return stream.class_incremental(images, tasks, order, per_class=config.per_class, evaluate=config.evaluate)

    skip = bool(config.data.get("skip_corrupt"))
    later = [partial(datasets.load, name, size=size, skip_corrupt=skip, tell=tell) for name in config.extended]
    return recall.grow(first, tasks, later, state["stream"] if state else None, state["task"] if state else 0)


def build_model(config: Config, generator: torch.Generator, device: torch.device) -> tuple[nn.Module, PreprocessConfig, str]:
    """The config's backbone with fresh LoRA pairs, how its input is prepared, and the fingerprint of its weights."""
    with torch.random.fork_rng(devices=[]):  # weights="random" draws from torch's global generator, on the CPU
        torch.default_generator.manual_seed(config.seed)
        model, preprocess = backbones.create(config.model, config.weights)
    fingerprint = backbones.fingerprint(model)
    lora.adapt(model, config.rank, config.targets, config.scale, generator)
    return model.to(device), backbones.normalised(preprocess, config.normalise), fingerprint


def augmentation(config: Config) -> str:
    """The kind of transform; `auto` is gentle for icons and the field's crop-and-flip for photographs."""
    if config.augment != "auto":
        return config.augment
    return "icons" if config.dataset in ("icons-r", "fashion-mnist") else "photo"


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu. Raises UsageError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); use device=cpu") from None


def half_precision(device: torch.device) -> torch.dtype:
    """What `amp` computes in: bf16, or fp16 (with a scaled loss) on CUDA cards that only emulate bf16, such as Colab's T4."""
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16


def weighted(row: list[float | None], tasks: stream.Stream) -> float:
    """Accuracy over all samples of the tasks in `row` that could be evaluated."""
    return metrics.over_samples(row, [len(task.evaluation) for task in tasks.tasks[: len(row)]])


def _same_run(config: Config, other: dict[str, Any], folder: Path) -> None:
    mine, other = deciding(config.to_dict()), deciding(other)
    differs = sorted(k for k in {*mine, *other} if mine.get(k) != other.get(k)
                     and (mine["dml"] == other["dml"] or not k.startswith("dml_")))  # they go with the switch
    if differs:
        raise UsageError(f"{folder} holds another run (it differs in {', '.join(differs)}); choose another --out")


def print_progress(line: str) -> None:
    """Plain lines on stderr: readable in a terminal, a log, and an executed notebook."""
    print(line, file=sys.stderr, flush=True)
