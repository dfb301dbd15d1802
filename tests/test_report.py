"""The tables of the two README.md are what `benchmarks/report.py` makes of the committed results, to the letter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = "\n".join((ROOT / name).read_text() for name in ("README.md", "benchmarks/README.md"))


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("sklearn", reason="the report needs the bench extra")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import report

        yield report
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_tables_come_from_the_results(report, monkeypatch):
    monkeypatch.setattr(report.plots.Figure, "save", lambda *_: None)  # the figure is not what is tested
    blocks = report.blocks()
    assert "rows" in blocks and "differences" in blocks
    for name, block in blocks.items():
        opening, closing = f"<!-- report:{name} -->", f"<!-- /report:{name} -->"
        assert DOCUMENTS.count(opening) == 1, name
        assert DOCUMENTS.partition(opening)[2].partition(closing)[0].strip() == block.strip(), f"run benchmarks/report.py: {name}"


def test_every_result_names_seed_hardware_and_a_hash_of_its_config(report):
    from janus.config import Config

    groups = report.read(report.RESULTS)
    assert {"tune", "dml", "rows", "cross"} <= groups.keys()
    for r in (r for rows in groups.values() for found in rows.values() for r in found):
        assert r.hash == Config.create(**r.config).hash(), r.config
        assert r.hardware["cpu"] and r.hardware["threads"] and r.versions["torch"]


def test_numbers_in_the_prose_are_those_of_its_tables(report):
    groups = report.read(report.RESULTS)

    def at(row: str, lr: float) -> str:
        return f"{next(run.acc for run in groups['tune'][row] if run.config['lr'] == lr):.1f}"

    order = " ".join(f"{sign} {row} {at(row, 1e-3)}" for sign, row in (("<", "LoRA"), ("<", "OE"), ("≈", "GPM"), ("<", "OE+GR")))
    text = " ".join(DOCUMENTS.split())
    assert f"GR {at('GR', 1e-3)} {order}" in text
    assert f"at 1e-2 LoRA has lost nearly everything ({at('LoRA', 1e-2)}), `exact` little ({at('exact', 1e-2)})" in text
    best = max(run.acc for run in groups["tune"]["joint"])
    assert f"(rate 1e-4) it has {at('joint', 1e-4)} on validation, at its best {best:.1f}, `frozen`" in text
