"""Tables and figures over results files: what a run found, how rows compare, what they cost, where the numbers come from."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import plotly.graph_objects as go
from PIL import Image
from plotly.subplots import make_subplots

from ..ablation import CROSS, PAPER, ROWS, slug
from ..errors import JanusError
from ..metrics import over_samples
from ..result import Result
from .figure import COLOURS, MARKERS, Figure
from .results import NoResults
from .runs import PROTECTIONS, apart, protection

Runs = Mapping[str, Sequence[Result]]  # row → its results, by seed
NONE = "—"


@dataclass(frozen=True)
class Table:
    """Rows of cells under a header; shows itself as a Markdown table wherever Markdown is shown."""

    header: Sequence[str]
    rows: Sequence[Sequence[Any]]

    def __str__(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": str(self), "text/markdown": str(self)}


# ── one run ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def scores(result: Result) -> Table:
    """The scores of one run, each with what it means. Accuracies in per cent, differences in points."""
    values = [
        ("ACC", result.acc, "accuracy over all classes after the last task"),
        ("MAA", result.maa, "mean of that accuracy over the tasks"),
        ("BWT", result.bwt, "mean change of an old task's accuracy since it was learned"),
        ("forgetting", result.forgetting, "mean loss of an old task since its best"),
        ("learning accuracy", result.learning_acc, "mean accuracy of a task right after it was learned, all seen classes in play"),
        ("task-aware accuracy", result.task_aware_acc, "accuracy at the end if the right task were known"),
    ]
    return Table(["score", "value", "meaning"], [(name, number(value), meaning) for name, value, meaning in values])


def parts(result: Result) -> Table:
    """Seconds of one run by part; `train` has those of `gr` in it, and of `oe` what happens inside a step."""
    meanings = {"train": "training steps", "eval": "evaluation after each task", "oe": "estimating the past's inputs",
                "gr": "the optimiser's step of the factors (within train)"}
    return Table(["part", "seconds", "what"], [(k, f"{v:.1f}", meanings.get(k, "")) for k, v in result.seconds.items()])


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(folder: str | Path) -> dict[str, dict[str, list[Result]]]:
    """All runs below a results folder: group (its subfolder) → row → results, ordered by seed.

    A file's name is the row's slug, then `__` and what tells its runs apart. JSON files that are no runs are left out.

    Raises:
        NoResults: no such folder, or no runs in it. JanusError: a damaged file; it is named.
    """
    folder, groups = Path(folder), {}
    for path in sorted(folder.rglob("*.json")) if folder.is_dir() else []:
        try:
            values = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise JanusError(f"{path}: not readable ({error}); delete it and run again") from None
        if isinstance(values, dict) and {"accuracy", "config"} <= values.keys():
            group = groups.setdefault(path.parent.relative_to(folder).as_posix(), {})
            group.setdefault(_UNSLUG.get(name := path.stem.partition("__")[0], name), []).append(Result.load(path))
    if not groups:
        raise NoResults(f"no results in {folder}: the repository has some in benchmarks/results, and any folder of runs will do")
    for group, runs in groups.items():
        order = sorted(runs, key=lambda row: (_ORDER.index(row) if row in _ORDER else len(_ORDER), row))
        groups[group] = {row: sorted(runs[row], key=lambda r: (r.config["seed"], r.config["lr"])) for row in order}
    return groups


_ORDER = [*ROWS, *CROSS]
_UNSLUG = {slug(row): row for row in _ORDER}


def curve(result: Result) -> list[float]:
    """Accuracy over the classes seen so far, after each task (T,), in per cent; its mean is MAA."""
    judged = "val" if result.stream["evaluate"] == "val" else "test"
    sizes = [task[judged] for task in result.stream["tasks"]]
    return [over_samples(row, sizes) for row in result.accuracy]


def paired(rows: Runs, row: str, floor: str = "frozen") -> dict[int, float]:
    """seed → ACC of `row` minus ACC of `floor` at the same seed, in points; only the seeds that both have."""
    base = {r.config["seed"]: r.acc for r in rows.get(floor, ())}
    return {r.config["seed"]: r.acc - base[r.config["seed"]] for r in rows.get(row, ()) if r.config["seed"] in base}


# ── tables over rows ────────────────────────────────────────────────────────────────────────────────────────────────────


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table: — for None, powers of ten for what would round to zero."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value:.0e}" if value and abs(value) < 0.5 * 10**-digits else f"{value:.{digits}f}"


def spread(values: Sequence[float | None], digits: int = 1) -> str:
    """mean ± standard deviation over seeds."""
    kept = [v for v in values if v is not None]
    mean = number(fmean(kept), digits) if kept else NONE
    return mean if len(kept) < 2 or "e" in mean else f"{mean} ± {stdev(kept):.{digits}f}"


def overview(rows: Runs) -> Table:
    """mean ± standard deviation over seeds, how many seeds, and the paper's values, labelled so, where it has the row."""
    kinds = {"ACC": "acc", "MAA": "maa", "BWT": "bwt", "learning acc.": "learning_acc", "task-aware acc.": "task_aware_acc"}
    cited = any(row in PAPER for row in rows)
    header = ["row", "seeds", *kinds, "violation", "drift", *(["the paper's, ImageNet-R: ACC / MAA / BWT"] if cited else [])]
    lines = []
    for row, found in rows.items():
        single = all(len(r.accuracy) == 1 for r in found)  # joint: one task, so no mean over tasks and nothing to forget
        cells = [NONE if single and name == "MAA" else spread([getattr(r, key) for r in found]) for name, key in kinds.items()]
        cells += [spread([r.violation["mean"]["all"] for r in found], 2), spread([r.drift for r in found], 2)]
        paper = " / ".join(f"{v:.2f}" for v in PAPER[row]) if row in PAPER else ""
        lines.append([row, len(found), *cells, *([paper] if cited else [])])
    return Table(header, lines)


