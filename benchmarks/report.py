"""Tables and figures of the experiments, from `benchmarks/results/` alone.

python benchmarks/report.py          # prints the tables, puts them into the documents, writes figures/
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import report_icons_r2
from report_cost import against_ours, input_pipeline, many_tasks, memory, overhead, step_memory
from report_parts import floored, gain, provenance

from janus import plots
from janus.bench.paper import PLUG_IN
from janus.bench.store import read
from janus.bench.variants import CROSS, PUBLISHED
from janus.report import document, properties
from janus.report.compare import NONE, by_variant, pick, spread, values
from janus.report.tables import (
    Table,
    difference_table,
    form_table,
    overview,
    rate_table,
    seconds_table,
    step_table,
)
from janus.runtime.assets import measurement

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE.parent / "figures"
DOCUMENTS = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").rglob("*.md")))

BEST = "merged free OE gr=tangent"  # of Janus's variants with the linear heads, by validation
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
FIELD_ROWS = ("LoRA", "GPM", "OE+GR", "OE+GR+DML", "exact", BEST, *PUBLISHED, "frozen", "ncm", "joint")
HEAD_STEPS = [
    *(("RanPAC", f"{row}, RanPAC head") for row in ("LoRA", "exact", "OE+GR")),
    *(("LoRA, RanPAC head", f"{row}, RanPAC head") for row in ("exact", "OE+GR")),
]
FIELD_STEPS = [
    *((row, BEST) for row in (*PUBLISHED, "ncm") if "RanPAC" not in row),
    ("ncm", "LoRA-DRS, class means"),
    *HEAD_STEPS,
]
SHARED = {
    "LoRA": "shared, free, gr=none",
    "OE": "shared, free, OE, gr=none",
    "GR": "shared, free, gr=tangent",
    "OE+GR": "shared, free, OE, gr=tangent",
}  # the paper's rows as cells of the cross


def renamed(runs: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The runs of some variants, in this order, under other names."""
    chosen = pick(runs, names)
    return chosen.assign(variant=chosen["variant"].map(names))


def cross_table(rows: pd.DataFrame, cross: pd.DataFrame) -> Table:
    """adapter x init x gr x oe, DML off."""
    names = (
        SHARED | {row: row.replace(" ", ", ") for row in CROSS} | {"exact": "merged, nullspace, OE, gr=exact"}
    )
    table = overview(
        renamed(pd.concat([rows, cross]), names), ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift")
    )
    return Table(["adapter, init, oe, gr", *table.header[1:]], table.rows)


def scatter(rows: pd.DataFrame, cross: pd.DataFrame) -> str:
    """What the violation, the absolute score and drift say about one another: the figure and its sentence."""
    runs = pd.concat([rows, cross])
    runs = runs[runs["drift"].notna() & ~runs["variant"].isin(("frozen", "ncm"))]
    share, moved, drift, bwt = (
        runs[key].tolist() for key in ("violation", "past_output_norm", "drift", "bwt")
    )
    plots.predictors(
        runs["variant"].tolist(),
        {"relative violation": share, "absolute score": moved},
        {"drift of old features": drift, "BWT (points)": bwt},
    ).save(FIGURES / "violation_drift_bwt")
    r = statistics.correlation
    return (
        f"Over {len(runs)} runs (Pearson): violation with drift r = {r(share, drift):+.2f}; the absolute score with drift "
        f"r = {r(moved, drift):+.2f}; drift with BWT r = {r(drift, bwt):+.2f}; violation with BWT r = {r(share, bwt):+.2f}."
    )


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
    return Table(
        ["strength", "frozen", "joint", "between them"],
        [
            [f"{s:g}", f"{frozen:.1f}", f"{joint:.1f}", f"{joint - frozen:+.1f}"]
            for s, frozen, joint in accs[["frozen", "joint"]].itertuples()
        ],
    )


def bases_table(results: dict[str, Any]) -> Table:
    """Online Estimation's basis against GPM's, after the first and the last task."""
    first, last = results["tasks"][0], results["tasks"][-1]
    angles = "mean, largest angle"
    return Table(
        ["layer input", "after task 1: rank OE, GPM", angles, "after the last: rank OE, GPM", angles],
        [
            [
                key,
                *(
                    cell
                    for row in (first[key], last[key])
                    for cell in (
                        f"{row['rank_oe']}, {row['rank_gpm']}",
                        f"{row['mean_angle']:.1f}, {row['largest_angle']:.1f}",
                    )
                ),
            ]
            for key in first
        ],
    )


def only(
    runs: pd.DataFrame, tasks: int | None = None, strength: float = 1.0, epochs: int | None = None
) -> pd.DataFrame:
    """The runs of so many tasks, at this strength of the renditions, and of so many epochs a task; None: any."""
    kept = runs["data.strength"].fillna(1.0) == strength
    for key, value in (("data.tasks", tasks), ("training.epochs", epochs)):
        kept &= True if value is None else runs[key] == value
    return runs[kept]


