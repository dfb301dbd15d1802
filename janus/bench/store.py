"""Finished runs as tables: a line a run, its accuracies and its scores by layer in long form.

`benchmarks/results/` is such a store; `janus report --collect RUNS --into DIR` adds runs to one. It holds

    runs.parquet      a line a run: its name (group, variant), settings by full path, scores, where it ran
    accuracy.parquet  accuracy (%) on each task after each task, and that if the right task were known
    layers.parquet    scores of a task, or of a layer in a task: violation, basis_rank, danger, …
    runs.csv          what the runs of runs.parquet differ in, rounded, for diffs

Tasks count from 1. The column `run` names a run in all three tables. The same runs make the same bytes
(with the same pyarrow), in whatever order they were collected.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from ..configure import deciding, restore
from ..errors import JanusError, UsageError, first_few
from ..runtime.timing import total
from .store_files import (
    NESTED,
    PARTS,
    RUNS,
    SCORES,
    Line,
    columns_of,
    in_order,
    is_setting,
    load,
    typed,
    write,
)
from .variants import KNOWN, slug

if TYPE_CHECKING:
    from ..config import Config

BY_TASK = ("violation", "violation_step", "past_output_norm", "danger", "own_similarity")  # means over tasks
ORIGINS = ("seconds", "versions", "hardware")  # mappings in a result, a column for each of their keys here


def line(values: Mapping[str, Any], group: str = ".", variant: str | None = None) -> Line:
    """A run's line, from the values of its `result.json`. variant: in place of the one that it names."""
    settings = {
        path: ",".join(value) if isinstance(value, list) else value
        for path, value in deciding(values["config"]).items()
        if value is not None
    }
    scores = {score: values[score] for score in SCORES if score != "own_similarity"}
    scores["own_similarity"] = values.get("own_similarity") or {"tasks": [], "mean": None}  # since later
    by_task = {score: scores[score]["tasks"] for score in BY_TASK} | {"basis_rank": values["basis_rank"]}
    found = {
        "group": group,
        "variant": variant or values["variant"],
        "stage": "search" if settings["data.evaluate"] == "val" else "test",
        **settings,
    }
    for score, value in scores.items():
        means = value["mean"] if score in BY_TASK else value
        by_kind = means if isinstance(means, Mapping) else {"all": means}
        found |= {score if kind == "all" else f"{score}.{kind}": mean for kind, mean in by_kind.items()}
    if len(values["accuracy"]) == 1:
        found["maa"] = None  # no mean over tasks worth the name
    for part in ORIGINS:
        found |= {f"{part}.{key}": value for key, value in values[part].items()}
    found |= {
        "seconds": total(values["seconds"]),
        "hash": values["hash"],
        "fingerprint": values.get("backbone"),
        "date": values["date"],
        "stream": values["stream"],
        "accuracy": values["accuracy"],
        "task_aware": values["task_aware"],
        "layers": {score: tasks for score, tasks in by_task.items() if tasks},
    }
    name = [group, slug(found["variant"]), found["hash"], found["fingerprint"]]
    return {"run": "/".join(filter(None, name)), **found}