def rate_table(tune: Runs) -> Table:
    """Validation accuracy of each row at each rate it was tried with; the best one is bold."""
    tried = {row: {_rate(row, r): r.acc for r in found} for row, found in tune.items()}
    rates = sorted({rate for accs in tried.values() for rate in accs})
    lines = []
    for row, accs in tried.items():
        best = max(accs, key=accs.__getitem__)
        name = f"{row} (heads' rate)" if row == "frozen" else row
        lines.append([name, *(NONE if k not in accs else f"**{accs[k]:.1f}**" if k == best else f"{accs[k]:.1f}" for k in rates)])
    return Table(["row", *(f"{rate:g}" for rate in rates)], lines)


def seconds_table(rows: Runs) -> Table:
    """Seconds a run by part, mean ± standard deviation over seeds."""
    return Table(["row", "training", "of it GR", "OE", "evaluation", "together"], [
        [row, *(spread([r.seconds[k] for r in found]) for k in ("train", "gr", "oe", "eval")), spread([_seconds(r) for r in found])]
        for row, found in rows.items()])


def step_table(cost: Mapping[str, Any]) -> Table:
    """A training step beside PEFT's LoRA: median ratio (quarter points) and milliseconds, from `step_cost.json`."""
    return Table(["model, batch", "variant", "time / PEFT's LoRA", "quarter points", "ms"], [
        [f"{case['model']}, {case['batch']}", name, f"{v['ratio']:.2f}", f"{v['low']:.2f} … {v['high']:.2f}", f"{v['ms']:.0f}"]
        for case in cost["cases"] for name, v in case["variants"].items()])


def provenance(groups: Mapping[str, Runs]) -> Table:
    """Where each group of results comes from: split, seeds, machine, versions, dates."""
    lines = []
    for group, rows in groups.items():
        found = [r for results in rows.values() for r in results]
        dates = sorted(r.date[:10] for r in found)
        machines = {(r.hardware["card"] or r.hardware["cpu"] or "unknown processor") + f", {r.hardware['threads']} thread(s)"
                    for r in found}
        lines.append([
            group, len(found), _listed({f"{r.config['dataset']}, T={r.config['tasks']}, {r.config['evaluate']}" for r in found}),
            _listed({r.config["seed"] for r in found}), _listed(machines), _listed({r.versions["torch"] for r in found}),
            _listed({r.versions["timm"] for r in found}), dates[0] if dates[0] == dates[-1] else f"{dates[0]} … {dates[-1]}",
        ])
    return Table(["group", "runs", "data, tasks, split", "seeds", "machine", "torch", "timm", "date"], lines)


