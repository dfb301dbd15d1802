"""Build hook: the wheel carries what `janus run` needs from data/ as janus/_data/, the tables of finished
runs that the lessons read as janus/_results/, and what `janus bench` executes as janus/_benchmarks/ and
janus/_notebooks/; an editable install reads all of it where it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGED = ("icons-r", "icons-vocab", "backbone", "LICENSES", "ATTRIBUTION.md", "README.md")


class DataHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        for name in PACKAGED:
            if (Path(self.root) / "data" / name).exists():
                build_data["force_include"][f"data/{name}"] = f"janus/_data/{name}"
        build_data["force_include"] |= {
            "benchmarks/results": "janus/_results",
            "benchmarks/grids": "janus/_benchmarks/grids",
            "benchmarks/protocols": "janus/_benchmarks/protocols",
            "notebooks/07_benchmark.ipynb": "janus/_notebooks/07_benchmark.ipynb",
        }
