"""Tables and figures of the Icons-R experiments, from `benchmarks/results/` alone.

    python benchmarks/report.py          # prints the tables, writes figures/, puts the tables into README.md
"""

from __future__ import annotations

import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy import stats

from janus import plots
from janus.ablation import CROSS, OTHER_ROWS, PAPER, PAPER_ROWS, ROWS, slug

HERE = Path(__file__).parent
README, FIGURES = HERE.parent / "README.md", HERE.parent / "figures"
Runs = dict[str, list[dict[str, Any]]]


def read(group: str) -> Runs:
    """name before `__` → its results, by seed."""
    runs: Runs = defaultdict(list)
    for path in sorted((HERE / "results" / group).glob("*.json")):
        runs[path.stem.partition("__")[0]].append(json.loads(path.read_text()))
    return runs


def spread(values: list[float | None], digits: int = 1) -> str:
    """mean ± standard deviation over seeds; — where there is no value."""
    kept = [v for v in values if v is not None]
    if not kept:
        return "—"
    mean = statistics.fmean(kept)
    if mean and abs(mean) < 10 ** -digits / 2:
        return f"{mean:.0e}"
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(kept):.{digits}f}" if len(kept) > 1 else "")


def rows_table(runs: Runs) -> str:
    """The paper's rows and what stands around them, ours beside the paper's."""
    lines = ["| row | seeds | ACC | MAA | BWT | learning acc. | task-aware acc. | violation | drift | danger "
             "| paper, ImageNet-R: ACC/MAA/BWT |",
             "|---|---|---|---|---|---|---|---|---|---|---|"]
    for row in [*PAPER_ROWS, *OTHER_ROWS]:
        found = runs.get(slug(row))
        if not found:
            continue
        columns = [str(len(found)), spread([r["acc"] for r in found]), "—" if row == "joint" else spread([r["maa"] for r in found])]
        columns += [spread([r[k] for r in found]) for k in ("bwt", "learning_acc", "task_aware_acc")]
        columns += [spread([r["violation"]["mean"]["all"] for r in found], 2), spread([r["drift"] for r in found], 2),
                    spread([r["danger"]["mean"] for r in found], 2)]
        columns += ["/".join(f"{v:.2f}" for v in PAPER[row]).replace("-", "−") if row in PAPER else ""]
        lines.append(f"| {row} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def differences(runs: Runs, steps: list[tuple[str, str]]) -> str:
    """Paired over seeds: ACC of the second minus ACC of the first, with the 95 % interval of the mean."""
    lines = ["| from → to | ACC difference, each seed | mean, 95 % interval |", "|---|---|---|"]
    for a, b in steps:
        first = {r["config"]["seed"]: r["acc"] for r in runs.get(slug(a), [])}
        second = {r["config"]["seed"]: r["acc"] for r in runs.get(slug(b), [])}
        pairs = [second[s] - first[s] for s in sorted(first.keys() & second.keys())]
        if not pairs:
            continue
        if len(pairs) == 1:
            lines.append(f"| {a} → {b} | {pairs[0]:+.1f} | one seed only |")
            continue
        half = stats.t.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / math.sqrt(len(pairs))  # Student, two-sided 95 %
        lines.append(f"| {a} → {b} | {', '.join(f'{d:+.1f}' for d in pairs)} | {statistics.fmean(pairs):+.1f} ± {half:.1f} |")
    return "\n".join(lines)


def cross_table(rows: Runs, cross: Runs) -> str:
    """adapter x init x gr x oe, DML off."""
    cells = {"LoRA": "shared, free, gr=none", "OE": "shared, free, OE, gr=none", "GR": "shared, free, gr=tangent",
             "OE+GR": "shared, free, OE, gr=tangent"}
    lines = ["| adapter, init, oe, gr | ACC | MAA | BWT | learning acc. | violation | drift |", "|---|---|---|---|---|---|---|"]
    named = [(label, rows.get(slug(row))) for row, label in cells.items()]
    named += [(row.replace(" ", ", "), cross.get(slug(row))) for row in CROSS]
    named.append(("merged, nullspace, OE, gr=exact", rows.get("exact")))
    for label, found in named:
        if found:
            columns = [spread([r[k] for r in found]) for k in ("acc", "maa", "bwt", "learning_acc")]
            columns += [spread([r["violation"]["mean"]["all"] for r in found], 2), spread([r["drift"] for r in found], 2)]
            lines.append(f"| {label} | " + " | ".join(columns) + " |")
    return "\n".join(lines)


def scatter(rows: Runs, cross: Runs) -> str:
    """Violation, drift and BWT of every protected or unprotected run with factors: the figure and its sentence."""
    points = [(name, result) for runs in (rows, cross) for name, found in runs.items() for result in found
              if result["drift"] is not None and name not in ("frozen", "ncm")]
    x = [result["violation"]["mean"]["all"] for _, result in points]
    y = [result["drift"] for _, result in points]
    z = [result["bwt"] for _, result in points]
    plots.predictors([name for name, _ in points], x, y, z).save(FIGURES / "violation_drift_bwt")
    norm = [result["past_output_norm"]["mean"]["all"] for _, result in points]
    r = statistics.correlation
    return (f"Over {len(points)} runs (Pearson): violation with drift r = {r(x, y):+.2f}; the absolute score with drift "
            f"r = {r(norm, y):+.2f}; drift with BWT r = {r(y, z):+.2f}; violation with BWT r = {r(x, z):+.2f}.")


def dml_table(runs: Runs, without: dict[str, Any]) -> str:
    """Forms of the margin loss on validation, on top of OE+GR."""
    found = sorted(((name, r[0]) for name, r in runs.items()), key=lambda item: -item[1]["acc"])
    lines = ["Forms of the margin loss on top of OE+GR, on validation, one seed:", "",
             "| form | ACC | MAA | BWT | danger |", "|---|---|---|---|---|"]
    lines += [f"| {name} | {r['acc']:.1f} | {r['maa']:.1f} | {r['bwt']:.1f} | {r['danger']['mean']:.2f} |"
              for name, r in [("no margin loss", without), *found]]
    return "\n".join(lines)


def cost_table(results: dict[str, Any]) -> str:
    """Time of a training step beside PEFT's LoRA on qkv."""
    lines = ["Time of a training step as a multiple of PEFT's LoRA on `qkv` (same model, batch and rank; paired steps in one "
             "process, median and quarter points):", "",
             "| model, batch, threads | " + " | ".join(results["cases"][0]["variants"]) + " |"]
    lines.append("|---" * (1 + len(results["cases"][0]["variants"])) + "|")
    for case in results["cases"]:
        cells = [f"{v['ratio']:.2f} ({v['low']:.2f} … {v['high']:.2f})" for v in case["variants"].values()]
        lines.append(f"| {case['model']}, {case['batch']}, {case['threads']} | " + " | ".join(cells) + " |")
    made_by = f"{results['hardware']['cpu']}, torch {results['versions']['torch']}, a machine shared with other work."
    return "\n".join([*lines, "", made_by])


def tune_table(runs: dict[str, dict[str, float]]) -> str:
    """Validation accuracy of each row at each learning rate."""
    rates = sorted({rate for found in runs.values() for rate in found}, key=float)
    lines = ["ACC on validation (one seed) by learning rate of the factors; the best of each row was taken:", "",
             "| row | " + " | ".join(rates) + " |", "|---" * (1 + len(rates)) + "|"]
    for row, found in runs.items():
        best = max(found.values())
        cells = [f"**{found[r]:.1f}**" if found[r] == best else f"{found[r]:.1f}" for r in rates if r in found]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def tuned() -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """row → rate → validation ACC, of the rows with factors; and head rate → ACC of `frozen`."""
    factors: dict[str, dict[str, float]] = {}
    heads: dict[str, float] = {}
    for row in ROWS | CROSS:
        for path in (HERE / "results" / "tune").glob(f"{slug(row)}__*.json"):
            result = json.loads(path.read_text())
            key = "head_lr" if row == "frozen" else "lr"
            (heads if row == "frozen" else factors.setdefault(row, {}))[f"{result['config'][key]:g}"] = result["acc"]
    return factors, dict(sorted(heads.items(), key=lambda item: float(item[0])))


def strength_table(runs: Runs) -> str:
    """frozen against joint on validation, by strength of the renditions."""
    found = {(name, r["config"]["data"]["strength"]): r["acc"] for name, results in runs.items() for r in results}
    strengths = sorted({s for _, s in found})
    lines = ["ACC on validation (one seed) by strength of the renditions:", "",
             "| strength | frozen | joint | between them |", "|---|---|---|---|"]
    lines += [f"| {s:g} | {found['frozen', s]:.1f} | {found['joint', s]:.1f} | {found['joint', s] - found['frozen', s]:+.1f} |"
              for s in strengths]
    return "\n".join(lines)


def bases_table(results: dict[str, Any]) -> str:
    """Online Estimation's basis against GPM's, after the first and the last task."""
    lines = ["Online Estimation's basis against GPM's, same run, same ε: rank, and principal angles between them (degrees):", "",
             "| layer input | after task 1: rank OE, GPM | mean, largest angle | after the last: rank OE, GPM "
             "| mean, largest angle |",
             "|---|---|---|---|---|"]
    for key in results["tasks"][0]:
        cells = [f"{row['rank_oe']}, {row['rank_gpm']} | {row['mean_angle']:.1f}, {row['largest_angle']:.1f}"
                 for row in (results["tasks"][0][key], results["tasks"][-1][key])]
        lines.append(f"| {key} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def provenance(runs: Runs) -> str:
    some = next(iter(runs.values()))[0]
    seeds = sorted({r["config"]["seed"] for found in runs.values() for r in found})
    return (f"Seeds {', '.join(map(str, seeds))} (class order, initialisation and batches; mean ± standard deviation where there "
            f"are several), {some['hardware']['cpu']}, {some['hardware']['threads']} thread a run, "
            f"torch {some['versions']['torch']}.")


def blocks() -> dict[str, str]:
    rows, cross = read("rows"), read("cross")
    steps = [("LoRA", "GPM"), ("LoRA", "OE"), ("GPM", "OE"), ("OE", "OE+GR"), ("GPM", "OE+GR"), ("OE+GR", "OE+GR+DML"),
             ("OE+GR", "exact"), ("exact", "exact+DML"), ("frozen", "LoRA"), ("frozen", "GPM"), ("frozen", "OE+GR"),
             ("frozen", "exact"), ("frozen", "exact+DML"), ("frozen", "joint"),
             ("OE+GR", "merged free OE gr=tangent"), ("merged free OE gr=tangent", "exact"),
             ("frozen", "merged free OE gr=tangent")]
    found = {"rows": f"{rows_table(rows)}\n\n{provenance(rows)}", "differences": differences(rows | cross, steps)}
    found["cross"] = cross_table(rows, cross)
    found["predictors"] = scatter(rows, cross)
    if dml := read("dml"):
        found["dml"] = dml_table({name: r for name, r in dml.items() if name != "none"}, dml["none"][0])
    factors, heads = tuned()
    found["tune"] = (tune_table(factors) + "\n\n`frozen`, by learning rate of its heads: "
                     + ", ".join(f"{rate}: {acc:.1f}" for rate, acc in heads.items()) + ".")
    if strength := read("strength"):
        found["strength"] = strength_table(strength)
    if (bases := HERE / "results" / "oe_vs_gpm.json").exists():
        found["bases"] = bases_table(json.loads(bases.read_text()))
    if (cost := HERE / "results" / "step_cost.json").exists():
        found["cost"] = cost_table(json.loads(cost.read_text()))
    return found


def main() -> None:
    text = README.read_text()
    for name, block in blocks().items():
        print(f"\n{name}\n{block}")
        opening, closing = f"<!-- report:{name} -->", f"<!-- /report:{name} -->"
        if opening in text:
            before, _, rest = text.partition(opening)
            text = f"{before}{opening}\n{block}\n{closing}{rest.partition(closing)[2]}"
    README.write_text(text)


if __name__ == "__main__":
    main()
