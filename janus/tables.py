"""Tables over results: what a run found, how rows compare, what they cost, where the numbers come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

from . import paper
from .compare import NONE, Rows, interval, number, paired, spread, values
from .result import Result
from .timing import total


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; shows itself as a Markdown table wherever Markdown is shown. `**…**` in a cell is bold."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/markdown": str(self)}

    def plain(self) -> str:
        """Aligned columns for a terminal; the last one is as wide as it is."""
        lines = [[str(cell) for cell in line] for line in (self.header, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)

    def html(self) -> str:
        def line(cells: Sequence[Any], tag: str) -> str:
            written = [_BOLD.sub(r"<b>\1</b>", escape(str(cell))) for cell in cells]
            return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in written) + "</tr>"

        body = "\n".join(line(row, "td") for row in self.rows)
        return f"<table>\n<thead>{line(self.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"

    def tex(self) -> str:
        """A tabular in the style of booktabs."""
        def line(cells: Sequence[Any]) -> str:
            return " & ".join(_BOLD.sub(r"\\textbf{\1}", "".join(_TEX.get(c, c) for c in str(cell))) for cell in cells) + r" \\"

        body = "\n".join(map(line, self.rows))
        return (f"\\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}\n\\toprule\n{line(self.header)}\n\\midrule\n{body}\n"
                "\\bottomrule\n\\end{tabular}")


_BOLD = re.compile(r"\*\*(.+?)\*\*")
_TEX = {**{c: "\\" + c for c in "&%$#_{}"}, "±": r"$\pm$", "→": r"$\to$", "−": "$-$", "—": "---", "…": r"\ldots{}",
        "×": r"$\times$", "ε": r"$\varepsilon$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def scores(result: Result) -> Table:
    """The scores of one run, each with what it means. Accuracies in per cent, differences in points."""
    values = [
        ("ACC", result.acc, "accuracy over all classes after the last task"),
        ("MAA", result.maa, "mean of that accuracy over the tasks"),
        ("BWT", result.bwt, "mean change of an old task's accuracy since it was learned"),
        ("forgetting", result.forgetting, "mean loss of an old task since its best"),
        ("learning accuracy", result.learning_acc, "mean accuracy of a task right after it was learned, all seen classes in play"),
        ("task-aware accuracy", result.task_aware_acc, "accuracy at the end if the right task were known"),
    ]
    return Table(["score", "value", "meaning"], [(name, number(value), meaning) for name, value, meaning in values])


def parts(result: Result) -> Table:
    """Seconds of one run by part; `train` has those of `gr` and `data` in it, and of `oe` what happens inside a step."""
    meanings = {"train": "training steps", "eval": "evaluation after each task", "oe": "estimating the past's inputs",
                "gr": "the optimiser's step of the factors (within train)", "data": "waiting for a batch of images (within train)"}
    return Table(["part", "seconds", "what"], [(k, f"{v:.1f}", meanings.get(k, "")) for k, v in result.seconds.items()])


# ── tables over rows ────────────────────────────────────────────────────────────────────────────────────────────────────


KINDS = {"ACC": "acc", "MAA": "maa", "BWT": "bwt", "learning acc.": "learning_acc", "task-aware acc.": "task_aware_acc",
         "violation": "violation", "drift": "drift", "danger": "danger"}  # column → `compare.score`'s key
SHARES = ("violation", "drift", "danger")  # no per cent: two digits


def overview(rows: Rows, kinds: Sequence[str] = tuple(KINDS), cite: bool | tuple[str, paper.Scores] = True) -> Table:
    """mean ± standard deviation over seeds, how many seeds, and (`cite`) the paper's values, labelled so, where it has the row.

    cite: false: not; a label and rows: these; true: what `paper.beside` has.

    The best ACC, MAA and BWT are bold; `joint`, which sees all classes at once, does not compete.
    """
    config = next(iter(rows.values()))[0].config
    label, theirs = cite if isinstance(cite, tuple) else paper.beside(config, rows) if cite else ("", {})
    cited = any(row in theirs for row in rows)
    numbers = {kind: {row: values(found, KINDS[kind]) for row, found in rows.items()} for kind in kinds}
    best = {kind: max((fmean(v) for row, v in numbers[kind].items() if v and row != "joint"), default=None)
            for kind in ("ACC", "MAA", "BWT") if kind in kinds and len(rows) > 1}
    lines = []
    for row, found in rows.items():
        cells = []
        for kind in kinds:
            v = numbers[kind][row]
            cell = spread(v, 2 if kind in SHARES else 1)
            cells.append(f"**{cell}**" if v and kind in best and row != "joint" and fmean(v) == best[kind] else cell)
        beside = " / ".join(f"{v:.2f}" for v in theirs[row]) if row in theirs else ""
        lines.append([row, len(found), *cells, *([beside] if cited else [])])
    return Table(["row", "seeds", *kinds, *([f"the paper's, {label}: ACC / MAA / BWT"] if cited else [])], lines)


def difference_table(rows: Rows, pairs: Sequence[tuple[str, str]], key: str = "acc") -> Table:
    """Paired over seeds: the second row minus the first, and the mean's 95 % interval; pairs without runs are left out."""
    lines = []
    for first, second in pairs:
        if found := list(paired(rows, first, second, key).values()):
            mean = f"{fmean(found):+.1f} ± {interval(found):.1f}" if len(found) > 1 else "one seed only"
            lines.append([f"{first} → {second}", ", ".join(f"{d:+.1f}" for d in found), mean])
    return Table(["from → to", f"{key.upper()} difference, each seed", "mean, 95 % interval"], lines)


