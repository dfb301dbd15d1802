"""The sentences on Icons-R 2, in its page and the README, are those of the committed results."""

from __future__ import annotations

from functools import partial
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
import pandas as pd
from helpers.differences import difference

from janus.bench.paper import ONE_EPOCH, PAPER
from janus.bench.variants import PAPER_ROWS
from janus.report.compare import change, interval, paired, values
from janus.runtime.assets import measurement

ROOT = Path(__file__).parents[2]
TEXTS = (ROOT / "docs/results/icons_r2.md", ROOT / "README.md")
PAGE, README = (" ".join(path.read_text().split()) for path in TEXTS)


def test_the_sentences_on_icons_r2_are_those_of_its_tables(groups):
    runs = groups["icons_r2"]
    between = partial(difference, runs)

    tangent, exact, plain = (between("RanPAC", f"{row}, RanPAC head") for row in ("OE+GR", "exact", "LoRA"))
    claim = f"OE+GR's are {tangent} points above frozen ones and those of `exact` {exact}; "
    assert f"{claim}sequential LoRA's {plain}," in README
    over = {row: between("frozen", row) for row in ("OE+GR", "exact", "LoRA")}
    claim = "OE+GR (+{OE+GR}), `exact` (+{exact}) and sequential LoRA (+{LoRA}) are clear of".format(**over)
    assert claim in README
    assert f"`exact` is not clear of LoRA ({between('LoRA', 'exact')})." in README
    assert f"with linear heads `exact` is {between('OE+GR', 'exact')} below OE+GR" in README
    over |= {row: between("frozen", row) for row in ("GPM", "OE")}
    claim = "`OE+GR` by {OE+GR}, `exact` by {exact}, sequential LoRA by {LoRA}, `GPM` by {GPM}, `OE` by {OE}."
    assert claim.format(**over) in PAGE
    assert f"but `LoRA-FA` (three seeds, {between('frozen', 'LoRA-FA')}) are clear of `frozen`" in PAGE
    assert len(random := paired(runs, "frozen", "LoRA-FA").tolist()) == 3 and interval(random) > fmean(random)
    assert f"`OE` is {between('LoRA', 'OE')} above it. **The same basis with GR is " in PAGE
    assert f"{between('OE', 'OE+GR')} above `OE`**, ahead in each of five seeds" in PAGE
    assert (paired(runs, "OE", "OE+GR") > 0).sum() == 5
    assert f"worth {between('probe', 'joint')} points" in PAGE
    assert f"ahead of `exact` by {between('OE+GR', 'exact')}." in PAGE
    assert sum(gain > 0 for gain in paired(runs, "LoRA", "exact")) == 4  # of five
    assert f"worth {tangent} (`OE+GR`) and {exact} points (`exact`) more than frozen ones" in PAGE
    assert f"are worth {plain}." in PAGE
    heads = {row: f"{row}, aligned heads" for row in ("frozen", "LoRA", "OE+GR", "exact")}
    gains = {row: between(heads["frozen"], heads[row]) for row in ("LoRA", "OE+GR", "exact")}
    claim = "`OE+GR` has {OE+GR}, `exact` {exact}, sequential LoRA {LoRA}. The last is SLCA".format(**gains)
    assert claim in PAGE
    claim = "heads it is {OE+GR} (OE+GR), {exact} (`exact`) and {LoRA} (LoRA, which is SLCA then)"
    assert claim.format(**gains) in README
    assert f"`exact` is {between(heads['LoRA'], heads['exact'])} above it." in PAGE
    assert f"(`RanPAC` → aligned +{between('RanPAC', heads['frozen'])})" in PAGE
    less = {row: between(f"{row}, RanPAC head", heads[row]) for row in ("OE+GR", "exact")}
    assert "`OE+GR` has {OE+GR} less with aligned heads, `exact` {exact} less".format(**less) in PAGE
    assert all(fmean(paired(runs, f"{row}, RanPAC head", heads[row])) < 0 for row in less)
    means = runs[runs["variant"] != "joint"].groupby("variant")["acc"].mean()
    assert means.idxmax() == "exact, RanPAC head"
    assert all((paired(runs, "probe", f"{row}, RanPAC head") > 0).all() for row in ("OE+GR", "exact"))
    demo = {row: acc for row, (acc,) in groups["icons_r2_demo"].groupby("variant")["acc"].apply(list).items()}
    assert f"LoRA ends {demo['frozen'] - demo['LoRA']:.0f} points below `frozen`. `exact` ends" in PAGE
    assert f"`exact` ends {demo['exact'] - demo['frozen']:.1f} above it" in PAGE
    assert min(demo, key=demo.get) == "GR"
    rectified = min(demo[row] for row in ("OE", "OE+GR", "OE+DML", "OE+GR+DML"))
    assert rectified > max(demo[row] for row in ("LoRA", "DML", "GR"))
    with_loss = {"LoRA": "DML", "OE": "OE+DML", "OE+GR": "OE+GR+DML"}
    assert all(demo[loss] < demo[row] for row, loss in with_loss.items())


