"""Tables and figures of the experiments, from `benchmarks/results/` alone.

    python benchmarks/report.py          # prints the tables, puts them into the documents, writes figures/
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pandas as pd
import report_icons_r2
from report_parts import floored, gain, provenance

from janus import plots, properties
from janus import report as document
from janus.ablation import CROSS, FIELD
from janus.compare import NONE, by_variant, pick, spread, values
from janus.paper import PLUG_IN
from janus.resources import measurement
from janus.store import read
from janus.tables import Table, difference_table, form_table, overview, rate_table, seconds_table, step_table

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE.parent / "figures"
DOCUMENTS = (HERE.parent / "README.md", HERE / "README.md", HERE.parent / "docs" / "results" / "icons_r2.md")

BEST = "merged free OE gr=tangent"  # of Janus's variants with the linear heads, by validation
STEPS = [("LoRA", "GPM"), ("LoRA", "OE"), ("GPM", "OE"), ("OE", "OE+GR"), ("GPM", "OE+GR"), ("OE+GR", "OE+GR+DML"),
         ("OE+GR", "exact"), ("exact", "exact+DML"), ("frozen", "LoRA"), ("frozen", "GPM"), ("frozen", "OE+GR"),
         ("frozen", "exact"), ("frozen", "exact+DML"), ("frozen", "joint"),
         ("OE+GR", BEST), (BEST, "exact"), ("frozen", BEST)]
FIELD_ROWS = ("LoRA", "GPM", "OE+GR", "OE+GR+DML", "exact", BEST, *FIELD, "frozen", "ncm", "joint")
HEAD_STEPS = [*(("RanPAC", f"{row}, RanPAC head") for row in ("LoRA", "exact", "OE+GR")),
              *(("LoRA, RanPAC head", f"{row}, RanPAC head") for row in ("exact", "OE+GR"))]
FIELD_STEPS = [*((row, BEST) for row in (*FIELD, "ncm") if "RanPAC" not in row), ("ncm", "LoRA-DRS, class means"),
               *HEAD_STEPS]
SHARED = {"LoRA": "shared, free, gr=none", "OE": "shared, free, OE, gr=none", "GR": "shared, free, gr=tangent",
          "OE+GR": "shared, free, OE, gr=tangent"}  # the paper's rows as cells of the cross


def renamed(runs: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """The runs of some variants, in this order, under other names."""
    chosen = pick(runs, names)
    return chosen.assign(variant=chosen["variant"].map(names))


def cross_table(rows: pd.DataFrame, cross: pd.DataFrame) -> Table:
    """adapter x init x gr x oe, DML off."""
    names = SHARED | {row: row.replace(" ", ", ") for row in CROSS} | {"exact": "merged, nullspace, OE, gr=exact"}
    table = overview(renamed(pd.concat([rows, cross]), names),
                     ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift"))
    return Table(["adapter, init, oe, gr", *table.header[1:]], table.rows)


def scatter(rows: pd.DataFrame, cross: pd.DataFrame) -> str:
    """What the violation, the absolute score and drift say about one another: the figure and its sentence."""
    runs = pd.concat([rows, cross])
    runs = runs[runs["drift"].notna() & ~runs["variant"].isin(("frozen", "ncm"))]
    share, moved, drift, bwt = (runs[key].tolist() for key in ("violation", "past_output_norm", "drift", "bwt"))
    plots.predictors(runs["variant"].tolist(), {"relative violation": share, "absolute score": moved},
                     {"drift of old features": drift, "BWT (points)": bwt}).save(FIGURES / "violation_drift_bwt")
    r = statistics.correlation
    return (f"Over {len(runs)} runs (Pearson): violation with drift r = {r(share, drift):+.2f}; the absolute score with drift "
            f"r = {r(moved, drift):+.2f}; drift with BWT r = {r(drift, bwt):+.2f}; violation with BWT r = {r(share, bwt):+.2f}.")


def tuned(tune: pd.DataFrame) -> str:
    """Validation accuracy of each row at each learning rate, and of `frozen` at each rate of its heads."""
    frozen = tune["variant"] == "frozen"
    heads = tune[frozen].sort_values("training.head_lr")
    said = ", ".join(f"{rate:g}: {acc:.1f}" for rate, acc in zip(heads["training.head_lr"], heads["acc"]))
    return f"{rate_table(tune[~frozen])}\n\n`frozen`, by learning rate of its heads: {said}."


def searched(runs: pd.DataFrame) -> str:
    """Learning rates on validation, those of `frozen` of its heads."""
    return ("ACC on validation (one seed) by learning rate; the best of each row was taken:\n\n"
            f"{rate_table(runs)}\n\n{provenance(runs)}")


def strength_table(runs: pd.DataFrame) -> Table:
    """frozen against joint on validation, by strength of the renditions."""
    runs = runs.assign(strength=runs["data.strength"].fillna(1.0))
    accs = runs.pivot(index="strength", columns="variant", values="acc").sort_index()
    return Table(["strength", "frozen", "joint", "between them"], [
        [f"{s:g}", f"{frozen:.1f}", f"{joint:.1f}", f"{joint - frozen:+.1f}"]
        for s, frozen, joint in accs[["frozen", "joint"]].itertuples()])


def bases_table(results: dict[str, Any]) -> Table:
    """Online Estimation's basis against GPM's, after the first and the last task."""
    first, last = results["tasks"][0], results["tasks"][-1]
    angles = "mean, largest angle"
    return Table(["layer input", "after task 1: rank OE, GPM", angles, "after the last: rank OE, GPM", angles], [
        [key, *(cell for row in (first[key], last[key])
                for cell in (f"{row['rank_oe']}, {row['rank_gpm']}", f"{row['mean_angle']:.1f}, {row['largest_angle']:.1f}"))]
        for key in first])


def only(runs: pd.DataFrame, tasks: int | None = None, strength: float = 1.0, epochs: int | None = None) -> pd.DataFrame:
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
    pairs = [("GPM", "GPM+GR"), ("OE", "OE+GR"), ("LoRA-DRS", "LoRA-DRS+GR"), ("GPM+GR", "OE+GR"),
             *(("frozen", row) for row in ("GPM+GR", "LoRA-DRS", "LoRA-DRS+GR"))]
    scores = overview(shown, ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift"), ("ImageNet-R, T=10, figure 6", PLUG_IN))
    return "\n\n".join([str(scores), str(difference_table(shown, pairs)), provenance(shown)])


def field(runs: pd.DataFrame, cost: dict[str, Any]) -> str:
    """The field's methods beside ours: scores, what learning a task takes, what is kept between tasks."""
    scored, lines = overview(runs, ("ACC", "MAA", "BWT"), cite=False), []
    for (row, found), cells in zip(by_variant(runs).items(), scored.rows):
        facts = [properties.of_run(run) for _, run in found.iterrows()]
        step = cost["rows"].get(row)
        lines.append([*cells, gain(runs, row), spread(found["seconds"], 0),
                      f"{step['ratio']:.2f}" if step else NONE, properties.passes_text(facts[0]),
                      f"{statistics.fmean(f['stored_bytes'] for f in facts) / 1e6:.2f}"])
    return str(Table([*scored.header, "ACC over frozen", "seconds a run", "learning a task, × LoRA",
                      "extra passes over a task's images", "MB kept"], lines))


