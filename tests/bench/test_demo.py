"""`make demo` in small: the same command on a toy stream; a second call repeats nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from janus.bench import demo
from janus.bench.variants import PAPER
from janus.runtime.result import Result

pytestmark = pytest.mark.slow


def grid_file(folder: Path, rows: list[str], **settings: object) -> str:
    """A grid of one seed; JSON is YAML, too."""
    shared = dict(weights="random", augment="icons", tasks=2, epochs=1, batch_size=16, lr=1e-3, threads=1)
    grid = {"title": "small", "protocol": "icons_r", "chosen": False, "variants": rows, "seeds": [0]}
    file = folder / "small.yaml"
    file.write_text(json.dumps(grid | {"set": shared | settings}))
    return str(file)


def test_demo(image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = ["exact", "LoRA", "GPM", "OE+GR"]
    file = grid_file(tmp_path, rows, dataset=str(image_folder))
    runs, figures = tmp_path / "runs", tmp_path / "figures"
    argv = ["--grid", file, "--runs", str(runs), "--figures", str(figures), "--jobs", "2"]
    assert demo.main(argv) == 0
    first = capfd.readouterr().out
    assert "4 runs, 0 finished already" in first and "time left" in first
    table = first.split("\n\n")[1].splitlines()
    found = {line.split()[0]: line.split() for line in table if line.split()[0] in rows}
    assert list(found) == ["LoRA", "OE+GR", "GPM", "exact"]  # the paper's rows first
    for row, cells in found.items():
        assert len(cells) == 8, cells  # row, ours, violation, the paper's (or dashes)
        if row in PAPER:
            assert cells[5:] == [f"{v:.2f}" for v in PAPER[row]]
    assert float(found["exact"][4]) < 1e-5 < float(found["LoRA"][4])
    assert re.search(r"Of the 1 pairs of the paper's rows [01] are in", first)
    assert "Icons-R is not ImageNet-R" in first
    assert "One learning rate for all rows (0.001), 1 passes" in first
    assert {Result.load(folder).variant for folder in runs.iterdir() if folder.is_dir()} == set(rows)
    for ending in (".html", ".json"):  # and .png where there is a Chrome
        assert (figures / f"violation{ending}").stat().st_size > 1000

    assert demo.main(argv) == 0
    second = capfd.readouterr().out
    assert "4 runs, 4 finished already" in second and "started" not in second
    assert second.split("\n\n")[1] == first.split("\n\n")[1]  # the same table


def test_a_failed_row_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = grid_file(tmp_path, ["LoRA"], dataset="./nowhere")
    argv = ["--grid", file, "--runs", str(tmp_path / "runs"), "--figures", str(tmp_path), "--jobs", "1"]
    assert demo.main(argv) == 1
    out, err = capfd.readouterr()
    assert "./nowhere" in out and err.count("\n") == 1 and "LoRA__seed=0 failed" in err
