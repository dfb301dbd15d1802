"""What the files that install janus promise: the conda environment's packages."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

try:
    import tomllib
except ImportError:  # Python 3.10: pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def named(requirements: list[str]) -> set[str]:
    """The packages of pip requirements, with those of this project's extras (`janus-lora[colab]`, `-e .[notebooks]`)."""
    found: set[str] = set()
    for requirement in requirements:
        name, extras = re.match(r"(?:-e )?([\w.-]+)(?:\[([\w,-]*)\])?", requirement).groups()
        if name in (".", PROJECT["name"]):
            found |= named(PROJECT["dependencies"])
            for extra in filter(None, (extras or "").split(",")):
                found |= named(PROJECT["optional-dependencies"][extra])
        else:
            found.add(name.lower())
    return found


def test_the_conda_environment_has_what_notebooks_and_their_tests_need():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = [entry["pip"] for entry in environment if isinstance(entry, dict)]
    names = named(pip) | {entry.partition(">")[0] for entry in environment if isinstance(entry, str)}
    assert names >= {"torch", "timm", "jupyterlab", "ipywidgets", "plotly", "scikit-learn", "nbval", "papermill", "python", "pip"}
