"""The documents' tables are what `benchmarks/report.py` makes of the committed results, to the letter."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean

import pandas as pd

from janus.bench.variants import PUBLISHED
from janus.report.compare import interval, paired

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
DOCUMENTS = "\n".join(path.read_text() for path in PAGES)


def test_tables_come_from_the_results(report, monkeypatch):
    monkeypatch.setattr(report.plots.Figure, "save", lambda *_: None)  # the figure is not what is tested
    blocks = report.blocks()
    assert "rows" in blocks and "differences" in blocks
    for name, block in blocks.items():
        opening, closing = f"<!-- report:{name} -->", f"<!-- /report:{name} -->"
        assert DOCUMENTS.count(opening) == 1, name
        written = DOCUMENTS.partition(opening)[2].partition(closing)[0]
        assert written.strip() == block.strip(), f"run benchmarks/report.py: {name}"


def test_every_result_names_seed_hardware_and_a_hash_of_its_config(groups):
    from janus.bench.store import create
    from janus.configure import config_hash

    assert {"tune", "dml", "rows", "cross"} <= groups.keys()
    for runs in groups.values():
        assert all(config_hash(create(run)) == run["hash"] for _, run in runs.iterrows())
        known = runs[["training.seed", "hardware.cpu", "hardware.threads", "versions.torch"]]
        assert known.notna().all(axis=None)


def accs(runs, variant: str, *settings: str):
    """A setting of the variant's runs, or several → ACC."""
    found = runs[runs["variant"] == variant]
    return found.set_index([*settings])["acc"].to_dict()


def of(runs, variant: str, key: str) -> list[float]:
    return runs.loc[runs["variant"] == variant, key].tolist()


def test_numbers_in_the_prose_are_those_of_its_tables(groups):

    def at(row: str, lr: float) -> str:
        return f"{accs(groups['tune'], row, 'training.lr')[lr]:.1f}"

    signed = ("< LoRA", "= DML", "< OE+DML", "< OE", "≈ GPM", "< OE+GR", "≈ OE+GR+DML")
    order = " ".join(f"{row} {at(row[2:], 1e-3)}" for row in signed)
    text = " ".join(DOCUMENTS.split())
    assert f"GR {at('GR', 1e-3)} {order}" in text
    claim = (
        f"at 1e-2 LoRA has lost nearly everything ({at('LoRA', 1e-2)}), `exact` little ({at('exact', 1e-2)})"
    )
    assert claim in text
    best = max(of(groups["tune"], "joint", "acc"))
    assert f"(rate 1e-4) it has {at('joint', 1e-4)} on validation, at its best {best:.1f}, `frozen`" in text


def test_the_prose_on_five_and_twenty_tasks_is_that_of_its_tables(report, groups):
    five, twenty = (report.only(groups["icons_r"], tasks=tasks) for tasks in (5, 20))
    text = " ".join(DOCUMENTS.split())
    inflora = paired(five, "frozen", "InfLoRA").tolist()
    assert {f"{gain:.1f}" for gain in (min(inflora), fmean(inflora))} == {"0.8"}
    assert "at T=5 InfLoRA is .8 above" in text
    prompts = {
        t: {row: paired(rows, "frozen", row).tolist() for row in ("L2P", "DualPrompt", "CODA-Prompt")}
        for t, rows in ((5, five), (20, twenty))
    }
    assert all(abs(fmean(gains)) < interval(gains) for found in prompts.values() for gains in found.values())
    assert max(f"{abs(fmean(gains)):.1f}" for gains in prompts[5].values()) == "0.2"
    gains = prompts[20]["L2P"]
    assert f"at T=20 L2P is {-fmean(gains):.1f} ± {interval(gains):.1f} below" in text
    means, later = (paired(rows, "ncm", "LoRA-DRS, class means").tolist() for rows in (five, twenty))
    assert min(means) > 0
    claim = f"in each seed at T=5, by {fmean(means):.1f} ± {interval(means):.1f}, and not at T=20"
    assert claim in text
    assert min(later) < 0 < max(later)


