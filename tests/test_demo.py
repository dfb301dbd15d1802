"""`make demo` in small: the same command on a toy stream; a second call repeats nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus import demo
from janus.ablation import PAPER
from janus.device import pick_device, resolve
from janus.result import Result


def test_demo(image_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHOWN", ["LoRA", "GPM", "OE+GR", "exact"])
    argv = ["--runs", str(tmp_path / "runs"), "--figures", str(tmp_path / "figures"), "--set", f"dataset={image_folder}",
            "weights=random", "augment=icons", "tasks=2", "epochs=1", "batch_size=16"]
    assert demo.main(argv) == 0
    first = capfd.readouterr().out
    assert "0 finished already" in first and "all rows:" in first and "left" in first
    table = first.split("\n\n")[1].splitlines()
    rows = {line.split()[0]: line for line in table if line.split()[0] in demo.SHOWN}
    for row in demo.SHOWN:
        assert len(rows[row].split()) == 8, rows[row]  # row, ours, violation, the paper's (or dashes)
        if row in PAPER:
            assert rows[row].split()[5:] == [f"{v:.2f}" for v in PAPER[row]]
    assert float(rows["exact"].split()[4]) < 1e-5 < float(rows["LoRA"].split()[4])
    assert "Icons-R is not ImageNet-R" in first and "One seed" in first and "benchmarks/results/" in first
    amp = resolve("auto", pick_device("auto"))
    assert {Result.load(folder).config["training"]["amp"] for folder in (tmp_path / "runs").iterdir()} == {amp}
    assert f", {'float32' if amp == 'off' else amp}.\n" in first
    for ending in (".html", ".json"):  # and .png where there is a Chrome
        assert (tmp_path / "figures" / f"violation{ending}").stat().st_size > 1000

    assert demo.main(argv) == 0
    second = capfd.readouterr().out
    assert "4 finished already" in second and "task" not in second.partition("\n\n")[0]
    assert second.split("\n\n")[1] == first.split("\n\n")[1]  # the same table


def test_a_failed_row_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "SHOWN", ["LoRA"])
    argv = ["--runs", str(tmp_path), "--figures", str(tmp_path), "--set", "dataset=./nowhere", "weights=random"]
    assert demo.main(argv) == 1
    out, err = capfd.readouterr()
    assert "./nowhere" in out and err.count("\n") == 1 and "LoRA failed" in err
