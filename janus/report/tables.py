"""Tables over results: what a run found, how rows compare, what they cost, where the numbers come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..bench import paper
from ..bench.store import settings_of
from .compare import NONE, by_variant, change, number, paired, spread, values

if TYPE_CHECKING:
    from ..runtime.result import Result

AT_ONCE = ("joint", "probe")  # one task of all classes


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; in Markdown wherever Markdown is shown. `**…**` in a cell is bold."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        written = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
        return "\n".join(f"| {' | '.join(cells)} |" for cells in written)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/markdown": str(self)}

    def plain(self) -> str:
        """Aligned columns for a terminal; the last one is as wide as it is."""
        lines = [[str(cell) for cell in line] for line in (self.header, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines)]
        padded = ([cell.ljust(width) for cell, width in zip(line, widths)] for line in lines)
        return "\n".join("  ".join(cells).rstrip() for cells in padded)

    def html(self) -> str:
        def line(cells: Sequence[Any], tag: str) -> str:
            written = [_BOLD.sub(r"<b>\1</b>", escape(str(cell))) for cell in cells]
            return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in written) + "</tr>"

        body = "\n".join(line(row, "td") for row in self.rows)
        return f"<table>\n<thead>{line(self.header, 'th')}</thead>\n<tbody>\n{body}\n</tbody></table>"

    def tex(self) -> str:
        """A tabular in the style of booktabs."""

        def line(cells: Sequence[Any]) -> str:
            plain = ("".join(_TEX.get(c, c) for c in str(cell)) for cell in cells)
            return " & ".join(_BOLD.sub(r"\\textbf{\1}", text) for text in plain) + r" \\"

        body = "\n".join(map(line, self.rows))
        begin = f"\\begin{{tabular}}{{l{'r' * (len(self.header) - 1)}}}"
        head = f"\\toprule\n{line(self.header)}\n\\midrule"
        return f"{begin}\n{head}\n{body}\n\\bottomrule\n\\end{{tabular}}"


_BOLD = re.compile(r"\*\*(.+?)\*\*")
_TEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    "±": r"$\pm$",
    "→": r"$\to$",
    "−": "$-$",
    "—": "---",
    "…": r"\ldots{}",
    "×": r"$\times$",
    "ε": r"$\varepsilon$",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────


def scores(result: Result) -> Table:
    """The scores of one run, each with what it means. Accuracies in per cent, differences in points."""
    learned = "mean accuracy of a task right after it was learned, all seen classes in play"
    values = [
        ("ACC", result.acc, "accuracy over all classes after the last task"),
        ("MAA", result.maa, "mean of that accuracy over the tasks"),
        ("BWT", result.bwt, "mean change of an old task's accuracy since it was learned"),
        ("forgetting", result.forgetting, "mean loss of an old task since its best"),
        ("learning accuracy", result.learning_acc, learned),
        ("task-aware accuracy", result.task_aware_acc, "accuracy at the end if the right task were known"),
    ]
    rows = [(name, number(value), meaning) for name, value, meaning in values]
    return Table(["score", "value", "meaning"], rows)


def parts(result: Result) -> Table:
    """Seconds of one run by part; `train` has those of `gr` and `data` in it, and of `oe` what happens inside
    a step."""
    meanings = {
        "train": "training steps",
        "eval": "evaluation after each task",
        "oe": "estimating the past's inputs",
        "gr": "the optimiser's step of the factors (within train)",
        "data": "waiting for a batch of images (within train)",
    }
    rows = [(part, f"{seconds:.1f}", meanings.get(part, "")) for part, seconds in result.seconds.items()]
    return Table(["part", "seconds", "what"], rows)


# ── tables over rows ────────────────────────────────────────────────────────────────────────────────────────


KINDS = {  # a table's column → the runs'
    "ACC": "acc",
    "MAA": "maa",
    "BWT": "bwt",
    "learning acc.": "learning_acc",
    "task-aware acc.": "task_aware_acc",
    "violation": "violation",
    "drift": "drift",
    "danger": "danger",
}
SHARES = ("violation", "drift", "danger")  # no per cent: two digits


def overview(
    runs: pd.DataFrame, kinds: Sequence[str] = tuple(KINDS), cite: bool | tuple[str, paper.Scores] = True
) -> Table:
    """mean ± standard deviation over seeds, how many seeds, and (`cite`) the paper's values, labelled so,
    where it has the row.

    cite: false: not; a label and rows: these; true: what `paper.beside` has.

    The best ACC, MAA and BWT are bold; `joint` and `probe`, which see all classes at once, do not compete.
    """
    rows = by_variant(runs)
    label, theirs = cite if isinstance(cite, tuple) else ("", {})
    if cite is True:
        label, theirs = paper.beside(settings_of(runs.iloc[0]), rows)
    cited = any(row in theirs for row in rows)
    numbers, best = {}, {}
    for kind in kinds:
        numbers[kind] = {row: found[KINDS[kind]].dropna().tolist() for row, found in rows.items()}
        if kind in ("ACC", "MAA", "BWT") and len(rows) > 1:
            means = (fmean(v) for row, v in numbers[kind].items() if v and row not in AT_ONCE)
            best[kind] = max(means, default=None)
    lines = []
    for row, found in rows.items():
        cells = []
        for kind in kinds:
            v = numbers[kind][row]
            cell = spread(v, 2 if kind in SHARES else 1)
            first = v and kind in best and row not in AT_ONCE and fmean(v) == best[kind]
            cells.append(f"**{cell}**" if first else cell)
        beside = " / ".join(f"{v:.2f}" for v in theirs[row]) if row in theirs else ""
        lines.append([row, len(found), *cells, *([beside] if cited else [])])
    paper_column = [f"the paper's, {label}: ACC / MAA / BWT"] if cited else []
    return Table(["row", "seeds", *kinds, *paper_column], lines)


def difference_table(runs: pd.DataFrame, pairs: Sequence[tuple[str, str]], key: str = "acc") -> Table:
    """Paired over seeds: the second row minus the first, and the mean's 95 % interval; pairs without runs are
    left out."""
    lines = []
    for first, second in pairs:
        if found := paired(runs, first, second, key).tolist():
            mean = change(found) if len(found) > 1 else "one seed only"
            lines.append([f"{first} → {second}", ", ".join(f"{d:+.1f}" for d in found), mean])
    return Table(["from → to", f"{key.upper()} difference, each seed", "mean, 95 % interval"], lines)


def rate_table(tune: pd.DataFrame) -> Table:
    """Validation accuracy of each row at each rate it was tried with; the best one is bold."""
    tried = tune.assign(rate=rates(tune))
    accs = tried.pivot_table(index="variant", columns="rate", values="acc", aggfunc="last", sort=False)
    lines = []
    for row, cells in accs.sort_index(axis=1).iterrows():
        best, written = cells.max(), []
        for acc in cells:
            text = NONE if pd.isna(acc) else f"{acc:.1f}"
            written.append(f"**{text}**" if acc == best else text)
        lines.append([f"{row} (heads' rate)" if row == "frozen" else row, *written])
    return Table(["row", *(f"{rate:g}" for rate in sorted(accs.columns))], lines)


def form_table(forms: pd.DataFrame) -> Table:
    """Forms of the margin loss by falling ACC, below the same row without it (`none`)."""
    best = forms.groupby("variant", sort=False)["acc"].first()
    kinds, lines = ("ACC", "MAA", "BWT", "danger"), []
    for form in sorted(best.index, key=lambda form: (form != "none", -best[form])):
        cells = (spread(values(forms, form, KINDS[kind]), 2 if kind in SHARES else 1) for kind in kinds)
        lines.append(["no margin loss" if form == "none" else form, *cells])
    return Table(["form", *kinds], lines)


def seconds_table(runs: pd.DataFrame) -> Table:
    """Seconds a run by part, mean ± standard deviation over seeds. Waiting for data where the runs are not
    older than its clock."""
    named = {
        "seconds.train": "training",
        "seconds.gr": "of it GR",
        "seconds.data": "of it waiting for data",
        "seconds.oe": "OE",
        "seconds.eval": "evaluation",
        "seconds": "together",
    }
    if "seconds.data" not in runs or runs["seconds.data"].isna().any():
        del named["seconds.data"]
    lines = [[row, *(spread(found[key]) for key in named)] for row, found in by_variant(runs).items()]
    return Table(["row", *named.values()], lines)


def step_table(cost: Mapping[str, Any]) -> Table:
    """A training step as a multiple of PEFT's LoRA, median (quarter points), from `step_cost.json`."""
    names = list(dict.fromkeys(name for case in cost["cases"] for name in case["variants"]))
    lines = []
    for case in cost["cases"]:
        half = ", half precision" if case.get("amp", False) else ""
        ratios = dict.fromkeys(names, NONE)
        for name, v in case["variants"].items():
            ratios[name] = f"{v['ratio']:.2f} ({v['low']:.2f} … {v['high']:.2f})"
        lines.append([f"{case['model']}, {case['batch']}, {case['threads']}{half}", *ratios.values()])
    return Table(["model, batch, threads", *names], lines)


