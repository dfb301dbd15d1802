"""A folder of results as a document: tables over seeds, differences, curves, matrices, cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from ..bench import store
from ..errors import UsageError
from . import compare
from .compare import FLOOR
from .tables import Table, difference_table, overview, provenance, seconds_table

KINDS = ("md", "html", "csv", "tex")
CSS = """body{font:16px/1.5 'DejaVu Sans',Verdana,sans-serif;max-width:1400px;margin:2em auto;\
padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}\
th,td{padding:.25em .7em}td{white-space:nowrap}
th,td{border-bottom:1px solid #ddd;text-align:left}
figure{margin:1.5em 0;overflow-x:auto}figcaption{color:#555}"""


@dataclass(frozen=True)
class Section:
    """One table's runs: all of one protocol."""

    title: str
    runs: pd.DataFrame

    def parts(self) -> dict[str, Table]:
        """Caption → table."""
        found = {"Mean ± standard deviation over seeds; best in bold": overview(self.runs)}
        rows = self.runs["variant"].unique()
        if FLOOR in rows and len(rows) > 1:
            pairs = [(FLOOR, row) for row in rows if row != FLOOR]
            found[f"ACC against {FLOOR} in the same seed"] = difference_table(self.runs, pairs)
        found["Seconds of a run"] = seconds_table(self.runs)
        return found

    def figures(self) -> list[Any]:
        from .. import plots

        found = [plots.trajectories(self.runs)] if (self.runs["accuracy"].str.len() > 1).any() else []
        found += [plots.accuracy_over_cost(self.runs)]
        for row, runs in compare.by_variant(self.runs).items():
            first = runs.iloc[0]
            if len(first["accuracy"]) > 1:
                title = f"{row}, seed {first['training.seed']}"
                found.append(plots.accuracy_matrix(first["accuracy"], title=title))
        return found


def sections(folders: Sequence[str | Path]) -> list[Section]:
    """The tables that the results in some folders make, of runs or of their tables: a group at a time, runs
    of different protocols apart. Where two would have the same title, it names their folders, too.

    Raises:
        UsageError: a folder that is not there or holds no results. JanusError: a damaged file.
    """
    out: list[tuple[str, Path, pd.DataFrame]] = []
    once = {Path(folder).resolve(): Path(folder) for folder in folders}  # what is given twice is read once
    for folder in once.values():
        for group, runs in store.read(folder).groupby("group"):
            place = folder.resolve().name if len(folders) > 1 or group == "." else ""
            name = " · ".join(part for part in (place, group) if part not in ("", "."))
            for title, table in compare.by_protocol(runs).items():
                out.append((f"{name}: {title}" if title else name, folder / group, table))
    times = Counter(title for title, _, _ in out)
    named = [(title if times[title] == 1 else f"{title} ({folder})", table) for title, folder, table in out]
    return [Section(title, table) for title, table in named]


def write(folders: Sequence[str | Path], kind: str = "md") -> str:
    """The report as one text. kind: md, html (with figures, needs no network), csv (a line a run), tex
    (booktabs).

    Raises:
        UsageError: another kind; see `sections`.
    """
    if kind not in KINDS:
        raise UsageError(f"a report is one of {', '.join(KINDS)}, not {kind!r}")
    return {"md": _markdown, "html": _html, "csv": _csv, "tex": _tex}[kind](sections(folders))


def _source(found: Sequence[Section]) -> Table:
    return provenance(pd.concat([section.runs.assign(group=section.title) for section in found]))


def _markdown(found: Sequence[Section]) -> str:
    lines = []
    for section in found:
        lines.append(f"## {section.title}")
        lines += [f"{caption}:\n\n{table}" for caption, table in section.parts().items()]
    return "\n\n".join([*lines, "## Where the numbers come from", str(_source(found))]) + "\n"


def _tex(found: Sequence[Section]) -> str:
    lines = ["% needs \\usepackage{booktabs}"]
    for section in found:
        for caption, table in section.parts().items():
            lines.append(f"% {section.title}. {caption}\n{table.tex()}")
    return "\n\n".join(lines) + "\n"


def _csv(found: Sequence[Section]) -> str:
    runs = pd.concat([section.runs.assign(table=section.title) for section in found])
    runs = runs.rename(columns={"variant": "row", **dict(zip(compare.SEEDS, ("seed", "class_seed")))})
    columns = ["table", "row", "seed", "class_seed", "hash", *store.SCORES, "seconds"]
    return runs[columns].round({"seconds": 1}).to_csv(index=False, lineterminator="\n")


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
    head = f"<meta charset=utf-8><title>janus report</title><style>{CSS}</style>"
    return f"<!doctype html><html lang=en>{head}\n{body}\n</html>\n"