def union(*found: pd.DataFrame) -> pd.DataFrame:
    """All runs; of a variant that several have, the last one's."""
    last = {variant: place for place, runs in enumerate(found) for variant in runs["variant"].unique()}
    return pd.concat([runs[runs["variant"].map(last) == place] for place, runs in enumerate(found)])


def compared(runs: pd.DataFrame) -> str:
    """What `janus report` says of the runs of one protocol: scores, ACC against frozen in the same seeds, where they come from."""
    tables = list(document.Section("", runs).parts().values())[:2]
    return "\n\n".join([*map(str, tables), provenance(runs)])


def plugged(ten: pd.DataFrame) -> str:
    """Figure 6: GR on top of GPM's basis, of Online Estimation's and of LoRA-DRS's."""
    shown = pick(ten, ("frozen", "GPM", "OE", "OE+GR", "GPM+GR", "LoRA-DRS", "LoRA-DRS+GR"))
    pairs = [
        ("GPM", "GPM+GR"),
        ("OE", "OE+GR"),
        ("LoRA-DRS", "LoRA-DRS+GR"),
        ("GPM+GR", "OE+GR"),
        *(("frozen", row) for row in ("GPM+GR", "LoRA-DRS", "LoRA-DRS+GR")),
    ]
    scores = overview(
        shown,
        ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift"),
        ("ImageNet-R, T=10, figure 6", PLUG_IN),
    )
    return "\n\n".join([str(scores), str(difference_table(shown, pairs)), provenance(shown)])


def field(runs: pd.DataFrame, cost: dict[str, Any]) -> str:
    """Published baselines beside ours: scores, what learning a task takes, what is kept between tasks."""
    scored, lines = overview(runs, ("ACC", "MAA", "BWT"), cite=False), []
    for (row, found), cells in zip(by_variant(runs).items(), scored.rows):
        facts = [properties.of_run(run) for _, run in found.iterrows()]
        step = cost["rows"].get(row)
        lines.append(
            [
                *cells,
                gain(runs, row),
                spread(found["seconds"], 0),
                f"{step['ratio']:.2f}" if step else NONE,
                properties.passes_text(facts[0]),
                f"{statistics.fmean(f['stored_bytes'] for f in facts) / 1e6:.2f}",
            ]
        )
    return str(
        Table(
            [
                *scored.header,
                "ACC over frozen",
                "seconds a run",
                "learning a task, × LoRA",
                "extra passes over a task's images",
                "MB kept",
            ],
            lines,
        )
    )


def strengths(ten: pd.DataFrame, icons: pd.DataFrame) -> str:
    """Table 3: ACC of the same rows at three strengths of the renditions, and what is gained over frozen."""
    found = {s: only(icons, strength=s) for s in (0.5, 0.75)}
    rows = found[0.5]["variant"].unique()
    found[1.0] = pick(ten, rows)
    table = Table(
        ["row", *(f"strength {s:g}: ACC" for s in found), *(f"over frozen at {s:g}, 95 %" for s in found)],
        [
            [
                row,
                *(spread(values(runs, row)) for runs in found.values()),
                *(gain(runs, row) for runs in found.values()),
            ]
            for row in rows
        ],
    )
    return f"{table}\n\n{provenance(pd.concat(found.values()))}"


