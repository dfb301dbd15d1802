"""The live table of a bench: what it says, and that it is drawn in a terminal only."""

from __future__ import annotations

import io
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from janus.bench import live

rich_console = pytest.importorskip("rich.console")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def run(name: str) -> Any:
    return SimpleNamespace(name=name)


def bench(out: Path, ended: int = 1, waiting: int = 2) -> Any:
    return SimpleNamespace(
        title="Ablation", out=out, finished=ended, failed={"bad": "no disk"},
        ended={"bad": ("failed", 3.0, None)} | {f"e{k}": ("finished", 61.0, 60.0 + k) for k in range(ended)},
        running={0: SimpleNamespace(run=run("now"), began=time.monotonic() - 5)},
        queue=deque(run(f"w{k}") for k in range(waiting)), time_left=lambda: "0:42")  # fmt: skip


def test_the_table_has_what_ended_what_runs_and_what_waits(tmp_path: Path) -> None:
    rows = live.rows(bench(tmp_path))
    assert rows[0] == ("bad", "failed", "0:03", "") and rows[1] == ("e0", "finished", "1:01", "60.00")
    assert rows[2][:1] == ("now",) and rows[2][1].startswith("running, ") and rows[2][2] == "0:05"
    assert rows[3:] == [("w0", "waiting", "", ""), ("w1", "waiting", "", "")]


def test_a_long_grid_does_not_fill_the_screen(tmp_path: Path) -> None:
    rows = live.rows(bench(tmp_path, ended=live.FINISHED + 4, waiting=40))
    assert rows[0][0] == "… 5 more ended before" and rows[-1][0] == f"… {40 - live.WAITING} more wait"
    assert len(rows) == live.FINISHED + live.WAITING + 3


def test_it_is_drawn_in_a_terminal_with_its_counts(tmp_path: Path) -> None:
    screen = Terminal()
    with live.shown(bench(tmp_path), screen):
        pass
    said = screen.getvalue()
    assert (
        "Ablation: 1 finished, 1 running, 1 failed, 2 waiting" in said.replace("\n", " ") and "60.00" in said
    )
    assert live.possible(screen) and not live.possible(io.StringIO())
