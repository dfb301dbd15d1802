"""The README's tables are what `benchmarks/report.py` makes of the committed results, to the letter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def report():
    pytest.importorskip("sklearn", reason="the report needs the bench extra")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import report

        yield report
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def test_readme_tables_come_from_the_results(report, monkeypatch):
    monkeypatch.setattr(report.plots.Figure, "save", lambda *_: None)  # the figure is not what is tested
    blocks = report.blocks()
    assert "rows" in blocks and "differences" in blocks
    for name, block in blocks.items():
        opening, closing = f"<!-- report:{name} -->", f"<!-- /report:{name} -->"
        assert README.partition(opening)[2].partition(closing)[0].strip() == block.strip(), f"run benchmarks/report.py: {name}"


def test_every_result_names_seed_hardware_and_a_hash_of_its_config(report):
    from janus.config import Config

    results = [r for group in ("tune", "dml", "rows", "cross") for found in report.read(group).values() for r in found]
    assert results
    for r in results:
        assert r["hash"] == Config.create(**r["config"]).hash(), r["config"]
        assert r["hardware"]["cpu"] and r["hardware"]["threads"] and r["versions"]["torch"]


def test_paired_differences_by_hand(report):
    def runs(*accs):
        return [{"acc": a, "config": {"seed": s}} for s, a in enumerate(accs)]

    table = report.differences({"LoRA": runs(10.0, 20.0, 30.0), "GPM": runs(11.0, 22.0, 33.0)}, [("LoRA", "GPM")])
    assert "+1.0, +2.0, +3.0" in table and "+2.0 ± 2.5" in table  # 4.303 · 1 / √3 = 2.48
