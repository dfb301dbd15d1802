"""Tables and figures of the experiments, from `benchmarks/results/` alone.

python benchmarks/report.py          # prints the tables, puts them into the documents, writes figures/
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import report_drift
import report_field
import report_icons_r2
import report_language
import report_photographs
from report_cost import (
    against_ours,
    bf16_on_the_cpu,
    input_pipeline,
    many_tasks,
    memory,
    overhead,
    step_memory,
)
from report_field import BEST, FIELD_ROWS, FIELD_STEPS, without_field
from report_parts import floored, gain, one_epoch, only, provenance, renamed, union

from janus import plots
from janus.bench.store import read
from janus.bench.variants import CROSS
from janus.report import document, properties, tables
from janus.report.compare import NONE, pick, spread, values
from janus.report.tables import Table, difference_table, overview, rate_table, seconds_table
from janus.runtime.assets import measurement

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE.parent / "figures"
DOCUMENTS = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").rglob("*.md")))

STEPS = [
    ("LoRA", "GPM"),
    ("LoRA", "OE"),
    ("GPM", "OE"),
    ("OE", "OE+GR"),
    ("GPM", "OE+GR"),
    ("OE+GR", "OE+GR+DML"),
    ("OE+GR", "exact"),
    ("exact", "exact+DML"),
    ("frozen", "LoRA"),
    ("frozen", "GPM"),
    ("frozen", "OE+GR"),
    ("frozen", "exact"),
    ("frozen", "exact+DML"),
    ("frozen", "joint"),
    ("OE+GR", BEST),
    (BEST, "exact"),
    ("frozen", BEST),
]
SHARED = {  # the paper's rows as cells of the cross
    "LoRA": "shared, free, gr=none",
    "OE": "shared, free, OE, gr=none",
    "GR": "shared, free, gr=tangent",
    "OE+GR": "shared, free, OE, gr=tangent",
}


def cross_table(rows: pd.DataFrame, cross: pd.DataFrame) -> Table:
    """adapter x init x gr x oe, DML off."""
    names = SHARED | {row: row.replace(" ", ", ") for row in CROSS}
    names["exact"] = "merged, nullspace, OE, gr=exact"
    kinds = ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift")
    table = overview(renamed(pd.concat([rows, cross]), names), kinds)
    return Table(["adapter, init, oe, gr", *table.header[1:]], table.rows)


def tuned(tune: pd.DataFrame) -> str:
    """Validation accuracy of each row at each learning rate, and of `frozen` at each rate of its heads."""
    frozen = tune["variant"] == "frozen"
    heads = tune[frozen].sort_values("training.head_lr")
    said = ", ".join(f"{rate:g}: {acc:.1f}" for rate, acc in zip(heads["training.head_lr"], heads["acc"]))
    return f"{rate_table(tune[~frozen])}\n\n`frozen`, by learning rate of its heads: {said}."


def searched(runs: pd.DataFrame) -> str:
    """Learning rates on validation, those of `frozen` of its heads."""
    return (
        "ACC on validation (one seed) by learning rate; the best of each row was taken:\n\n"
        f"{rate_table(runs)}\n\n{provenance(runs)}"
    )


def strength_table(runs: pd.DataFrame) -> Table:
    """frozen against joint on validation, by strength of the renditions."""
    runs = runs.assign(strength=runs["data.strength"].fillna(1.0))
    accs = runs.pivot(index="strength", columns="variant", values="acc").sort_index()
    lines = []
    for s, frozen, joint in accs[["frozen", "joint"]].itertuples():
        lines.append([f"{s:g}", f"{frozen:.1f}", f"{joint:.1f}", f"{joint - frozen:+.1f}"])
    return Table(["strength", "frozen", "joint", "between them"], lines)


def bases_table(results: dict[str, Any]) -> Table:
    """Online Estimation's basis against GPM's, after the first and the last task."""
    first, last = results["tasks"][0], results["tasks"][-1]
    lines = []
    for key in first:
        cells = []
        for row in (first[key], last[key]):
            ranks = f"{row['rank_oe']}, {row['rank_gpm']}"
            cells += [ranks, f"{row['mean_angle']:.1f}, {row['largest_angle']:.1f}"]
        lines.append([key, *cells])
    angles = "mean, largest angle"
    header = ["layer input", "after task 1: rank OE, GPM", angles, "after the last: rank OE, GPM", angles]
    return Table(header, lines)


def compared(runs: pd.DataFrame) -> str:
    """What `janus report` says of the runs of one protocol: scores, ACC against frozen in the same seeds,
    where they come from."""
    found = list(document.Section("", runs).parts().values())[:2]
    return "\n\n".join([*map(str, found), provenance(runs)])


def strengths(ten: pd.DataFrame, icons: pd.DataFrame) -> str:
    """Table 3: ACC of the same rows at three strengths of the renditions, and what is gained over frozen."""
    found = {s: only(icons, strength=s) for s in (0.5, 0.75)}
    rows = found[0.5]["variant"].unique()
    found[1.0] = pick(ten, rows)
    header, lines = ["row"], []
    header += [f"strength {s:g}: ACC" for s in found]
    header += [f"over frozen at {s:g}, 95 %" for s in found]
    for row in rows:
        accs = (spread(values(runs, row)) for runs in found.values())
        lines.append([row, *accs, *(gain(runs, row) for runs in found.values())])
    table = Table(header, lines)
    return f"{table}\n\n{provenance(pd.concat(found.values()))}"


def capacity(runs: pd.DataFrame) -> str:
    """Streams of more and more tasks: what is protected at their end, and what it is worth."""
    lines = []
    for tasks, group in runs.groupby("data.tasks"):
        ranks = last_rank(group)
        for cells in floored(group).rows:
            lines.append([tasks, *cells, spread(ranks[group["variant"] == cells[0]])])
    header = floored(runs).header
    return f"{Table(['tasks', *header, 'rank at the end'], lines)}\n\n{provenance(runs)}"


def last_rank(runs: pd.DataFrame) -> pd.Series:
    """Directions that are protected after the last task, mean over layer inputs, of each run."""
    return runs["layers"].map(lambda scores: statistics.fmean(scores["basis_rank"][-1].values()))


def schedules(runs: pd.DataFrame) -> str:
    """How much of the past to protect: schedules of ε, by ACC on validation; the best is bold. `frozen`
    protects nothing."""
    runs = runs.assign(floor=runs["variant"] == "frozen", rank=last_rank(runs))
    runs = runs.sort_values(["floor", "method.energy", "method.energy_end"], ascending=[False, True, True])
    lines = []
    for _, run in runs.iterrows():
        if run["floor"]:
            ends, rank = ["frozen", NONE], NONE
        else:
            ends = [f"{run[key]:g}" for key in ("method.energy", "method.energy_end")]
            rank = f"{run['rank']:.1f}"
        acc = f"**{run['acc']:.1f}**" if run["acc"] == runs["acc"].max() else f"{run['acc']:.1f}"
        lines.append([*ends, acc, *(f"{run[key]:.1f}" for key in ("maa", "bwt", "learning_acc")), rank])
    scores = ["ACC", "MAA", "BWT", "learning acc.", "rank at the end"]
    table = Table(["ε of the first task", "of the last", *scores], lines)
    return f"{table}\n\n{provenance(runs)}"


def groups() -> dict[str, pd.DataFrame]:
    """Group → its runs, of the committed results."""
    return dict(iter(read(RESULTS).groupby("group")))


def blocks() -> dict[str, str]:
    """The documents' marked places → what belongs there."""
    found = groups()
    own = ablation(found) | streams(found) | measured()
    others = report_icons_r2.blocks(found) | report_photographs.blocks(found) | report_drift.blocks(found)
    return own | others | report_language.blocks()


