"""The files of a store of runs (`store`): three tables and a text, how they are written and read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

RUNS, ACCURACY, LAYERS, TEXT = "runs.parquet", "accuracy.parquet", "layers.parquet", "runs.csv"
Line = dict[str, Any]  # one run: column → value, and the columns of `NESTED`

PARTS = ("data", "backbone", "training", "method", "classifier")  # what a setting's full path begins with
FIRST = ("run", "group", "variant", "stage")
SCORES = (
    *("acc", "maa", "bwt", "forgetting", "learning_acc", "acc_task_mean", "task_aware_acc"),
    *("violation", "violation_step", "past_output_norm", "drift", "danger", "own_similarity"),
)
NESTED = ("accuracy", "task_aware", "layers", "stream")


def is_setting(column: str) -> bool:
    return column.partition(".")[0] in PARTS


def write(runs: Iterable[Line], folder: str | Path) -> None:
    """Write the tables of some runs into a folder that is there. JanusError: no space or rights."""
    from ..runtime.checkpoint import write_atomic

    runs = in_order(runs)
    tables = {LAYERS: _layers(runs), ACCURACY: _accuracy(runs), RUNS: _runs(runs)}
    options = {"compression": "zstd", "compression_level": 15, "store_schema": False}
    for name, table in tables.items():  # the runs last: what no run refers to does no harm
        put = partial(parquet.write_table, table, **options)
        write_atomic(Path(folder) / name, put)
    text = _csv(tables[RUNS])
    write_atomic(Path(folder) / TEXT, lambda place: Path(place).write_text(text))


def in_order(runs: Iterable[Line], place: Callable[[str], Any] = str) -> list[Line]:
    """By group, by variant (`place` says where), by settings (none first), by seed."""
    runs = list(runs)
    names = {name for run in runs for name in run if is_setting(name) and not name.endswith("seed")}
    ordered = sorted(names)

    def key(run: Line) -> tuple[Any, ...]:
        values = (run.get(name) for name in ordered)
        known = ((0,) if value is None else (1, isinstance(value, str), value) for value in values)
        seeds = run["training.seed"], run["data.class_seed"]
        return run["group"], place(run["variant"]), *known, *seeds, run["run"]

    return sorted(runs, key=key)


def columns_of(runs: Sequence[Line]) -> list[str]:
    """The scalar columns, in their order."""
    order = [*FIRST, *PARTS, *SCORES, "seconds", "hash", "fingerprint", "versions", "hardware", "date"]
    names = {name for run in runs for name in run} - {*NESTED}
    return sorted(names, key=lambda name: (order.index(name.partition(".")[0]), name))


def typed(name: str, cells: Sequence[Any]) -> tuple[str, Sequence[Any]]:
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
    for name in columns_of(runs):
        kind, cells = typed(name, [run.get(name) for run in runs])
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
    places = {"run": pa.string(), "after_task": pa.int16(), "task": pa.int16()}
    return _table(cells, **places, accuracy=pa.float64(), task_aware=pa.float64())


def _layers(runs: Sequence[Line]) -> pa.Table:
    cells = [
        (run["run"], score, task, layer, value)
        for run in runs
        for score, tasks in run["layers"].items()
        for task, values in enumerate(tasks, 1 + len(run["accuracy"]) - len(tasks))  # up to the last one
        for layer, value in (values if isinstance(values, Mapping) else {None: values}).items()
    ]
    places = {"run": pa.string(), "score": pa.string(), "task": pa.int16(), "layer": pa.string()}
    return _table(cells, **places, value=pa.float32())


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


def load(folder: Path, detail: bool = True) -> list[Line]:
    """The lines in a store's tables."""
    file = parquet.ParquetFile(folder / RUNS)
    runs = file.read([name for name in file.schema_arrow.names if detail or name != "stream"]).to_pylist()
    if not detail:
        return runs
    streams = {text: json.loads(text) for text in {run["stream"] for run in runs}}
    accuracies, scores = _load_accuracy(folder / ACCURACY), _load_layers(folder / LAYERS)
    for run in runs:
        after = accuracies[run["run"]]
        run |= {"stream": streams[run["stream"]], "layers": scores.get(run["run"], {})}
        run |= {"accuracy": [list(known) for known, _ in after]}
        run |= {"task_aware": [list(aware) for _, aware in after]}
    return runs


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