def test_the_sentences_on_the_margin_loss_are_those_of_its_table(groups):
    runs, tune = groups["icons_r2_dml"], groups["icons_r2_tune"]
    plain = tune[(tune["variant"] == "OE+GR") & (tune["training.lr"] == runs["training.lr"].iloc[0])].iloc[0]
    assert "seed 100: 24 forms" in PAGE and len(runs) == 24
    (_, alone), (_, pulled) = runs.groupby("method.loss.pull")  # 0, .5
    claim = f"without a pull it falls from {plain['danger']:.3f} to {alone['danger'].min():.3f}."
    assert claim.replace(" 0.", " .") in PAGE
    assert f"raises both: danger to {pulled['danger'].max():.3f}, and".replace(" 0.", " .") in PAGE
    below = pulled[pulled["danger"] < plain["danger"]]
    assert set(below["method.loss.push"]) == {3.0}
    for half in (alone, pulled):
        by_push = half.groupby("method.loss.push")[["danger", "own_similarity"]].mean()
        assert by_push["danger"].is_monotonic_decreasing and by_push["own_similarity"].is_monotonic_decreasing
    assert np.corrcoef(runs["danger"], runs["own_similarity"])[0, 1] > 0.95  # "on one line"
    assert set(runs.nlargest(3, "acc")["method.loss.push"]) == {0.05}
    strong = runs[runs["method.loss.push"] >= 1]
    bought, paid = strong["learning_acc"] - plain["learning_acc"], plain["bwt"] - strong["bwt"]
    claim = f"buys {bought.min():.1f} to {bought.max():.1f} points of learning accuracy"
    assert f"{claim}, and pays for it with {paid.min():.1f} to {paid.max():.1f} points of BWT" in PAGE
    assert f"best form has {runs['acc'].max():.1f}, the row without the loss {plain['acc']:.1f}" in PAGE
    fresh = groups["icons_r2_dml_fresh"]
    assert set(fresh["data.evaluate"]) == {"val"} and fresh["training.seed"].nunique() == 3
    forms = set(fresh["variant"]) - {"OE+GR"}
    changes = {form: paired(fresh, "OE+GR", form).tolist() for form in forms}
    best = max(changes.values(), key=fmean)
    claim = f"{fmean(best):+.2f} ± {interval(best):.2f}"
    assert f"at best ACC changes by {claim}" in PAGE
    assert f"at best {claim} on fresh seeds" in README
    assert all(abs(fmean(found)) < interval(found) for found in changes.values())
    falls = pd.concat([-paired(fresh, "OE+GR", form, "danger") for form in forms])
    assert falls.min() > 0 and f"in each seed, by {falls.max():.3f} at most".replace(" 0.", " .") in PAGE
    ranpac = groups["icons_r2_dml_ranpac"]
    plain = tune[tune["variant"] == "OE+GR, RanPAC head"].set_index("training.lr").loc[3e-4]
    claim = "They have {:.1f} and {:.1f}, the row".format(*sorted(ranpac["acc"]))
    assert f"{claim} without the loss {plain['acc']:.1f}:" in PAGE and ranpac["acc"].max() < plain["acc"]
    assert ranpac["danger"].max() < plain["danger"]
    aligned = groups["icons_r2_alignment"]
    floor = groups["icons_r2_heads"]["acc"].max()
    assert f"with plain linear heads: {floor:.1f})" in PAGE and aligned["acc"].min() > floor


def test_what_bf16_costs_where_it_is_emulated_is_what_was_measured():
    cases = {case["instructions"]: case["ratio"] for case in measurement("bf16_cpu")["cases"]}
    claim = f"a step takes {cases['AVX512']:.0f} to {cases['AVX2']:.0f} times as long as in float32"
    assert claim in PAGE and cases["AVX512-BF16"] > 1


