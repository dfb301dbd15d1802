"""What a training step costs: time and memory of a Janus step beside plain LoRA, ours and PEFT's.

`benchmarks/step_cost.py` measures the same steps with more rounds and keeps the numbers.
"""

from __future__ import annotations

import gc
import multiprocessing
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import lora
from ..history import SecondMoments
from ..models import backbones
from ..rectify import RectifiedAdam, nullspace_start
from ..runtime.timing import interleaved, ratios
from ..separation import Prototypes, decoupled_margin_loss

CPU = torch.device("cpu")
CLASSES = 10
PEFT, LORA = "peft LoRA on qkv", "janus LoRA on k, v"


@dataclass(frozen=True)
class Variant:
    """One way to take a training step.

    model: the adapted backbone. loss: of images (B, 3, S, S) and labels (B,). optimizers: step after its
    backward pass. half: the forward pass autocasts to it; with fp16 the loss is scaled.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    optimizers: tuple[torch.optim.Optimizer, ...]
    device: torch.device = CPU
    half: torch.dtype | None = None

    @cached_property
    def scaler(self) -> torch.amp.GradScaler:
        return torch.amp.GradScaler(self.device.type, enabled=self.half is torch.float16)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One training step; returns the loss before it."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        with torch.autocast(self.device.type, self.half, enabled=self.half is not None):
            loss = self.loss(x, y)
        self.scaler.scale(loss).backward()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
        self.scaler.update()
        return loss.detach()


@dataclass(frozen=True)
class Case:
    """What is measured, and where.

    model: icons-vit or a timm ViT, with random weights. size: its images' side in pixels; None: as the model
    says. batch: images a step. basis: protected directions a layer. half: see `Variant`.
    """

    model: str
    batch: int
    rank: int
    basis: int
    threads: int
    device: torch.device = CPU
    half: torch.dtype | None = None
    size: int | None = None

    def variant(self, name: str) -> Variant:
        """A fresh model and optimiser of one of `VARIANTS`. ImportError: PEFT is not installed."""
        return VARIANTS[name](self)

    def build(self) -> nn.Module:
        """The backbone, on the CPU."""
        size = {"img_size": self.size} if self.size else {}
        return backbones.create(self.model, weights="random", **size)[0]

    def example(self) -> tuple[Tensor, Tensor]:
        """Images (B, 3, S, S) and labels (B,) of one step."""
        size = self.size or (32 if self.model == backbones.EMBEDDED else 224)
        images = torch.randn(self.batch, 3, size, size, generator=torch.Generator().manual_seed(1))
        return images.to(self.device), (torch.arange(self.batch) % CLASSES).to(self.device)

    def to_json(self) -> dict[str, Any]:
        found = asdict(self) | {"device": self.device.type, "amp": self.half is not None}
        return {key: value for key, value in found.items() if value is not None and key != "half"}


def peft_variant(case: Case) -> Variant:
    """LoRA as its users run it: PEFT on qkv, AdamW, cross-entropy."""
    from peft import LoraConfig, get_peft_model

    model = case.build().to(case.device)
    head = nn.Linear(model.num_features, CLASSES).to(case.device)
    config = LoraConfig(r=case.rank, lora_alpha=case.rank, target_modules=["qkv"])
    model = get_peft_model(model, config).eval()
    trained = [p for p in [*model.parameters(), *head.parameters()] if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(head(model(x)), y)

    return Variant(model, loss, (optimizer,), case.device, case.half)


def janus_variant(case: Case, *, gr: str, oe: bool, dml: bool) -> Variant:
    """The same step with this package's LoRA on K and V, and the parts asked for, as in the middle of a
    stream: past inputs are protected, and with `dml` there are 20 old prototypes."""
    generator, device = torch.Generator().manual_seed(0), case.device
    model = lora.adapt(case.build(), case.rank).to(device)
    head = nn.Linear(model.num_features, CLASSES).to(device)
    pairs, basis = lora.pairs(model), {}
    for pair in pairs:
        n = pair.A.shape[1]
        drawn = torch.randn(n, min(case.basis, n - 2 * case.rank), generator=generator)
        basis.setdefault(pair.input_key, torch.linalg.qr(drawn)[0].to(device))
        if gr == "exact":
            pair.A.data = nullspace_start(pair.A.data, basis[pair.input_key])
    factors = RectifiedAdam(pairs, 1e-4, gr=gr, basis=basis if gr != "none" else None)
    moments = SecondMoments(pairs)
    moments.active = oe
    prototypes = Prototypes(model.num_features, device)
    prototypes.old = torch.randn(20, model.num_features, generator=generator).to(device)
    prototypes.begin_task(CLASSES)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        features = model(x)
        found = F.cross_entropy(head(features), y)
        if dml:
            prototypes.observe(features, y)
            found = found + decoupled_margin_loss(features, y, prototypes.old, prototypes.centres)
        return found

    return Variant(model, loss, (torch.optim.AdamW(head.parameters(), lr=1e-4), factors), device, case.half)


VARIANTS: dict[str, Callable[[Case], Variant]] = {
    PEFT: peft_variant,
    LORA: partial(janus_variant, gr="none", oe=False, dml=False),
    "exact": partial(janus_variant, gr="exact", oe=False, dml=False),
    "exact + DML": partial(janus_variant, gr="exact", oe=False, dml=True),
    "exact + OE + DML": partial(janus_variant, gr="exact", oe=True, dml=True),
    "tangent": partial(janus_variant, gr="tangent", oe=False, dml=False),
    "tangent + OE + DML": partial(janus_variant, gr="tangent", oe=True, dml=True),
}


def resident_peak() -> float:
    """Megabytes: the most that was ever resident of this process. Linux's `ru_maxrss` will not do: a process
    that is spawned begins with its parent's."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1e3
    unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _resident(case: Case, name: str) -> float:
    """In a process of its own: how far its resident memory rises over three steps, the model included."""
    torch.set_num_threads(case.threads)
    if name == PEFT:
        import peft  # noqa: F401 - the library itself is not counted
    x, y = case.example()
    before = resident_peak()
    made = case.variant(name)
    for _ in range(3):
        made.step(x, y)
    return resident_peak() - before


