"""The tables of the two README.md are what `benchmarks/report.py` makes of the committed results, to the letter."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import fmean

import pytest

from janus.configure import config_hash, make

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


@pytest.fixture(scope="module")
def groups(report):
    return report.read(report.RESULTS)


def test_tables_come_from_the_results(report, monkeypatch):
    monkeypatch.setattr(report.plots.Figure, "save", lambda *_: None)  # the figure is not what is tested
    blocks = report.blocks()
    assert "rows" in blocks and "differences" in blocks
    for name, block in blocks.items():
        opening, closing = f"<!-- report:{name} -->", f"<!-- /report:{name} -->"
        assert DOCUMENTS.count(opening) == 1, name
        assert DOCUMENTS.partition(opening)[2].partition(closing)[0].strip() == block.strip(), f"run benchmarks/report.py: {name}"


def test_every_result_names_seed_hardware_and_a_hash_of_its_config(groups):
    assert {"tune", "dml", "rows", "cross"} <= groups.keys()
    for r in (r for rows in groups.values() for found in rows.values() for r in found):
        assert r.hash == config_hash(make(r.config)), r.config
        assert r.hardware["cpu"] and r.hardware["threads"] and r.versions["torch"]


def test_numbers_in_the_prose_are_those_of_its_tables(groups):
    def at(row: str, lr: float) -> str:
        return f"{next(run.acc for run in groups['tune'][row] if run.config['training']['lr'] == lr):.1f}"

    order = " ".join(f"{sign} {row} {at(row, 1e-3)}" for sign, row in (
        ("<", "LoRA"), ("=", "DML"), ("<", "OE+DML"), ("<", "OE"), ("≈", "GPM"), ("<", "OE+GR"), ("≈", "OE+GR+DML")))
    text = " ".join(DOCUMENTS.split())
    assert f"GR {at('GR', 1e-3)} {order}" in text
    assert f"at 1e-2 LoRA has lost nearly everything ({at('LoRA', 1e-2)}), `exact` little ({at('exact', 1e-2)})" in text
    best = max(run.acc for run in groups["tune"]["joint"])
    assert f"(rate 1e-4) it has {at('joint', 1e-4)} on validation, at its best {best:.1f}, `frozen`" in text


def test_the_prose_on_five_and_twenty_tasks_is_that_of_its_tables(report, groups):
    five, twenty = (report.only(groups["icons_r"], tasks=tasks, data={}) for tasks in (5, 20))
    text = " ".join(DOCUMENTS.split())
    inflora = report.paired(five, "frozen", "InfLoRA").values()
    assert {f"{gain:.1f}" for gain in (min(inflora), fmean(inflora))} == {"0.8"} and "at T=5 InfLoRA is .8 above" in text
    prompts = {t: {row: list(report.paired(rows, "frozen", row).values()) for row in ("L2P", "DualPrompt", "CODA-Prompt")}
               for t, rows in ((5, five), (20, twenty))}
    assert all(abs(fmean(gains)) < report.interval(gains) for found in prompts.values() for gains in found.values())
    assert max(f"{abs(fmean(gains)):.1f}" for gains in prompts[5].values()) == "0.2"
    assert f"at T=20 L2P is {-fmean(prompts[20]['L2P']):.1f} ± {report.interval(prompts[20]['L2P']):.1f} below" in text
    means, later = (list(report.paired(rows, "ncm", "LoRA-DRS, class means").values()) for rows in (five, twenty))
    assert min(means) > 0 and f"in each seed at T=5, by {fmean(means):.1f} ± {report.interval(means):.1f}, and not at T=20" in text
    assert min(later) < 0 < max(later)


def test_the_prose_on_the_fields_methods_at_other_strengths_is_that_of_its_table(report, groups):
    found = {strength: report.only(groups["icons_r"], data={"strength": strength}) for strength in (0.5, 0.75)}
    found[1.0] = report.only(groups["icons_r"], tasks=10, data={}) | groups["rows"]
    text = " ".join(DOCUMENTS.split())
    for row in ("InfLoRA", "LoRA-DRS", "BiLoRA", "L2P", "DualPrompt", "CODA-Prompt"):
        for rows in found.values():
            gains = list(report.paired(rows, "frozen", row).values())
            assert len(gains) == 3 and fmean(gains) < report.interval(gains), row
    lost = {row: list(report.paired(found[0.5], row, "frozen").values()) for row in ("L2P", "DualPrompt", "CODA-Prompt")}
    assert min(min(points) for points in lost.values()) > 0
    assert ", ".join(f"{row} by {fmean(points):.1f} ± {report.interval(points):.1f}" for row, points in lost.items()) in text
    means = [list(report.paired(rows, "ncm", "LoRA-DRS, class means").values()) for rows in found.values()]
    assert all(fmean(gains) < report.interval(gains) for gains in means)
    assert f"are {min(map(fmean, means)):.1f} to {max(map(fmean, means)):.1f} above those of frozen ones, with intervals" in text


def test_numbers_in_the_prose_on_the_fields_methods_are_those_of_its_tables(report, groups):
    rows = groups["rows"] | groups["cross"] | report.only(groups["icons_r"], tasks=10, data={})
    text = " ".join(DOCUMENTS.split())

    def between(first: str, second: str) -> tuple[float, str]:
        found = list(report.paired(rows, first, second).values())
        return fmean(found), f"{abs(fmean(found)):.1f} ± {report.interval(found):.1f}"

    def on_validation(row: str) -> str:
        return f"{next(run.acc for run in groups['icons_r_tune'][row] if run.config['training']['lr'] == 1e-3):.1f}"

    eleven = [row for row in report.FIELD if "RanPAC" not in row and row not in ("SLCA", "LoRA-DRS, class means")]
    gains = {row: between(row, report.BEST)[0] for row in eleven}
    assert len(eleven) == 11 and f"by {min(gains.values()):.1f} to {max(gains.values()):.1f} points" in text
    assert all(min(report.paired(rows, row, report.BEST).values()) > 0 for row in eleven)
    clear = [row for row in eleven if gains[row] > report.interval(list(report.paired(rows, row, report.BEST).values()))]
    assert f"excludes zero against {', '.join(clear[:-1])} and {clear[-1]}, and not against" in text
    assert f"beats it by {between('SLCA', report.BEST)[1]} points" in text
    head = {row: f"{row}, RanPAC head" for row in ("LoRA", "exact", "OE+GR")}
    assert f"features are {between('RanPAC', head['OE+GR'])[1]} points above frozen ones" in text
    assert f"those of `exact` {between('RanPAC', head['exact'])[1]}, in every seed" in text
    assert f"(+{between('RanPAC', head['LoRA'])[1]}, at the smallest rate)" in text
    assert f"OE+GR {between(head['LoRA'], head['OE+GR'])[1]} above it" in text
    assert (f"LoRA has {on_validation(head['LoRA'])}, `exact` {on_validation(head['exact'])}, OE+GR {on_validation(head['OE+GR'])}."
            in text)


def test_numbers_in_the_prose_on_long_streams_are_those_of_its_tables(report, groups):
    text = " ".join(DOCUMENTS.split())
    long = {tasks: report.only(groups["icons_r_capacity"], tasks=tasks) for tasks in (20, 50, 100)}
    gains = {tasks: report.paired(rows, "frozen", "exact") for tasks, rows in long.items()}
    first, second, third = (f"{fmean(gain.values()):.1f}" for gain in gains.values())
    assert f"`exact` is above `frozen` by {first}, {second} and {third} points, with intervals that include zero" in text
    assert all(report.interval(gain.values()) > fmean(gain.values()) for gain in gains.values())
    below = report.paired(long[100], "frozen", "OE+GR").values()
    assert max(below) < 0 and f"by {-fmean(below):.1f} ± {report.interval(list(below)):.1f}" in text
    protecting = [run for row, found in long[100].items() if row != "frozen" for run in found]
    widest = max(max(run.basis_rank[-1].values()) for run in protecting)
    assert f"the widest layer {widest}, where {192 - 2 * protecting[0].config['backbone']['rank']} are allowed" in text
    tried = {(run.config["method"]["energy"], run.config["method"]["energy_end"]): run for run in groups["icons_r_energy"]["exact"]}
    (floor,) = (run.acc for run in groups["icons_r_energy"]["frozen"])
    safe = [run.acc for (first, _), run in tried.items() if first >= 0.95]
    assert len(safe) == 6 and max(safe) - min(safe) < 0.35 and 0.35 < min(safe) - floor
    assert max(tried, key=lambda ends: tried[ends].acc) == (0.99, 0.99)
    most = tried[0.99, 0.99].basis_rank[-1].values()
    assert f"(the widest layer has {max(most)} directions, the mean {fmean(most):.0f})" in text
    assert max(run.acc for (first, _), run in tried.items() if first == 0.8) < floor + 0.05
    pairs = {"0.95": groups["icons_r_capacity"]["exact"], "0.99": groups["icons_r_energy_test"]["exact"]}
    worth = [list(report.paired(report.only(pairs, tasks=tasks), "0.95", "0.99").values()) for tasks in (20, 50, 100)]
    first, second, third = (f"{fmean(gain):+.1f}" for gain in worth)
    assert f"it has {first}, {second} and {third} points at 20, 50 and 100 tasks, with intervals that include zero" in text
    assert all(report.interval(gain) > abs(fmean(gain)) for gain in worth)
    means = {(key, tasks, what): fmean(getattr(run, what) for run in report.only(pairs, tasks=tasks)[key])
             for key in pairs for tasks in (20, 100) for what in ("drift", "bwt", "learning_acc")}
    assert 0.4 < means["0.99", 20, "drift"] / means["0.95", 20, "drift"] < 0.55
    assert 0.27 < means["0.99", 100, "drift"] / means["0.95", 100, "drift"] < 0.38
    assert 1.5 < means["0.99", 20, "bwt"] - means["0.95", 20, "bwt"] < 2.5
    assert -2.5 < means["0.99", 20, "learning_acc"] - means["0.95", 20, "learning_acc"] < -1.5
    for tasks in (50, 100):
        more, fewer = (fmean(report.last_rank(run) for run in report.only(pairs, tasks=tasks)[key]) for key in ("0.99", "0.95"))
        assert 1.9 < more / fewer < 2.3


def test_numbers_in_the_prose_on_the_ablation_are_those_of_its_tables(report, groups):
    text = " ".join(DOCUMENTS.split())
    forms = [path.stem for path in (report.RESULTS / "dml").glob("*.json") if path.stem != "none"]
    assert text.count(f"{len(forms)} forms") == 1 and f"a search over {len(forms)}." in text
    leads = [fmean(report.paired(groups["rows"], "frozen", row).values()) for row in ("exact", "OE+GR", "OE+GR+DML")]
    assert "({:.1f}, {:.1f} and {:.1f})".format(*leads).replace(" 0.", " .") in text


def test_numbers_in_the_prose_on_photographs_are_those_of_its_tables(report, groups):
    text = " ".join(DOCUMENTS.split())
    rows, tuned = report.only(groups["tin100"], tasks=10), groups["tin100_tune"]
    gains = {row: list(report.paired(rows, "frozen", row).values()) for row in ("SLCA", "RanPAC")}
    assert f"SLCA is {fmean(gains['SLCA']):.1f} points above `frozen`, RanPAC {fmean(gains['RanPAC']):.1f}, both above" in text
    linear = [row for row in report.FIELD if row in rows and "RanPAC" not in row and row not in ("SLCA", "LoRA-DRS, class means")]
    above = {row: fmean(report.paired(rows, "frozen", row).values()) for row in linear}
    drift = max(fmean(run.drift for run in rows[row]) for row in linear)
    assert f"hardly move old features either (drift at most {drift:.2f})" in text
    assert len(above) == 11 and all(abs(gain) < 0.3 for row, gain in above.items() if row != "L2P")
    assert f"ten of them end within 0.3 points of `frozen`, L2P {-above['L2P']:.1f} below it" in text
    twenty = report.only(groups["tin100"], tasks=20)
    later = {row: fmean(report.paired(twenty, "frozen", row).values()) for row in linear}
    assert all(abs(gain) < 0.3 for row, gain in later.items() if row != "L2P")
    prompts = list(report.paired(twenty, "frozen", "L2P").values())
    assert abs(fmean(prompts)) < report.interval(prompts)
    assert f"ten are within 0.3 points, and L2P's {-later['L2P']:.1f} below cannot be told from chance" in text
    trained = [list(report.paired(twenty, "RanPAC", f"{row}, RanPAC head").values()) for row in ("LoRA", "OE+GR", "exact")]
    assert all(fmean(gain) < 0 for gain in trained) and all(len(gain) == 3 for gain in trained)
    assert f"(`exact` {fmean(trained[-1]):.1f} ± {report.interval(trained[-1]):.1f})" in text
    gains = [fmean(report.paired(twenty, "frozen", row).values()) for row in ("SLCA", "RanPAC")]
    assert "At twenty tasks SLCA is {:.1f} above `frozen` and RanPAC {:.1f}".format(*gains) in text
    assert {run.backbone for found in twenty.values() for run in found} == {"3cecf20188a0"}
    assert {run.backbone for found in groups["tin100_epochs"].values() for run in found} == {"3cecf20188a0"}
    trained = [row for row in rows if row not in ("frozen", "ncm", "joint", "SLCA") and rows[row][0].config["head"] == "linear"]
    most = max(gain for row in trained for gain in report.paired(rows, "frozen", row).values())
    assert most < 0.6 and "above `frozen` by more than 0.6 points in any seed" in text
    plugged = list(report.paired(rows, "LoRA-DRS", "LoRA-DRS+GR").values())
    assert abs(fmean(plugged)) < report.interval(plugged)
    pays = list(report.paired(rows, "RanPAC", "OE+GR, RanPAC head").values())
    assert text.count(f"{fmean(pays):+.1f} ± {report.interval(pays):.1f}") >= 3  # in the table, below it and in the README
    exact = list(report.paired(rows, "RanPAC", "exact, RanPAC head").values())
    said = f"{fmean(exact):+.1f} ± {report.interval(exact):.1f}"
    assert f"`exact` is {said} over frozen features" in text and f"`exact` little more ({said}, in every seed" in text
    assert min(exact) > 0
    largest = {row: {run.config["training"]["lr"]: run.acc for run in tuned[f"{row}, RanPAC head"]}
               for row in ("LoRA", "OE+GR", "exact")}
    assert "LoRA has {:.1f}, OE+GR {:.1f}, `exact` {:.1f}, its best".format(*(rates[3e-3] for rates in largest.values())) in text
    assert max(largest["exact"].values()) == largest["exact"][3e-3]


def test_numbers_in_the_prose_on_three_epochs_are_those_of_its_tables(report, groups):
    text = " ".join(DOCUMENTS.split())
    rows, tuned = groups["tin100_epochs"], groups["tin100_epochs_tune"]
    assert {run.backbone for group in (rows, tuned) for found in group.values() for run in found} == {"3cecf20188a0"}
    assert all(run.config["training"]["epochs"] == 3 for found in rows.values() for run in found)
    gains = {row: list(report.paired(rows, "frozen", row).values()) for row in ("LoRA", "OE+GR", "exact", "joint")}
    means = [fmean(gains[row]) for row in ("LoRA", "OE+GR", "exact")]
    assert f"({min(means):.1f} to {max(means):+.1f} points in the mean, with intervals that include zero)" in text
    assert all(report.interval(gains[row]) > abs(fmean(gains[row])) for row in ("LoRA", "OE+GR", "exact"))
    assert f"`joint` is {fmean(gains['joint']):.1f} points above `frozen`, and small safe steps of the features" in text
    rates = {row: {run.config["training"]["lr"]: run.acc for run in tuned[row]} for row in ("LoRA", "OE+GR", "exact")}
    large = [found[1e-3] for found in rates.values()]
    assert "({:.1f}, OE+GR {:.1f}, `exact` {:.1f})".format(*large) in text and large == sorted(large)
    assert all(max(found, key=found.get) < 1e-3 for found in rates.values())
    assert all(round(fmean(run.task_aware_acc for run in rows[row])) == 49 for row in ("frozen", "LoRA", "OE+GR", "exact"))