def _listed(values: set[Any]) -> str:
    return "; ".join(map(str, sorted(values)))


def _rate(row: str, result: Result) -> float:
    return result.config["head_lr" if row == "frozen" else "lr"]


def _seconds(result: Result) -> float:
    """Of a whole run. OE's hooks are inside `train` as well: up to a second is counted twice."""
    return result.seconds["train"] + result.seconds["eval"] + result.seconds["oe"]


# ── figures over rows ───────────────────────────────────────────────────────────────────────────────────────────────────

_OWN = {"frozen": 6, "ncm": 7, "joint": 8}


def style(row: str) -> tuple[str, str, str]:
    """(colour, marker, dash) of a row: by what protects it, as in the other figures; open and dashed with the margin loss."""
    index = _OWN.get(row, PROTECTIONS.index(protection(row)))
    with_dml = "DML" in row
    return COLOURS[index], MARKERS[index] + ("-open" if with_dml else ""), "dash" if with_dml else "solid"


def trajectories(rows: Runs, floor: str = "frozen") -> Figure:
    """Accuracy over the seen classes after each task, by row, and below it how far each row is above the floor.

    Thick: the mean over seeds; thin: each seed. Below, a seed is compared with the same seed of the floor.
    """
    shown = {row: {r.config["seed"]: curve(r) for r in found if len(r.accuracy) > 1} for row, found in rows.items()}
    shown = {row: curves for row, curves in shown.items() if curves}
    base = shown.get(floor, {})
    gains = {row: {s: [a - b for a, b in zip(c, base[s])] for s, c in curves.items() if len(base.get(s, ())) == len(c)}
             for row, curves in shown.items()}
    gains = {row: curves for row, curves in gains.items() if curves}
    figure = make_subplots(2, 1, row_heights=[0.42, 0.58], vertical_spacing=0.06, shared_xaxes=True)
    for place, panel in ((1, shown), (2, gains)):
        for row, curves in panel.items():
            _with_seeds(figure, row, curves, place)
    last = max((len(c) for curves in shown.values() for c in curves.values()), default=1)
    ends = sorted((fmean(c[-1] for c in curves.values()), row) for row, curves in gains.items())
    values = [v for curves in gains.values() for c in curves.values() for v in c] or [0.0, 1.0]
    placed = apart([end[0] for end in ends], 0.07 * (max(values) - min(values)))
    for y, (_, row) in zip(placed, ends):
        figure.add_annotation(text=row, x=last + 0.15, y=y, xanchor="left", showarrow=False, font={"color": style(row)[0]},
                              row=2, col=1)
    low, high = min([*values, *placed]), max([*values, *placed])
    margin = 0.06 * (high - low)
    figure.update_xaxes(dtick=1, range=[0.8, last + 0.15])
    figure.update_xaxes(title="task that was learned last", row=2, col=1)
    figure.update_yaxes(title="seen classes (%)", row=1, col=1)
    figure.update_yaxes(title=f"above {floor} (points)", range=[low - margin, high + margin], row=2, col=1)
    figure.add_annotation(text="lines as labelled below; thin: each seed", xref="x domain", yref="y domain", x=1, y=1,
                          xanchor="right", yanchor="top", showarrow=False)
    figure.update_layout(title=f"How accuracy falls as classes come, and who stays above {floor}", height=820, width=950,
                         margin={"r": 145})
    told = ", ".join(f"{row} {fmean(c[-1] for c in curves.values()):.1f}" for row, curves in shown.items())
    return Figure(figure, f"Accuracy over seen classes after each task, by row. After the last task: {told} per cent.")


