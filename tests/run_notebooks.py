"""Does every cell of every lesson run? Tiny streams under nbval, then one lesson through papermill.

What nbval gets are copies in which each exercise is followed by its solution: as it stands it must fail, and
with the solution pass.

One temporary folder of runs for all, so that lessons use each other's. nbval does not say which cells it left
out, and papermill needs its parameter, not the environment, to be in fast mode: both are looked at here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN: dict[str, str] = {}  # notebook → why it is left out
PAPERMILL = "07_benchmark.ipynb"
CELL_SECONDS = 240
CHECK = "with lesson.check("
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)\n```", re.S)
WITHOUT_EXERCISES = {PAPERMILL}  # a tool more than a lesson


def main() -> str | int:
    """Nothing, or pytest's exit code, or what is wrong."""
    paths = sorted((ROOT / "notebooks").glob("[0-9][0-9]*_*.ipynb"))
    for name, reason in NOT_RUN.items():
        print(f"left out: {name}: {reason}")
    paths = [path for path in paths if path.name not in NOT_RUN]
    if not paths:
        return 0
    figures = stamps()
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JANUS_RUNS": f"{folder}/runs"}
        report = Path(folder, "report.xml")
        copies = [with_solutions(path, Path(folder, "notebooks")) for path in paths]
        options = f"--nbval-lax --nbval-cell-timeout={CELL_SECONDS} -p no:cacheprovider --durations=5"
        command = [sys.executable, "-m", "pytest", *options.split(), "-o", "junit_family=xunit1"]
        command += [f"--junitxml={report}", *map(str, copies)]
        done = subprocess.run(command, env=environment | {"JANUS_FAST": "1"}, cwd=ROOT)
        if done.returncode:
            return done.returncode
        passed = passed_cells(report)
        for path in copies:
            cells = sum(cell.cell_type == "code" for cell in nbformat.read(path, as_version=4).cells)
            if passed[path.name] != cells:
                return f"{path.name}: {passed[path.name]} of {cells} code cells were run"
        for path in (path for path in paths if path.name == PAPERMILL):
            options = "--no-progress-bar --log-level WARNING -p FAST true".split()
            command = [sys.executable, "-m", "papermill", *options, str(path), f"{folder}/out.ipynb"]
            done = subprocess.run(command, env=environment, cwd=ROOT)
            if done.returncode:
                return f"{path.name}: papermill could not run it"
    return "fast mode wrote to figures/, whose numbers are those of full runs" if stamps() != figures else 0


def with_solutions(path: Path, folder: Path) -> Path:
    """A copy with a cell after each exercise: the start has failed, the folded solution passes."""
    notebook, cells = nbformat.read(path, as_version=4), []
    for cell, following in zip(notebook.cells, [*notebook.cells[1:], None]):
        cells.append(cell)
        if cell.cell_type == "code" and CHECK in cell.source:
            found = SOLUTION.search(following.source if following else "")
            if not found:
                raise SystemExit(
                    f"{path.name}: an exercise without a folded solution below it: {cell.source[:60]!r}"
                )
            check = cell.source[cell.source.index(CHECK) :]
            cells.append(
                nbformat.v4.new_code_cell(
                    'assert not lesson.checks[-1], "the exercise passes before anything was answered"\n'
                    f'{found[1]}\n{check}\nassert lesson.checks[-1], "the solution does not pass"'
                )
            )
    added = len(cells) - len(notebook.cells)
    if added < 2 and path.name not in WITHOUT_EXERCISES:
        raise SystemExit(f"{path.name}: {added} exercises with a check, at least two are wanted")
    notebook.cells = cells
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / path.name)
    return folder / path.name


def passed_cells(report: Path) -> Counter[str]:
    """Notebook → code cells that were run and passed, from pytest's JUnit report."""
    passed = [
        case
        for case in ElementTree.parse(report).iter("testcase")
        if not any(part.tag in ("skipped", "failure", "error") for part in case)
    ]
    return Counter(Path(case.get("file", "")).name for case in passed)


def stamps() -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (ROOT / "figures").glob("*")}


if __name__ == "__main__":
    sys.exit(main())
