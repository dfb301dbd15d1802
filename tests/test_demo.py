"""`make demo` in small: the same command on a toy stream; a second call repeats nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from janus import demo, plots
from janus.ablation import PAPER


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
    for ending in (".html", ".json", ".png"):
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


def test_violation_per_layer_is_the_mean_over_tasks() -> None:
    tasks = [{"blocks.0.attn.k": 0.1, "blocks.0.attn.v": 0.5, "blocks.1.attn.k": 0.2, "blocks.1.attn.v": 0.6},
             {"blocks.0.attn.k": 0.3, "blocks.0.attn.v": 0.7, "blocks.1.attn.k": 0.6, "blocks.1.attn.v": 0.8}]
    assert plots.per_layer(tasks, "k") == pytest.approx([0.2, 0.4])
    assert plots.per_layer(tasks, "v") == pytest.approx([0.6, 0.7])
    assert plots.per_layer([], "k") == []


def test_what_protects_a_row() -> None:
    names = {"LoRA": "nothing", "merged_free_gr-none": "nothing", "OE-DML": "OE", "GR": "GR", "OE-GR-DML": "OE + GR",
             "GPM": "GPM", "merged_nullspace_OE_gr-tangent": "OE + GR", "merged_nullspace_OE_gr-none": "OE",
             "exact-DML": "exact"}
    assert {name: plots.protection(name) for name in names} == names


def test_labels_are_kept_apart() -> None:
    placed = plots._apart([0.0, 0.01, 0.5], 0.1)
    assert placed[1] - placed[0] >= 0.1 - 1e-6 and placed[2] == 0.5
