"""Figures, each as one bundle: interactive HTML and its plotly JSON, and a static PNG that shows the same numbers.

Colours are Okabe and Ito's, told apart by colour-blind readers; every series also has its own marker and a label beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from .errors import JanusError

# colour, plotly marker, matplotlib marker
STYLES = [
    ("#D55E00", "circle", "o"), ("#E69F00", "square", "s"), ("#0072B2", "triangle-up", "^"), ("#009E73", "diamond", "D"),
    ("#CC79A7", "triangle-down", "v"), ("#56B4E9", "x", "X"), ("#000000", "star", "*"),
]
FONT = 13  # points
KINDS = {"k": "keys (K)", "v": "values (V)"}
FLOOR = 1e-9  # where an exact zero is drawn on a logarithmic axis

Violations = Sequence[dict[str, float]]  # of each task 2…T: matrix name → score


def violation(rows: dict[str, Violations], path: str | Path) -> None:
    """Null-space violation per layer, K and V apart: linear above, and below on a log axis what is near zero.

    rows: label → scores of each task (`Result.violation["tasks"]`; several seeds one after the other). A layer's point is the
    mean over tasks. Writes `path` + .html, .json, .png.

    Raises:
        JanusError: plotly or matplotlib is not installed.
    """
    series = {kind: {label: per_layer(tasks, kind) for label, tasks in rows.items()} for kind in KINDS}
    tiny = {label for label in rows if all(max(series[kind][label], default=0) < 1e-3 for kind in KINDS)}
    title = "How much of a task's weight change acts on the inputs of past tasks"
    _violation_plotly(series, tiny, title, Path(path))
    _violation_static(series, tiny, title, Path(path))


def per_layer(tasks: Violations, kind: str) -> list[float]:
    """Mean over tasks of one kind of matrix (`k`, `v`), in the order of the layers."""
    names = [name for name in (tasks[0] if tasks else ()) if name.rpartition(".")[2] == kind]
    return [fmean(task[name] for task in tasks) for name in names]


def _violation_plotly(series: dict[str, dict[str, list[float]]], tiny: set[str], title: str, path: Path) -> None:
    go, make_subplots = _plotly()
    figure = make_subplots(2, 2, row_heights=[0.68, 0.32], vertical_spacing=0.1, horizontal_spacing=0.1, shared_xaxes=True,
                           subplot_titles=list(KINDS.values()))
    for column, kind in enumerate(KINDS, 1):
        for (label, values), (colour, marker, _) in zip(series[kind].items(), STYLES):
            layers = list(range(1, len(values) + 1))
            for row in (1, 2) if label in tiny else (1,):
                figure.add_trace(go.Scatter(
                    x=layers, y=[max(v, FLOOR) for v in values] if row == 2 else values, mode="lines+markers", name=label,
                    legendgroup=label, showlegend=row == 1 and column == 1, line={"color": colour, "width": 2.5},
                    marker={"symbol": marker, "size": 10}, customdata=values,
                    hovertemplate=f"{label}, layer %{{x}}: %{{customdata:.3g}}<extra></extra>"), row, column)
        figure.update_xaxes(title="layer", dtick=1, row=2, col=column)
        figure.update_xaxes(dtick=1, row=1, col=column)
        figure.update_yaxes(rangemode="tozero", row=1, col=column)
        figure.update_yaxes(type="log", exponentformat="power", dtick=1, range=[-9.2, -4.5], row=2, col=column)
    figure.update_yaxes(title="violation", row=1, col=1)
    figure.update_yaxes(title="near zero (log)", row=2, col=1)
    figure.update_layout(title=title, template="plotly_white", font={"size": FONT + 2}, height=640, width=1000)
    _write(figure, path)


def _violation_static(series: dict[str, dict[str, list[float]]], tiny: set[str], title: str, path: Path) -> None:
    figure = _figure((11, 6.6), title)
    grid = figure.add_gridspec(2, 2, height_ratios=[2.1, 1])
    upper = None
    for column, (kind, heading) in enumerate(KINDS.items()):
        upper = figure.add_subplot(grid[0, column], sharey=upper)
        lower = figure.add_subplot(grid[1, column])
        ends = []
        for (label, values), (colour, _, marker) in zip(series[kind].items(), STYLES):
            layers = range(1, len(values) + 1)
            upper.plot(layers, values, color=colour, marker=marker, markersize=8, linewidth=2)
            ends.append((values[-1] if values else 0.0, label, colour))
            if label in tiny:
                lower.plot(layers, [max(v, FLOOR) for v in values], color=colour, marker=marker, markersize=8, linewidth=2)
                lower.annotate(label, (len(values), max(values[-1], FLOOR)), xytext=(10, 0), textcoords="offset points",
                               color=colour, va="center")
        count = max((len(v) for v in series[kind].values()), default=1)
        top = max((max(v, default=0) for v in series[kind].values()), default=0) or 1.0
        for y, (value, label, colour) in zip(_apart([e[0] for e in sorted(ends)], 0.075 * top), sorted(ends)):
            upper.annotate(label, (count, value), xytext=(count + 0.04 * count, y), color=colour, va="center")
        upper.set(title=heading, ylim=(-0.04 * top, None))
        lower.set(xlabel="layer", yscale="log", ylim=(FLOOR / 2, 3e-5))
        for axes in (upper, lower):
            axes.set(xlim=(0.8, count + 0.45 * count), xticks=range(1, count + 1))
            axes.grid(alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        if column == 0:
            upper.set_ylabel("violation (share, 0 to 1)")
            lower.set_ylabel("near zero (log)")
    _save(figure, path)


def predictors(names: Sequence[str], violation: Sequence[float | None], drift: Sequence[float], bwt: Sequence[float | None],
               path: str | Path) -> None:
    """Does violation predict drift, and drift BWT? One point a run, coloured by how the run is protected.

    names: row of each run. Writes `path` + .html, .json, .png.
    """
    groups: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        if None not in (violation[i], drift[i], bwt[i]):
            groups.setdefault(protection(name), []).append(i)
    groups = {label: groups[label] for label in PROTECTIONS if label in groups}
    title = "Does violation predict drift, and drift forgetting?"
    panels = (("violation", violation, "drift of old features", drift),
              ("drift of old features", drift, "BWT (points)", bwt))
    go, make_subplots = _plotly()
    figure = make_subplots(1, 2, horizontal_spacing=0.12)
    for column, (x_name, x, y_name, y) in enumerate(panels, 1):
        for (label, members), (colour, marker, _) in zip(groups.items(), STYLES):
            figure.add_trace(go.Scatter(
                x=[x[i] for i in members], y=[y[i] for i in members], mode="markers", name=label, legendgroup=label,
                showlegend=column == 1, marker={"color": colour, "symbol": marker, "size": 11},
                text=[names[i] for i in members], hovertemplate="%{text}: %{x:.3g}, %{y:.3g}<extra></extra>"), 1, column)
        figure.update_xaxes(title=x_name, row=1, col=column)
        figure.update_yaxes(title=y_name, row=1, col=column)
    figure.update_layout(title=title, template="plotly_white", font={"size": FONT + 2}, height=520, width=1100)
    _write(figure, Path(path))

    static = _figure((11, 5.2), title)
    axes = static.subplots(1, 2)
    for ax, (x_name, x, y_name, y) in zip(axes, panels):
        for (label, members), (colour, _, marker) in zip(groups.items(), STYLES):
            ax.scatter([x[i] for i in members], [y[i] for i in members], color=colour, marker=marker, s=70, label=label,
                       edgecolor="white", linewidth=0.6)
        ax.set(xlabel=x_name, ylabel=y_name)
        ax.grid(alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    static.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(groups), frameon=False,
                  columnspacing=1.2, handletextpad=0.3)
    _save(static, Path(path))


PROTECTIONS = ("nothing", "GPM", "OE + GR", "exact", "GR", "OE")  # in the order of STYLES: colours as in `violation`


def protection(row: str) -> str:
    """What protects a row's updates, from its name ("OE-GR-DML", "merged_nullspace_OE_gr-none", …)."""
    parts = row.replace("+", " ").replace("-", " ").replace("_", " ").replace("=", " ").split()
    if "exact" in parts or "GPM" in parts:
        return "exact" if "exact" in parts else "GPM"
    both = (["OE"] if "OE" in parts else []) + (["GR"] if "GR" in parts or "tangent" in parts else [])
    return " + ".join(both) or "nothing"