def _with_seeds(figure: go.Figure, row: str, curves: Mapping[int, Sequence[float]], place: int) -> None:
    """The mean over seeds as a thick line with marks, each seed as a thin one, in row `place` of the figure."""
    colour, marker, dash = style(row)
    steps = list(range(1, len(next(iter(curves.values()))) + 1))
    for seed, values in curves.items() if len(curves) > 1 else ():
        figure.add_trace(go.Scatter(x=steps, y=values, mode="lines", line={"color": colour, "width": 1, "dash": dash}, opacity=0.35,
                                    showlegend=False, hoverinfo="skip", name=f"{row}, seed {seed}"), place, 1)
    figure.add_trace(go.Scatter(
        x=steps, y=[fmean(values) for values in zip(*curves.values())], mode="lines+markers", name=row, showlegend=False,
        line={"color": colour, "dash": dash}, marker={"symbol": marker, "color": colour, "size": 9},
        hovertemplate=f"{row}, task %{{x}}: %{{y:.1f}}<extra></extra>"), place, 1)


def above(rows: Runs, floor: str = "frozen") -> Figure:
    """ACC minus the floor's at the same seed: a dot a seed, a bar for their mean."""
    found = {row: paired(rows, row, floor) for row in rows if row not in (floor, "joint")}
    found = {row: found[row] for row in reversed(found) if found[row]}
    figure = go.Figure()
    for place, (row, by_seed) in enumerate(found.items()):
        colour, marker, _ = style(row)
        mean = fmean(by_seed.values())
        figure.add_trace(go.Scatter(x=list(by_seed.values()), y=[place] * len(by_seed), mode="markers", name=row, showlegend=False,
                                    marker={"color": colour, "symbol": marker, "size": 11, "opacity": 0.75},
                                    text=list(map(str, by_seed)),
                                    hovertemplate=f"{row}, seed %{{text}}: %{{x:+.1f}}<extra></extra>"))
        figure.add_trace(go.Scatter(x=[mean, mean], y=[place - 0.3, place + 0.3], mode="lines", showlegend=False, hoverinfo="skip",
                                    line={"color": colour, "width": 4}))
    figure.add_vline(0, line={"color": "black", "dash": "dot"})
    top = max((abs(v) for by_seed in found.values() for v in by_seed.values()), default=1.0)
    figure.update_yaxes(tickvals=list(range(len(found))), ticktext=list(found), range=[-0.6, len(found) - 0.4],
                        showgrid=False, automargin=True)
    figure.update_xaxes(title=f"ACC minus that of {floor}, same seed (points)", range=[-1.15 * top, 1.15 * top])
    figure.update_layout(title=f"Is a row above {floor} at every seed? A mark a seed; the bar is their mean", width=900,
                         height=130 + 38 * max(len(found), 3), margin={"l": 130})
    told = ", ".join(f"{row} {fmean(v.values()):+.1f} ({len(v)} seeds)" for row, v in reversed(found.items()))
    return Figure(figure, f"ACC above {floor}, paired by seed, in points: {told}.")