def test_the_prose_on_the_fields_methods_at_other_strengths_is_that_of_its_table(report, groups):
    found = {strength: report.only(groups["icons_r"], strength=strength) for strength in (0.5, 0.75)}
    found[1.0] = report.union(report.only(groups["icons_r"], tasks=10), groups["rows"])
    text = " ".join(DOCUMENTS.split())
    for row in ("InfLoRA", "LoRA-DRS", "BiLoRA", "L2P", "DualPrompt", "CODA-Prompt"):
        for rows in found.values():
            gains = paired(rows, "frozen", row).tolist()
            assert len(gains) == 3 and fmean(gains) < interval(gains), row
    lost = {row: paired(found[0.5], row, "frozen").tolist() for row in ("L2P", "DualPrompt", "CODA-Prompt")}
    assert min(min(points) for points in lost.values()) > 0
    claims = [f"{row} by {fmean(points):.1f} ± {interval(points):.1f}" for row, points in lost.items()]
    assert ", ".join(claims) in text
    means = [paired(rows, "ncm", "LoRA-DRS, class means").tolist() for rows in found.values()]
    assert all(fmean(gains) < interval(gains) for gains in means)
    least, most = min(map(fmean, means)), max(map(fmean, means))
    assert f"are {least:.1f} to {most:.1f} above those of frozen ones, with intervals" in text


def test_numbers_in_the_prose_on_the_fields_methods_are_those_of_its_tables(report, groups):
    rows = report.union(report.only(groups["icons_r"], tasks=10), groups["rows"], groups["cross"])
    text = " ".join(DOCUMENTS.split())

    def between(first: str, second: str) -> tuple[float, str]:
        found = paired(rows, first, second).tolist()
        return fmean(found), f"{abs(fmean(found)):.1f} ± {interval(found):.1f}"

    def on_validation(row: str) -> str:
        return f"{accs(groups['icons_r_tune'], row, 'training.lr')[1e-3]:.1f}"

    own = ("SLCA", "LoRA-DRS, class means")
    eleven = [row for row in PUBLISHED if "RanPAC" not in row and row not in own]
    gains = {row: between(row, report.BEST)[0] for row in eleven}
    assert len(eleven) == 11 and f"by {min(gains.values()):.1f} to {max(gains.values()):.1f} points" in text
    assert all(paired(rows, row, report.BEST).min() > 0 for row in eleven)
    clear = [row for row in eleven if gains[row] > interval(paired(rows, row, report.BEST).tolist())]
    assert f"excludes zero against {', '.join(clear[:-1])} and {clear[-1]}, and not against" in text
    assert f"beats it by {between('SLCA', report.BEST)[1]} points" in text
    head = {row: f"{row}, RanPAC head" for row in ("LoRA", "exact", "OE+GR")}
    assert f"features are {between('RanPAC', head['OE+GR'])[1]} points above frozen ones" in text
    assert f"those of `exact` {between('RanPAC', head['exact'])[1]}, in every seed" in text
    assert f"(+{between('RanPAC', head['LoRA'])[1]}, at the smallest rate)" in text
    assert f"OE+GR {between(head['LoRA'], head['OE+GR'])[1]} above it" in text
    found = {row: on_validation(head[row]) for row in ("LoRA", "exact", "OE+GR")}
    assert "LoRA has {LoRA}, `exact` {exact}, OE+GR {OE+GR}.".format(**found) in text