def peak(case: Case, name: str) -> tuple[float, Variant]:
    """Megabytes at the peak of three steps of a variant, model, images and optimiser included, and the
    variant. On a CUDA device: how far its tensors rise, whatever else is there; on the CPU: what is
    resident."""
    if case.device.type != "cuda":
        with multiprocessing.get_context("spawn").Pool(1) as pool:  # freed memory is not always given back
            return pool.apply(_resident, (case, name)), case.variant(name)
    gc.collect()
    torch.cuda.empty_cache()
    one = torch.ones(16, 16, device=case.device)
    one @ one, one.half() @ one.half()  # the library of products takes its workspace once, for all
    before = torch.cuda.memory_allocated(case.device)
    torch.cuda.reset_peak_memory_stats(case.device)
    x, y = case.example()
    made = case.variant(name)
    for _ in range(3):
        made.step(x, y)
    return (torch.cuda.max_memory_allocated(case.device) - before) / 1e6, made


def counted(case: Case, name: str) -> tuple[float, Variant]:
    """Megabytes that a training step of a variant keeps, and the variant. Counted, storage by storage: all
    tensors that live between steps (weights, factors, gradients, optimiser, basis), and those that autograd
    saves for a backward pass. Not counted: workspaces, fragmentation."""
    before = set(_alive())
    variant = case.variant(name)
    variant.step(*case.example())  # from here on the optimisers' state is there
    lasting = {place: size for place, size in _alive().items() if place not in before}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        store = tensor.untyped_storage()
        if store.data_ptr() not in lasting:
            saved[store.data_ptr()] = store.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(case.device.type, case.half, enabled=case.half is not None),
    ):
        loss = variant.loss(*case.example())  # alive until all is counted
    del loss
    return (sum(lasting.values()) + sum(saved.values())) / 1e6, variant


def _alive() -> dict[int, int]:
    """Address → bytes of every storage that a tensor holds now."""
    gc.collect()
    stores = (t.untyped_storage() for t in gc.get_objects() if issubclass(type(t), Tensor))
    return {store.data_ptr(): store.nbytes() for store in stores}


def measure(
    case: Case,
    names: Iterable[str],
    rounds: int,
    *,
    base: str,
    seconds: float | None = None,
    memory: Callable[[Case, str], tuple[float, Variant]] = peak,
    progress: Callable[[str], None] | None = print,
) -> dict[str, dict[str, Any]]:
    """Name → what a step of the variant costs.

    Args:
        rounds: each takes one step of each variant on the same images. seconds: see
            `janus.runtime.timing.interleaved`.
        base: the variant that ratios are taken to, round by round. memory: `peak` or `counted`.

    Returns:
        ratio, low, high (median and quarter points over the rounds), ms, images_per_second, megabytes.
    """
    names = list(names)
    memories = {name: memory(case, name) for name in names}
    x, y = case.example()
    finish = getattr(torch, case.device.type).synchronize

    def once(name: str) -> float:
        finish()
        start = time.perf_counter()
        memories[name][1].step(x, y)
        finish()
        return time.perf_counter() - start

    work = {name: partial(once, name) for name in names}
    taken = interleaved(work, rounds, warm_up=2, seconds=seconds, progress=progress)
    report = ratios(taken, base)
    for name, found in report.items():
        middle = statistics.median(taken[name])
        found |= {"ms": 1e3 * middle, "images_per_second": case.batch / middle}
        found["megabytes"] = memories[name][0]
    return report
