"""The experiments of the first benchmark's main table, each group of runs one command.

    python benchmarks/icons_r.py strength  # frozen against joint, on validation, at three strengths of the renditions
    python benchmarks/icons_r.py tune      # every row on validation, the same learning rates for each
    python benchmarks/icons_r.py choose    # the best setting of each row → janus/bench/chosen.json
    python benchmarks/icons_r.py dml       # forms of the margin loss on top of OE+GR, on validation
    python benchmarks/icons_r.py choose    # its best form too; then `tune` and `choose` again for the rows with DML
    python benchmarks/icons_r.py rows      # the chosen settings on test: the paper's rows, gpm, exact, reference rows
    python benchmarks/icons_r.py cross     # adapter x init x gr x oe on test
    python benchmarks/report.py            # tables and figures from benchmarks/results/

Each run has a folder in `runs/<group>/`, from which it resumes; at the end they are added to the tables in
`benchmarks/results/`. A run that is in one of both with the same config is not repeated. `--jobs` processes of one
thread each: on few cores faster than threads within one run.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from janus.bench.store import Line, collect, lines
from janus.bench.variants import CHOSEN, CROSS, PROTOCOL, PUBLISHED, ROWS, settings, slug
from janus.configure import as_text, config_hash, make

HERE = Path(__file__).parent
RESULTS, RUNS = HERE / "results", HERE.parent / "runs"
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)  # of the factors: tried for every row that trains them (towards 0 each is `frozen`)
HEAD_RATES = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2)  # what a row without factors has to choose: as many trials
SEEDS = (0, 1, 2)  # class order, initialisation and batches
DML_FORM = "form of DML"  # its key in chosen.json
TUNE_SEED = 100  # never one of SEEDS


@dataclass(frozen=True)
class Job:
    """One run: its group and variant in the tables, the name of its folder, and what is set."""

    group: str
    variant: str
    name: str
    config: dict[str, Any]

    @property
    def folder(self) -> Path:
        return RUNS / self.group / self.name

    def hash(self) -> str:
        return config_hash(make(self.config))


def finished(group: str) -> dict[str, Line]:
    """Hash of a config → the finished run with it, in the tables or in `runs/`."""
    tables = [run for run, _ in lines(RESULTS, detail=False)[0] if run["group"] == group]
    return {run["hash"]: run for run in [*tables, *(run for run, _ in lines(RUNS / group, detail=False)[0])]}


def tune_jobs() -> list[Job]:
    jobs = []
    for row, switches in (ROWS | CROSS).items():
        if row == "ncm":
            continue
        if switches.get("method.dml"):
            if not (form := chosen().get(DML_FORM)):
                continue  # its form is searched first
            switches = switches | form
        key, rates = ("head_lr", HEAD_RATES) if row == "frozen" else ("lr", RATES)
        for rate in rates:
            config = PROTOCOL | switches | {f"training.{key}": rate, "data.evaluate": "val", "training.seed": TUNE_SEED}
            jobs.append(Job("tune", row, f"{slug(row)}__{key}={rate:g}", config))
    return jobs


def dml_jobs() -> list[Job]:
    """Forms of the margin loss, one thing changed at a time, at the rate chosen for OE+GR."""
    tried: dict[str, dict[str, Any]] = {"none": {"method.dml": False}}
    for form, margin in (("hinge", 0.3), ("logsumexp", 0.3), ("softmax", 0.1), ("squared", 0.3)):
        for push in (0.5, 0.1):
            tried[f"{form}-push{push:g}"] = loss(form=form, push=push, pull=0.0, push_margin=margin)
    tried["pull-only"] = loss(push=0.0, pull=0.5)
    tried["hinge-push0.5-pull0.5"] = loss(form="hinge", push=0.5, pull=0.5)
    tried["hinge-all-push0.5"] = loss(form="hinge", nearest=False, push=0.5, pull=0.0)
    tried["logsumexp-push0.1-pull0.5"] = loss(form="logsumexp", push=0.1, pull=0.5)
    base = settings("OE+GR") | {"method.dml": True, "data.evaluate": "val", "training.seed": TUNE_SEED}
    return [Job("dml", name, name, base | change) for name, change in tried.items()]


def loss(**settings: Any) -> dict[str, Any]:
    """Settings of the margin loss, by full path."""
    return {f"method.loss.{key}": value for key, value in settings.items()}


def chosen() -> dict[str, dict[str, Any]]:
    return json.loads(CHOSEN.read_text()) if CHOSEN.exists() else {}


def strength_jobs() -> list[Job]:
    """How much there is to learn at each strength of the renditions: frozen against joint, before any method is compared."""
    return [Job("strength", row, f"{row}__strength={strength:g}", settings(row) | {
                "data.strength": strength, "data.evaluate": "val", "training.seed": TUNE_SEED})
            for strength in (0.5, 0.75, 1.0) for row in ("frozen", "joint")]


def test_jobs(group: str, rows: dict[str, Any]) -> list[Job]:
    return [Job(group, row, f"{slug(row)}__seed={seed}", settings(row) | {"training.seed": seed})
            for seed in SEEDS for row in rows]


def work(job: Job, threads: int) -> str | None:
    """Run one job in a process of its own; None, or what went wrong."""
    for stale in [job.folder] if _holds_another(job) else []:
        shutil.rmtree(stale)
    command = [sys.executable, "-m", "janus", "run", "--out", str(job.folder), "--variant", job.variant, "--quiet"]
    command += ["--set", *as_text(job.config | {"runtime.threads": threads})]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parent)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no message"])[-1]
    return None


def _holds_another(job: Job) -> bool:
    """A folder left by a run of other settings (a result of an older choice)."""
    result = job.folder / "result.json"
    return result.exists() and json.loads(result.read_text())["hash"] != job.hash()


def run_all(jobs: list[Job], parallel: int, threads: int) -> int:
    """Run what is not done yet, all of one group, and add it to the tables; the number of failures."""
    group = jobs[0].group
    known = finished(group)
    todo = [job for job in jobs if job.hash() not in known]
    print(f"{len(jobs)} runs, {len(jobs) - len(todo)} done already", flush=True)
    began, failures = time.monotonic(), 0
    with ThreadPoolExecutor(parallel) as pool:
        for count, (job, error) in enumerate(zip(todo, pool.map(lambda j: work(j, threads), todo)), 1):
            left = (time.monotonic() - began) / count * (len(todo) - count)
            if error:
                failures += 1
                print(f"{count}/{len(todo)} {job.name}: FAILED: {error}", flush=True)
            else:
                r = json.loads((job.folder / "result.json").read_text())
                print(f"{count}/{len(todo)} {job.group} {job.name}: acc {r['acc']:.2f} maa {r['maa']:.2f} "
                      f"bwt {r['bwt'] or 0:+.2f} learning {r['learning_acc']:.2f}  {left / 60:.0f} min left", flush=True)
    if (RUNS / group).is_dir():
        done = collect([RUNS / group], RESULTS)
        print(f"{done.added} runs added to {RESULTS}", *done.refused, sep="\n", flush=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["strength", "tune", "choose", "dml", "rows", "cross"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--threads", type=int, default=1, help="threads a run")
    parser.add_argument("--only", nargs="+", default=[""], help="only runs whose name contains one of these")
    parser.add_argument("--skip", nargs="+", default=[], help="no runs whose name contains one of these")
    args = parser.parse_args()
    if args.what == "choose":
        return choose()
    groups = {"strength": strength_jobs, "tune": tune_jobs, "dml": dml_jobs, "rows": lambda: test_jobs("rows", ROWS),
              "cross": lambda: test_jobs("cross", CROSS)}
    jobs = groups[args.what]()
    jobs = [job for job in jobs if any(part in job.name for part in args.only) and not any(part in job.name for part in args.skip)]
    return run_all(jobs, args.jobs, args.threads) and 1 if jobs else 0


def choose() -> int:
    """The setting with the highest validation accuracy, of each row and of the margin loss → `chosen.json`.

    A row with DML that was not tuned itself takes the rate of the same row without DML; that is said. What the file has for the
    field's methods (benchmarks/choose.py) stays in it.
    """
    best: dict[str, dict[str, Any]] = {}
    form: dict[str, Any] = {}
    if "OE+GR" in chosen() and (pick := _best(DML_FORM, [j for j in dml_jobs() if j.name != "none"])):
        form = best[DML_FORM] = {k: v for k, v in pick.config.items() if k.startswith("method.loss.")}
    for row, switches in (ROWS | CROSS).items():
        jobs = [job for job in tune_jobs() if job.variant == row]
        shared = PROTOCOL | switches | {"data.evaluate": "val", "training.seed": TUNE_SEED}
        if pick := _best(row, jobs):
            best[row] = {k: v for k, v in pick.config.items() if shared.get(k) != v}
        elif form and switches.get("method.dml") and (without := "LoRA" if row == "DML" else row.removesuffix("+DML")) in best:
            best[row] = best[without] | form
            print(f"{row:28s} not tuned itself: the rate of {without}")
    others = {row: values for row, values in chosen().items() if row in PUBLISHED}
    CHOSEN.write_text(json.dumps(best | others, indent=1) + "\n")
    return 0


def _best(what: str, jobs: list[Job]) -> Job | None:
    known = finished(jobs[0].group) if jobs else {}
    found = [(known[job.hash()]["acc"], job) for job in jobs if job.hash() in known]
    if not found:
        return None
    print(f"{what:28s} validation ACC: " + ", ".join(f"{job.name.rpartition('__')[2]} {acc:.1f}" for acc, job in found))
    return max(found, key=lambda pair: pair[0])[1]


if __name__ == "__main__":
    sys.exit(main())
