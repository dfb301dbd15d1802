"""What a run found out, as one JSON file: config, numbers, and where they come from."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..errors import JanusError
from .timing import total

FORMAT = 2  # 1: settings had other names


@dataclass(frozen=True)
class Result:
    """One run.

    variant: what tables call it. Accuracies in per cent; `accuracy[t][i]` is the accuracy on task i after
    task t (None: the images of task i were not there any more; means are over what could be evaluated).

    violation, past_output_norm: per layer and task (`tasks`), and means over both, K and V apart (`mean`).
    drift: mean relative change of old test features from the end of their task to the end of the stream.
    danger: mean largest cosine of a task's test features to an old prototype, per task (2…T) and mean.
    own_similarity: mean cosine of the same features to the prototype of their own class; None: the run is
    older than that.
    loss: for each task the mean training loss of each epoch, as it was minimised (with the method's own
    terms), over all images and processes. Empty: nothing was trained by gradients, or the run is older.
    """

    variant: str
    config: dict[str, Any]
    hash: str
    acc: float
    maa: float
    bwt: float | None
    forgetting: float | None
    learning_acc: float
    acc_task_mean: float
    task_aware_acc: float
    accuracy: list[list[float]]
    task_aware: list[list[float]]
    violation: dict[str, Any]
    violation_step: dict[str, Any]
    past_output_norm: dict[str, Any]
    drift: float | None
    danger: dict[str, Any]
    basis_rank: list[dict[str, int]]
    seconds: dict[str, float]
    stream: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    date: str
    own_similarity: dict[str, Any] | None = None
    backbone: str | None = None  # fingerprint of its weights; None: the run is older than that
    loss: list[list[float]] = field(default_factory=list)
    format: int = FORMAT

    @classmethod
    def load(cls, folder: str | Path) -> Result:
        """Read `folder/result.json` (or the file itself).

        Raises:
            JanusError: missing, not JSON, or of another format; the file is named.
        """
        path = Path(folder)
        path = path / "result.json" if path.is_dir() else path
        try:
            values = json.loads(path.read_text())
        except FileNotFoundError:
            raise JanusError(f"{path}: no result there; the run has not finished") from None
        except (OSError, ValueError) as error:
            raise JanusError(f"{path}: not a readable result ({error}); delete it and run again") from None
        return cls.from_values(values, path)

    @classmethod
    def from_values(cls, values: Any, path: Path) -> Result:
        """The result read from `path`. JanusError: of another format, or not complete; the file is named."""
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT:
            older = "made by an older janus, in " if found == 1 else ""
            raise JanusError(
                f"{path}: {older}result format {found!r}, and this version reads {FORMAT}; run it again"
            )
        try:
            result = cls(**values)
        except TypeError as error:
            raise JanusError(f"{path}: not a complete result ({error}); delete it and run again") from None
        try:
            numbers = [result.acc, total(result.seconds)]
        except (KeyError, TypeError):
            numbers = []
        if not numbers or not all(isinstance(value, (int, float)) for value in numbers):
            raise JanusError(f"{path}: not a complete result (its acc or seconds); delete it and run again")
        names = (result.hash, result.variant, result.backbone or "")
        if not all(isinstance(name, str) for name in names):
            raise JanusError(
                f"{path}: not a complete result (its hash, variant or backbone); delete it and run again"
            )
        return result

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def line(self) -> str:
        """The result in one line."""
        c = self.config
        back = "" if self.bwt is None else f"  bwt {self.bwt:+.2f}"
        what = f"{c['method']['name']} on {c['data']['dataset']}"
        return f"{what}, T={len(self.accuracy)}: acc {self.acc:.2f}  maa {self.maa:.2f}{back}"


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("janus-lora", "torch", "timm", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def hardware(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Processor or GPU, how many threads, and how many processes if there were several."""
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    several = {"processes": processes} if processes > 1 else {}
    return {
        "device": device.type,
        "card": card,
        "cpu": _cpu_name(),
        "threads": torch.get_num_threads(),
        **several,
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
