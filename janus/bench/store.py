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

import csv
import io
import json
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from ..configure import deciding, restore
from ..errors import JanusError, UsageError, first_few
from ..runtime.timing import total
from .variants import KNOWN, slug

if TYPE_CHECKING:
    from ..config import Config

RUNS, ACCURACY, LAYERS, TEXT = "runs.parquet", "accuracy.parquet", "layers.parquet", "runs.csv"
Line = dict[str, Any]  # one run: column → value, and the columns of `NESTED`

PARTS = ("data", "backbone", "training", "method", "classifier")  # what a setting's full path begins with
FIRST = ("run", "group", "variant", "stage")
SCORES = (
    "acc",
    "maa",
    "bwt",
    "forgetting",
    "learning_acc",
    "acc_task_mean",
    "task_aware_acc",
    "violation",
    "violation_step",
    "past_output_norm",
    "drift",
    "danger",
    "own_similarity",
)
BY_TASK = ("violation", "violation_step", "past_output_norm", "danger", "own_similarity")  # means over tasks
ORIGINS = ("seconds", "versions", "hardware")  # mappings in a result, a column for each of their keys here
NESTED = ("accuracy", "task_aware", "layers", "stream")


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
        found |= {
            score if kind == "all" else f"{score}.{kind}": mean
            for kind, mean in (means if isinstance(means, Mapping) else {"all": means}).items()
        }
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
    found = {key: value for key, value in run.items() if _is_setting(key) and not pd.isna(value)}
    return {key: value.item() if hasattr(value, "item") else value for key, value in found.items()}


def _is_setting(column: str) -> bool:
    return column.partition(".")[0] in PARTS


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
        raise UsageError(
            f"no results in {folder}: name a folder of runs (each has a result.json), or of their tables"
        )
    once: dict[str, str] = {}
    again = [
        f"{place} is {once[run['run']]}"
        for run, place in found
        if once.setdefault(run["run"], place) != place
    ]
    if again:
        warnings.warn(f"runs that are there twice count once: {first_few(again)}", stacklevel=2)
    return frame(run for run, place in found if once[run["run"]] == place)


def frame(runs: Iterable[Line]) -> pd.DataFrame:
    """Lines as a DataFrame, in the order that `read` states. A missing number is NaN or NA, a text None."""
    order = {variant: place for place, variant in enumerate(KNOWN)}
    runs = _sorted(runs, lambda variant: (order.get(variant, len(order)), variant))
    types = {"int": "Int64", "bool": "boolean", "float": "float64", "str": "object"}
    columns = {}
    for name in _columns(runs):
        kind, cells = _typed(name, [run.get(name) for run in runs])
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
            for run in _load(path.parent, detail):
                named = {key: below + run[key] for key in ("group", "run")}
                found.append((run | named, f"{path}: {run['run']}"))
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            unread.append(
                f"{path}: not a readable table of results ({error}); restore it, or collect its runs again"
            )
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
        there = {run["run"]: run for run in _load(into)} if (into / RUNS).exists() else {}
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


def write(runs: Iterable[Line], folder: str | Path) -> None:
    """Write the tables of some runs into a folder that is there. JanusError: no space or rights."""
    from ..runtime.checkpoint import write_atomic

    runs = _sorted(runs)
    tables = {LAYERS: _layers(runs), ACCURACY: _accuracy(runs), RUNS: _runs(runs)}
    for name, table in tables.items():  # the runs last: what no run refers to does no harm
        write_atomic(
            Path(folder) / name,
            lambda place, table=table: parquet.write_table(
                table, place, compression="zstd", compression_level=15, store_schema=False
            ),
        )
    text = _csv(tables[RUNS])
    write_atomic(Path(folder) / TEXT, lambda place: Path(place).write_text(text))


def _sorted(runs: Iterable[Line], place: Callable[[str], Any] = str) -> list[Line]:
    """By group, by variant (`place` says where), by settings (none first), by seed."""
    runs = list(runs)
    names = {name for run in runs for name in run if _is_setting(name) and not name.endswith("seed")}
    ordered = sorted(names)

    def key(run: Line) -> tuple[Any, ...]:
        values = (run.get(name) for name in ordered)
        known = ((0,) if value is None else (1, isinstance(value, str), value) for value in values)
        seeds = run["training.seed"], run["data.class_seed"]
        return run["group"], place(run["variant"]), *known, *seeds, run["run"]

    return sorted(runs, key=key)


def _columns(runs: Sequence[Line]) -> list[str]:
    """The scalar columns, in their order."""
    order = [*FIRST, *PARTS, *SCORES, "seconds", "hash", "fingerprint", "versions", "hardware", "date"]
    names = {name for run in runs for name in run} - {*NESTED}
    return sorted(names, key=lambda name: (order.index(name.partition(".")[0]), name))