def strengths(ten: pd.DataFrame, icons: pd.DataFrame) -> str:
    """Table 3: ACC of the same rows at three strengths of the renditions, and what is gained over frozen."""
    found = {s: only(icons, strength=s) for s in (0.5, 0.75)}
    rows = found[0.5]["variant"].unique()
    found[1.0] = pick(ten, rows)
    table = Table(["row", *(f"strength {s:g}: ACC" for s in found), *(f"over frozen at {s:g}, 95 %" for s in found)], [
        [row, *(spread(values(runs, row)) for runs in found.values()),
         *(gain(runs, row) for runs in found.values())] for row in rows])
    return f"{table}\n\n{provenance(pd.concat(found.values()))}"


def without_field(runs: pd.DataFrame) -> pd.DataFrame:
    return runs[~runs["variant"].isin(FIELD)]


def beside_field(runs: pd.DataFrame) -> str:
    """The field's methods between our two and the floors."""
    shown = pick(runs, ("OE+GR", "exact", *FIELD, "frozen", "ncm", "joint"))
    return f"{floored(shown)}\n\n{provenance(shown)}"


def capacity(runs: pd.DataFrame) -> str:
    """Streams of more and more tasks: what is protected at their end, and what it is worth."""
    lines = []
    for tasks, group in runs.groupby("data.tasks"):
        ranks = last_rank(group)
        lines += [[tasks, *cells, spread(ranks[group["variant"] == cells[0]])] for cells in floored(group).rows]
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
        ends = ["frozen", NONE] if run["floor"] else [f"{run[key]:g}" for key in ("method.energy", "method.energy_end")]
        acc = f"**{run['acc']:.1f}**" if run["acc"] == runs["acc"].max() else f"{run['acc']:.1f}"
        lines.append([*ends, acc, *(f"{run[key]:.1f}" for key in ("maa", "bwt", "learning_acc")),
                      NONE if run["floor"] else f"{run['rank']:.1f}"])
    table = Table(["ε of the first task", "of the last", "ACC", "MAA", "BWT", "learning acc.", "rank at the end"], lines)
    return f"{table}\n\n{provenance(runs)}"


