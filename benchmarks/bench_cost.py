"""What `janus bench` costs over `janus run`, and what a second worker brings.

    python benchmarks/bench_cost.py

The same eight small runs on Icons-R, one thread each: as eight commands `janus run` one after another and two
at a time, as a grid on one worker and on two. Wall time from the start of a command to its end, so that
imports, kernels, papermill and the cluster count. Two commands at a time say what the machine itself gives:
memory and caches are shared, and a run's second thread, which decodes ahead, uses a core that is free
otherwise.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import torch
import yaml

from janus.bench import grids
from janus.configure import as_text
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions

HERE = Path(__file__).parent
GRID = {
    "title": "Cost of janus bench",
    "protocol": "icons_r",
    "rows": ["frozen", "OE+GR"],
    "seeds": [0, 1, 2, 3],
    "set": {"tasks": 3, "per_class": 6},
}


def seconds(*command: str) -> float:
    """Wall time of `janus COMMAND`; CalledProcessError with its message if it fails."""
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "janus", *command],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=HERE.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    )
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=HERE / "results" / "measurements" / "bench_cost.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = root / "grid.yaml"
        file.write_text(yaml.safe_dump(GRID))
        runs = grids.load(file).runs

        def run_alone(run: grids.PlannedRun, out: str) -> float:
            place = str(root / out / run.name)
            return seconds("run", "--quiet", "--out", place, "--set", *as_text(run.config))

        alone = []
        for run in runs:
            alone.append(run_alone(run, "alone"))
            print(f"janus run, {run.name}: {alone[-1]:.1f} s", flush=True)
        began = time.perf_counter()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda run: run_alone(run, "pairs"), runs))
        pairs = time.perf_counter() - began
        print(f"janus run, two at a time: {pairs:.1f} s", flush=True)
        bench = {}
        for workers in (1, 2):
            place = str(root / f"workers-{workers}")
            bench[workers] = seconds("bench", str(file), "--out", place, "--workers", str(workers))
            print(f"janus bench, {workers} workers: {bench[workers]:.1f} s", flush=True)
    record = {
        "grid": GRID,
        "run_seconds": alone,
        "bench_seconds": bench,
        "overhead_seconds": (bench[1] - sum(alone)) / len(alone),
        "speed_up": bench[1] / bench[2],
        "pairs_seconds": pairs,
        "pairs_speed_up": sum(alone) / pairs,
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
    }
    print(
        f"{record['overhead_seconds']:+.1f} s a run over janus run ({mean(alone):.1f} s); two workers "
        f"{record['speed_up']:.2f} x one, two commands {record['pairs_speed_up']:.2f} x one"
    )
    write_json(args.out, record)


if __name__ == "__main__":
    main()
