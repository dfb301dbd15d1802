"""A built wheel, installed into an empty folder, runs on the data it carries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"
RUN = """
import sys, janus, janus.runtime.assets
from janus.__main__ import main
settings = ["epochs=1", "per_class=2", "batch_size=128"]
code = main(["run", "--tasks", "2", "--out", "r", "--quiet", "--set", *settings])
print(janus.__file__, janus.runtime.assets.path("backbone"), janus.runtime.assets.path("icons-r"), sep="\\n")
sys.exit(code)
"""


@pytest.mark.slow
def test_the_wheel_runs_on_its_own_data(tmp_path: Path) -> None:
    def call(*command: str, **options: object) -> str:
        done = subprocess.run(command, capture_output=True, text=True, **options)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    build = "-m build --wheel --no-isolation --outdir".split()
    call(sys.executable, *build, str(tmp_path / "dist"), str(REPOSITORY))
    (wheel,) = (tmp_path / "dist").glob("janus_lora-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert any(name.startswith("janus/_data/LICENSES/") for name in names)
    assert "janus/_data/ATTRIBUTION.md" in names
    tables = {path.relative_to(RESULTS).as_posix() for path in RESULTS.rglob("*") if path.is_file()}
    carried = {name.removeprefix("janus/_results/") for name in names if name.startswith("janus/_results/")}
    assert carried == tables  # for the lessons
    assert {
        "janus/_notebooks/07_benchmark.ipynb",
        "janus/_benchmarks/protocols/icons_r.yaml",  # for `janus bench`
        "janus/_benchmarks/grids/icons_r/table1_ablation.yaml",
    } <= set(names)
    assert "janus/_data/icons-vocab/val.parquet" in names
    assert not any(name.startswith(("tests/", "data/")) for name in names)

    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    install = "-m pip install --quiet --no-deps --no-index --target".split()
    call(sys.executable, *install, str(site), str(wheel))
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    printed = call(sys.executable, "-c", RUN, cwd=empty, env=environment).splitlines()
    result = json.loads((empty / "r" / "result.json").read_text())
    assert result["config"]["data"]["dataset"] == "icons-r" and len(result["stream"]["class_names"]) == 100
    assert result["versions"]["janus-lora"] == "0.1.0"
    # its own code and data, not the checkout's
    assert all(Path(line).is_relative_to(site) for line in printed[-3:]), printed
    assert (site / "bin" / "janus").exists()
    read = (
        "from janus.bench import store; from janus.runtime import assets; "
        "print(assets.results(), len(store.read(assets.results())), sep='\\n')"
    )
    where, count = call(sys.executable, "-c", read, cwd=empty, env=environment).splitlines()
    assert Path(where).is_relative_to(site) and int(count) > 500