def without_field(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[~runs["variant"].isin(PUBLISHED)]


def beside_field(runs: pd.DataFrame) -> str:
    """Published baselines between our two rows and the reference baselines."""
    shown = pick(runs, ("OE+GR", "exact", *PUBLISHED, "frozen", "ncm", "joint"))
    return f"{floored(shown)}\n\n{provenance(shown)}"


def capacity(runs: pd.DataFrame) -> str:
    """Streams of more and more tasks: what is protected at their end, and what it is worth."""
    lines = []
    for tasks, group in runs.groupby("data.tasks"):
        ranks = last_rank(group)
        lines += [
            [tasks, *cells, spread(ranks[group["variant"] == cells[0]])] for cells in floored(group).rows
        ]
    header = floored(runs).header
    return f"{Table(['tasks', *header, 'rank at the end'], lines)}\n\n{provenance(runs)}"


def last_rank(runs: pd.DataFrame) -> pd.Series:
    """Directions that are protected after the last task, mean over layer inputs, of each run."""
    return runs["layers"].map(lambda scores: statistics.fmean(scores["basis_rank"][-1].values()))


def schedules(runs: pd.DataFrame) -> str:
    """How much of the past to protect: schedules of ε, by ACC on validation; the best is bold. `frozen` protects nothing."""
    runs = runs.assign(floor=runs["variant"] == "frozen", rank=last_rank(runs))
    runs = runs.sort_values(["floor", "method.energy", "method.energy_end"], ascending=[False, True, True])
    lines = []
    for _, run in runs.iterrows():
        ends = (
            ["frozen", NONE]
            if run["floor"]
            else [f"{run[key]:g}" for key in ("method.energy", "method.energy_end")]
        )
        acc = f"**{run['acc']:.1f}**" if run["acc"] == runs["acc"].max() else f"{run['acc']:.1f}"
        lines.append(
            [
                *ends,
                acc,
                *(f"{run[key]:.1f}" for key in ("maa", "bwt", "learning_acc")),
                NONE if run["floor"] else f"{run['rank']:.1f}",
            ]
        )
    table = Table(
        ["ε of the first task", "of the last", "ACC", "MAA", "BWT", "learning acc.", "rank at the end"], lines
    )
    return f"{table}\n\n{provenance(runs)}"


def one_epoch(runs: pd.DataFrame) -> str:
    """Table 5: what both bases are worth, and cost, where each image is seen once."""
    return "\n\n".join(
        [
            str(overview(runs, ("ACC", "MAA", "BWT", "violation", "drift"))),
            str(difference_table(runs, [("GPM", "OE"), ("frozen", "OE"), ("frozen", "GPM")])),
            "Seconds a run:",
            str(seconds_table(runs)),
            provenance(runs),
        ]
    )


def groups() -> dict[str, pd.DataFrame]:
    """Group → its runs, of the committed results."""
    return dict(iter(read(RESULTS).groupby("group")))


def blocks() -> dict[str, str]:
    """The documents' marked places → what belongs there."""
    found = groups()
    rows, cross, icons, long = (found[name] for name in ("rows", "cross", "icons_r", "icons_r_capacity"))
    cost, bases, many, pipeline, counted, bench, learning = map(
        measurement,
        ("step_cost", "oe_vs_gpm", "many_tasks", "input_pipeline", "memory", "bench_cost", "methods_cost"),
    )
    ours = without_field(icons)  # more lines could not be told apart
    plots.trajectories(only(ours, tasks=20)).save(FIGURES / "trajectory_20_tasks")
    plots.capacity(long).save(FIGURES / "capacity")
    ten = union(
        only(icons, tasks=10), rows, cross
    )  # of the first only what the others have not: published baselines
    everyone = pick(ten, FIELD_ROWS)
    setting, photographs, photographs_20 = (
        properties.Setting(),
        *(only(found["tin100"], tasks=tasks) for tasks in (10, 20)),
    )
    wider = found["icons_r_energy_test"]
    energies = pd.concat(
        [
            pick(long, ["frozen"]),
            renamed(long, {"exact": "exact, ε = 0.95"}),
            renamed(wider, {"exact": "exact, ε = 0.99"}),
        ]
    )
    return {
        "methods": f"{properties.table(setting)}\n\nSizes: {setting}.",
        "rows": f"{overview(rows)}\n\n{provenance(rows)}",
        "differences": str(difference_table(union(rows, cross), STEPS)),
        "cross": str(cross_table(rows, cross)),
        "predictors": scatter(rows, cross),
        "dml": f"Forms of the margin loss on top of OE+GR, on validation, one seed:\n\n{form_table(found['dml'])}",
        "tune": "ACC on validation (one seed) by learning rate of the factors; the best of each row was taken:\n\n"
        f"{tuned(found['tune'])}",
        "strength": f"ACC on validation (one seed) by strength of the renditions:\n\n{strength_table(found['strength'])}",
        "bases": "Online Estimation's basis against GPM's, same run, same ε: rank, and principal angles between them (degrees):\n\n"
        f"{bases_table(bases)}",
        "cost": "Time of a training step as a multiple of PEFT's LoRA on `qkv` (same model, batch and rank; paired steps in one "
        f"process, median and quarter points):\n\n{step_table(cost)}\n\n{step_memory(cost)}\n\n"
        f"{cost['hardware']['cpu']}, torch {cost['versions']['torch']}, a machine shared with other work. "
        f"{against_ours(cost)}",
        "fewer_tasks": compared(only(icons, tasks=5)),
        "more_tasks": compared(only(icons, tasks=20)),
        "strengths": strengths(ten, icons),
        "plug_in": plugged(ten),
        "field": f"{field(everyone, learning)}\n\n{provenance(everyone)} Learning a task, × LoRA: medians of {learning['rounds']} "
        f"turns in one process, {learning['per_class']} images a class, {learning['hardware']['cpu']}.",
        "field_differences": str(difference_table(everyone, FIELD_STEPS)),
        "field_tune": searched(found["icons_r_tune"]),
        "capacity": capacity(long),
        "schedules": schedules(found["icons_r_energy"]),
        "energy": capacity(energies),
        "cost_parts": f"{seconds_table(found['icons_r_cost'])}\n\n{provenance(found['icons_r_cost'])}",
        "one_epoch": one_epoch(only(icons, epochs=1)),
        "photographs_tune": searched(found["tin100_tune"]),
        "photographs": compared(without_field(photographs)),
        "photographs_field": beside_field(photographs),
        "photographs_heads": str(difference_table(photographs, HEAD_STEPS)),
        "photographs_20": compared(without_field(photographs_20)),
        "photographs_field_20": beside_field(photographs_20),
        "photographs_heads_20": str(difference_table(photographs_20, HEAD_STEPS)),
        "photographs_epochs_tune": searched(found["tin100_epochs_tune"]),
        "photographs_epochs": compared(found["tin100_epochs"]),
        "memory": memory(counted),
        "bench": overhead(bench),
        "many": many_tasks(many),
        "input": input_pipeline(pipeline),
    } | report_icons_r2.blocks(found)


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
