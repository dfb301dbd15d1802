"""Find the packaged data files, in a checkout and in an installed wheel."""

from __future__ import annotations

from pathlib import Path

from janus.errors import JanusError

PACKAGE = Path(__file__).resolve().parent
ROOTS = (PACKAGE / "_data", PACKAGE.parent / "data")  # inside the wheel; beside the package in a checkout


def path(relative: str) -> Path:
    """The file or folder `data/<relative>` of the project, e.g. `path("icons-r/test.parquet")`.

    Raises:
        JanusError: neither the installed package nor a checkout holds it.
    """
    for root in ROOTS:
        if (root / relative).exists():
            return root / relative
    raise JanusError(
        f"the packaged data file {relative!r} is missing: reinstall janus-lora, or rebuild it as data/README.md says"
    )
