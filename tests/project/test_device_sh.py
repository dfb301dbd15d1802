"""benchmarks/device.sh keeps to its time, resumes, and bundles what there is."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from janus.bench.variants import ROWS, settings, slug
from janus.configure import from_text, make

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not shutil.which("timeout"), reason="needs coreutils")

STANDIN = f"""#!/usr/bin/env bash
# Stands in for Python: a run writes when it begins and ends, and takes as many seconds as its seed says.
set -eu
[[ $1 == -m && $2 == janus ]] || exec {sys.executable} "$@"
while (($#)); do
    case $1 in doctor | run) what=$1 ;; --out) out=$2 ;; seed=*) seconds=${{1#seed=}} ;; esac
    last=$1
    shift
done
if [[ $what == doctor ]]; then
    echo '{{}}' >"$out" && echo "a table" && echo "a line of progress" >&2
    exit "${{DOCTOR_CODE:-0}}"
fi
mkdir -p "$out"
[[ $last == device=cpu ]] || exit 3
echo begun >>"$out/begun"
[[ $seconds != 99 ]] || {{ echo "janus: out of memory"; exit 1; }}
[[ ! -e $out/checkpoint ]] || seconds=0
touch "$out/checkpoint"
sleep "$seconds"
echo '{{}}' >"$out/result.json"
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """What the script needs of the project, in a folder of its own."""
    root = tmp_path / "copy"
    (root / "benchmarks").mkdir(parents=True)
    for name in ("benchmarks/device.sh", "benchmarks/device_runs.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "python").write_text(STANDIN)
    (root / "python").chmod(0o755)
    return root


def command(
    root: Path, seconds: int, runs: dict[str, int], **variables: str
) -> tuple[list[str], dict[str, str]]:
    lines = [f"janus run --out runs/device/{name} --set seed={value}" for name, value in runs.items()]
    (root / "runs.txt").write_text("\n".join(["# made", "", *lines]))
    given = {"PYTHON": str(root / "python"), "DEVICE": "cpu", "JOBS": "2", "RESERVE": "2", "SHORTEST": "1"}
    words = ["bash", str(root / "benchmarks" / "device.sh"), str(seconds), "runs.txt"]
    return words, os.environ | given | {"OUT": str(root)} | variables


def start(root: Path, *args: object, **variables: str) -> subprocess.CompletedProcess[str]:
    words, environment = command(root, *args, **variables)
    return subprocess.run(words, env=environment, cwd=root, capture_output=True, text=True, timeout=60)


def bundled(root: Path) -> set[str]:
    with tarfile.open(root / "device_results.tar.gz") as file:
        return {name.removeprefix("runs/device/") for name in file.getnames()} - {"logs"}


def begun(root: Path, name: str) -> int:
    file = root / "runs" / "device" / name / "begun"
    return len(file.read_text().split()) if file.exists() else 0


def test_what_fits_is_run_the_rest_is_stopped_and_goes_on_the_next_time(copy: Path) -> None:
    runs = {"short": 0, "long": 30, "another": 0, "longer": 30, "never": 0}
    before = time.monotonic()
    first = start(copy, 6, runs)
    assert first.returncode == 0 and time.monotonic() - before < 7, first.stderr
    assert "2 of 5 runs are finished" in first.stdout and "a table" in first.stdout
    assert [begun(copy, name) for name in runs] == [1, 1, 1, 1, 0]
    logs = {f"logs/{name}.log" for name in ("doctor", "short", "long", "another", "longer")}
    found = {"doctor.json", "doctor.txt", "short/result.json", "another/result.json"} | logs
    assert bundled(copy) == found

    second = start(copy, 30, runs)
    assert second.returncode == 0 and "5 of 5 runs are finished" in second.stdout
    assert "examined before" in second.stdout
    assert [begun(copy, name) for name in runs] == [1, 2, 1, 2, 1]
    assert bundled(copy) == found | {f"{name}/result.json" for name in runs} | {"logs/never.log"}

    shutil.rmtree(copy / "runs")
    with tarfile.open(copy / "device_results.tar.gz") as file:  # a fresh copy that is given the bundle
        file.extractall(copy, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    assert "5 of 5" in start(copy, 30, runs).stdout and begun(copy, "long") == 0


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_runs_and_leaves_a_bundle(number: int, code: int, copy: Path) -> None:
    words, environment = command(copy, 60, {"short": 0, "long": 50})
    running = subprocess.Popen(
        words,
        env=environment,
        cwd=copy,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not begun(copy, "long") or not (copy / "runs/device/short/result.json").exists():
        time.sleep(0.05)
    running.send_signal(number)
    said = running.communicate(timeout=20)[0]
    assert running.returncode == code and "1 of 2 runs are finished" in said
    assert "short/result.json" in bundled(copy) and not (copy / "runs/device/long/result.json").exists()


def test_failures_are_told_and_the_others_run(copy: Path) -> None:
    ended = start(copy, 20, {"broken": 99, "short": 0}, DOCTOR_CODE="1")
    assert ended.returncode == 1 and "1 of 2 runs are finished" in ended.stdout
    assert "broken failed: janus: out of memory" in ended.stderr
    assert "doctor: a line of progress" in ended.stderr


@pytest.mark.parametrize(
    "line, said",
    [
        ("janus bench a --out b", "not a `janus run` command"),
        ("janus run --tasks 5", "no --out"),
        ("# nothing", "no command"),
    ],
)
def test_wrong_files_are_refused_before_anything_runs(line: str, said: str, copy: Path) -> None:
    words, environment = command(copy, 20, {})
    (copy / "runs.txt").write_text(line)
    ended = subprocess.run(words, env=environment, cwd=copy, capture_output=True, text=True)
    assert ended.returncode == 2 and said in ended.stderr and not (copy / "runs").exists()


def test_what_is_missing_is_named_without_wheels_and_installed_from_them(copy: Path, tmp_path: Path) -> None:
    text = (copy / "pyproject.toml").read_text().replace('"filelock>=3.12",', '"not-there>=1",')
    (copy / "pyproject.toml").write_text(text)
    missing = start(copy, 20, {"short": 0})
    assert missing.returncode == 2 and "missing here: not-there;" in missing.stderr
    source = tmp_path / "source"
    source.mkdir()
    (source / "not_there.py").write_text("")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
        '[project]\nname = "not-there"\nversion = "1"\n'
        '[tool.hatch.build.targets.wheel]\ninclude = ["not_there.py"]\n'
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", copy / "wheels", source]
    subprocess.run(build, check=True, capture_output=True)
    assert start(copy, 20, {"short": 0}).returncode == 0
    assert (copy / "runs" / "device" / "site" / "not_there.py").exists()


def test_the_list_that_comes_with_it_is_the_readmes_rows() -> None:
    text = (ROOT / "benchmarks/device_runs.txt").read_text()
    lines = [line.split() for line in text.splitlines() if line.startswith("janus")]
    rows = [words[3] for words in lines]
    assert len(lines) == 39 and rows[:13] == rows[13:26] == rows[26:] and set(rows) == set(ROWS)
    for i, words in enumerate(lines):
        assert words[:3] == ["janus", "run", "--variant"] and words[4] == "--out" and words[6] == "--set"
        assert words[5] == f"runs/device/{slug(words[3])}__seed={i // 13}"
        assert make(from_text(words[7:])) == make(settings(words[3]), seed=i // 13)