def accuracy_over_cost(rows: Runs) -> Figure:
    """ACC beside the seconds of a run by part, the cheapest row first: means over seeds, ACC with its standard deviation.

    The hooks of OE run inside the training step, so up to a second of them is drawn twice.
    """
    order = sorted(rows, key=lambda row: -fmean(map(_seconds, rows[row])))
    figure = make_subplots(1, 2, column_widths=[0.38, 0.62], horizontal_spacing=0.03, shared_yaxes=True)
    for row in order:
        colour, marker, _ = style(row)
        accs = [r.acc for r in rows[row]]
        figure.add_trace(go.Scatter(
            x=[fmean(accs)], y=[row], mode="markers", name=row, showlegend=False,
            marker={"color": colour, "symbol": marker, "size": 12},
            error_x={"array": [stdev(accs) if len(accs) > 1 else 0.0], "color": colour, "thickness": 1.5, "width": 0},
            hovertemplate=f"{row}: %{{x:.1f}} %<extra></extra>"), 1, 1)
    bars = {"training": lambda r: r.seconds["train"] - r.seconds["gr"], "GR": lambda r: r.seconds["gr"],
            "OE, or a pass of its own": lambda r: r.seconds["oe"], "evaluation": lambda r: r.seconds["eval"]}
    for (name, value), colour, pattern in zip(bars.items(), (COLOURS[1], COLOURS[0], COLOURS[3], "#C8C8C8"), ("", "/", "x", ".")):
        figure.add_trace(go.Bar(
            x=[fmean(map(value, rows[row])) for row in order], y=order, orientation="h", name=name, marker={
                "color": colour, "pattern": {"shape": pattern, "size": 6}, "line": {"width": 0}},
            hovertemplate=f"%{{y}}, {name}: %{{x:.1f}} s<extra></extra>"), 1, 2)
    figure.update_yaxes(automargin=True, showgrid=False, categoryorder="array", categoryarray=order)
    figure.update_xaxes(title="ACC (%), ± over seeds", row=1, col=1)
    figure.update_xaxes(title="seconds of a run", row=1, col=2)
    figure.update_layout(title="Does accuracy cost time?", barmode="stack", bargap=0.3, height=190 + 32 * len(order), width=1000,
                         margin={"t": 105}, legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 1, "xanchor": "right",
                                                    "traceorder": "normal"})
    told = ", ".join(f"{row} {fmean(r.acc for r in rows[row]):.1f} % in {fmean(map(_seconds, rows[row])):.0f} s"
                     for row in order[::-1])
    return Figure(figure, f"ACC beside the seconds of a run, by row: {told}.")


def rates(tune: Runs, floor: str = "frozen") -> Figure:
    """Validation accuracy over the factors' learning rate, a curve a row; the floor, which has none, as a line."""
    figure, ends = go.Figure(), []
    lrs = sorted({r.config["lr"] for row, found in tune.items() if row != floor for r in found})
    for row, found in tune.items():
        if row == floor:
            continue
        colour, marker, dash = style(row)
        points = sorted((r.config["lr"], r.acc) for r in found)
        figure.add_trace(go.Scatter(
            x=[p[0] for p in points], y=[p[1] for p in points], mode="lines+markers", name=row, showlegend=False,
            line={"color": colour, "dash": dash}, marker={"symbol": marker, "color": colour},
            hovertemplate=f"{row}, lr %{{x:g}}: %{{y:.1f}} %<extra></extra>"))
        ends.append((points[-1][1], row))
    if floor in tune:
        best = max(r.acc for r in tune[floor])
        figure.add_hline(best, line={"color": "black", "dash": "dot"})
        ends.append((best, floor))
    values = [r.acc for found in tune.values() for r in found]
    ends.sort()
    right = math.log10(lrs[-1]) + 0.06
    for y, (_, row) in zip(apart([end[0] for end in ends], 0.055 * (max(values) - min(values))), ends):
        figure.add_annotation(text=row, x=right, y=y, xanchor="left", showarrow=False, font={"color": style(row)[0]})
    figure.update_xaxes(title="learning rate of the factors (log)", type="log", tickvals=lrs, ticktext=[f"{lr:g}" for lr in lrs],
                        range=[math.log10(lrs[0]) - 0.08, right])
    figure.update_yaxes(title="ACC on validation (%)")
    figure.update_layout(title="How much learning rate does each row bear?", height=580, width=950, margin={"r": 150})
    peaks = {row: max(found, key=lambda r: r.acc) for row, found in tune.items()}
    told = ", ".join(f"{row} {peak.acc:.1f} at {_rate(row, peak):g}" for row, peak in peaks.items())
    return Figure(figure, f"Validation accuracy over the learning rate, by row. Best: {told}.")