def rate_table(tune: Rows) -> Table:
    """Validation accuracy of each row at each rate it was tried with; the best one is bold."""
    tried = {row: {rate(row, r): r.acc for r in found} for row, found in tune.items()}
    rates = sorted({rate for accs in tried.values() for rate in accs})
    lines = []
    for row, accs in tried.items():
        best = max(accs.values())
        name = f"{row} (heads' rate)" if row == "frozen" else row
        cells = {k: f"**{acc:.1f}**" if acc == best else f"{acc:.1f}" for k, acc in accs.items()}
        lines.append([name, *(cells.get(k, NONE) for k in rates)])
    return Table(["row", *(f"{rate:g}" for rate in rates)], lines)


def form_table(forms: Rows) -> Table:
    """Forms of the margin loss by falling ACC, below the same row without it (`none`)."""
    order = sorted(forms, key=lambda form: (form != "none", -forms[form][0].acc))
    return Table(["form", "ACC", "MAA", "BWT", "danger"], [
        ["no margin loss" if form == "none" else form,
         *(spread(values(forms[form], KINDS[kind]), 2 if kind in SHARES else 1) for kind in ("ACC", "MAA", "BWT", "danger"))]
        for form in order])


def seconds_table(rows: Rows) -> Table:
    """Seconds a run by part, mean ± standard deviation over seeds. Waiting for data where the runs are not older than its clock."""
    named = {"train": "training", "gr": "of it GR", "data": "of it waiting for data", "oe": "OE", "eval": "evaluation"}
    if any("data" not in r.seconds for found in rows.values() for r in found):
        del named["data"]
    return Table(["row", *named.values(), "together"], [
        [row, *(spread([r.seconds[k] for r in found]) for k in named), spread([total(r.seconds) for r in found])]
        for row, found in rows.items()])


def step_table(cost: Mapping[str, Any]) -> Table:
    """A training step as a multiple of PEFT's LoRA, median (quarter points), from `step_cost.json`."""
    names = list(dict.fromkeys(name for case in cost["cases"] for name in case["variants"]))
    return Table(["model, batch, threads", *names], [
        [f"{case['model']}, {case['batch']}, {case['threads']}{', half precision' * case.get('amp', False)}",
         *(f"{v['ratio']:.2f} ({v['low']:.2f} … {v['high']:.2f})" if (v := case["variants"].get(name)) else NONE for name in names)]
        for case in cost["cases"]])


def provenance(groups: Mapping[str, Rows]) -> Table:
    """Where each group of results comes from: split, seeds, machine, versions, dates."""
    lines = []
    for group, rows in groups.items():
        found = [r for results in rows.values() for r in results]
        dates = sorted(r.date[:10] for r in found)
        machines = {(r.hardware["card"] or r.hardware["cpu"] or "unknown processor") + f", {r.hardware['threads']} thread(s)"
                    for r in found}
        data = [r.config["data"] for r in found]
        lines.append([
            group, len(found), _listed({f"{d['dataset']}, T={d['tasks']}, {d['evaluate']}" for d in data}),
            _listed({r.config["training"]["seed"] for r in found}), _listed(machines),
            _listed({r.versions["torch"] for r in found}),
            _listed({r.versions["timm"] for r in found}), dates[0] if dates[0] == dates[-1] else f"{dates[0]} … {dates[-1]}",
        ])
    return Table(["group", "runs", "data, tasks, split", "seeds", "machine", "torch", "timm", "date"], lines)


def _listed(values: set[Any]) -> str:
    return "; ".join(map(str, sorted(values)))


def rate(row: str, result: Result) -> float:
    """The learning rate that was searched for a row: of the factors, or of the heads where there are none."""
    return result.config["training"]["head_lr" if row == "frozen" else "lr"]