def _typed(name: str, cells: Sequence[Any]) -> tuple[str, Sequence[Any]]:
    """The type of a column, and its cells in it: values of several types become text."""
    kinds = {type(cell).__name__ for cell in cells if cell is not None}
    if name.partition(".")[0] in (*SCORES, "seconds") or kinds == {"int", "float"}:
        return "float", [cell if cell is None else float(cell) for cell in cells]
    if len(kinds) == 1 and kinds <= {"int", "float", "bool"}:
        return kinds.pop(), cells
    return "str", [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]


def _runs(runs: Sequence[Line]) -> pa.Table:
    kinds = {"int": pa.int64(), "bool": pa.bool_(), "float": pa.float64(), "str": pa.string()}
    columns = {}
    for name in _columns(runs):
        kind, cells = _typed(name, [run.get(name) for run in runs])
        columns[name] = pa.array(cells, kinds[kind])
    streams = [json.dumps(run["stream"], sort_keys=True, separators=(",", ":")) for run in runs]
    return pa.table(columns | {"stream": pa.array(streams, pa.string())})


def _accuracy(runs: Sequence[Line]) -> pa.Table:
    cells = [
        (run["run"], t, i, known, aware)
        for run in runs
        for t, pair in enumerate(zip(run["accuracy"], run["task_aware"], strict=True), 1)
        for i, (known, aware) in enumerate(zip(*pair, strict=True), 1)
    ]
    return _table(
        cells,
        run=pa.string(),
        after_task=pa.int16(),
        task=pa.int16(),
        accuracy=pa.float64(),
        task_aware=pa.float64(),
    )


def _layers(runs: Sequence[Line]) -> pa.Table:
    cells = [
        (run["run"], score, task, layer, value)
        for run in runs
        for score, tasks in run["layers"].items()
        for task, values in enumerate(tasks, 1 + len(run["accuracy"]) - len(tasks))  # up to the last one
        for layer, value in (values if isinstance(values, Mapping) else {None: values}).items()
    ]
    return _table(
        cells, run=pa.string(), score=pa.string(), task=pa.int16(), layer=pa.string(), value=pa.float32()
    )


def _table(cells: Sequence[tuple[Any, ...]], **types: pa.DataType) -> pa.Table:
    columns = list(zip(*cells)) or [()] * len(types)
    return pa.table({name: pa.array(column, kind) for (name, kind), column in zip(types.items(), columns)})


def _csv(table: pa.Table) -> str:
    """The scalars in which the runs differ, numbers with six digits."""
    columns = {name: table[name].to_pylist() for name in table.column_names if name != "stream"}
    shown = {name: cells for name, cells in columns.items() if name in FIRST or len({*cells}) > 1}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(shown)
    for row in zip(*shown.values()):
        writer.writerow(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row)
    return out.getvalue()


def _load(folder: Path, detail: bool = True) -> list[Line]:
    """The lines in a store's tables."""
    file = parquet.ParquetFile(folder / RUNS)
    runs = file.read([name for name in file.schema_arrow.names if detail or name != "stream"]).to_pylist()
    if not detail:
        return runs
    streams = {text: json.loads(text) for text in {run["stream"] for run in runs}}
    accuracies, scores = _load_accuracy(folder / ACCURACY), _load_layers(folder / LAYERS)
    return [
        run
        | {
            "stream": streams[run["stream"]],
            "layers": scores.get(run["run"], {}),
            "accuracy": [list(known) for known, _ in accuracies[run["run"]]],
            "task_aware": [list(aware) for _, aware in accuracies[run["run"]]],
        }
        for run in runs
    ]


def _load_accuracy(path: Path) -> dict[str, list[tuple[tuple[float | None, ...], ...]]]:
    """Run → after each task: the accuracies on all tasks, and those if the right task were known."""
    table = parquet.read_table(path)
    cells = zip(*(table[name].to_pylist() for name in ("run", "after_task", "accuracy", "task_aware")))
    return {
        run: [tuple(zip(*(cell[2:] for cell in row))) for _, row in groupby(rows, itemgetter(1))]
        for run, rows in groupby(cells, itemgetter(0))
    }


def _load_layers(path: Path) -> dict[str, dict[str, list[Any]]]:
    """Run → score → for each task a value, or layer → value."""
    table = parquet.read_table(path)
    cells = zip(*(table[name].to_pylist() for name in ("run", "score", "task", "layer", "value")))
    found: dict[str, dict[str, list[Any]]] = {}
    for (run, score), rows in groupby(cells, itemgetter(0, 1)):
        number = int if score == "basis_rank" else float
        by_task = groupby(rows, itemgetter(2))
        tasks = [{layer: number(value) for *_, layer, value in row} for _, row in by_task]
        found.setdefault(run, {})[score] = [task.get(None, task) for task in tasks]
    return found
