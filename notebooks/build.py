"""What holds the lessons together. Without FILES: all of them.

python notebooks/build.py headers [--check]   badges, links and setup cells, made from [project.urls] (or:
                                              are they in step?)
python notebooks/build.py execute [FILES]     run top to bottom in full mode and keep the outputs (needs
                                              Chrome for PNGs)
python notebooks/build.py clean   [FILES]     drop from the outputs what changes from run to run
python notebooks/build.py check   [FILES]     fit to be committed?
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import nbformat
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
REF = "main"  # what the badges open and the setup cell installs
# may be committed without outputs: papermill's target, and the one about the reader's own data
UNEXECUTED = ("09",)
NO_KERNEL = "(a widget, alive where a kernel runs; its first position is drawn below)"
MAX_KB, MAX_MEDIAN = 600, 8
WIDGET = "application/vnd.jupyter.widget-view+json"
PLOTLY, PNG = "application/vnd.plotly.v1+json", "image/png"
# an address in memory, a folder of one machine
VOLATILE = re.compile(r"\bat 0x[0-9a-f]{6,}|/(?:home|root|tmp|work|Users)/[\w.-]+")
PARAMETER = re.compile(
    r"""([A-Z][A-Z0-9_]*): [^=]+ = (?:True|False|None|-?[\d._e-]+|"[^"]*"|[\[({].*[\])}])  # \S.*"""
)
SETUP = """\
# setup: generated (on Colab it installs janus, elsewhere it does nothing)
import importlib.util
import sys

if "google.colab" in sys.modules:
    %pip install --quiet "janus-lora[colab] @ git+{repository}@{ref}"
if importlib.util.find_spec("janus") is None:
    raise ModuleNotFoundError("janus is not installed for this kernel: run `make lab` in its repository")"""


def lessons(folder: Path = HERE) -> list[Path]:
    """The notebooks, in reading order."""
    return sorted(folder.glob("[0-9][0-9]*_*.ipynb"))


