"""Execute a grid's runs, each through notebook 07, on the workers of a Dask cluster; none is done twice.

`<out>/<run name>/` holds the run's result.json and checkpoint (`janus run`'s own folder), notebook.ipynb as
executed, and failed.json with one line if it failed. The folder is all the state there is: a bench that was
killed resumes from it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from ..errors import JanusError, UsageError
from ..runtime.progress import Progress, forwarded
from ..runtime.timing import clock
from . import live
from .clusters import connect
from .grids import Grid, PlannedRun
from .plan import runtime_estimate
from .states import CHECKPOINT, FAILED, RESULT, State, how_far, read_json, state, states
from .worker import BUSY, DIED, parameters, work

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

# workers or kernels that a run may take with it, without finishing a task, before it counts as failed
MAX_KILLS = 3
WAITING = 60  # seconds between two lines that say how far the runs are, or that there is no worker
RENEWAL = 10  # seconds between two requests for workers in place of lost ones


def check_options(workers: int | None, scheduler: str | None, slurm: str | Path | None) -> None:
    """UsageError: options of the cluster that do not go together, a file that is not there."""
    if scheduler and (slurm or workers is not None):
        own = "a running cluster has its own workers"
        raise UsageError(f"--scheduler goes with neither --workers nor --slurm: {own}")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if slurm and not Path(slurm).is_file():
        what = "a YAML file of dask_jobqueue.SLURMCluster's arguments"
        raise UsageError(f"no file {slurm} for --slurm: {what}")


def execute(
    grid: Grid,
    out: str | Path,
    *,
    retry: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    slurm: str | Path | None = None,
    known: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> dict[str, str]:
    """Run what is not finished; the runs that failed, now or before, with a line each.

    Args:
        out: the folder of the run folders; with `scheduler` or `slurm` one that all workers see.
        retry: run those again that failed before.
        workers: how many runs at once. Here: one a GPU, or one; on SLURM: jobs, one a run.
        scheduler: address of a running Dask scheduler. slurm: a YAML file of `dask_jobqueue.SLURMCluster`'s
            arguments.
        known: folders of results; what has one there, by the hash of its config, is not run again.
        progress: called with a line now and then, or, in a terminal, a table is drawn there; None: neither.

    Raises:
        UsageError: folders in `out` that hold other runs, cluster options that do not go together.
        JanusError: `out` is in use, a package is missing, no scheduler answers.
    """
    out = Path(out).resolve()
    check_options(workers, scheduler, slurm)
    with _lock(out), forwarded(progress):
        found = states(grid, out, known)
        failed = {}
        for run in grid.runs:
            if found[run.name].kind == "failed" and not retry:
                failed[run.name] = found[run.name].text.removeprefix("failed: ")
        todo = [run for run in grid.runs if found[run.name].kind != "finished" and run.name not in failed]
        finished = len(grid.runs) - len(todo) - len(failed)
        before = f", {len(failed)} failed before" if failed else ""
        logger.info(f"{grid.title}: {len(grid.runs)} runs, {finished} finished already{before}")
        if todo:
            with connect(len(todo), workers, scheduler, slurm) as (client, renew):
                drawn = progress is not None and live.possible()
                bench = Bench(
                    client, renew, grid, out, found, routine=logging.DEBUG if drawn else logging.INFO
                )
                with live.shown(bench) if drawn else contextlib.nullcontext():
                    failed |= bench.finish(todo, failed)
        for name, error in failed.items():
            logger.info(f"failed: {name}: {error}")
        return failed


@dataclass
class Running:
    run: PlannedRun
    worker: str
    began: float


class Bench:
    """One run for each worker at a time. A run is bound to its worker, so a worker's death is that run's.

    routine: the level at which it is logged what a live table shows as well.
    """

    def __init__(
        self,
        client: Client,
        renew: Callable[[], None],
        grid: Grid,
        out: Path,
        found: Mapping[str, State],
        routine: int = logging.INFO,
    ) -> None:
        self.client, self.renew, self.out, self.found = client, renew, out, found
        self.title, self.routine = grid.title, routine
        self.estimate = runtime_estimate(grid, found)
        self.finished = sum(state.kind == "finished" for state in found.values())
        self.kills: Counter[str] = Counter()  # since the run last came further
        self.reached = {run.name: found[run.name].done for run in grid.runs}
        self.starts: Counter[str] = Counter()
        self.queue: deque[PlannedRun] = deque()
        self.running: dict[Future, Running] = {}
        self.workers: set[str] = set()
        self.failed: dict[str, str] = {}
        # name → "finished" or "failed", seconds, ACC
        self.ended: dict[str, tuple[str, float, float | None]] = {}
        self.counts = (0, 0, 0, 0)  # as last said, and when
        self.said = time.monotonic()

    def finish(self, todo: Sequence[PlannedRun], before: Mapping[str, str]) -> dict[str, str]:
        """Run all of `todo`; name → error of those that failed, those from `before` included."""
        from distributed import wait

        self.queue, self.failed = deque(todo), dict(before)
        noted = renewed = time.monotonic()
        most = 0  # workers that there have been at once: jobs that have not come yet are asked for already
        while self.queue or self.running:
            try:  # Dask's cached `scheduler_info` has moments without any
                self.workers = set(self.client.nthreads())
            except OSError as error:
                fault = f"the Dask scheduler does not answer any more ({error}); the same command resumes"
                raise JanusError(fault) from None
            most = max(most, len(self.workers))
            if self.queue and len(self.workers) < most and time.monotonic() - renewed > RENEWAL:
                self.renew()
                renewed = time.monotonic()
            for future, job in [(f, j) for f, j in self.running.items() if j.worker not in self.workers]:
                future.cancel()
                del self.running[future]
                self.worker_died(job)
            for worker in sorted(self.workers - {job.worker for job in self.running.values()}):
                if self.queue:
                    self.start(self.queue.popleft(), worker)
            self.status()
            if not self.running:
                if time.monotonic() - noted > WAITING:
                    logger.info(f"no worker yet, {len(self.queue)} runs wait")
                    noted = time.monotonic()
                time.sleep(0.2)
                continue
            # of futures: the scheduler is gone, or forgot them
            with contextlib.suppress(TimeoutError, CancelledError):
                wait(list(self.running), timeout=1, return_when="FIRST_COMPLETED")
            for future in [future for future in self.running if future.done()]:
                self.end(future, self.running.pop(future))
        self.status()
        return self.failed

    def start(self, run: PlannedRun, worker: str) -> None:
        self.starts[run.name] += 1
        future = self.client.submit(
            work,
            run.name,
            str(self.out / run.name),
            run.hash,
            parameters(run, self.out),
            os.getcwd(),
            key=f"{run.name}-{self.starts[run.name]}",
            workers=[worker],
            pure=False,
        )
        self.running[future] = Running(run, worker, time.monotonic())
        again = self.found[run.name].kind == "stopped" or self.starts[run.name] > 1
        logger.log(self.routine, f"{run.name}: {'resumed' if again else 'started'}")

    def end(self, future: Future, job: Running) -> None:
        """A run has ended; how, its worker says, or nobody if that died on the way."""
        seconds = time.monotonic() - job.began
        try:
            error = future.result(timeout=10)
        except Exception as lost:  # Dask's own: the worker died, or cannot import what it needs
            kind = type(lost).__name__
            if future.status in ("lost", "cancelled", "pending") or kind in ("KilledWorker", "TimeoutError"):
                return self.worker_died(job)
            error = f"its worker could not execute it ({kind}: {lost}); is the same janus installed there?"
        if error == DIED:
            return self.worker_died(job)
        # a kernel of a bench that was stopped, or of a host that was cut off: it may well finish the run
        if error == BUSY:
            logger.info(f"{job.run.name}: {BUSY}; the run waits")
            return self.queue.append(job.run)
        if error:
            return self.fail(job, error)
        self.finished += 1
        if self.found[job.run.name].kind != "stopped" and self.starts[job.run.name] == 1:
            self.estimate.add(job.run, seconds)
        acc = read_json(self.out / job.run.name / RESULT).get("acc")
        self.ended[job.run.name] = ("finished", seconds, acc)
        reached = f", acc {acc:.2f}" if acc is not None else ""
        logger.log(self.routine, f"{job.run.name}: finished in {clock(seconds)}{reached}")

    def worker_died(self, job: Running) -> None:
        name, done = job.run.name, state(job.run, self.out).done
        self.kills[name] = 1 if done > self.reached[name] else self.kills[name] + 1
        self.reached[name] = done
        if self.kills[name] < MAX_KILLS:
            logger.info(f"{name}: its worker or its kernel died; the run waits for another one")
            self.queue.appendleft(job.run)
            return
        from ..runtime import checkpoint

        error = f"its worker or its kernel died {MAX_KILLS} times (out of memory?)"
        told = {"name": name, "hash": job.run.hash, "error": error}
        with contextlib.suppress(JanusError):
            checkpoint.write_json(self.out / name / FAILED, told)
        self.fail(job, error)

    def fail(self, job: Running, error: str) -> None:
        self.failed[job.run.name] = error
        self.ended[job.run.name] = ("failed", time.monotonic() - job.began, None)
        logger.info(f"{job.run.name}: failed: {error}")

    def status(self) -> None:
        """A line of what is done, running, failed and left, and of the time left, if any of the counts has
        changed; and now and then also how far each run is."""
        counts, now = (self.finished, len(self.running), len(self.failed), len(self.queue)), time.monotonic()
        late = bool(self.running) and now - self.said > WAITING
        if counts == self.counts and not late:
            return
        self.counts, self.said = counts, now
        said = "{} done, {} running, {} failed, {} left".format(*counts)
        logger.log(self.routine, f"{said}, time left {self.time_left()}")
        if late:
            from ..runtime.checkpoint import header

            width = max(len(job.run.name) for job in self.running.values())
            for job in self.running.values():
                saved = header(self.out / job.run.name / CHECKPOINT)
                line = f"  {job.run.name:{width}s}  {clock(now - job.began)}  {how_far(saved)}"
                logger.log(self.routine, line)

    def time_left(self) -> str:
        """An estimate from runs that have ended, in words."""
        now, left = time.monotonic(), [(run, self.found[run.name].done) for run in list(self.queue)]
        for job in list(self.running.values()):
            seconds = self.estimate.estimate(job.run)
            since = (now - job.began) / seconds if seconds else 0
            left.append((job.run, self.found[job.run.name].done + since))
        return self.estimate.left(left, len(self.workers))


def _lock(out: Path) -> FileLock:
    """Hold the folder of all runs, as `train.lock` does one run's (its module imports timm)."""
    guard = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        guard.acquire()
    except Timeout:
        fault = f"{out} is in use by another janus bench; wait for it, or choose another --out"
        raise JanusError(fault) from None
    except OSError as error:
        raise JanusError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
    return guard