def one_epoch(runs: pd.DataFrame) -> str:
    """Table 5: what both bases are worth, and cost, where each image is seen once."""
    return "\n\n".join([str(overview(runs, ("ACC", "MAA", "BWT", "violation", "drift"))),
                        str(difference_table(runs, [("GPM", "OE"), ("frozen", "OE"), ("frozen", "GPM")])),
                        "Seconds a run:", str(seconds_table(runs)), provenance(runs)])


def step_memory(cost: dict[str, Any]) -> str:
    """Resident memory of the cases in which it was measured, as a multiple of PEFT's."""
    said = []
    for case in cost["cases"]:
        found = {name: v["megabytes"] for name, v in case["variants"].items() if "megabytes" in v}
        if found:
            base, *others = found
            said.append(f"{case['model']}, batch {case['batch']}: {found[base]:.0f} MB with {base}, " + ", ".join(
                f"{found[name] / found[base]:.2f} × that with {name}" for name in others))
    return f"Peak resident memory, {'; '.join(said)}." if said else ""


def against_ours(cost: dict[str, Any]) -> str:
    """The same medians as a multiple of janus's own LoRA on K and V, which adapts what Janus adapts."""
    base, said = "janus LoRA on k, v", []
    for case in cost["cases"]:
        ours = case["variants"][base]
        found = {name: v for name, v in case["variants"].items() if name.endswith("+ OE + DML")}
        said.append(f"{case['model']}: " + ", ".join(
            f"{name} {v['ratio'] / ours['ratio']:.2f} × the time, {v['megabytes'] / ours['megabytes']:.2f} × the memory"
            for name, v in found.items()))
    return f"Against {base}, by the quotients of these medians: {'; '.join(said)}."


def memory(record: dict[str, Any]) -> str:
    """What a batch of the paper's protocol needs, counted; plain LoRA, then Janus as a multiple of it."""
    def gigabytes(name: str, precision: str) -> float:
        case = record["counted"][name][precision]
        return (case["fixed"] + 128 * case["image"]) / 1e3

    base, *others = record["counted"]
    said = []
    for precision in record["counted"][base]:
        least = gigabytes(base, precision)
        said.append(f"in {precision} {least:.1f} GB with {base}, " + ", ".join(
            f"{gigabytes(name, precision) / least:.2f} × that with {name}" for name in others))
    return (f"What a training step of {record['model']} keeps (batch 128, 224 px, rank {record['rank']}, {record['basis']} "
            f"protected directions a layer), counted tensor by tensor, not measured on a card: {'; '.join(said)}.")


