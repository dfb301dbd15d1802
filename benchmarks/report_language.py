"""What a language model forgets: the marked places of docs/results/language_model.md, for `report.py`.

python benchmarks/report_language.py          # prints them; nothing is written
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from janus.language.texts import LABELS
from janus.plots import language as plots
from janus.report.compare import NONE
from janus.report.language import at_level, by_row, summary, told
from janus.report.tables import Table
from janus.runtime import assets

FIGURES = Path(__file__).parent.parent / "figures"


def tuned(runs: Sequence[Mapping[str, Any]], level: float, chosen: Mapping[str, float]) -> Table:
    """Forgetting at the level by method and rate, on validation; the chosen one is bold."""
    lines = []
    for row, found in by_row(runs).items():
        cells = []
        for run in sorted(found, key=lambda run: run["trial"]["lr"]):
            lr, text = run["trial"]["lr"], told(at_level([run], level))
            text = "does not get there" if text == NONE else text
            cells.append(f"{lr:g}: **{text}**" if lr == chosen[row] else f"{lr:g}: {text}")
        lines.append([row, *cells])
    return Table(["row", "lowest rate", "middle", "highest"], lines)


def room(runs: Sequence[Mapping[str, Any]], width: int = 576) -> Table:
    """Directions that V leaves, over layers, before each text; and what share of a change acted on V."""
    lines = []
    for row, found in by_row(runs).items():
        cells = []
        for place in range(len(found[0]["trial"]["learn"])):
            free = (
                sorted(width - taken for taken in found[0]["ranks"][place].values())
                if found[0]["ranks"]
                else []
            )
            cells.append(f"{free[0]} / {free[len(free) // 2]} / {free[-1]}" if free else NONE)
        shares = [share for run in found for share in run["violation"] if share is not None]
        lines.append([row, *cells, f"{sum(shares) / len(shares):.1g}" if shares else NONE])
    texts = runs[0]["trial"]["learn"]
    return Table(["row", *(f"free before {LABELS[name]}" for name in texts), "violation"], lines)


def provenance(runs: Sequence[Mapping[str, Any]]) -> str:
    first, seeds = runs[0], sorted({run["trial"]["seed"] for run in runs})
    settings = first["trial"]
    tokens = settings["batch"] * settings["length"]
    return (
        f"Seeds {', '.join(map(str, seeds))} (batches and the first A; mean ± half the 95 % interval). "
        f"{settings['steps']} steps of {tokens} tokens a text, rank {settings['rank']} on "
        f"{' and '.join(settings['targets'])}, forward passes in bfloat16. {first['hardware']['cpu']}, "
        f"1 thread a run, torch {first['versions']['torch']}, Python {first['versions']['python']} (whose "
        "manual it is)."
    )


def cost(found: Mapping[str, Any]) -> str:
    """A step of each rule as a multiple of plain LoRA's."""
    lines = [
        [row, f"{middle:.2f} ({low:.2f} to {high:.2f})"]
        for row, (low, middle, high) in found["ratio"].items()
    ]
    table = Table(["row", "× plain LoRA"], lines)
    return (
        "Time of a step of SmolLM2-135M (K and V, rank 8, 512 tokens, forward in bfloat16) as a multiple "
        f"of plain LoRA's by AdamW: paired steps in one process, median and quarter points of "
        f"{found['rounds']} rounds.\n\n{table}\n\nA plain step: {found['seconds']:.1f} s "
        f"({found['hardware']['cpu']}, 1 thread, a machine shared with other work)."
    )


def blocks() -> dict[str, str]:
    """The documents' marked places → what belongs there."""
    stored = assets.measurement("language_model")
    val, test = (
        [run for run in stored["runs"] if run["trial"]["evaluate"] == part] for part in ("val", "test")
    )
    level = stored["level"]
    plots.trade(test, level).save(FIGURES / "language_model")
    return {
        "language": f"{summary(test, level)}\n\n{provenance(test)}",
        "language-room": str(room(test)),
        "language-tune": f"{tuned(val, stored['tuned_at'], stored['chosen'])}",
        "language-cost": cost(stored["cost"]),
    }


if __name__ == "__main__":
    for name, block in blocks().items():
        print(f"\n{name}\n{block}")