def read(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(notebook: NotebookNode, tag: str = "") -> list[NotebookNode]:
    """The code cells, or those with a tag."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell for cell in cells if not tag or tag in cell.metadata.get("tags", ())]


def repository() -> str:
    """The project's public address, which stands in one place."""
    text = (HERE.parent / "pyproject.toml").read_text()
    return re.search(r'^Repository\s*=\s*"(https://github\.com/[^"]+?)/?"', text, re.M)[1]


def link(path: Path) -> str:
    return f"[{read(path).cells[0].source.partition(chr(10))[0].lstrip('# ')}]({path.name})"


def add_headers(notebook: NotebookNode, path: Path) -> bool:
    """Fill in what is generated: the line after `<!-- badges -->`, the one after `<!-- next -->`, the setup
    cell. Was it stale?"""
    files, old = lessons(path.parent), nbformat.writes(notebook)
    at = files.index(path)
    place = f"{repository().removeprefix('https://github.com')}/blob/{REF}/notebooks/{path.name}"
    badges = (
        "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
        f"(https://colab.research.google.com/github{place}) "
        "[![View in nbviewer](https://raw.githubusercontent.com/jupyter/design/main/logos/Badges/"
        "nbviewer_badge.svg)]"
        f"(https://nbviewer.org/github{place})"
    )
    before = f" · previous: {link(files[at - 1])}" if at else ""
    if path != files[-1]:
        after, last = f" · next: {link(files[at + 1])}", f"**Next:** {link(files[at + 1])}"
    else:
        after, last = "", f"This was the last lesson. **Back to the first:** {link(files[0])}"
    for index, mark, line in ((0, "<!-- badges -->", badges + before + after), (-1, "<!-- next -->", last)):
        cell, new = notebook.cells[index], f"{mark}\n{line}"
        cell.source = re.sub(rf"^{mark}(\n[^\n]+)?", lambda _, new=new: new, cell.source, flags=re.M)
    for cell in code(notebook, "setup"):
        cell.source = SETUP.format(repository=repository(), ref=REF)
    return nbformat.writes(notebook) != old


def headers(files: list[Path], check: bool) -> None:
    stale = []
    for path in files:
        notebook = read(path)
        if add_headers(notebook, path):
            stale.append(path.name)
            if not check:
                nbformat.write(notebook, path)
    what = "not in step" if check else "changed"
    print(f"{len(files)} notebooks, {len(stale)} {what}: {' '.join(stale) or 'none'}")
    sys.exit(bool(stale and check))


def strip(notebook: NotebookNode) -> NotebookNode:
    """Drop progress lines, widget state, timings and what tells the machine; keep ids and tags; number what
    was executed."""
    counts = [cell.execution_count or 0 for cell in code(notebook)]
    whole = 0 not in counts and counts == sorted(set(counts))  # else the counts stay, for `check` to see
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({"tags": cell.metadata.tags} if cell.metadata.get("tags") else {})
    for number, cell in enumerate(code(notebook), 1):
        cell.execution_count = number if whole else cell.execution_count
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            data = output.get("data", {})
            if data.pop(WIDGET, None):
                data["text/plain"] = NO_KERNEL  # instead of the widget's repr
            if "text/markdown" in data and data.get("text/plain") == data["text/markdown"]:
                del data["text/plain"]  # a table twice
            if output.output_type == "execute_result":
                output.execution_count = cell.execution_count
    return notebook


def clean(files: list[Path]) -> None:
    for path in files:
        nbformat.write(strip(read(path)), path)


def execute(files: list[Path]) -> None:
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    from janus.plots.figure import NO_CHROME, can_draw

    if not can_draw():
        sys.exit(f"committed notebooks hold PNGs: {NO_CHROME}")
    os.environ.pop("JANUS_FAST", None)
    for path in files:
        notebook, start = read(path), time.monotonic()
        options = dict(timeout=None, kernel_name="python3", record_timing=False, coalesce_streams=True)
        place = {"metadata": {"path": str(path.parent)}}
        try:
            NotebookClient(notebook, resources=place, **options).execute()
        except CellExecutionError as error:
            sys.exit(f"{path.name} stopped, and is left as it was:\n{error}")
        nbformat.write(strip(notebook), path)
        print(f"{path.name}: {(time.monotonic() - start) / 60:.1f} min", flush=True)


def problems(path: Path) -> Iterator[str]:
    """What keeps a notebook from being committed, a line each."""
    notebook, size = read(path), path.stat().st_size / 1000
    yield from structure(notebook)
    yield from outputs(notebook, required=path.name[:2] not in UNEXECUTED)
    if size > MAX_KB:
        yield f"{size:.0f} kB, at most {MAX_KB}"
    if add_headers(notebook, path):
        yield "badges, links or setup cell are not in step: run build.py headers"


def structure(notebook: NotebookNode) -> Iterator[str]:
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    sources = [cell.source for cell in code(notebook)]
    solutions = sum(cell.source.count("<details>") for cell in notebook.cells)
    parts = {
        "title `# NN · …`": re.match(r"# \d\d[a-z]? · \S", first),
        "line `<!-- badges -->`": "<!-- badges -->" in first.split("\n"),
        "**Time**": "**Time**" in first,
        "last cell `## What we saw, and limits`": "## What we saw, and limits" in last,
        "line `<!-- next -->`": "<!-- next -->" in last.split("\n"),
        "assert": any("assert " in source for source in sources),
        "two folded solutions": first.startswith("# 07") or solutions >= 2,
        "one cell tagged setup": len(code(notebook, "setup")) == 1,
        "one cell tagged parameters": len(code(notebook, "parameters")) == 1,
    }
    yield from (f"no {part}" for part, there in parts.items() if not there)
    own = [cell for cell in code(notebook) if cell not in code(notebook, "setup")]
    lengths = [sum(map(bool, cell.source.split("\n"))) for cell in own]
    if lengths and statistics.median(lengths) > MAX_MEDIAN:
        yield f"median code cell of {statistics.median(lengths):g} lines, at most {MAX_MEDIAN}"
    stated = "\n".join(cell.source for cell in code(notebook, "parameters"))
    for line in filter(str.strip, stated.split("\n")):
        if not (found := PARAMETER.fullmatch(line)):
            yield f"not a parameter (`NAME: type = literal  # help`): {line}"
        elif len(re.findall(rf"\b{found[1]}\b", "\n".join(sources))) < 2:
            yield f"parameter {found[1]} is not used"


def outputs(notebook: NotebookNode, required: bool) -> Iterator[str]:
    counts = [cell.execution_count for cell in code(notebook)]
    if "widgets" in notebook.metadata:
        yield "metadata.widgets: run build.py clean"
    executed = any(counts) or any(cell.outputs for cell in code(notebook))
    if counts != list(range(1, len(counts) + 1)) and (required or executed):
        yield "not executed top to bottom"
    for number, cell in enumerate(code(notebook), 1):
        for output in cell.outputs:
            data = output.get("data", {})
            shown = [str(output.get("text")), *(str(data[kind]) for kind in data if kind != PNG)]
            volatile = VOLATILE.search("".join(shown))
            faults = {
                "an error": output.output_type == "error",
                "stderr": output.get("name") == "stderr",
                "a widget's state": WIDGET in data,
                "a plotly figure without PNG": PLOTLY in data and PNG not in data,
                "a PNG without alt text": PNG in data and not output.metadata.get(PNG, {}).get("alt"),
                f"something of one machine or run: {volatile and volatile[0]}": volatile,
            }
            yield from (f"code cell {number} put out {fault}" for fault, there in faults.items() if there)


def check(files: list[Path]) -> None:
    found = [f"{path.name}: {line}" for path in files for line in problems(path)]
    print("\n".join([*found, f"{len(files)} notebooks, {len(found)} problems"]))
    sys.exit(bool(found))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("headers", "execute", "clean", "check"))
    parser.add_argument("files", nargs="*", type=lambda text: Path(text).resolve())
    what = "headers: change nothing, fail where something would"
    parser.add_argument("--check", action="store_true", help=what)
    args = parser.parse_args()
    command = partial(headers, check=args.check) if args.command == "headers" else globals()[args.command]
    command(args.files or lessons())