def test_numbers_in_the_prose_on_long_streams_are_those_of_its_tables(report, groups):
    text = " ".join(DOCUMENTS.split())
    long = {tasks: report.only(groups["icons_r_capacity"], tasks=tasks) for tasks in (20, 50, 100)}
    gains = {tasks: paired(rows, "frozen", "exact") for tasks, rows in long.items()}
    first, second, third = (f"{fmean(gain):.1f}" for gain in gains.values())
    claim = (
        f"`exact` is above `frozen` by {first}, {second} and {third} points, with intervals that include zero"
    )
    assert claim in text
    assert all(interval(gain) > fmean(gain) for gain in gains.values())
    below = paired(long[100], "frozen", "OE+GR").tolist()
    assert max(below) < 0 and f"by {-fmean(below):.1f} ± {interval(list(below)):.1f}" in text
    protecting = long[100][long[100]["variant"] != "frozen"]
    widest = max(max(scores["basis_rank"][-1].values()) for scores in protecting["layers"])
    allowed = 192 - 2 * protecting["backbone.rank"].iloc[0]
    assert f"the widest layer {widest}, where {allowed} are allowed" in text
    energies = groups["icons_r_energy"]
    tried = accs(energies, "exact", "method.energy", "method.energy_end")
    (floor,) = of(energies, "frozen", "acc")
    safe = [acc for (first, _), acc in tried.items() if first >= 0.95]
    assert len(safe) == 6 and max(safe) - min(safe) < 0.35 and 0.35 < min(safe) - floor
    assert max(tried, key=tried.get) == (0.99, 0.99)
    chosen = (energies["method.energy"] == 0.99) & (energies["method.energy_end"] == 0.99)
    (scores,) = energies.loc[chosen, "layers"]
    most = scores["basis_rank"][-1].values()
    assert f"(the widest layer has {max(most)} directions, the mean {fmean(most):.0f})" in text
    assert max(acc for (first, _), acc in tried.items() if first == 0.8) < floor + 0.05
    less = report.renamed(groups["icons_r_capacity"], {"exact": "0.95"})
    more = report.renamed(groups["icons_r_energy_test"], {"exact": "0.99"})
    pairs = pd.concat([less, more])
    worth = [paired(report.only(pairs, tasks=tasks), "0.95", "0.99") for tasks in (20, 50, 100)]
    first, second, third = (f"{fmean(gain):+.1f}" for gain in worth)
    claim = f"it has {first}, {second} and {third} points at 20, 50 and 100 tasks"
    assert f"{claim}, with intervals that include zero" in text
    assert all(interval(gain) > abs(fmean(gain)) for gain in worth)
    means = {
        (key, tasks, what): fmean(of(report.only(pairs, tasks=tasks), key, what))
        for key in ("0.95", "0.99")
        for tasks in (20, 100)
        for what in ("drift", "bwt", "learning_acc")
    }
    assert 0.4 < means["0.99", 20, "drift"] / means["0.95", 20, "drift"] < 0.55
    assert 0.27 < means["0.99", 100, "drift"] / means["0.95", 100, "drift"] < 0.38
    assert 1.5 < means["0.99", 20, "bwt"] - means["0.95", 20, "bwt"] < 2.5
    assert -2.5 < means["0.99", 20, "learning_acc"] - means["0.95", 20, "learning_acc"] < -1.5
    ranks = report.last_rank(pairs).groupby([pairs["data.tasks"], pairs["variant"]]).mean()
    assert all(1.9 < ranks[tasks, "0.99"] / ranks[tasks, "0.95"] < 2.3 for tasks in (50, 100))


def test_numbers_in_the_prose_on_the_ablation_are_those_of_its_tables(report, groups):
    text = " ".join(DOCUMENTS.split())
    forms = set(groups["dml"]["variant"]) - {"none"}
    assert text.count(f"{len(forms)} forms") == 1 and f"a search over {len(forms)}." in text
    leads = [fmean(paired(groups["rows"], "frozen", row).tolist()) for row in ("exact", "OE+GR", "OE+GR+DML")]
    assert "({:.1f}, {:.1f} and {:.1f})".format(*leads).replace(" 0.", " .") in text


def test_the_sentences_on_the_language_model_are_those_of_its_table():
    from janus.language.trial import points
    from janus.report.language import at_level, by_row, rises, told

    measurements = ROOT / "benchmarks" / "results" / "measurements"
    stored = json.loads((measurements / "language_model.json").read_text())
    rows = by_row([run for run in stored["runs"] if run["trial"]["evaluate"] == "test"])
    level, page = stored["level"], " ".join((ROOT / "docs/results/language_model.md").read_text().split())
    there = {row: told(at_level(found, level)) for row, found in rows.items()}
    claim = (
        f"moved the manual by {there['LoRA']}, OSF by {there['OSF']} and `exact` by {there['exact, ε .95']}"
    )
    assert claim in page
    text = " ".join((ROOT / "README.md").read_text().split())
    exact = there["exact, ε .95"]
    assert f"by {there['LoRA'].removeprefix('+')} nats, `exact` has by {exact}, at the same loss" in text
    end = {row: told(rises(found, "manual")) for row, found in rows.items()}
    claim = (
        f"stands at {end['LoRA']} under LoRA, {end['OSF']} under OSF and {end['exact, ε .95']} under `exact`"
    )
    assert claim in page
    italian = {row: told(rises(found, "italian")) for row, found in rows.items()}
    assert f"as much Italian ({italian['exact, ε .95']}) as LoRA ({italian['LoRA']})" in page
    assert not at_level(rows["frozen A"], level) and stored["chosen"]["frozen A"] == 1e-2
    english = [value for found in rows.values() for value in at_level(found, level, "english")]
    assert english and max(english) < 0
    assert stored["chosen"]["exact"] == 3 * stored["chosen"]["LoRA"] and f"compared, {level:g}," in page
    assert f"At ε = .99 it costs {italian['exact, ε .99']}, and Italian was learned a little less" in page
    assert {len(found) for found in rows.values()} == {3}
    lowest = {
        row: fmean(min(loss for loss, _ in points(run)) for run in found) for row, found in rows.items()
    }
    assert lowest["exact, ε .99"] > lowest["exact, ε .95"]