def ablation(found: dict[str, pd.DataFrame]) -> dict[str, str]:
    """The rows of the paper's ablation on Icons-R, how they were tuned, what a step of them costs."""
    rows, cross, setting = found["rows"], found["cross"], properties.Setting()
    cost = measurement("step_cost")
    plots.stability_plasticity(rows).save(FIGURES / "stability_plasticity")
    step = "Time of a training step as a multiple of PEFT's LoRA on `qkv`"
    cpu, torch = cost["hardware"]["cpu"], cost["versions"]["torch"]
    machine = f"{cpu}, torch {torch}, a machine shared with other work"
    return {
        "methods": f"{properties.table(setting)}\n\nSizes: {setting}.",
        "rows": f"{overview(rows)}\n\n{provenance(rows)}",
        "differences": str(difference_table(union(rows, cross), STEPS)),
        "cross": str(cross_table(rows, cross)),
        "dml": "Forms of the margin loss on top of OE+GR, on validation, one seed:\n\n"
        f"{tables.form_table(found['dml'])}",
        "tune": "ACC on validation (one seed) by learning rate of the factors; the best of each row was "
        f"taken:\n\n{tuned(found['tune'])}",
        "strength": "ACC on validation (one seed) by strength of the renditions:\n\n"
        f"{strength_table(found['strength'])}",
        "bases": "Online Estimation's basis against GPM's, same run, same ε: rank, and principal angles "
        f"between them (degrees):\n\n{bases_table(measurement('oe_vs_gpm'))}",
        "cost": f"{step} (same model, batch and rank; paired steps in one process, median and quarter "
        f"points):\n\n{tables.step_table(cost)}\n\n{step_memory(cost)}\n\n{machine}. {against_ours(cost)}",
    }