def step_cost(cost: Mapping[str, Any]) -> Figure:
    """Time of a training step as a multiple of PEFT's LoRA: median and quarter points, from `step_cost.json`."""
    figure, told = go.Figure(), []
    names = list(dict.fromkeys(name for case in cost["cases"] for name in case["variants"]))
    count = len(cost["cases"])
    for i, (case, colour, marker) in enumerate(zip(cost["cases"], COLOURS, MARKERS)):
        label = f"{case['model']}, batch {case['batch']}"
        place = [len(names) - 1 - names.index(name) + 0.18 * ((count - 1) / 2 - i) for name in case["variants"]]
        values = list(case["variants"].values())
        figure.add_trace(go.Scatter(
            x=[v["ratio"] for v in values], y=place, mode="markers", name=label, showlegend=count > 1,
            marker={"color": colour, "symbol": marker, "size": 12}, text=list(case["variants"]),
            error_x={"array": [v["high"] - v["ratio"] for v in values], "arrayminus": [v["ratio"] - v["low"] for v in values],
                     "color": colour, "thickness": 2, "width": 4},
            hovertemplate=f"%{{text}}, {label}: %{{x:.2f}}<extra></extra>"))
        told += [f"{name} {v['ratio']:.2f} ({label})" for name, v in case["variants"].items()]
    figure.add_vline(1, line={"color": "black", "dash": "dot"})
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names[::-1], range=[-0.6, len(names) - 0.4],
                        showgrid=False, automargin=True)
    figure.update_xaxes(title="time of a step / time of PEFT's LoRA step (median, quarter points)")
    alone = f": {cost['cases'][0]['model']}, batch {cost['cases'][0]['batch']}" if count == 1 else ""
    figure.update_layout(title=f"What a protected training step costs{alone}",
                         height=200 + 50 * len(names), width=900, margin={"l": 200},
                         legend={"orientation": "h", "y": -0.3, "x": 0})
    return Figure(figure, f"Time of a training step as a multiple of PEFT's LoRA: {', '.join(told)}.")


# ── predictions ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def predictions(images: Sequence[str | Path | Image.Image], answers: Sequence[Sequence[tuple[str, float]]],
                truth: Sequence[str] | None = None, title: str = "What the model says", columns: int = 4) -> Figure:
    """Images with what `Predictor.predict` answered under each: the true name, if it is given, then classes and scores.

    A right first answer is bold and has a tick, a wrong one a cross.
    """
    lines = max(map(len, answers), default=0) + (truth is not None)
    rows = math.ceil(len(images) / columns)
    side, text = 110, 23  # pixels: of an image, of a line
    cell = side + text * lines + 26
    height, width = rows * cell + 60, 220 * columns + 20
    figure = go.Figure()
    for i, (image, answer) in enumerate(zip(images, answers)):
        x = (i % columns + 0.5) / columns
        y = 1 - (i // columns) * cell / (rows * cell)
        figure.add_layout_image(source=_data_uri(image, side), xref="paper", yref="paper", x=x, y=y, sizex=side / (220 * columns),
                                sizey=side / (rows * cell), xanchor="center", yanchor="top")
        written = [f"{name}  {score:.2f}" for name, score in answer]
        if truth is not None:
            right = answer[0][0] == truth[i]
            written = [f"<i>{truth[i]}</i>", ("✓ <b>" if right else "✗ ") + written[0] + ("</b>" if right else ""), *written[1:]]
        figure.add_annotation(text="<br>".join(written), xref="paper", yref="paper", x=x, y=y - (side + 4) / (rows * cell),
                              xanchor="center", yanchor="top", showarrow=False, align="center")
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    figure.update_layout(title=title, height=height, width=width, margin={"l": 10, "r": 10, "t": 55, "b": 5})
    names = truth if truth is not None else ["an image"] * len(answers)
    told = "; ".join(f"{name}: {answer[0][0]} {answer[0][1]:.2f}" for name, answer in zip(names, answers))
    return Figure(figure, f"Images with the first answer and its score. {told}.")


def _data_uri(image: str | Path | Image.Image, side: int) -> str:
    """The image as a PNG of at least `side` pixels, its pixels kept sharp, inside the figure itself."""
    picture = image if isinstance(image, Image.Image) else Image.open(image)
    picture = picture.convert("RGB")
    factor = max(1, side // max(picture.size))
    small = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST) if factor > 1 else picture
    small.thumbnail((2 * side, 2 * side))
    file = io.BytesIO()
    small.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()

