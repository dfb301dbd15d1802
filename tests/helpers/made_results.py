"""Results that nobody ran, with numbers that can be checked by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from janus.bench import store
from janus.configure import config_hash, make
from janus.report import compare


def result_values(
    seed: int = 0, last: float = 20.0, method: str = "janus", variant: str | None = None, **config: Any
) -> dict[str, Any]:
    """A result.json of two tasks: 60 % on the first one, then `last` and 40 %."""
    accuracy = [[60.0], [last, 40.0]]
    full = make({"method": method, "tasks": 2, "seed": seed} | config)
    return {
        "variant": variant or method,
        "config": full.to_dict(),
        "hash": config_hash(full),
        "acc": (2 * last + 40) / 3,
        "maa": (60 + (2 * last + 40) / 3) / 2,
        "bwt": last - 60,
        "forgetting": 60 - last,
        "learning_acc": 50.0,
        "acc_task_mean": (last + 40) / 2,
        "task_aware_acc": 70.0,
        "accuracy": accuracy,
        "task_aware": accuracy,
        "violation": {"tasks": [{"blocks.0.attn.k": 0.25}], "mean": {"all": 0.25}},
        "violation_step": {"tasks": [], "mean": None},
        "past_output_norm": {"tasks": [], "mean": {"all": 0.1}},
        "drift": 0.5,
        "danger": {"tasks": [0.6], "mean": 0.6},
        "basis_rank": [],
        "seconds": {"train": 8.0, "eval": 3.0, "oe": 1.0, "gr": 2.0},
        "stream": {
            "evaluate": full.data.evaluate,
            "tasks": [{"train": 9, "val": 2, "test": 4}, {"train": 9, "val": 2, "test": 2}],
        },
        "versions": {"torch": "9.9", "timm": "1.1"},
        "hardware": {"card": None, "cpu": "Abacus", "threads": 3},
        "date": f"2026-01-0{seed + 1}T10:00:00+00:00",
        "format": 2,
    }


def results(accs: Mapping[str, Mapping[int, float]], **config: Any) -> pd.DataFrame:
    """variant → seed → ACC, as runs: two tasks, both learned at ACC + 10, MAA 5 above it; `joint` has one."""
    found = {}
    for row, seeds in accs.items():
        found[row] = [result_values(seed, **config) | _numbers(row, acc) for seed, acc in seeds.items()]
    return frame(found)


def frame(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> pd.DataFrame:
    """variant → the values of its results, as runs, in this order."""
    runs = store.frame(store.line(values, "group", row) for row, found in rows.items() for values in found)
    return compare.pick(runs, rows)


def _numbers(row: str, acc: float) -> dict[str, Any]:
    one = row == "joint"
    matrix = [[1.0]] if one else [[1.0], [1.0, 1.0]]
    scores = {"acc": acc, "maa": acc + 5, "learning_acc": acc + 10, "bwt": None if one else -20.0}
    return scores | {"accuracy": matrix, "task_aware": matrix}
