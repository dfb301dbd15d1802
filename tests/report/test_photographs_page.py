"""The sentences on photographs, in their page and the README, are those of the committed results."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean

import pandas as pd
from helpers.differences import difference

from janus.bench import variants
from janus.report.compare import interval, paired

ROOT = Path(__file__).parents[2]
TEXTS = (ROOT / "docs/results/photographs.md", ROOT / "README.md")
PAGE, README = (" ".join(path.read_text().split()) for path in TEXTS)


def test_the_sentences_on_photographs_are_those_of_its_tables(groups):
    runs = groups["photographs"]
    assert set(runs["data.evaluate"]) == {"test"} and runs["training.seed"].nunique() == 3

    between = partial(difference, runs)

    over = {row: between("frozen", row) for row in ("LoRA", "OE+GR", "exact")}
    assert "`frozen`: LoRA by {LoRA}, OE+GR by {OE+GR}, `exact` by {exact}".format(**over) in PAGE
    assert interval(paired(runs, "frozen", "exact").tolist()) > fmean(paired(runs, "frozen", "exact"))
    assert (paired(runs, "frozen", "exact") > 0).all()
    claim = f"LoRA is {between('OE+GR', 'LoRA')} above OE+GR and {between('exact', 'LoRA')} above `exact`"
    assert claim in PAGE and f"LoRA is {between('OE+GR', 'LoRA')} above OE+GR" in README
    assert min([*paired(runs, "OE+GR", "LoRA"), *paired(runs, "exact", "LoRA")]) > 0
    scores = ["acc", "bwt", "learning_acc", "task_aware_acc"]
    mean = runs.groupby("variant")[scores].mean().map("{:.1f}".format)
    known, right, bwt = mean["task_aware_acc"], mean["learning_acc"], mean["bwt"]
    assert f"{known['exact']} % (`exact`), {known['OE+GR']} % (OE+GR) and {known['LoRA']} % (LoRA)" in PAGE
    assert f"`frozen` {known['frozen']} %" in PAGE
    assert f"{right['exact']} % and {right['OE+GR']} % of its images" in PAGE
    assert f"LoRA {right['LoRA']} %" in PAGE
    assert f"BWT is {bwt['exact']} and {bwt['OE+GR']}, LoRA's {bwt['LoRA']}" in PAGE
    exact, tangent = (f"{row}, RanPAC head" for row in ("exact", "OE+GR"))
    claim = f"`exact` has {between('RanPAC', exact)} points more with adapted features than with frozen ones"
    assert claim in PAGE and (paired(runs, "RanPAC", exact) > 0).all()
    seeds = paired(runs, "RanPAC", tangent)
    said = ", ".join(f"{gain:+.1f}" for gain in seeds)
    assert f"OE+GR is ahead in {sum(seeds > 0)} of {len(seeds)} seeds ({said})" in PAGE
    lora = "LoRA, RanPAC head"
    claim = f"LoRA is {between(lora, 'RanPAC')} below frozen features, although it has learned most"
    assert claim in PAGE and (paired(runs, "RanPAC", lora) < 0).all()
    assert right[lora] == max(right, key=float)
    assert f"(learning accuracy {right[lora]}): " in PAGE and f"(BWT {bwt[lora]})" in PAGE
    claim = f"`exact` has {mean['acc'][exact]}, frozen features {mean['acc']['RanPAC']} "
    claim = f"{claim}({between('RanPAC', exact)} between them), sequential LoRA {mean['acc'][lora]}"
    assert claim in README


def test_the_sentences_on_validating_photographs_are_those_of_its_tables(groups):
    parts = ("heads", "tune", "tune_classifiers", "adaptation")
    runs = pd.concat([groups[f"photographs_{part}"] for part in parts])
    assert set(runs["data.evaluate"]) == {"val"} and set(runs["training.seed"]) == {100}
    best = runs.sort_values("acc").groupby("variant").last()
    worth = f"{best['acc']['joint, lr 1e-3'] - best['acc']['probe']:.1f}"
    assert f"worth {worth} points here" in PAGE and f"worth {worth} points" in README
    lora = best.loc["LoRA, RanPAC head"]
    assert f"(learning accuracy {lora['learning_acc']:.1f})" in PAGE and f"BWT {lora['bwt']:.1f}, ACC" in PAGE
    assert f"ACC {best['acc']['RanPAC'] - lora['acc']:.1f} below that with frozen features" in PAGE
    others = ("exact, RanPAC head", "OE+GR, RanPAC head", "RanPAC")
    assert lora["learning_acc"] > max(best["learning_acc"][row] for row in others)
    tune = groups["photographs_tune"]
    tried, rates = tune.groupby("variant")["training.lr"], best["training.lr"]
    assert (tried.size() == 5).all() and (tried.nunique() == 5).all()
    assert (rates["LoRA"], rates["OE+GR"], rates["exact"]) == (3e-4, 1e-4, 1e-3)
    assert "LoRA, OE+GR and `exact` are best at 3e-4, 1e-4 and 1e-3, each inside the range" in PAGE
    assert all(tried.min()[row] < rates[row] < tried.max()[row] for row in tried.groups)
    first = tune[tune["training.lr"] == 1e-3].set_index("variant")["accuracy"].map(lambda found: found[0][0])
    claim = f"after it, {first['OE+GR']:.1f} % of its images are named rightly, with LoRA at the same rate "
    assert f"{claim}{first['LoRA']:.1f} %" in PAGE
    chosen = variants.chosen(ROOT / "benchmarks/protocols/photographs.json")
    used = groups["photographs"].groupby("variant")["training.lr"].unique().drop(["frozen", "ncm", "RanPAC"])
    assert len(used) == 6
    assert all(rates == [variants.choice(row, chosen)["training.lr"]] for row, rates in used.items())