def overhead(record: dict[str, Any]) -> str:
    """`janus bench` beside `janus run`, and two workers beside one."""
    runs = record["run_seconds"]
    workers, plain = f"{record['speed_up']:.2f} ×", f"{record['pairs_speed_up']:.2f} ×"
    return (f"{len(runs)} small runs of one thread each: {statistics.fmean(runs):.0f} s a run as `janus run`, "
            f"{record['overhead_seconds']:+.1f} s a run as `janus bench`, whose two workers are {workers} as fast as "
            f"one ({record['hardware']['cpu']}, imports, kernels and the cluster's start included). Two commands `janus run` side "
            f"by side are {plain} as fast as one after another: what the machine gives.")


def many_tasks(record: dict[str, Any]) -> str:
    """How a step's time and the process's memory change over a hundred tasks."""
    said = []
    for name, rows in record["methods"].items():
        fifth = len(rows) // 5
        early, late = rows[fifth : 2 * fifth], rows[-fifth:]
        ratio = statistics.median(row["ms"] for row in late) / statistics.median(row["ms"] for row in early)
        grown = (late[-1]["resident"] - early[0]["resident"]) / 1e6
        said.append(f"{name} {ratio:.2f} × and {grown:+.0f} MB")
    count = len(next(iter(record["methods"].values())))
    kept = sum(late[-1][key] for key in ("heads", "basis", "prototypes", "test features")) / 1e6
    return (f"Over {count} tiny tasks, from the second fifth to the last: time of a step and resident memory of the process "
            f"{', '.join(said)} ({record['hardware']['cpu']}, {record['hardware']['threads']} thread, one run each). "
            f"Heads, basis, prototypes and the test features that drift is measured with are {kept:.1f} MB at the end; "
            "images were decoded before the first task, and freed memory was given back before each look.")


def input_pipeline(record: dict[str, Any]) -> str:
    """Photographs from the decoded cache, augmented, against a DataLoader that decodes."""
    case = record["case"]
    speed, ratio = case["images_per_core_second"], case["ratio"]
    width, height = case["photograph"]
    return (f"{case['images']} photographs of {width} x {height} pixels to {case['size']}, cropped and flipped: "
            f"{speed['cache']:.0f} images a second and core from the decoded cache, {speed['dataloader']:.0f} from a "
            f"DataLoader that decodes JPEG with Pillow; round by round {ratio['median']:.1f} × ({ratio['lowest']:.1f} … "
            f"{ratio['highest']:.1f}; "
            f"{case['rounds']} rounds, {record['hardware']['cpu']}, {record['hardware']['threads']} thread, a machine shared with "
            "other work).")


def groups() -> dict[str, pd.DataFrame]:
    """Group → its runs, of the committed results."""
    return dict(iter(read(RESULTS).groupby("group")))


def blocks() -> dict[str, str]:
    """The documents' marked places → what belongs there."""
    found = groups()
    rows, cross, icons, long = (found[name] for name in ("rows", "cross", "icons_r", "icons_r_capacity"))
    cost, bases, many, pipeline, counted, bench, learning = map(measurement, (
        "step_cost", "oe_vs_gpm", "many_tasks", "input_pipeline", "memory", "bench_cost", "methods_cost"))
    ours = without_field(icons)  # more lines could not be told apart
    plots.trajectories(only(ours, tasks=20)).save(FIGURES / "trajectory_20_tasks")
    plots.capacity(long).save(FIGURES / "capacity")
    ten = union(only(icons, tasks=10), rows, cross)  # of the first only what the others have not: the field's methods
    everyone = pick(ten, FIELD_ROWS)
    setting, photographs, photographs_20 = properties.Setting(), *(only(found["tin100"], tasks=tasks) for tasks in (10, 20))
    wider = found["icons_r_energy_test"]
    energies = pd.concat([pick(long, ["frozen"]), renamed(long, {"exact": "exact, ε = 0.95"}),
                          renamed(wider, {"exact": "exact, ε = 0.99"})])
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
