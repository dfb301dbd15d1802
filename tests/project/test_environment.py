"""What the files that install janus promise: conda's packages, and the lowest versions that are tested."""

from __future__ import annotations

import re
from pathlib import Path

import lowest
import pytest
import yaml

try:
    import tomllib
except ImportError:  # Python 3.10: pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def named(requirements: list[str]) -> set[str]:
    """The packages of pip requirements, with those of own extras (`janus-lora[colab]`, `-e .[notebooks]`)."""
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
    needed = "torch timm jupyterlab ipywidgets plotly scikit-learn nbval papermill python pip"
    assert names >= set(needed.split())


def test_every_dependency_has_a_lowest_version_that_is_tested():
    pins = dict(pin.split("==") for pin in lowest.lowest(PROJECT["dependencies"]))
    assert pins["torch"] and pins["timm"] and len(pins) == len(PROJECT["dependencies"])
    with pytest.raises(ValueError, match="lower bound"):
        lowest.lowest(["torch<3"])