def provenance(runs: pd.DataFrame, by: str = "group") -> Table:
    """Where the results come from, by group, or by another column: split, seeds, machine, versions, dates."""
    processor = runs["hardware.cpu"].fillna("unknown processor")
    machine = runs["hardware.card"].fillna(processor) if "hardware.card" in runs else processor
    parts = zip(runs["data.dataset"], runs["data.tasks"], runs["data.evaluate"])
    told = runs.assign(
        data=[f"{data}, T={tasks}, {split}" for data, tasks, split in parts],
        machine=machine + ", " + runs["hardware.threads"].astype(str) + " thread(s)",
        day=runs["date"].str[:10],
    )
    lines = []
    for group, found in told.groupby(by, sort=False):
        listed = (
            "; ".join(map(str, sorted(found[key].unique())))
            for key in ("data", "training.seed", "machine", "versions.torch", "versions.timm")
        )
        days = sorted(found["day"])
        span = days[0] if days[0] == days[-1] else f"{days[0]} … {days[-1]}"
        lines.append([group, len(found), *listed, span])
    return Table(["group", "runs", "data, tasks, split", "seeds", "machine", "torch", "timm", "date"], lines)


def rates(runs: pd.DataFrame) -> pd.Series:
    """The learning rate that was searched for each run: of the factors, or of the heads if those are all."""
    return runs["training.lr"].where(runs["variant"] != "frozen", runs["training.head_lr"])
