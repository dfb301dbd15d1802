"""A folder of results as a document: tables over seeds, differences with their intervals, curves, matrices, cost."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from . import compare
from .compare import FLOOR, Rows
from .errors import UsageError
from .tables import Table, difference_table, overview, provenance, seconds_table
from .timing import total

KINDS = ("md", "html", "csv", "tex")
NUMBERS = ("acc", "maa", "bwt", "forgetting", "learning_acc", "acc_task_mean", "task_aware_acc", "violation", "past_output_norm",
           "drift", "danger")
CSS = """body{font:16px/1.5 'DejaVu Sans',Verdana,sans-serif;max-width:1400px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}th,td{padding:.25em .7em}td{white-space:nowrap}
th,td{border-bottom:1px solid #ddd;text-align:left}
figure{margin:1.5em 0;overflow-x:auto}figcaption{color:#555}"""


@dataclass(frozen=True)
class Section:
    """One table's runs: all of one protocol."""

    title: str
    rows: Rows

    def parts(self) -> dict[str, Table]:
        """Caption → table."""
        found = {"Mean ± standard deviation over seeds; best in bold": overview(self.rows)}
        if FLOOR in self.rows and len(self.rows) > 1:
            pairs = [(FLOOR, row) for row in self.rows if row != FLOOR]
            found[f"ACC against {FLOOR} in the same seed"] = difference_table(self.rows, pairs)
        found["Seconds of a run"] = seconds_table(self.rows)
        return found

    def figures(self) -> list[Any]:
        from . import plots

        found = [plots.trajectories(self.rows)] if any(len(run.accuracy) > 1 for runs in self.rows.values() for run in runs) else []
        found += [plots.accuracy_over_cost(self.rows)]
        for row, runs in self.rows.items():
            if len(runs[0].accuracy) > 1:
                found.append(plots.accuracy_matrix(runs[0].accuracy, title=f"{row}, seed {runs[0].config['training']['seed']}"))
        return found


def sections(folders: Sequence[str | Path]) -> list[Section]:
    """The tables that the results in some folders make: a group (a subfolder) at a time, runs of different protocols apart. Where
    two would have the same title, it names their folders, too.

    Raises:
        UsageError: a folder that is not there or holds no results. JanusError: a damaged file.
    """
    out: list[tuple[str, Path, Rows]] = []
    for folder in {Path(folder).resolve(): Path(folder) for folder in folders}.values():  # what is given twice is read once
        for group, rows in compare.read(folder).items():
            place = folder.resolve().name if len(folders) > 1 or group == "." else ""
            name = " · ".join(part for part in (place, group) if part not in ("", "."))
            for title, table in compare.by_protocol(rows).items():
                out.append((f"{name}: {title}" if title else name, folder / group, table))
    times = Counter(title for title, _, _ in out)
    return [Section(title if times[title] == 1 else f"{title} ({folder})", table) for title, folder, table in out]


def write(folders: Sequence[str | Path], kind: str = "md") -> str:
    """The report as one text. kind: md, html (with figures, needs no network), csv (a line a run), tex (booktabs).

    Raises:
        UsageError: another kind; see `sections`.
    """
    if kind not in KINDS:
        raise UsageError(f"a report is one of {', '.join(KINDS)}, not {kind!r}")
    return {"md": _markdown, "html": _html, "csv": _csv, "tex": _tex}[kind](sections(folders))


def _source(found: Sequence[Section]) -> Table:
    return provenance({section.title: section.rows for section in found})


def _markdown(found: Sequence[Section]) -> str:
    lines = []
    for section in found:
        lines.append(f"## {section.title}")
        lines += [f"{caption}:\n\n{table}" for caption, table in section.parts().items()]
    return "\n\n".join([*lines, "## Where the numbers come from", str(_source(found))]) + "\n"


def _tex(found: Sequence[Section]) -> str:
    lines = ["% needs \\usepackage{booktabs}"]
    for section in found:
        lines += [f"% {section.title}. {caption}\n{table.tex()}" for caption, table in section.parts().items()]
    return "\n\n".join(lines) + "\n"


def _csv(found: Sequence[Section]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "seed", "class_seed", "hash", *NUMBERS, "seconds"])
    for section in found:
        for row, runs in section.rows.items():
            for run in runs:
                writer.writerow([section.title, row, run.config["training"]["seed"], run.config["data"]["class_seed"], run.hash,
                                 *(compare.score(run, key) for key in NUMBERS), round(total(run.seconds), 1)])
    return out.getvalue()


def _html(found: Sequence[Section]) -> str:
    lines, first = [], True
    for section in found:
        lines.append(f"<h2>{escape(section.title)}</h2>")
        for caption, table in section.parts().items():
            lines.append(f"<p>{escape(caption)}</p>\n{table.html()}")
        for figure in section.figures():
            drawn = figure.plotly.to_html(full_html=False, include_plotlyjs=first)
            lines.append(f"<figure>{drawn}<figcaption>{escape(figure.alt)}</figcaption></figure>")
            first = False
    body = "\n".join([*lines, "<h2>Where the numbers come from</h2>", _source(found).html()])
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>janus report</title><style>{CSS}</style>\n{body}\n</html>\n"
