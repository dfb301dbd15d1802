"""The setup cell of a lesson as Colab runs it, in a bare environment: `make test-colab`.

This checkout stands in for GitHub.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from janus.bench import store

pytestmark = pytest.mark.colab
ROOT = Path(__file__).resolve().parents[2]
LESSON = ROOT / "notebooks" / "00_start_here.ipynb"
AFTER = """
import janus, pathlib, sys
assert pathlib.Path(janus.__file__).is_relative_to(sys.prefix), janus.__file__
import ipywidgets, peft, plotly, scipy, sklearn
from janus.bench import store
from janus.runtime import assets
print("runs:", len(store.read(assets.results())))
lesson = janus.lessons.setup(True)
print(lesson.run("frozen", tasks=2).line())
"""


def test_the_setup_cell_installs_what_the_lessons_need(tmp_path: Path) -> None:
    notebook = nbformat.read(LESSON, as_version=4)
    (setup,) = [cell.source for cell in notebook.cells if "setup" in cell.metadata.get("tags", ())]
    address = setup.partition("git+")[2].partition("@")[0]
    assert address.startswith("https://github.com/")

    def call(*command: str, **options: object) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, **options)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    call(sys.executable, "-m", "venv", "bare")
    python = str(tmp_path / "bare" / "bin" / "python")
    call(python, "-m", "pip", "install", "--quiet", "ipython")  # Colab's own
    (tmp_path / "google" / "colab").mkdir(parents=True)
    (tmp_path / "google" / "colab" / "__init__.py").touch()
    (tmp_path / "cell.ipy").write_text(
        f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\nimport google.colab\n{setup}\n{AFTER}"
    )
    git = {
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf",
        "GIT_CONFIG_VALUE_0": address,
        "GIT_CONFIG_KEY_1": "safe.directory",
        "GIT_CONFIG_VALUE_1": "*",
    }
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= git | {"JANUS_RUNS": str(tmp_path / "runs")}
    printed = call(python, "-m", "IPython", "cell.ipy", env=environment)
    runs = len(store.read(ROOT / "benchmarks" / "results"))  # as committed
    assert f"runs: {runs}\n" in printed and "frozen on icons-r, T=4" in printed, printed[-2000:]
