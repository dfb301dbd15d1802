"""The lowest versions that this project says it runs with, as a pip constraints file: `make test-lowest`.

It goes to stdout. What [project.dependencies] of pyproject.toml bounds from below by `>=` is held at that
very bound; other packages are free.
"""

from __future__ import annotations

import re
from pathlib import Path

try:
    import tomllib
except ImportError:  # Python 3.10, in an environment where nothing is installed yet
    from pip._vendor import tomli as tomllib

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


def lowest(requirements: list[str]) -> list[str]:
    """`["torch>=2.4"]` → `["torch==2.4"]`. ValueError: a requirement that is not a name and a lower bound."""
    pins = []
    for requirement in requirements:
        found = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
        if not found:
            raise ValueError(
                f"{requirement!r} in pyproject.toml is no name with its lower bound; give it one"
            )
        pins.append(f"{found[1]}=={found[2]}")
    return pins


if __name__ == "__main__":
    print("\n".join(lowest(tomllib.loads(PYPROJECT.read_text())["project"]["dependencies"])))
