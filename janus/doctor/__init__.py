"""`janus doctor`: does this machine compute what it should, and how fast? What a user runs first."""

from __future__ import annotations

import math
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from ..runtime.device import pick_device
from ..runtime.result import hardware, versions
from . import checks, speed
from .place import Finding, Place, PlannedChecks, SkippedError, arithmetic

PARTS: dict[str, Callable[[Place], PlannedChecks]] = {
    "machine": checks.machine,
    "steps": checks.steps,
    "autocast": checks.autocast,
    "resume": checks.resume,
    "projection": checks.projection,
    "costs": speed.costs,
    "waits": speed.waits,
}
FORMAT = 1
LIMITS = {"cuda": 240.0, "other": 180.0, "quick": 45.0}  # seconds after which no check is begun


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    value: what was seen, by name, with `bounds` on some of it; the `reason` of a skipped check, the `error`
    of one that could not be finished.
    """

    name: str
    verdict: Literal["pass", "fail", "skipped"]
    value: dict[str, Any]

    def line(self) -> str:
        """The value in words."""
        bounds = self.value.get("bounds", {})
        parts = []
        for key, value in self.value.items():
            if key == "bounds":
                continue
            text = value if isinstance(value, str) else f"{value:.0f}" if value > 1000 else f"{value:.3g}"
            limit = f" ≤ {bounds[key]:.3g}" if key in bounds else ""
            limit = limit.replace("≤", "> the bound") if limit and not value <= bounds[key] else limit
            parts.append(f"{key.replace('_', ' ')} {text}{limit}" if key not in ("reason", "error") else text)
        return ", ".join(parts)


@dataclass(frozen=True)
class Report:
    """All checks of one machine."""

    device: str
    quick: bool
    checks: list[Check]
    seconds: float
    versions: dict[str, str]
    hardware: dict[str, Any]

    @property
    def failed(self) -> list[Check]:
        return [check for check in self.checks if check.verdict == "fail"]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: numbers that are not finite as text."""
        return _finite(asdict(self) | {"format": FORMAT})

    def table(self) -> str:
        """A line a check, and how many there are of each verdict."""
        width = max((len(check.name) for check in self.checks), default=0)
        lines = [f"{check.name:{width}s}  {check.verdict:7s}  {check.line()}" for check in self.checks]
        n = Counter(check.verdict for check in self.checks)
        where = self.hardware["card"] or f"{self.hardware['cpu']}, {self.hardware['threads']} threads"
        lines += [
            "",
            f"{n['pass']} passed, {n['fail']} failed, {n['skipped']} skipped on {where} "
            f"(torch {self.versions['torch']}) in {self.seconds:.0f} s",
        ]
        return "\n".join(lines)


def examine(
    device: str = "auto",
    quick: bool = False,
    progress: Callable[[str], None] = lambda line: None,
    parts: Iterable[str] = tuple(PARTS),
    methods: tuple[str, ...] | None = None,
) -> Report:
    """Look at everything, or at the `parts` (of `PARTS`) that are named.

    Args:
        device: auto, cpu, cuda, mps. quick: less of it, in 45 s on two CPU cores. progress: gets a line
            before each check.
        methods: whose training step is compared (names in `checks.STEPS`; None: all).

    Raises:
        UsageError: the device is not there.
    """
    chosen, began = pick_device(device), time.monotonic()
    limit = LIMITS["quick" if quick else "cuda" if chosen.type == "cuda" else "other"]
    found: list[Check] = []
    with tempfile.TemporaryDirectory() as folder, arithmetic("highest"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what small runs on made images lead to
        place = Place(chosen, quick, Path(folder), methods)
        for name, work in (planned for part in parts for planned in PARTS[part](place)):
            gone = time.monotonic() - began
            progress(f"{gone:4.0f} s  {name}")
            found.append(_checked(name, work if gone < limit else partial(_late, limit)))
    return Report(chosen.type, quick, found, time.monotonic() - began, versions(), hardware(chosen))


def _late(limit: float) -> Finding:
    raise SkippedError(f"the time was up ({limit:.0f} s)")


def _checked(name: str, work: Callable[[], Finding]) -> Check:
    """Do it; whatever goes wrong is the check's, and the next one is made."""
    try:
        finding = work()
    except (SkippedError, torch.cuda.OutOfMemoryError) as error:
        reason = str(error) if isinstance(error, SkippedError) else "the device's memory does not hold it"
        return Check(name, "skipped", {"reason": reason})
    except Exception as error:  # noqa: BLE001 - what a check finds may be anything
        text = (str(error).strip().splitlines() or ["no message"])[0]
        return Check(name, "fail", {"error": f"{type(error).__name__}: {text}"})
    numbers = [value for value in finding.values.values() if isinstance(value, float)]
    within = all(finding.values[key] <= limit for key, limit in finding.bounds.items())
    verdict = "pass" if within and all(map(math.isfinite, numbers)) else "fail"
    return Check(name, verdict, finding.values | ({"bounds": finding.bounds} if finding.bounds else {}))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
