"""Tables and figures of the experiments, from `benchmarks/results/` alone.

    python benchmarks/report.py          # prints the tables, puts them into the two README.md, writes figures/
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from janus import plots, properties
from janus import report as document
from janus.ablation import CROSS, FIELD
from janus.compare import NONE, Rows, interval, paired, read, score, spread, values
from janus.paper import PLUG_IN
from janus.resources import measurement
from janus.result import Result
from janus.tables import Table, difference_table, form_table, overview, rate_table, seconds_table, step_table
from janus.timing import total

HERE = Path(__file__).parent
RESULTS, FIGURES = HERE / "results", HERE.parent / "figures"
DOCUMENTS = (HERE.parent / "README.md", HERE / "README.md")

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


def cross_table(rows: Rows, cross: Rows) -> Table:
    """adapter x init x gr x oe, DML off."""
    named = {label: rows.get(row) for row, label in SHARED.items()} | {row.replace(" ", ", "): cross.get(row) for row in CROSS}
    named["merged, nullspace, OE, gr=exact"] = rows.get("exact")
    table = overview({label: found for label, found in named.items() if found},
                     ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift"))
    return Table(["adapter, init, oe, gr", *table.header[1:]], table.rows)


def scatter(rows: Rows, cross: Rows) -> str:
    """What the violation, the absolute score and drift say about one another: the figure and its sentence."""
    runs = [(name, run) for group in (rows, cross) for name, found in group.items() for run in found
            if run.drift is not None and name not in ("frozen", "ncm")]
    share, moved, drift, bwt = ([score(run, key) for _, run in runs] for key in ("violation", "past_output_norm", "drift", "bwt"))
    plots.predictors([name for name, _ in runs], {"relative violation": share, "absolute score": moved},
                     {"drift of old features": drift, "BWT (points)": bwt}).save(FIGURES / "violation_drift_bwt")
    r = statistics.correlation
    return (f"Over {len(runs)} runs (Pearson): violation with drift r = {r(share, drift):+.2f}; the absolute score with drift "
            f"r = {r(moved, drift):+.2f}; drift with BWT r = {r(drift, bwt):+.2f}; violation with BWT r = {r(share, bwt):+.2f}.")


def tuned(tune: Rows) -> str:
    """Validation accuracy of each row at each learning rate, and of `frozen` at each rate of its heads."""
    heads = sorted((run.config["head_lr"], run.acc) for run in tune["frozen"])
    factors = rate_table({row: runs for row, runs in tune.items() if row != "frozen"})
    return f"{factors}\n\n`frozen`, by learning rate of its heads: {', '.join(f'{rate:g}: {acc:.1f}' for rate, acc in heads)}."


def searched(rows: Rows) -> str:
    """Learning rates on validation, those of `frozen` of its heads."""
    return ("ACC on validation (one seed) by learning rate; the best of each row was taken:\n\n"
            f"{rate_table(rows)}\n\n{provenance(rows)}")


def strength_table(runs: Rows) -> Table:
    """frozen against joint on validation, by strength of the renditions."""
    frozen, joint = ({run.config["data"]["strength"]: run.acc for run in runs[row]} for row in ("frozen", "joint"))
    return Table(["strength", "frozen", "joint", "between them"], [
        [f"{s:g}", f"{frozen[s]:.1f}", f"{joint[s]:.1f}", f"{joint[s] - frozen[s]:+.1f}"] for s in sorted(frozen)])


def bases_table(results: dict[str, Any]) -> Table:
    """Online Estimation's basis against GPM's, after the first and the last task."""
    first, last = results["tasks"][0], results["tasks"][-1]
    angles = "mean, largest angle"
    return Table(["layer input", "after task 1: rank OE, GPM", angles, "after the last: rank OE, GPM", angles], [
        [key, *(cell for row in (first[key], last[key])
                for cell in (f"{row['rank_oe']}, {row['rank_gpm']}", f"{row['mean_angle']:.1f}, {row['largest_angle']:.1f}"))]
        for key in first])


def only(rows: Rows, **settings: Any) -> Rows:
    """The runs that have these settings; rows without any are left out."""
    kept = {row: [run for run in found if settings.items() <= run.config.items()] for row, found in rows.items()}
    return {row: found for row, found in kept.items() if found}


def compared(rows: Rows) -> str:
    """What `janus report` says of the runs of one protocol: scores, ACC against frozen in the same seeds, where they come from."""
    tables = list(document.Section("", rows).parts().values())[:2]
    return "\n\n".join([*map(str, tables), provenance(rows)])


def plugged(ten: Rows) -> str:
    """Figure 6: GR on top of GPM's basis, of Online Estimation's and of LoRA-DRS's."""
    shown = {row: ten[row] for row in ("frozen", "GPM", "OE", "OE+GR", "GPM+GR", "LoRA-DRS", "LoRA-DRS+GR")}
    pairs = [("GPM", "GPM+GR"), ("OE", "OE+GR"), ("LoRA-DRS", "LoRA-DRS+GR"), ("GPM+GR", "OE+GR"),
             *(("frozen", row) for row in ("GPM+GR", "LoRA-DRS", "LoRA-DRS+GR"))]
    scores = overview(shown, ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift"), ("ImageNet-R, T=10, figure 6", PLUG_IN))
    return "\n\n".join([str(scores), str(difference_table(shown, pairs)), provenance(shown)])


def field(rows: Rows, cost: dict[str, Any]) -> str:
    """The field's methods beside ours: scores, what learning a task takes, what is kept between tasks."""
    scored, lines = overview(rows, ("ACC", "MAA", "BWT"), cite=False), []
    for (row, found), cells in zip(rows.items(), scored.rows):
        facts = [properties.of_run(run) for run in found]
        step = cost["rows"].get(row)
        lines.append([*cells, gain(rows, row), spread([total(run.seconds) for run in found], 0),
                      f"{step['ratio']:.2f}" if step else NONE, properties.passes_text(facts[0]),
                      f"{statistics.fmean(f['stored_bytes'] for f in facts) / 1e6:.2f}"])
    return str(Table([*scored.header, "ACC over frozen", "seconds a run", "learning a task, × LoRA",
                      "extra passes over a task's images", "MB kept"], lines))


def gain(rows: Rows, row: str) -> str:
    """ACC over frozen in the same seeds: mean, and its 95 % interval."""
    found = list(paired(rows, "frozen", row).values())
    if row == "frozen" or not found:
        return NONE
    return f"{statistics.fmean(found):+.1f}" + (f" ± {interval(found):.1f}" if len(found) > 1 else "")


def strengths(ten: Rows, icons: Rows) -> str:
    """Table 3: ACC of the same rows at three strengths of the renditions, and what is gained over frozen."""
    found = {s: only(icons, data={"strength": s}) for s in (0.5, 0.75)}
    found[1.0] = {row: ten[row] for row in found[0.5]}
    table = Table(["row", *(f"strength {s:g}: ACC" for s in found), *(f"over frozen at {s:g}, 95 %" for s in found)], [
        [row, *(spread(values(group[row], "acc")) for group in found.values()),
         *(gain(group, row) for group in found.values())] for row in found[0.5]])
    everything = {row: [run for group in found.values() for run in group[row]] for row in found[0.5]}
    return f"{table}\n\n{provenance(everything)}"


def floored(rows: Rows) -> Table:
    """Scores, and ACC over frozen."""
    scored = overview(rows, ("ACC", "MAA", "BWT", "learning acc.", "violation", "drift"), cite=False)
    return Table([*scored.header, "ACC over frozen"], [[*cells, gain(rows, row)] for row, cells in zip(rows, scored.rows)])


def without_field(rows: Rows) -> Rows:
    return {row: runs for row, runs in rows.items() if row not in FIELD}


def beside_field(rows: Rows) -> str:
    """The field's methods between our two and the floors."""
    shown = {row: rows[row] for row in ("OE+GR", "exact", *FIELD, "frozen", "ncm", "joint") if row in rows}
    return f"{floored(shown)}\n\n{provenance(shown)}"


def capacity(rows: Rows) -> str:
    """Streams of more and more tasks: what is protected at their end, and what it is worth."""
    lines = []
    for tasks in sorted({run.config["tasks"] for found in rows.values() for run in found}):
        group = only(rows, tasks=tasks)
        table = floored(group)
        lines += [[tasks, *cells, spread([last_rank(run) for run in found])] for found, cells in zip(group.values(), table.rows)]
    return f"{Table(['tasks', *table.header, 'rank at the end'], lines)}\n\n{provenance(rows)}"


def last_rank(run: Result) -> float:
    """Directions that are protected after the last task, mean over layer inputs."""
    return statistics.fmean(run.basis_rank[-1].values())


def schedules(rows: Rows) -> str:
    """How much of the past to protect: schedules of ε, by ACC on validation; the best is bold. `frozen` protects nothing."""
    found = sorted((run for runs in rows.values() for run in runs),
                   key=lambda r: (r.config["method"] != "frozen", r.config["energy"], r.config["energy_end"]))
    best, lines = max(run.acc for run in found), []
    for run in found:
        floor = run.config["method"] == "frozen"
        ends = ["frozen", NONE] if floor else [f"{run.config[key]:g}" for key in ("energy", "energy_end")]
        lines.append([*ends, f"**{run.acc:.1f}**" if run.acc == best else f"{run.acc:.1f}", f"{run.maa:.1f}", f"{run.bwt:.1f}",
                      f"{run.learning_acc:.1f}", NONE if floor else f"{last_rank(run):.1f}"])
    table = Table(["ε of the first task", "of the last", "ACC", "MAA", "BWT", "learning acc.", "rank at the end"], lines)
    return f"{table}\n\n{provenance(rows)}"


def one_epoch(rows: Rows) -> str:
    """Table 5: what both bases are worth, and cost, where each image is seen once."""
    return "\n\n".join([str(overview(rows, ("ACC", "MAA", "BWT", "violation", "drift"))),
                        str(difference_table(rows, [("GPM", "OE"), ("frozen", "OE"), ("frozen", "GPM")])),
                        "Seconds a run:", str(seconds_table(rows)), provenance(rows)])


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


def provenance(rows: Rows) -> str:
    some = next(iter(rows.values()))[0]
    seeds = sorted({run.config["seed"] for found in rows.values() for run in found})
    machines = sorted({run.hardware["cpu"] for found in rows.values() for run in found})
    return (f"Seeds {', '.join(map(str, seeds))} (class order, initialisation and batches; mean ± standard deviation where there "
            f"are several), {' and '.join(machines)}, {some.hardware['threads']} thread a run, torch {some.versions['torch']}.")


def blocks() -> dict[str, str]:
    """The documents' marked places → what belongs there."""
    groups = read(RESULTS)
    rows, cross = groups["rows"], groups["cross"]
    cost, bases, many, pipeline, counted, bench, learning = map(measurement, (
        "step_cost", "oe_vs_gpm", "many_tasks", "input_pipeline", "memory", "bench_cost", "methods_cost"))
    icons = groups["icons_r"]
    ours = without_field(icons)  # more lines could not be told apart
    plots.trajectories(only(ours, tasks=20, data={})).save(FIGURES / "trajectory_20_tasks")
    plots.capacity(groups["icons_r_capacity"]).save(FIGURES / "capacity")
    ten = only(icons, tasks=10, data={}) | rows | cross  # of the first only what the others have not: the field's methods
    everyone = {row: ten[row] for row in FIELD_ROWS}
    setting, photographs, photographs_20 = properties.Setting(), *(only(groups["tin100"], tasks=tasks) for tasks in (10, 20))
    return {
        "methods": f"{properties.table(setting)}\n\nSizes: {setting}.",
        "rows": f"{overview(rows)}\n\n{provenance(rows)}",
        "differences": str(difference_table(rows | cross, STEPS)),
        "cross": str(cross_table(rows, cross)),
        "predictors": scatter(rows, cross),
        "dml": f"Forms of the margin loss on top of OE+GR, on validation, one seed:\n\n{form_table(groups['dml'])}",
        "tune": "ACC on validation (one seed) by learning rate of the factors; the best of each row was taken:\n\n"
                f"{tuned(groups['tune'])}",
        "strength": f"ACC on validation (one seed) by strength of the renditions:\n\n{strength_table(groups['strength'])}",
        "bases": "Online Estimation's basis against GPM's, same run, same ε: rank, and principal angles between them (degrees):\n\n"
                 f"{bases_table(bases)}",
        "cost": "Time of a training step as a multiple of PEFT's LoRA on `qkv` (same model, batch and rank; paired steps in one "
                f"process, median and quarter points):\n\n{step_table(cost)}\n\n{step_memory(cost)}\n\n"
                f"{cost['hardware']['cpu']}, torch {cost['versions']['torch']}, a machine shared with other work. "
                f"{against_ours(cost)}",
        "fewer_tasks": compared(only(icons, tasks=5, data={})),
        "more_tasks": compared(only(icons, tasks=20, data={})),
        "strengths": strengths(ten, icons),
        "plug_in": plugged(ten),
        "field": f"{field(everyone, learning)}\n\n{provenance(everyone)} Learning a task, × LoRA: medians of {learning['rounds']} "
                 f"turns in one process, {learning['per_class']} images a class, {learning['hardware']['cpu']}.",
        "field_differences": str(difference_table(everyone, FIELD_STEPS)),
        "field_tune": searched(groups["icons_r_tune"]),
        "capacity": capacity(groups["icons_r_capacity"]),
        "schedules": schedules(groups["icons_r_energy"]),
        "energy": capacity({"frozen": groups["icons_r_capacity"]["frozen"], "exact, ε = 0.95": groups["icons_r_capacity"]["exact"],
                            "exact, ε = 0.99": groups["icons_r_energy_test"]["exact"]}),
        "cost_parts": f"{seconds_table(groups['icons_r_cost'])}\n\n{provenance(groups['icons_r_cost'])}",
        "one_epoch": one_epoch(only(icons, epochs=1)),
        "photographs_tune": searched(groups["tin100_tune"]),
        "photographs": compared(without_field(photographs)),
        "photographs_field": beside_field(photographs),
        "photographs_heads": str(difference_table(photographs, HEAD_STEPS)),
        "photographs_20": compared(without_field(photographs_20)),
        "photographs_field_20": beside_field(photographs_20),
        "photographs_heads_20": str(difference_table(photographs_20, HEAD_STEPS)),
        "photographs_epochs_tune": searched(groups["tin100_epochs_tune"]),
        "photographs_epochs": compared(groups["tin100_epochs"]),
        "memory": memory(counted),
        "bench": overhead(bench),
        "many": many_tasks(many),
        "input": input_pipeline(pipeline),
    }


def main() -> None:
    texts, found = {path: path.read_text() for path in DOCUMENTS}, blocks()
    for name, block in found.items():
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
