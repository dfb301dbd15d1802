"""The lessons are fit to be read without being run, and their tools notice when one is not.

Bad parameters stop before training.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.scripts import load_script
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from janus.bench import papermill
from janus.errors import JanusError, UsageError

ROOT = Path(__file__).parents[2]
build = load_script("notebooks/build.py")


def tagged(tag: str, source: str) -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": [tag]})


def write(
    folder: Path, name: str, *cells: nbformat.NotebookNode, parameters: str = "SEED: int = 0  # seed"
) -> Path:
    """A lesson as an author writes it, with a figure; not executed."""
    start = new_markdown_cell(
        f"# {name[:2]} · {name[3:]}\n\n<!-- badges -->\n\nAfter this lesson you can.\n\n**Time** a second"
    )
    end = new_markdown_cell(
        "## What we saw, and limits\n\n<details>1</details>\n<details>2</details>\n\n<!-- next -->"
    )
    notebook = new_notebook(
        cells=[
            start,
            tagged("setup", "# setup: generated"),
            tagged("parameters", parameters),
            *(cells or [new_code_cell("assert SEED == 0")]),
            end,
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    """The first of two lessons, complete."""
    paths = [write(tmp_path, name) for name in ("00_first", "01_second")]
    for path in paths:
        notebook = build.read(path)
        build.add_headers(notebook, path)
        for number, cell in enumerate(build.code(notebook), 1):
            cell.execution_count = number
        nbformat.write(notebook, path)
    return paths[0]


# ── the committed lessons ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", build.lessons(), ids=lambda path: path.stem)
def test_a_committed_lesson_is_fit_to_be_read(path: Path) -> None:
    assert list(build.problems(path)) == []


@pytest.mark.skipif(not build.lessons(), reason="there are no lessons yet")
def test_badges_links_and_setup_cells_are_in_step_with_the_address() -> None:
    command = [sys.executable, ROOT / "notebooks" / "build.py", "headers", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# ── their tools ─────────────────────────────────────────────────────────────────────────────────────────────


def test_headers_are_made_from_the_one_address_and_stay_when_made_again(
    lesson: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = build.read(lesson)
    first, last = notebook.cells[0].source, notebook.cells[-1].source
    repository = build.repository().removeprefix("https://github.com/")
    place = f"{repository}/blob/{build.REF}/notebooks/00_first.ipynb"
    assert f"https://colab.research.google.com/github/{place}" in first
    assert f"https://nbviewer.org/github/{place}" in first
    assert "next: [01 · second](01_second.ipynb)" in first and "previous" not in first
    assert "\n\nAfter this lesson" in first
    assert last.endswith("<!-- next -->\n**Next:** [01 · second](01_second.ipynb)")
    assert f"git+{build.repository()}@{build.REF}" in notebook.cells[1].source
    assert not build.add_headers(notebook, lesson)
    monkeypatch.setattr(build, "repository", lambda: "https://github.com/else/where")
    assert "badges, links or setup cell are not in step: run build.py headers" in list(build.problems(lesson))


def test_the_generated_setup_cell_does_nothing_where_janus_is(lesson: Path) -> None:
    source = build.read(lesson).cells[1].source.replace("%pip", "raise SystemExit #")  # what only Colab runs
    exec(compile(source, "setup", "exec"), {})


def figure(**metadata: object) -> nbformat.NotebookNode:
    metadata = metadata or {build.PNG: {"alt": "a line"}}
    return new_output("display_data", {build.PLOTLY: {}, build.PNG: "aGVsbG8="}, metadata=metadata)


FAULTS = {
    "not executed": lambda nb: nb.cells[3].update(execution_count=None),
    "PNG without alt": lambda nb: nb.cells[3].outputs.append(figure(other=1)),
    "plotly figure without PNG": lambda nb: nb.cells[3].outputs.append(
        new_output("display_data", {build.PLOTLY: {}})
    ),
    "widget's state": lambda nb: nb.cells[3].outputs.append(
        new_output("display_data", {build.WIDGET: {"model_id": "1"}})
    ),
    "metadata.widgets": lambda nb: nb.metadata.update(widgets={"state": {}}),
    "stderr": lambda nb: nb.cells[3].outputs.append(new_output("stream", name="stderr", text="task 1/2")),
    "an error": lambda nb: nb.cells[3].outputs.append(
        new_output("error", ename="E", evalue="e", traceback=[])
    ),
    "one machine": lambda nb: nb.cells[3].outputs.append(new_output("stream", text="kept in /home/ada/runs")),
    "one cell tagged parameters": lambda nb: nb.cells[2].metadata.update(tags=[]),
    "not a parameter": lambda nb: nb.cells[2].update(source="SEED: int = 1 + 1  # seed"),
    "SEED is not used": lambda nb: nb.cells[3].update(source="assert True"),
    "no assert": lambda nb: nb.cells[3].update(source="print(SEED)"),
    "median code cell": lambda nb: nb.cells[3].update(source="assert SEED == 0\n" * 40),
    "no title": lambda nb: nb.cells[0].update(source=nb.cells[0].source.removeprefix("# 00 · ")),
    "two folded": lambda nb: nb.cells[-1].update(source=nb.cells[-1].source.replace("<details>1", "")),
    "kB": lambda nb: nb.cells[0].update(source=nb.cells[0].source + "\n" + "x" * 700_000),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_lesson_is_found(lesson: Path, fault: str) -> None:
    assert list(build.problems(lesson)) == []
    notebook = build.read(lesson)
    FAULTS[fault](notebook)
    nbformat.write(notebook, lesson)
    assert any(fault in line for line in build.problems(lesson))


def test_cleaning_keeps_figures_and_ids_and_drops_the_rest(lesson: Path) -> None:
    notebook = build.read(lesson)
    cell, ids = notebook.cells[3], [cell.id for cell in notebook.cells]
    cell.outputs = [
        figure(),
        new_output("stream", name="stderr", text="noise"),
        new_output("display_data", {build.WIDGET: {"model_id": "1"}, "text/plain": "a slider"}),
        new_output("display_data", {"text/markdown": "| a table |", "text/plain": "| a table |"}),
    ]
    cell.metadata["execution"] = {"iopub.status.busy": "2026-01-01"}
    notebook.metadata["widgets"], cell.execution_count = {"state": {}}, 17  # after cells that were tried out
    nbformat.write(notebook, lesson)
    build.clean([lesson])
    cleaned = build.read(lesson)
    assert list(build.problems(lesson)) == [] and [cell.id for cell in cleaned.cells] == ids
    assert [list(output.data) for output in cleaned.cells[3].outputs] == [
        [build.PLOTLY, build.PNG],
        ["text/plain"],
        ["text/markdown"],
    ]
    assert cleaned.cells[3].outputs[1].data["text/plain"] == build.NO_KERNEL  # not the widget's repr
    assert cleaned.cells[3].metadata == {} and cleaned.cells[2].metadata.tags == ["parameters"]


def test_cleaning_does_not_hide_that_a_cell_was_not_run(lesson: Path) -> None:
    notebook = build.read(lesson)
    notebook.cells[3].execution_count = None
    nbformat.write(notebook, lesson)
    build.clean([lesson])
    assert list(build.problems(lesson)) == ["not executed top to bottom"]


# ── parameters through papermill ────────────────────────────────────────────────────────────────────────────

TRAIN = """\
import janus
result = janus.run(out=OUT, dataset=DATASET, method="frozen", tasks=2, epochs=1, per_class=1, seed=SEED)"""
PARAMETERS = """\
FAST: bool = False  # tiny streams
SEED: int = 0  # seed
DATASET: str = "icons-r"  # data
OUT: str = "run"  # folder"""


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"SEEED": 1}, "unknown parameter 'SEEED': did you mean 'SEED'?"),
        ({"SEED": "three"}, "SEED takes a whole number, got 'three'"),
        ({"SEED": 0.5}, "SEED takes a whole number, got 0.5"),
        ({"FAST": "maybe"}, "FAST takes true or false, got 'maybe'"),
    ],
)
def test_bad_parameters_are_refused_before_anything_is_executed(
    tmp_path: Path, parameters: dict, message: str
) -> None:
    notebook = write(tmp_path, "07_train", new_code_cell(TRAIN), parameters=PARAMETERS)
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        papermill.execute(notebook, tmp_path / "out.ipynb", parameters)
    assert not (tmp_path / "out.ipynb").exists()


def test_missing_data_stops_before_training_with_its_own_message(tmp_path: Path) -> None:
    notebook, out = write(tmp_path, "07_train", new_code_cell(TRAIN), parameters=PARAMETERS), tmp_path / "run"
    with pytest.raises(JanusError, match="07_train.ipynb stopped at cell .*UsageError: .*nowhere"):
        given = {"DATASET": str(tmp_path / "nowhere"), "OUT": str(out)}
        papermill.execute(notebook, tmp_path / "out.ipynb", given)
    assert not list(out.glob("*.json")) and not list(out.glob("checkpoint*"))
    # the copy that was executed so far is kept
    assert "nowhere" in json.dumps(build.read(tmp_path / "out.ipynb"))


def test_text_is_read_as_the_type_of_the_parameter() -> None:
    kinds = {"FAST": "bool", "LR": "float", "ROWS": "list[str]"}
    known = {name: {"inferred_type_name": kind} for name, kind in kinds.items()}
    read = papermill.check(known, {"FAST": "true", "LR": "1e-4", "ROWS": "GPM"})
    assert read == {"FAST": True, "LR": 1e-4, "ROWS": "GPM"}