def _apart(values: list[float], gap: float) -> list[float]:
    """Ascending positions near `values` that keep `gap` between them."""
    placed = list(values)
    for _ in range(100):
        for i in range(len(placed) - 1):
            short = gap - (placed[i + 1] - placed[i])
            if short > 1e-12:
                placed[i], placed[i + 1] = placed[i] - short / 2, placed[i + 1] + short / 2
    return placed


def _plotly() -> tuple[Any, Any]:
    try:
        import plotly.graph_objects as go
        from plotly.subplots import make_subplots
    except ImportError as error:
        raise _missing(error) from None
    return go, make_subplots


def _figure(size: tuple[float, float], title: str) -> Any:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise _missing(error) from None
    mpl.rcParams.update({"font.size": FONT, "axes.titlesize": FONT, "axes.labelsize": FONT})
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    figure.suptitle(title, fontsize=FONT + 2)
    return figure


def _missing(error: ImportError) -> JanusError:
    return JanusError(f"figures need {error.name}: pip install 'janus-lora[plots]'")


def _write(figure: Any, path: Path) -> None:
    """HTML that needs no network, and plotly JSON (small, for diffs and for other pages)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.write_html(path.with_suffix(".html"), include_plotlyjs=True)
    path.with_suffix(".json").write_text(figure.to_json() + "\n")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=110)