def streams(found: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Icons-R in other streams, and published baselines on it."""
    icons, long, learning = found["icons_r"], found["icons_r_capacity"], measurement("methods_cost")
    ours = without_field(icons)  # more lines could not be told apart
    plots.trajectories(only(ours, tasks=20)).save(FIGURES / "trajectory_20_tasks")
    plots.capacity(long).save(FIGURES / "capacity")
    # of the first only what the others have not: published baselines
    ten = union(only(icons, tasks=10), found["rows"], found["cross"])
    everyone = pick(ten, FIELD_ROWS)
    less = renamed(long, {"exact": "exact, ε = 0.95"})
    more = renamed(found["icons_r_energy_test"], {"exact": "exact, ε = 0.99"})
    turns = (
        f"medians of {learning['rounds']} turns in one process, {learning['per_class']} images a class, "
        f"{learning['hardware']['cpu']}."
    )
    return {
        "fewer_tasks": compared(only(icons, tasks=5)),
        "more_tasks": compared(only(icons, tasks=20)),
        "strengths": strengths(ten, icons),
        "plug_in": report_field.plugged(ten),
        "field": f"{report_field.field(everyone, learning)}\n\n{provenance(everyone)} Learning a task, "
        f"× LoRA: {turns}",
        "field_differences": str(difference_table(everyone, FIELD_STEPS)),
        "field_tune": searched(found["icons_r_tune"]),
        "capacity": capacity(long),
        "schedules": schedules(found["icons_r_energy"]),
        "energy": capacity(pd.concat([pick(long, ["frozen"]), less, more])),
        "cost_parts": f"{seconds_table(found['icons_r_cost'])}\n\n{provenance(found['icons_r_cost'])}",
        "one_epoch": one_epoch(only(icons, epochs=1)),
    }


def measured() -> dict[str, str]:
    """Measurements of cost, each from its own file."""
    return {
        "memory": memory(measurement("memory")),
        "bf16_cpu": bf16_on_the_cpu(measurement("bf16_cpu")),
        "bench": overhead(measurement("bench_cost")),
        "many": many_tasks(measurement("many_tasks")),
        "input": input_pipeline(measurement("input_pipeline")),
    }


def main() -> None:
    texts = {path: path.read_text() for path in DOCUMENTS}
    for name, block in blocks().items():
        print(f"\n{name}\n{block}")
        opening, closing = f"<!-- report:{name} -->", f"<!-- /report:{name} -->"
        for path, text in texts.items():
            if opening in text:
                before, _, rest = text.partition(opening)
                texts[path] = f"{before}{opening}\n{block}\n{closing}{rest.partition(closing)[2]}"
    for path, text in texts.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
