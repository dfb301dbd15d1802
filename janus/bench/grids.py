"""Grid files: which runs an experiment consists of, checked as a whole before the first one starts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import configure
from ..config import Config
from ..errors import JanusError, UsageError, first_few, join_messages, unknown
from ..runtime import assets
from ..settings import reading
from . import grid_files, variants
from .grid_files import GridFile, Note

LONGEST = 255  # bytes of a folder's name: the most that file systems in use allow


@dataclass(frozen=True)
class PlannedRun:
    """One run of a grid: its name, which is its folder's, its variant, and everything that is set."""

    name: str
    variant: str
    config: Config

    @cached_property
    def hash(self) -> str:
        return configure.config_hash(self.config)


@dataclass(frozen=True)
class Grid:
    title: str
    path: Path
    runs: tuple[PlannedRun, ...]


def load(file: str | Path) -> Grid:
    """Read a grid file and expand it: seeds × protocols × variants × the product of `grid`, in this order.

    A setting comes from the protocol; over it what a variant sets (one of `bench/variants.py` brings its
    switches, over them what the protocol says of this variant, and its hyper-parameters where the protocol,
    or over it the grid, says `chosen`: true for those of Icons-R, or a file beside the protocol); over that
    `set`; over all `grid`.

    Judged are the file and each run's settings. Left to the run are a path that is not there (it may be where
    the runs are), the classes in a folder, a model of the hub, or of timm without attention, its tag, and
    weights that are missing or do not fit.

    Args:
        file: a path, or the name of a grid that comes with janus ("icons_r/table1_ablation").

    Raises:
        UsageError: everything that is wrong with the file and the runs it describes, in one message.
    """
    path = find(file)
    faults: dict[str, None] = {}  # each once, in the order in which they were found
    note: Note = lambda text: faults.setdefault(text)  # noqa: E731
    stated = grid_files.read(path, note)
    runs = _expanded(stated, faults)
    for names in _groups(runs, lambda run: run.name):
        note(f"{len(names)} runs have the name {names[0]}; leave all but one out")
    for names in _groups(runs, lambda run: run.hash):
        if len(set(names)) > 1:
            note(f"{first_few(names)} are the same run; leave all but one out")
    if not runs and not faults:
        note("it describes no run")
    if faults:
        raise UsageError(f"{path}: {join_messages(list(faults))}")
    return Grid(stated.title, path, tuple(runs))


def _expanded(stated: GridFile, faults: dict[str, None]) -> list[PlannedRun]:
    """The runs that a file describes; what is wrong with them goes to `faults`."""
    runs: list[PlannedRun] = []
    long: list[str] = []
    troubles: dict[str, list[str]] = {}  # fault → the names of the runs that have it
    points = [dict(zip(stated.axes, point)) for point in itertools.product(*stated.axes.values())]
    for seed, (protocol, base), (variant, own), point in itertools.product(
        stated.seeds, stated.protocols.items(), stated.variants.items(), points
    ):
        where = {"protocol": Path(protocol).stem} if len(stated.protocols) > 1 else {}
        name = _name(variant, where | point | {"seed": seed})
        if len(name.encode()) > LONGEST:
            long.append(name)
        if stated.shared is None or base is None or own is None:
            continue  # its fault is noted already
        try:
            of_variant = grid_files.of_variant(variant, own, base)
        except JanusError as error:
            troubles.setdefault(str(error), []).append(name)
            continue
        layers = [*of_variant, stated.shared, point, {"training.seed": seed}]
        config, found = reading.examine(layers, base.settings)
        for text in found:
            if not any(noted.endswith(f": {text}") for noted in faults):
                troubles.setdefault(text, []).append(name)
        if config is not None:
            runs.append(PlannedRun(name, variant, config))
    for text, names in troubles.items():
        faults.setdefault(f"{first_few(names)}: {text}")
    if long:
        faults.setdefault(
            f"names of {len(long)} runs, the first {long[0][:40]}…, are longer than the {LONGEST} bytes that "
            "a folder's may have; give their variants shorter names, or move from `grid` to `set` what does "
            "not vary"
        )
    return runs


def _name(variant: str, varied: Mapping[str, Any]) -> str:
    """A run's name: its variant, and what the runs of the variant differ in."""
    parts = [_plain(variants.slug(variant)), *(f"{key}={_text(value)}" for key, value in varied.items())]
    return "__".join(parts)


def find(file: str | Path) -> Path:
    """A grid's path; one that comes with janus is found by its name. UsageError: there is none."""
    path = Path(file)
    if path.is_file():
        return path
    known = assets.benchmarks("grids")
    if (known / f"{file}.yaml").is_file():
        return known / f"{file}.yaml"
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"no grid file {path}")
    names = (p.relative_to(known).with_suffix("").as_posix() for p in known.rglob("*.yaml"))
    raise unknown("grid", file, names)


# ── names and faults ────────────────────────────────────────────────────────────────────────────────────────


def _text(value: Any) -> str:
    """A value in a file name, written as `--set` takes it where that is possible."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "-".join(map(_text, value))
    if isinstance(value, dict):
        return "-".join(f"{key}-{_text(item)}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", text)


def _groups(runs: list[PlannedRun], key: Callable[[PlannedRun], str]) -> list[list[str]]:
    """Names of the runs that share a key with another one, together."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run.name)
    return [names for names in groups.values() if len(names) > 1]
