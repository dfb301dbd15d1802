"""What the pages of results share: chosen runs, a table beside the floor, and where its numbers come from."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from janus.report.compare import NONE, change, paired, pick
from janus.report.tables import Table, difference_table, overview, seconds_table

SCORES = ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift")


def renamed(runs: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The runs of some variants, in this order, under other names."""
    chosen = pick(runs, names)
    return chosen.assign(variant=chosen["variant"].map(names))


def only(
    runs: pd.DataFrame, tasks: int | None = None, strength: float = 1.0, epochs: int | None = None
) -> pd.DataFrame:
    """The runs of so many tasks, at this strength of renditions, of so many epochs a task; None: any."""
    kept = runs["data.strength"].fillna(1.0) == strength
    for key, value in (("data.tasks", tasks), ("training.epochs", epochs)):
        kept &= True if value is None else runs[key] == value
    return runs[kept]


def union(*found: pd.DataFrame) -> pd.DataFrame:
    """All runs; of a variant that several have, the last one's."""
    last = {variant: place for place, runs in enumerate(found) for variant in runs["variant"].unique()}
    return pd.concat([runs[runs["variant"].map(last) == place] for place, runs in enumerate(found)])


def floored(runs: pd.DataFrame, kinds: Sequence[str] = SCORES) -> Table:
    """Scores, and ACC over frozen."""
    scored = overview(runs, kinds, cite=False)
    lines = [[*cells, gain(runs, cells[0])] for cells in scored.rows]
    return Table([*scored.header, "ACC over frozen"], lines)


def gain(runs: pd.DataFrame, row: str) -> str:
    """ACC over frozen in the same seeds: mean, and its 95 % interval."""
    return NONE if row == "frozen" else change(paired(runs, "frozen", row).tolist())


def heads(runs: pd.DataFrame) -> str:
    """`frozen` on validation by learning rate of its heads."""
    found = runs.sort_values("training.head_lr")
    return ", ".join(f"{rate:g}: {acc:.1f}" for rate, acc in zip(found["training.head_lr"], found["acc"]))


def provenance(runs: pd.DataFrame) -> str:
    seeds, machines = (sorted(runs[key].unique()) for key in ("training.seed", "hardware.cpu"))
    return (
        f"Seeds {', '.join(map(str, seeds))} (class order, initialisation and batches; mean ± standard "
        f"deviation where there are several), {' and '.join(machines)}, "
        f"{runs['hardware.threads'].iloc[0]} thread a run, torch {runs['versions.torch'].iloc[0]}."
    )


def one_epoch(runs: pd.DataFrame) -> str:
    """Table 5: what both bases are worth, and cost, where each image is seen once."""
    scores = overview(runs, ("ACC", "MAA", "BWT", "violation", "drift"))
    differences = difference_table(runs, [("GPM", "OE"), ("frozen", "OE"), ("frozen", "GPM")])
    parts = [scores, differences, "Seconds a run:", seconds_table(runs), provenance(runs)]
    return "\n\n".join(map(str, parts))
