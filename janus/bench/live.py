"""The runs of a grid as a table that keeps itself up to date, in a terminal; elsewhere lines say the same."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from ..runtime.timing import clock
from .states import CHECKPOINT, how_far

if TYPE_CHECKING:
    from rich.table import Table

FINISHED = 12  # runs that are shown after they ended: the last ones; all running ones are shown
WAITING = 3  # runs that are shown before they start: the next ones

Row = tuple[str, str, str, str]  # name, state, time, ACC in per cent


class Runs(Protocol):
    """What is drawn: a `scheduler.Bench`."""

    title: str
    out: Path
    finished: int
    failed: Mapping[str, str]
    ended: Mapping[str, tuple[str, float, float | None]]  # name → "finished" or "failed", seconds, ACC
    running: Mapping[Any, Any]  # → with `run.name` and `began`
    queue: Sequence[Any]  # with `name`

    def time_left(self) -> str: ...


def possible(stream: TextIO | None = None) -> bool:
    """Is there a terminal to draw in, and rich to draw with?"""
    try:
        import rich.live  # noqa: F401
    except ImportError:
        return False
    return (stream or sys.stderr).isatty()


@contextmanager
def shown(bench: Runs, stream: TextIO | None = None) -> Iterator[None]:
    """Draw the table of `bench` once a second while its runs go on; what is printed stands above."""
    from rich.console import Console
    from rich.live import Live

    console = Console(file=stream or sys.stderr)
    with Live(
        console=console, get_renderable=lambda: table(bench), refresh_per_second=1, redirect_stdout=False
    ):
        yield


def table(bench: Runs) -> Table:
    from rich.table import Table

    counts = Counter(
        finished=bench.finished,
        running=len(bench.running),
        failed=len(bench.failed),
        waiting=len(bench.queue),
    )
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    made = Table(
        title=f"{bench.title}: {said}; time left {bench.time_left()}",
        title_justify="left",
        title_style="bold",
    )
    for heading, side in (("run", "left"), ("state", "left"), ("time", "right"), ("ACC (%)", "right")):
        made.add_column(heading, justify=side, overflow="fold")
    for row in rows(bench):
        made.add_row(*row)
    return made


def rows(bench: Runs) -> list[Row]:
    """The last runs that ended, all that are running, and the next ones."""
    from ..runtime.checkpoint import header

    ended = list(bench.ended.items())
    hidden = len(ended) - FINISHED
    lines = [(f"… {hidden} more ended before", "", "", "")] if hidden > 0 else []
    for name, (state, seconds, acc) in ended[-FINISHED:]:
        lines.append((name, state, clock(seconds), "" if acc is None else f"{acc:.2f}"))
    running = list(bench.running.values())  # copies: another thread than this one runs the bench
    for job in running:
        far = how_far(header(bench.out / job.run.name / CHECKPOINT))
        lines.append((job.run.name, f"running, {far}", clock(time.monotonic() - job.began), ""))
    lines += [(run.name, "waiting", "", "") for run in list(bench.queue)[:WAITING]]
    more = len(bench.queue) - WAITING
    return lines + ([(f"… {more} more wait", "", "", "")] if more > 0 else [])
