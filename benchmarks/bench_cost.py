"""What `janus bench` costs over `janus run`, and what a second worker brings.

    python benchmarks/bench_cost.py

The same eight small runs on Icons-R, one thread each: as eight commands `janus run`, as a grid on one worker, as a grid on two.
Wall time from the start of the command to its end, so that imports, kernels, papermill and the cluster count.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import torch
import yaml

from janus import grids
from janus.checkpoint import write_json
from janus.demo import as_text
from janus.result import hardware, versions

HERE = Path(__file__).parent
GRID = {"title": "Cost of janus bench", "protocol": "icons_r", "rows": ["frozen", "OE+GR"], "seeds": [0, 1, 2, 3],
        "set": {"tasks": 3, "per_class": 6}}


def seconds(*command: str) -> float:
    """Wall time of `janus COMMAND`; CalledProcessError with its message if it fails."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "janus", *command], check=True, stdout=subprocess.DEVNULL, cwd=HERE.parent,
                   env=os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"})
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "bench_cost.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = root / "grid.yaml"
        file.write_text(yaml.safe_dump(GRID))
        alone = []
        for run in grids.load(file).runs:
            settings = as_text(run.config.to_dict())
            alone.append(seconds("run", "--quiet", "--out", str(root / "alone" / run.name), "--set", *settings))
            print(f"janus run, {run.name}: {alone[-1]:.1f} s", flush=True)
        bench = {}
        for workers in (1, 2):
            bench[workers] = seconds("bench", str(file), "--out", str(root / f"workers-{workers}"), "--workers", str(workers))
            print(f"janus bench, {workers} workers: {bench[workers]:.1f} s", flush=True)
    overhead = (bench[1] - sum(alone)) / len(alone)
    print(f"{overhead:+.1f} s a run over janus run ({mean(alone):.1f} s); two workers {bench[1] / bench[2]:.2f} x one")
    write_json(args.out, {"grid": GRID, "run_seconds": alone, "bench_seconds": bench, "overhead_seconds": overhead,
                          "speed_up": bench[1] / bench[2], "hardware": hardware(torch.device("cpu")), "versions": versions()})


if __name__ == "__main__":
    main()
