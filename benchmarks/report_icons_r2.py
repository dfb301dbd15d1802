"""The marked places of docs/results/icons_r2.md, for `report.py`: what Icons-R 2's results say so far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pandas as pd
from report_parts import floored, heads, one_epoch, provenance

from janus import plots
from janus.bench.variants import PAPER, PAPER_ROWS
from janus.plots.margin_search import margin_search
from janus.report.compare import NONE, change, paired, pick, spread, values
from janus.report.tables import Table, difference_table, overview, rate_table

FIGURES = Path(__file__).parent.parent / "figures"
SCORES = ("ACC", "MAA", "BWT", "learning acc.", "task-aware acc.", "violation", "drift")
LINEAR = ("frozen", "LoRA", "LoRA-FA", "GPM", "OE", "OE+GR", "exact", "probe", "joint")
RANPAC = ("RanPAC", *(f"{row}, RanPAC head" for row in ("LoRA", "OE+GR", "exact")))
ALIGNED = tuple(f"{row}, aligned heads" for row in ("frozen", "LoRA", "OE+GR", "exact"))
OTHER = ("ncm", *RANPAC, *ALIGNED)
FIRST = ("frozen", "LoRA", "OE", "GR", "OE+GR", "exact", "joint", *RANPAC)
LOSS = ("pull", "push", "push_margin")
LOSS_SCORES = {  # header → score, digits
    "ACC": ("acc", 1),
    "learning acc.": ("learning_acc", 1),
    "BWT": ("bwt", 1),
    "danger": ("danger", 3),
    "own-centre similarity": ("own_similarity", 3),
}
LOSS_STEPS = [("LoRA", "DML"), ("OE", "OE+DML"), ("OE+GR", "OE+GR+DML")]
DRAWN = ("LoRA", "OE", "GPM", "OE+GR", "exact", "frozen")
STEPS = [
    ("probe", "joint"),
    ("frozen", "LoRA"),
    ("frozen", "GPM"),
    ("frozen", "OE"),
    ("frozen", "OE+GR"),
    ("frozen", "exact"),
    ("LoRA", "GR"),
    ("LoRA", "OE"),
    ("LoRA", "OE+GR"),
    ("LoRA", "exact"),
    ("GPM", "OE+GR"),
    ("OE", "OE+GR"),
    ("OE+GR", "exact"),
]
RANPAC_STEPS = [
    *(("RanPAC", f"{row}, RanPAC head") for row in ("LoRA", "OE+GR", "exact")),
    *(("LoRA, RanPAC head", f"{row}, RanPAC head") for row in ("OE+GR", "exact")),
]
HEAD_STEPS = [
    *RANPAC_STEPS,
    *((row, f"{row}, RanPAC head") for row in ("OE+GR", "exact")),
    ("OE+GR, RanPAC head", "exact, RanPAC head"),
    *(("frozen, aligned heads", f"{row}, aligned heads") for row in ("LoRA", "OE+GR", "exact")),
    *(("LoRA, aligned heads", f"{row}, aligned heads") for row in ("OE+GR", "exact")),
    *((row, f"{row}, aligned heads") for row in ("frozen", "OE+GR", "exact")),
    *((f"{row}, RanPAC head", f"{row}, aligned heads") for row in ("LoRA", "OE+GR", "exact")),
]


def adaptation(runs: pd.DataFrame) -> str:
    """joint minus probe on validation, by strength of the renditions and epochs a task."""
    runs = runs.assign(strength=runs["data.strength"].fillna(1.0) if "data.strength" in runs else 1.0)
    lines = []
    for (strength, epochs), found in runs.groupby(["strength", "training.epochs"]):
        accs = {row: values(found, row)[0] for row in found["variant"].unique()}
        joint = {row: acc for row, acc in accs.items() if row.startswith("joint")}
        gain = f"{max(joint.values()) - accs['probe']:+.1f}"
        cells = (f"{acc:.1f}" for acc in (accs["probe"], *joint.values()))
        lines.append([f"{strength:g}", epochs, *cells, gain])
    return str(Table(["strength", "epochs", "probe", *joint, "the better one minus probe"], lines))


def alignment(runs: pd.DataFrame) -> Table:
    """`frozen, aligned heads` on validation, by what Σ is shared over and the rate of the alignment."""
    runs = runs.sort_values("classifier.lr")
    rates = runs["classifier.lr"].unique()
    lines = []
    for kind, found in runs.groupby("classifier.covariance"):
        lines.append([kind, *(best_bold(found["acc"], runs["acc"].max()))])
    return Table(["covariance", *(f"{rate:g}" for rate in rates)], lines)


def best_bold(accs: pd.Series, best: float) -> list[str]:
    return [f"**{acc:.1f}**" if acc == best else f"{acc:.1f}" for acc in accs]


def margin_loss(runs: pd.DataFrame, without: pd.Series) -> Table:
    """OE+GR with the margin loss on validation, by its constants; first the same row without it."""
    columns = LOSS_SCORES.values()
    lines = [[NONE] * len(LOSS) + [f"{without[key]:.{digits}f}" for key, digits in columns]]
    for _, run in runs.sort_values([f"method.loss.{name}" for name in LOSS]).iterrows():
        constants = [f"{run[f'method.loss.{name}']:g}" for name in LOSS]
        lines.append([*constants, *(f"{run[key]:.{digits}f}" for key, digits in columns)])
    return Table(["pull", "push", "margin of the push", *LOSS_SCORES], lines)


def margin_loss_fresh(runs: pd.DataFrame, without: str = "OE+GR") -> Table:
    """The best forms on seeds that chose nothing: the row without the loss (mean ± standard deviation), and
    what each form changes (paired, with the mean's 95 % interval)."""
    plain = [spread(values(runs, without, key), digits) for key, digits in LOSS_SCORES.values()]
    lines = [[without, *plain]]
    for form in sorted(set(runs["variant"]) - {without}):
        lines.append([f"change with {form.removeprefix(f'{without}, ')}", *changed(runs, without, form)])
    return Table(["", *LOSS_SCORES], lines)


def changed(runs: pd.DataFrame, without: str, form: str, more: int = 0) -> list[str]:
    """What a row with the margin loss changes against one without: for each of LOSS_SCORES the paired mean ±
    its 95 % interval. more: digits beside the usual ones."""
    scores = LOSS_SCORES.values()
    return [change(paired(runs, without, form, key).tolist(), digits + more) for key, digits in scores]


def mean_change(runs: pd.DataFrame, key: str, digits: int) -> str:
    """The mean over LOSS_STEPS of what the margin loss changes in a seed; ± its 95 % interval over seeds."""
    steps = (paired(runs, *step, key).tolist() for step in LOSS_STEPS)
    return change([fmean(seed) for seed in zip(*steps, strict=True)], digits + 1)


def ablation(test: pd.DataFrame) -> str:
    """The paper's table 1, its numbers beside ours; then what the margin loss changes, pair by pair."""
    runs = pick(test, ("frozen", *PAPER_ROWS, "GPM", "exact"))
    kinds = ("ACC", "MAA", "BWT", "learning acc.", "violation", "danger")
    rows = overview(runs, kinds, ("ImageNet-R, T=10", PAPER))
    lines = [[f"{a} → {b}", *changed(runs, a, b, more=1)] for a, b in LOSS_STEPS]
    lines.append(["mean of the three", *(mean_change(runs, *score) for score in LOSS_SCORES.values())])
    loss = Table(["from → to", *LOSS_SCORES], lines)
    said = "What the margin loss changes, paired, with the 95 % interval:"
    return f"{rows}\n\n{provenance(runs)}\n\n{said}\n\n{loss}"


def without_margin_loss(tune: pd.DataFrame, runs: pd.DataFrame, row: str = "OE+GR") -> pd.Series:
    """The run of a row that differs from these by the margin loss alone."""
    rate = runs["training.lr"].iloc[0]
    (found,) = (run for _, run in tune[tune["variant"] == row].iterrows() if run["training.lr"] == rate)
    return found


def at_one_rate(runs: pd.DataFrame, rows: Sequence[str], rate: float) -> str:
    """Rows on validation at the same learning rate, in the order of the paper's table."""
    return str(overview(pick(runs[runs["training.lr"] == rate], rows), SCORES, cite=False))


def shown_first(test: pd.DataFrame) -> str:
    """The README's table: what protection is worth, with linear heads and under RanPAC's."""
    runs = pick(test, FIRST)
    return f"{floored(runs, ('ACC', 'BWT', 'learning acc.', 'violation'))}\n\n{provenance(runs)}"


def blocks(groups: dict[str, pd.DataFrame]) -> dict[str, str]:
    """Marked place → what belongs there."""
    tune, found = groups["icons_r2_tune"], {}
    found["icons_r2_adaptation"] = adaptation(groups["icons_r2_adaptation"])
    found["icons_r2_heads"] = heads(groups["icons_r2_heads"])
    found["icons_r2_tune"] = f"{rate_table(tune)}\n\n{provenance(tune)}"
    found["icons_r2_one_rate"] = at_one_rate(tune, DRAWN[:-1], 1e-3)
    drawn = pd.concat([pick(tune, DRAWN), groups["icons_r2_heads"]])
    figure = plots.rates(drawn, title="Protection lets LoRA learn faster before it forgets")
    figure.save(FIGURES / "icons_r2_rates")
    found["icons_r2_alignment"] = str(alignment(groups["icons_r2_alignment"]))
    loss = groups["icons_r2_dml"]
    without = without_margin_loss(tune, loss)
    found["icons_r2_dml"] = str(margin_loss(loss, without))
    figure = margin_search(loss, without, "A stronger push lowers the danger, and brings no accuracy")
    figure.save(FIGURES / "icons_r2_margin_loss")
    ranpac = groups["icons_r2_dml_ranpac"]
    without = without_margin_loss(tune, ranpac, "OE+GR, RanPAC head")
    found["icons_r2_dml_ranpac"] = str(margin_loss(ranpac, without))
    fresh = groups["icons_r2_dml_fresh"]
    found["icons_r2_dml_fresh"] = f"{margin_loss_fresh(fresh)}\n\n{provenance(fresh)}"
    demo = pick(groups["icons_r2_demo"], (*PAPER_ROWS, "GPM", "exact", "frozen", "joint"))
    scores = overview(demo, ("ACC", "MAA", "BWT", "violation"), ("ImageNet-R, T=10", PAPER))
    found["icons_r2_demo"] = f"{scores}\n\n{provenance(demo)}"
    found["icons_r2_one_epoch_tune"] = str(rate_table(groups["icons_r2_one_epoch_tune"]))
    found["icons_r2_one_epoch"] = one_epoch(groups["icons_r2_one_epoch"])
    test = groups["icons_r2"]
    found["readme"] = shown_first(test)
    found["icons_r2"] = f"{floored(pick(test, LINEAR), SCORES)}\n\n{provenance(test)}"
    found["icons_r2_ablation"] = ablation(test)
    found["icons_r2_classifiers"] = str(floored(pick(test, ("frozen", *OTHER)), SCORES))
    found["icons_r2_differences"] = str(difference_table(test, [*STEPS, *HEAD_STEPS]))
    return found
