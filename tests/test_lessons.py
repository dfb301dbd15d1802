"""What the notebooks share: fast mode, and runs that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus import lessons, train
from janus.configure import flat
from janus.errors import UsageError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JANUS_FAST", raising=False)
    monkeypatch.delenv("JANUS_RUNS", raising=False)


@pytest.mark.parametrize(
    ("parameter", "variable", "fast"),
    [
        (False, None, False),
        (True, None, True),
        ("true", None, True),
        ("False", None, False),
        (False, "1", True),
        (False, "0", False),
        (True, "0", True),
        (False, "", False),
    ],
)
def test_fast_mode_is_asked_for_by_parameter_or_variable(
    parameter: bool | str, variable: str | None, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable is not None:
        monkeypatch.setenv("JANUS_FAST", variable)
    assert lessons.setup(parameter).fast is fast


def test_a_fast_that_is_neither_is_refused() -> None:
    with pytest.raises(UsageError, match="FAST is true or false, got 'yes'"):
        lessons.setup("yes")


@pytest.mark.parametrize("value", [202401, 1e5, True, None])
def test_a_text_that_papermill_made_a_number_of_is_refused(value: object) -> None:
    lessons.check_texts(OUT="2024_01", VARIANT="")
    with pytest.raises(UsageError, match=rf"^OUT is a text, got {value}: papermill.*-r OUT …"):
        lessons.check_texts(VARIANT="", OUT=value)


def test_a_folder_named_like_a_number_goes_through_papermills_command(tmp_path: Path) -> None:
    """The parameters cell and the check of lesson 07, by papermill's own command."""
    import nbformat
    from click.testing import CliRunner
    from papermill.cli import papermill

    lesson = nbformat.read(Path(lessons.__file__).parents[1] / "notebooks" / "07_benchmark.ipynb", 4)
    given, checked = (
        next(cell.source for cell in lesson.cells if word in cell.source)
        for word in ("OUT: str", "check_texts")
    )
    cells = [
        nbformat.v4.new_code_cell(given, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell("import janus\n" + checked.splitlines()[0] + "\nprint('folder', OUT)"),
    ]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), tmp_path / "in.ipynb")
    command = [str(tmp_path / "in.ipynb"), str(tmp_path / "out.ipynb"), "--no-progress-bar"]
    refused = CliRunner().invoke(papermill, [*command, "-p", "OUT", "2024_01"])
    assert refused.exit_code == 1 and "OUT is a text, got 202401" in str(refused.exception)
    assert CliRunner().invoke(papermill, [*command, "-r", "OUT", "2024_01"]).exit_code == 0
    assert "folder 2024_01" in (tmp_path / "out.ipynb").read_text()


def test_where_runs_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(lessons, "REPOSITORY", tmp_path)  # installed: no notebooks beside it
    assert lessons.setup().runs == tmp_path / "cache" / "janus" / "lessons"
    (tmp_path / "notebooks").mkdir()
    assert lessons.setup().runs == tmp_path / "runs" / "lessons"
    monkeypatch.setenv("JANUS_RUNS", str(tmp_path / "mine"))
    assert lessons.setup().runs == tmp_path / "mine"


def test_a_row_sets_its_switches_on_the_stream_of_the_lessons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson = lessons.Lesson(False, tmp_path)
    exact = lessons.STREAM | {"method.gr": "exact", "method.adapter": "merged", "data.dataset": "icons-r"}
    assert flat(lesson.config("exact")).items() >= exact.items()
    gpm = {"method.name": "gpm", "training.seed": 3, "training.lr": 0.01}
    assert flat(lesson.config("GPM", seed=3, lr=0.01)).items() >= gpm.items()
    monkeypatch.setitem(lessons.STREAM, "training.lr", 0.5)
    rates = [lesson.config(row).training.lr for row in ("LoRA", "frozen", "ncm")]
    assert rates == [0.5, 1e-3, 1e-3]  # two train no factors: the lessons' rate is not theirs
    assert flat(lessons.Lesson(True, tmp_path).config("LoRA", tasks=10)).items() >= lessons.TINY.items()
    with pytest.raises(UsageError, match="no row 'lora'; rows are LoRA"):
        lesson.config("lora")


def test_each_setting_has_its_own_folder(tmp_path: Path) -> None:
    full, tiny = lessons.Lesson(False, tmp_path), lessons.Lesson(True, tmp_path)
    folders = [full.folder("OE+GR"), full.folder("OE+GR", seed=1), tiny.folder("OE+GR"), full.folder("GR")]
    assert len(set(folders)) == 4 and all(folder.parent == tmp_path for folder in folders)
    assert full.folder("OE+GR", threads=2) == folders[0]  # it does not change the numbers


def test_a_finished_run_is_read_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = lessons.Lesson(True, tmp_path)
    first = lesson.run("frozen")
    monkeypatch.setattr(train, "Run", None)  # nothing can be trained any more
    assert lesson.run("frozen").acc == first.acc and len(first.accuracy) == lessons.TINY["data.tasks"]
    with pytest.raises(TypeError):
        lesson.run("frozen", seed=1)


def test_an_exercise_says_whether_the_answer_is_right_and_lets_the_notebook_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lesson = lessons.Lesson(True, tmp_path)
    for answer in (None, [1], [1, 2], 7):
        with lesson.check(answer):
            assert len(answer) == 2, "one number for each old task"
    assert lesson.checks == [False, False, True, False]
    assert capsys.readouterr().out.splitlines() == [
        "○ not answered yet",
        "✗ not yet: one number for each old task",
        "✓ right",
        "✗ not yet: TypeError: object of type 'int' has no len()",
    ]
    with lesson.check(None):
        pass  # no assert was reached, and yet nothing was answered
    assert lesson.checks[-1] is False


def test_an_interrupt_of_a_check_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lessons.Lesson(True, tmp_path).check(1):
        raise KeyboardInterrupt


def test_the_code_that_a_lesson_shows_is_the_functions_own_without_its_docstring() -> None:
    shown = lessons.code_of(train.step, lessons.Lesson.check)
    assert shown.startswith("```python\ndef step(learner") and shown.endswith("\n```") and '"""' not in shown
    assert "updates.backward(loss)" in shown and "\n\n\ndef check(self" in shown
