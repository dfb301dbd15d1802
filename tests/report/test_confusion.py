"""`janus evaluate`: the run's own accuracy again, and what is taken for what on other images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import write_image_folder

import janus
from janus import plots
from janus.cli.commands import main
from janus.errors import JanusError, UsageError

TINY: dict[str, Any] = dict(weights="random", augment="icons", epochs=2, tasks=3, batch_size=16, lr=3e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("data") / "data", classes=5, train=16, test=6)


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    janus.run(folder := tmp_path_factory.mktemp("run") / "run", dataset=str(data), **TINY)
    return folder


def flat(data: Path, place: Path) -> Path:
    """The test images without the folder of their split."""
    return Path(shutil.copytree(data / "test", place))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"method": "ncm"},
        {"method": "l2p"},
        {"classifier": "ranpac", "dim": 50},
        {"evaluate": "val", "data": {"val_fraction": 0.25}},
    ],
)
def test_without_data_it_is_the_runs_own_accuracy(settings: dict, data: Path, tmp_path: Path) -> None:
    result = janus.run(tmp_path / "run", dataset=str(data), **TINY | settings)
    found = janus.evaluate(tmp_path / "run")
    assert found.accuracy == result.acc  # to the last bit
    assert list(found.classes) == result.stream["class_names"]
    sizes = [task[settings.get("evaluate", "test")] for task in result.stream["tasks"]]
    for t, (task, size) in enumerate(zip(result.stream["tasks"], sizes)):
        block = found.matrix[slice(*task["positions"])]
        right = block[:, slice(*task["positions"])].trace()
        assert int(block.sum()) == size
        assert 100 * int(right) / size == pytest.approx(result.accuracy[-1][t], abs=1e-4)


def test_the_matrix_is_what_the_predictor_says_of_each_image(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    folder, predictor = flat(data, tmp_path / "images"), janus.load(finished)
    found, result = janus.evaluate(finished, folder), janus.Result.load(finished)
    expected = torch.zeros_like(found.matrix)
    for i, name in enumerate(found.classes):
        for image in sorted((folder / name).iterdir()):
            expected[i, found.classes.index(predictor.predict(image)[0][0][0])] += 1
    assert torch.equal(found.matrix, expected) and found.accuracy == pytest.approx(result.acc, abs=1e-4)
    # of a folder with splits, the test images
    assert torch.equal(janus.evaluate(finished, data).matrix, expected)
    for (name, images, right, share, other, times), line in zip(found.rows(), expected.tolist()):
        i = found.classes.index(name)
        assert (images, right) == (6, line[i]) and share == pytest.approx(100 * line[i] / 6)
        wrong = [count for j, count in enumerate(line) if j != i]
        assert times == max(wrong)
        assert line[found.classes.index(other)] == times if times else other == ""


def test_classes_that_the_run_has_not_met_are_refused_by_name_or_left_out(
    data: Path, finished: Path, tmp_path: Path
) -> None:
    folder = flat(data, tmp_path / "images")
    (folder / "class1").rename(folder / "Class1")
    shutil.rmtree(folder / "class2")
    said = (
        r"^1 of the 4 classes of .*images is unknown to this run \(Class1\); name the class "
        r"folders as the run does \(it knows class[^\n]*--skip-unknown$"
    )
    with pytest.raises(UsageError, match=said):
        janus.evaluate(finished, folder)
    found = janus.evaluate(finished, folder, skip_unknown=True)
    assert len(found.notes) == 1 and "(Class1)" in found.notes[0] and int(found.matrix.sum()) == 18
    rows = {name: (images, share) for name, images, _, share, *_ in found.rows()}
    assert rows["class1"] == rows["class2"] == (0, None) and rows["class0"][0] == 6
    only = tmp_path / "only"
    shutil.copytree(folder / "Class1", only / "Class1")
    with pytest.raises(UsageError, match=r"1 of the 1 classes of .* is unknown"):
        janus.evaluate(finished, only, skip_unknown=True)
    with pytest.raises(UsageError, match="nowhere"):
        janus.evaluate(finished, tmp_path / "nowhere")


def test_a_run_whose_images_are_gone_says_what_to_do(data: Path, tmp_path: Path) -> None:
    mine = Path(shutil.copytree(data, tmp_path / "mine"))
    janus.run(tmp_path / "run", dataset=str(mine), **TINY)
    new = tmp_path / "new"
    for split in ("train", "test"):
        shutil.copytree(data / split / "class0", new / split / "another")
        shutil.copytree(data / split / "class3", new / split / "one more")
    mine.rename(tmp_path / "away")
    with pytest.raises(JanusError, match="judged on are not there any more .*; give others by --data"):
        janus.evaluate(tmp_path / "run")
    extended = janus.extend(tmp_path / "run", new, tmp_path / "extended")
    found = janus.evaluate(tmp_path / "extended")
    assert found.accuracy == extended.acc and int(found.matrix.sum()) == 12
    assert "3 of 4 tasks are left out" in found.notes[0]


def test_the_command_prints_a_table_and_writes_tables_and_a_figure(
    data: Path, finished: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JANUS_PNG", "0")
    out = tmp_path / "out"
    assert main(["evaluate", str(finished), "--data", str(data), "--out", str(out)]) == 0
    said = capsys.readouterr().out.splitlines()
    found, acc = janus.evaluate(finished, data), janus.Result.load(finished).acc
    assert said[0].split()[:3] == ["class", "images", "correct"]
    assert len(said) == 1 + 5 + 2 and said[-1] == f"in {out}"
    assert f"accuracy {acc:.2f} % ({int(found.matrix.trace())} of 30 images, 5 of 5 classes)" in said[-2]
    classes = list(csv.DictReader((out / "classes.csv").open()))
    assert [line["class"] for line in classes] == list(found.classes)
    assert [int(line["correct"]) for line in classes] == found.matrix.diagonal().tolist()
    assert list(classes[0]) == ["class", "images", "correct", "accuracy", "most often taken for", "times"]
    header, *rows = csv.reader((out / "confusion.csv").open())
    assert header == ["class", *found.classes]
    assert [[int(n) for n in row[1:]] for row in rows] == found.matrix.tolist()
    assert json.loads((out / "confusion.json").read_text())["data"][0]["type"] == "heatmap"
    assert (out / "confusion.html").exists()
    assert main(["evaluate", str(tmp_path), "--data", str(data)]) == 1
    assert "no run in" in capsys.readouterr().err


def test_the_figure_shows_shares_and_tells_the_confusions() -> None:
    figure = plots.confusion_matrix([[3, 1, 0], [0, 0, 0], [2, 0, 2]], ["ant", "bee", "cat"])
    heat = figure.plotly.data[0]
    assert [list(row) for row in heat.z] == [[75, 25, 0], [50, 0, 50]]  # no row for a class without images
    assert list(figure.plotly.layout.yaxis.ticktext) == ["ant", "cat"]
    assert len(figure.plotly.layout.annotations) == 4
    assert "5 of 8 images" in figure.alt and "cat for ant (2); ant for bee (1)" in figure.alt
    many = plots.confusion_matrix(torch.eye(100, dtype=torch.long).tolist(), [str(i) for i in range(100)])
    assert not many.plotly.layout.annotations and len(many.plotly.layout.xaxis.tickvals) == 0
