"""The package in layers: a module imports from its own layer or from below, and never in a circle.

Every import counts: inside functions, and those for type hints only.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import janus

ROOT = Path(janus.__file__).parent
# from below; a wing's name stands for those of its files that are not named themselves
FROM_BELOW = """
errors
runtime.timing runtime.device runtime.assets settings.base linalg models.hooks data.registry
runtime.checkpoint runtime.distributed lora models methods.reparametrized
history rectify separation metrics protect
data language
settings.methods config settings.reading configure runtime.paths settings
classifiers methods
learner
runtime runtime.result runtime.updates evaluation methods.one_class train predict models.timm_export
bench
report doctor
plots widgets
report.document report.confusion bench.demo lessons cli __init__ __main__
"""
LAYERS = [line.split() for line in FROM_BELOW.splitlines() if line]


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """The modules of the package that a file imports."""
    known = {module(file) for file in ROOT.rglob("*.py")}
    package = ["janus", *path.relative_to(ROOT).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{start}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] != "janus":
                continue
            for inside in (".".join(parts[1:]), ".".join(parts[1:-1])):  # a module, or a name in one
                if inside in known:
                    found.add(inside)
                    break
                if f"{inside}.__init__" in known:
                    found.add(f"{inside}.__init__")
                    break
    return found - {module(path)}


GRAPH = {module(path): imports(path) for path in sorted(ROOT.rglob("*.py"))}


def layer(name: str) -> int:
    for part in (name, name.partition(".")[0]):
        for i, names in enumerate(LAYERS):
            if part in names:
                return i
    raise KeyError(name)


def test_every_module_has_a_layer():
    placed = {name for names in LAYERS for name in names}
    assert {name if name in placed else name.partition(".")[0] for name in GRAPH} == placed


@pytest.mark.parametrize("name", GRAPH)
def test_no_import_goes_up(name):
    up = sorted(other for other in GRAPH[name] if layer(other) > layer(name))
    assert not up, f"{name} is below what it imports"


def test_no_modules_import_one_another_in_a_circle():
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, f"a circle: {' → '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(GRAPH[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in GRAPH:
        visit(name, [])
