"""What the notebooks share: their settings, short runs kept in `runs/lessons`, checks of the exercises."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from .bench.variants import KNOWN, UNTRAINED, slug
from .config import Config
from .configure import config_hash, layered
from .errors import UsageError
from .runtime.progress import print_progress
from .runtime.result import Result
from .train import run

REPOSITORY = Path(__file__).parents[1]
# Icons-R 2 in short: half the tasks, a third of the passes, one learning rate for all methods
STREAM: dict[str, Any] = {
    "data.dataset": "icons-r",
    "data.tasks": 5,
    "data.renditions": "fresh",
    "backbone.model": "icons-vit-wide",
    "training.epochs": 6,
    "training.batch_size": 64,
    "training.lr": 3e-3,
    "training.head_lr": 5e-3,
    "method.energy": 0.95,
}
# for the tests: does it run?
TINY: dict[str, Any] = {"data.tasks": 4, "data.per_class": 2, "training.epochs": 1}


@dataclass(frozen=True)
class Lesson:
    """The settings of one notebook.

    fast: tiny streams, whose numbers mean nothing. runs: the folder of finished runs. checks: was each answer
    right, so far?
    """

    fast: bool
    runs: Path
    checks: list[bool] = field(default_factory=list)

    def config(self, row: str, **settings: Any) -> Config:
        """What a row of the ablation ("LoRA", "GPM", "OE+GR", "exact", "frozen", …) is in the lessons."""
        if row not in KNOWN:
            raise UsageError(f"no row {row!r}; rows are {', '.join(KNOWN)}")
        common = dict(STREAM)
        if row in ("frozen", *UNTRAINED):
            common.pop("training.lr")
        return layered(common, KNOWN[row], settings, TINY if self.fast else {})

    def folder(self, row: str, **settings: Any) -> Path:
        """Where that run is kept: its name has the config's hash."""
        return self.runs / f"{slug(row)}-{config_hash(self.config(row, **settings))[:8]}"

    def run(self, row: str, **settings: Any) -> Result:
        """Train a row on the lessons' stream, saying how far it is, or read the run if it is there.

        A stopped one resumes.
        """
        return run(
            self.folder(row, **settings),
            progress=lambda line: print_progress(f"{row}: {line}"),
            variant=row,
            **self.config(row, **settings).to_dict(),
        )

    def check(self, answer: Any) -> Check:
        """What an exercise ends with: `with lesson.check(answer):` and asserts that say what is wrong.

        Whether they hold is printed and kept in `checks`. The notebook goes on in any case; None is "not
        answered yet".
        """
        return Check(answer, self.checks)


class Check:
    """See `Lesson.check`."""

    def __init__(self, answer: Any, checks: list[bool]) -> None:
        self.answer, self.checks = answer, checks

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, Exception | None):
            return False  # an interrupt is nobody's answer
        self.checks.append(error is None and self.answer is not None)
        if self.answer is None:
            print("○ not answered yet")
        elif error is None:
            print("✓ right")
        else:
            name = "" if isinstance(error, AssertionError) else f"{type(error).__name__}: "
            print(f"✗ not yet: {name}{error}".partition("\n")[0].rstrip(": "))
        return True


def code_of(*functions: Callable[..., Any]) -> str:
    """The source of functions without docstrings, as a Markdown block: what a lesson shows is what runs."""
    shown = []
    for function in functions:
        text = textwrap.dedent(inspect.getsource(function))
        lines, body = text.splitlines(), ast.parse(text).body[0].body
        if len(body) > 1 and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            del lines[body[0].lineno - 1 : body[0].end_lineno]
        shown.append("\n".join(lines).strip())
    return "```python\n" + "\n\n\n".join(shown) + "\n```"


def check_texts(**parameters: Any) -> None:
    """Refuse a notebook's parameters that are texts but were not given as texts.

    papermill's `-p OUT 2024_01` is the number 202401 when it arrives here, and what was written is lost.

    Raises:
        UsageError: one that is not a text, with what to write instead.
    """
    for name, value in parameters.items():
        if not isinstance(value, str):
            raise UsageError(
                f"{name} is a text, got {value!r}: papermill's -p reads what looks like a number as one; "
                f"give it by -r {name} …, which keeps what is written (or OUT with a slash: "
                "-p OUT runs/2024_01)"
            )


def setup(fast: bool | str = False) -> Lesson:
    """Take a notebook's FAST parameter (papermill may give it as text) or JANUS_FAST=1 from the environment.

    Runs are kept in JANUS_RUNS, or in `runs/lessons` of the repository, or, where janus is installed without
    one, in the user's cache folder.

    Raises:
        UsageError: `fast` is neither true nor false.
    """
    text = str(fast).lower()
    if text not in ("true", "false"):
        raise UsageError(f"FAST is true or false, got {fast!r}")
    fast = text == "true" or os.environ.get("JANUS_FAST", "0") not in ("", "0")
    if folder := os.environ.get("JANUS_RUNS"):
        runs = Path(folder)
    elif (REPOSITORY / "notebooks").is_dir():
        runs = REPOSITORY / "runs" / "lessons"
    else:
        runs = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "janus" / "lessons"
    return Lesson(fast, runs)