def settings_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a line, or in a row of the frame: full path → value."""
    found = {key: value for key, value in run.items() if is_setting(key) and not pd.isna(value)}
    return {key: value.item() if hasattr(value, "item") else value for key, value in found.items()}


def create(run: Mapping[str, Any]) -> Config:
    """The Config of a line, or of a row of the frame. JanusError: settings that this version has not."""
    settings = {part: {} for part in PARTS} | {"method": {"energy_end": None}}  # None where nothing is stored
    for path, value in settings_of(run).items():
        part, _, name = path.partition(".")
        settings[part][name] = value
    return restore(settings, run["run"])


def read(folder: str | Path, detail: bool = True) -> pd.DataFrame:
    """The runs of a store, or all below a folder of runs: a line each, by group, by variant in the order of
    the paper's table, by settings and by seed. A run's group is the folder that its own folder stands in.

    detail: with the columns `accuracy`, `task_aware` (lists: [t][i], after task t, on task i) and `layers`
    (score → for each task a value, or layer → value).

    JSON files that are no runs are left out; with a note, a run that is there twice.

    Raises:
        UsageError: no such folder, or no runs in it. JanusError: a damaged file; it is named.
    """
    found, unread = lines(folder, detail)
    if unread:
        raise JanusError(unread[0])
    if not found:
        what = "a folder of runs (each has a result.json), or of their tables"
        raise UsageError(f"no results in {folder}: name {what}")
    once: dict[str, str] = {}
    again = []
    for run, place in found:
        first = once.setdefault(run["run"], place)
        if first != place:
            again.append(f"{place} is {first}")
    if again:
        warnings.warn(f"runs that are there twice count once: {first_few(again)}", stacklevel=2)
    return frame(run for run, place in found if once[run["run"]] == place)


def frame(runs: Iterable[Line]) -> pd.DataFrame:
    """Lines as a DataFrame, in the order that `read` states. A missing number is NaN or NA, a text None."""
    order = {variant: place for place, variant in enumerate(KNOWN)}
    runs = in_order(runs, lambda variant: (order.get(variant, len(order)), variant))
    types = {"int": "Int64", "bool": "boolean", "float": "float64", "str": "object"}
    columns = {}
    for name in columns_of(runs):
        kind, cells = typed(name, [run.get(name) for run in runs])
        columns[name] = pd.Series(cells, dtype=types[kind])
    for name in (name for name in NESTED if name in runs[0]):
        columns[name] = pd.Series([run[name] for run in runs], dtype="object")
    return pd.DataFrame(columns)


def lines(folder: str | Path, detail: bool = True) -> tuple[list[tuple[Line, str]], list[str]]:
    """The lines of all runs below a folder, from tables and from result files, each with its place; and what
    is wrong with the files that cannot be read. detail: see `read`."""
    folder, found, unread = Path(folder), [], []
    for path in sorted(folder.rglob(RUNS)) if folder.is_dir() else []:
        below = "" if path.parent == folder else path.parent.relative_to(folder).as_posix() + "/"
        try:
            for run in load(path.parent, detail):
                named = {key: below + run[key] for key in ("group", "run")}
                found.append((run | named, f"{path}: {run['run']}"))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            fault = f"not a readable table of results ({error}); restore it, or collect its runs again"
            unread.append(f"{path}: {fault}")
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        try:
            if run := _line_of(path, folder):
                kept = run if detail else {key: value for key, value in run.items() if key not in NESTED}
                found.append((kept, str(path)))
        except (OSError, ValueError) as error:
            unread.append(f"{path}: not readable ({error}); delete it and run again")
        except (KeyError, TypeError, AttributeError) as error:
            unread.append(f"{path}: not a complete result ({error!r}); delete it and run again")
        except JanusError as error:
            unread.append(str(error))
    return found, unread


def _line_of(path: Path, folder: Path) -> Line | None:
    """The line of a JSON file below a folder; None if it is no run's."""
    from ..runtime.result import Result

    values, named = json.loads(path.read_text()), path.name == "result.json"
    if not named and not (isinstance(values, dict) and {"accuracy", "config"} <= values.keys()):
        return None
    Result.from_values(values, path)
    own = path.parent if named and path.parent != folder else path
    return line(values, own.parent.relative_to(folder).as_posix())


@dataclass
class Collected:
    """What `collect` did: how many runs it added and knew already, and what it refused, a line each."""

    added: int = 0
    known: int = 0
    refused: list[str] = field(default_factory=list)


def collect(folders: Sequence[str | Path], into: str | Path) -> Collected:
    """Add the runs below some folders to the tables in `into`, which is made if it is not there. The group of
    a run is the folder that its own stands in. Refused are damaged results, and other numbers of a known run.

    Raises:
        UsageError: a folder without any results. JanusError: damaged tables in `into`, no space or rights.
    """
    from filelock import FileLock

    into, done = Path(into).resolve(), Collected()
    into.mkdir(parents=True, exist_ok=True)
    with FileLock(into.with_name(f".{into.name}.lock")):
        there = {run["run"]: run for run in load(into)} if (into / RUNS).exists() else {}
        for folder in folders:
            found, unread = lines(folder)
            if not found and not unread:
                raise UsageError(f"no results in {folder}: name a folder of runs (each has a result.json)")
            done.refused += unread
            for run, place in found:
                if not Path(place).resolve().is_relative_to(into):
                    _add(run, place, Path(folder).resolve().name, there, done)
        if done.added:
            write(there.values(), into)
    return done


def _add(run: Line, place: str, folder: str, there: dict[str, Line], done: Collected) -> None:
    """Add a run to those that are there, or say why not."""
    if run["group"] == ".":
        run = run | {"group": folder, "run": folder + run["run"][1:]}
    same = there.setdefault(run["run"], run)
    if same is run:
        done.added += 1
    elif all(same[score] == run[score] for score in SCORES):
        done.known += 1
    else:
        numbers = f"acc {same['acc']:.4f}, not {run['acc']:.4f}"
        done.refused.append(f"{place}: {run['run']} is there already, with other numbers ({numbers})")