def test_the_sentences_on_one_epoch_are_those_of_its_table(groups):
    runs = groups["icons_r2_one_epoch"]
    gain, other, apart = (
        paired(runs, *rows).tolist() for rows in (("frozen", "OE"), ("frozen", "GPM"), ("GPM", "OE"))
    )
    assert f"are clear of `frozen`, `OE` by {fmean(gain):.1f} ± {interval(gain):.1f}." in PAGE
    assert all(fmean(found) > interval(found) for found in (gain, other))
    claim = f"`OE` is {fmean(apart):+.1f} ± {interval(apart):.1f} above `GPM`, where the paper has"
    theirs = ONE_EPOCH["ImageNet-R", 10]
    assert f"{claim} {theirs['OE'][0] - theirs['GPM'][0]:+.1f}." in PAGE
    own, its = (fmean(values(runs, row, "seconds.oe")) for row in ("OE", "GPM"))
    assert f"{own:.1f} s a run for OE's own part, {its:.1f} s for GPM's pass" in PAGE


def test_the_sentences_on_the_papers_table_1_are_those_of_its_table(groups):
    runs = groups["icons_r2"]

    def over(first: str, second: str, key: str = "acc") -> list[float]:
        return paired(runs, first, second, key).tolist()

    parts = {row: over("LoRA", row) for row in ("OE", "GR", "OE+GR")}
    assert {len(gains) for gains in parts.values()} == {5}
    rest = [both - oe - gr for oe, gr, both in zip(*parts.values())]
    stated = {row: change(gains, 1) for row, gains in parts.items()}
    claim = "Over `LoRA`, `OE` has {OE}, `GR` {GR}, `OE+GR` {OE+GR}:".format(**stated)
    assert f"{claim} {change(rest, 1).removeprefix('+')} more than the sum" in PAGE and min(rest) > 0
    assert all(abs(fmean(parts[row])) < interval(parts[row]) for row in ("OE", "GR"))
    claim = "OE alone ({OE} over LoRA) and GR alone ({GR}) are level with LoRA".format(**stated)
    assert claim in README and f"the two together are {difference(runs, 'LoRA', 'OE+GR')} above it" in README
    oe, gr, both = (PAPER[row][0] - PAPER["LoRA"][0] for row in parts)
    claim = f"each part alone gains much ({oe:+.1f}, {gr:+.1f}), and both together {oe + gr - both:.1f} less"
    assert claim in PAGE
    learning, forgetting = over("GR", "OE+GR", "learning_acc"), over("GR", "OE+GR", "bwt")
    assert abs(fmean(learning)) < interval(learning) and min(forgetting) > 0
    assert f"and forgets {difference(runs, 'GR', 'OE+GR', 'bwt')} points more" in PAGE
    edge = groups["icons_r2_edge"].set_index("variant")["acc"]
    tune = groups["icons_r2_tune"]
    least = tune[tune["training.lr"] == 1e-4].set_index("variant")["acc"]
    claim = f"At 3e-5, below the five, GR has {edge['GR']:.1f} on validation, LoRA {edge['LoRA']:.1f}; "
    assert f"{claim}at 1e-4 they had {least['GR']:.1f} and {least['LoRA']:.1f}." in PAGE
    with_loss = {"LoRA": "DML", "OE": "OE+DML", "OE+GR": "OE+GR+DML"}
    changes = [over(*pair) for pair in with_loss.items()]
    assert {len(found) for found in changes} == {5}
    assert all(abs(fmean(found)) < interval(found) for found in changes)
    adds = "{:+.2f}, {:+.2f} and {:+.2f} points of ACC".format(*map(fmean, changes))
    mean = [fmean(seed) for seed in zip(*changes)]  # over the three pairs
    claim = f"{fmean(mean):+.2f} ± {interval(mean):.2f}"
    assert (
        f"The margin loss adds {adds} in its three pairs, none clear of zero; their mean is {claim}." in PAGE
    )
    assert f"on test a tenth of a point ({claim}, mean of three pairs of rows)" in README
    seven = sorted(PAPER_ROWS, key=lambda row: PAPER[row][0])
    height = [fmean(values(runs, row)) for row in seven]
    turned = [(a, b) for a, b in combinations(range(7), 2) if height[a] >= height[b]]
    assert [(seven[a], seven[b]) for a, b in turned] == [("GR", "OE")]
    assert "20 of the 21 pairs of the seven rows stand in the paper's order; `GR` and `OE` are turned" in PAGE
    falls = [-fmean(over(*pair, "danger")) for pair in with_loss.items()]
    low, high = (f"{fall:.3f}".removeprefix("0") for fall in (min(falls), max(falls)))
    assert f"Danger falls by {low} to {high}" in PAGE
