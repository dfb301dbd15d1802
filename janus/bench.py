"""Execute the runs of a grid, each through notebook 07, on the workers of a Dask cluster; what is finished is not repeated.

`<out>/<run name>/` holds the run's result.json and checkpoint (`janus run`'s own folder), notebook.ipynb as executed, and
failed.json with one line if it failed. The folder is all the state there is: a bench that was killed goes on from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from . import configure, resources
from .clusters import cards, connect
from .errors import JanusError, UsageError
from .grids import Grid, Planned, some
from .registry import EMBEDDED, WIDTHS
from .timing import clock, total

if TYPE_CHECKING:
    from distributed import Client, Future

    from .store import Line
    from .train import Progress

# torch, timm and pandas take seconds to import, so functions import what needs them: workers only start kernels,
# which do that themselves

CHECKPOINT, RESULT, FAILED, NOTEBOOK = "checkpoint.safetensors", "result.json", "failed.json", "notebook.ipynb"
MAX_KILLS = 3  # workers or kernels that a run may take with it, without finishing a task, before it counts as failed
BUSY = "another process works in its folder"
DIED = "the kernel died"  # killed for memory, or by a batch system that ends a whole job: no error of the run's own
HANDOVER = 120  # seconds a dead worker's kernel has to let go of its run's folder; on a host that was cut off it learns late
KERNEL_START = 300  # seconds: torch on a cold, shared disk is slow
WAITING = 60  # seconds between two lines that say how far the runs are, or that there is no worker
RENEWAL = 10  # seconds between two requests for workers in place of lost ones
UNKNOWN = "unknown"
COST = ("backbone.model", "backbone.rank", "training.epochs", "training.batch_size", "method.name", "method.oe",
        "method.gr", "method.dml", "method.adapter", "method.init")  # what seconds depend on, and the data, without:
NO_COST = ("data.tasks", "data.class_seed", "data.evaluate", "data.extended", "data.augment", "data.cache")


# ── what is there already ───────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class State:
    """How far a run is. kind: finished, stopped, failed, to do. done: its finished share of tasks. Of a finished run, seconds:
    what it took; backbone: the fingerprint of its weights."""

    kind: str
    text: str
    done: float = 0.0
    seconds: float | None = None
    backbone: str | None = None


Finished = dict[str, dict[str, "Line"]]  # hash of a config → place → the finished run with it, of whatever name


def finished_below(*folders: str | Path) -> Finished:
    """The finished runs anywhere below the folders, in tables too, by the hashes of their configs. A note names
    the files that cannot be read."""
    from . import store

    found: Finished = {}
    unread = []
    for runs, faults in (store.lines(folder, detail=False) for folder in folders):
        unread += faults
        for run, place in runs:
            found.setdefault(run["hash"], {})[place] = run
    if unread:
        warnings.warn(f"{len(unread)} files of results count as absent: {some(unread)}", stacklevel=2)
    return found


def state(run: Planned, out: Path, known: Finished | None = None) -> State:
    """What the run's folder says, or else a result of the same config among `known`. UsageError: the folder holds another run."""
    from . import checkpoint
    from .result import Result

    folder = out / run.name
    try:
        result = Result.load(folder)
    except JanusError:  # missing, or damaged: then `work` moves it aside
        for place, found in (known or {}).get(run.hash, {}).items():
            text = f"finished, acc {found['acc']:.2f}, in {place}"
            return State("finished", text, 1.0, found["seconds"], found["fingerprint"])
    else:
        _same(run, result.hash, folder)
        return State("finished", f"finished, acc {result.acc:.2f}", 1.0, total(result.seconds), result.backbone)
    failed = _read(folder / FAILED)  # with a result, what failed is a figure, or the notebook's file
    if failed.get("hash") == run.hash and "error" in failed:
        return State("failed", f"failed: {failed['error']}")
    if not (folder / CHECKPOINT).exists():
        return State("to do", "to do")
    try:
        saved = checkpoint.load(folder / CHECKPOINT)
    except JanusError as error:
        return State("to do", f"to do, but {error}")
    try:
        digest = configure.config_hash(configure.restore(saved["config"], folder))
    except JanusError as error:
        raise UsageError(f"{error}, in another --out") from None
    _same(run, digest, folder)
    return State("stopped", f"stopped at {how_far(saved)}", saved["task"] / len(saved["stream"]["tasks"]))


def states(grid: Grid, out: Path, known: Sequence[str | Path] = ()) -> dict[str, State]:
    """Run name → state. known: more folders of results; a run whose config has a result there, or under another name in `out`,
    is finished, unless its backbone is known to have had other weights than there are now. UsageError: all the folders that hold
    other runs, a folder of results that is not there."""
    found, faults = {}, [f"no folder {folder} of results" for folder in known if not Path(folder).is_dir()]
    results = finished_below(out, *known)
    faults += _of_other_weights(grid, out, results)
    for run in grid.runs:
        try:
            found[run.name] = state(run, out, results)
        except UsageError as error:
            faults.append(str(error))
    if faults:
        raise UsageError("; ".join(faults))
    _agree(grid, found)
    return found


def _of_other_weights(grid: Grid, out: Path, results: Finished) -> list[str]:
    """Take out of `results`, in place, what was found with other weights than a run of the grid would load now, with a note;
    of those that stand in a run's own folder, where it would be found again, the faults."""
    mine, faults, others = cache(_fingerprint), [], []
    for run in grid.runs:
        for place, result in list(results.get(run.hash, {}).items()):
            backbone = run.config.backbone
            now = mine(backbone.model, backbone.weights) if result["fingerprint"] else None
            if now in (None, result["fingerprint"]):
                continue
            del results[run.hash][place]
            prints = f"fingerprint {result['fingerprint']}, not {now}"
            if place == str(out / run.name / RESULT):
                faults.append(f"{out / run.name} holds this run with other weights of {backbone.model} "
                              f"({prints}); put those back, choose another --out, or delete it")
            else:
                others.append(f"{place} ({prints})")
    if others:
        warnings.warn(f"{len(others)} results do not count, since their backbones' weights were not those that are there now: "
                      f"{some(others)}", stacklevel=3)
    return faults


def _fingerprint(model: str, weights: str | None) -> str | None:
    """What `backbones.fingerprint` would say of one of the project's own backbones, without timm; None where that is not known.

    Their files are loaded strictly, into float32; those of another layout, and of timm's models, may be converted first.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from . import checkpoint

    if model not in WIDTHS or weights == "random" or (weights is None and model not in EMBEDDED):
        return None
    try:
        places = [Path(weights), (resources.home() or Path()) / weights] if weights else [resources.path(EMBEDDED[model])]
        tensors = load_file(next(place for place in places if place.exists()))
    except (StopIteration, OSError, SafetensorError, JanusError):  # missing or damaged: the run says so
        return None
    own = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items() if name.rpartition(".")[0] != "head"}
    return checkpoint.digest(own)[:12] if "patch_embed.stem.0.weight" in own else None


def _agree(grid: Grid, found: Mapping[str, State]) -> None:
    """A note where finished runs of one backbone had different weights: files of one name may hold different ones."""
    seen: dict[tuple[str, str | None], dict[str, list[str]]] = {}
    for run in grid.runs:
        if backbone := found[run.name].backbone:
            seen.setdefault((run.config.backbone.model, run.config.backbone.weights), {}).setdefault(backbone, []).append(run.name)
    for (model, weights), prints in seen.items():
        if len(prints) > 1:
            name = f"{model} ({weights})" if weights else model
            text = "; ".join(f"fingerprint {backbone}: {some(names)}" for backbone, names in prints.items())
            warnings.warn(f"the finished runs had different weights of {name}, so they cannot be compared: {text}; run all of them "
                          "with the same weights, in another --out", stacklevel=3)


class Pace:
    """Seconds that a run takes, from finished runs of the same row on the same data: those here, else those that come with
    janus, from another machine. An estimate: the number of tasks and of threads is not looked at."""

    def __init__(self) -> None:
        self.here: dict[str, list[float]] = {}
        self.shipped: dict[str, list[float]] = {}
        from . import store

        with contextlib.suppress(JanusError):  # there are none
            for run, _ in store.lines(resources.results(), detail=False)[0]:
                self.shipped.setdefault(_cost(run), []).append(run["seconds"])

    def add(self, run: Planned, seconds: float) -> None:
        self.here.setdefault(_cost(configure.flat(run.config)), []).append(seconds)

    def estimate(self, run: Planned) -> float | None:
        """Seconds, None if unknown."""
        key = _cost(configure.flat(run.config))
        found = self.here.get(key) or self.shipped.get(key)
        return sum(found) / len(found) if found else None

    def left(self, runs: Sequence[tuple[Planned, float]], workers: int) -> str:
        """Time that `runs`, each with the share that is done, still take on so many workers."""
        times = [(self.estimate(run), done) for run, done in runs]
        known = [seconds * max(0.0, 1 - done) for seconds, done in times if seconds is not None]
        missing = len(times) - len(known)
        text = clock(sum(known) / max(1, min(workers, len(runs))))
        return text if not missing else UNKNOWN if not known else f"{text} and {missing} runs whose time is {UNKNOWN}"


def plan(grid: Grid, out: Path, workers: int | None = None, known: Sequence[str | Path] = ()) -> list[str]:
    """What `--dry-run` prints: a line for each run, then how many there are of each kind and the time left.

    workers: runs at once, if there are as many; None: as `execute` would have it here.
    """
    found = states(grid, out, known)
    workers = workers or len(cards()) or 1
    pace = _paced(grid, found)
    width = max(len(run.name) for run in grid.runs)
    lines = [f"{'run':{width}s}  {'method':8s}  seed  time      state"]
    for run in grid.runs:
        seconds = pace.estimate(run)
        time_ = UNKNOWN if seconds is None else clock(seconds)
        method, seed = run.config.method.name, run.config.training.seed
        lines.append(f"{run.name:{width}s}  {method:8s}  {seed:4d}  {time_:8s}  {found[run.name].text}")
    kinds = Counter(state.kind for state in found.values())
    todo = [(run, found[run.name].done) for run in grid.runs if found[run.name].kind in ("to do", "stopped")]
    lines.append(f"{grid.title}: {len(grid.runs)} runs, " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
                 + f"; time left {pace.left(todo, workers)}")
    return lines


# ── one run, on a worker ────────────────────────────────────────────────────────────────────────────────────────────────


def work(name: str, folder: str, digest: str, parameters: dict[str, Any], cwd: str) -> str | None:
    """Execute one run; None, or in one line what went wrong, which failed.json keeps; or `DIED` or `BUSY`, which are not kept."""
    try:
        return _execute(Path(folder), parameters, cwd)
    except Exception as error:  # whatever it is, the other runs go on
        from . import checkpoint

        if type(error).__name__ == "DeadKernelError" or "Kernel died" in str(error):  # while it runs, or starts
            return DIED
        text = str(error) if isinstance(error, JanusError) else f"{type(error).__name__}: {error}"
        text = " ".join(text.split())
        if Path(folder).is_dir():
            with contextlib.suppress(JanusError):  # of a full disk the text speaks already
                checkpoint.write_json(Path(folder) / FAILED, {"name": name, "hash": digest, "error": text})
        return text


def _execute(folder: Path, parameters: dict[str, Any], cwd: str) -> str | None:
    """Execute one run, or say `BUSY`; whatever goes wrong is raised."""
    from . import papermill

    if not folder.parent.is_dir():
        raise UsageError(f"{folder.parent} is not there on this worker: the output folder must be shared by all of them")
    if not Path(cwd).is_dir():
        raise UsageError(f"the folder {cwd}, in which the bench was started, is not there on this worker")
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=HANDOVER):
            (folder / FAILED).unlink(missing_ok=True)
            if (folder / RESULT).exists():
                from .result import Result

                try:
                    Result.load(folder)
                except JanusError:
                    (folder / RESULT).rename(folder / f"{RESULT}.damaged")  # the run goes on from its checkpoint
    except Timeout:
        return BUSY
    os.environ.pop("JANUS_FAST", None)  # the lessons' switch for tiny streams would make it another run
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)  # Dask's, to give memory back at once: a run takes 1.5 times as long with it
    os.environ["JANUS_PNG"] = "0"  # a Chrome for each run takes longer than all else here
    papermill.execute(resources.notebook(), folder / NOTEBOOK, parameters, cwd=cwd, start_timeout=KERNEL_START,
                      extra_arguments=["--log-level=CRITICAL"])  # of the kernel, on the bench's own stderr
    return None


def parameters(run: Planned, out: Path) -> dict[str, Any]:
    """Notebook 07's parameters for a run: what names it, and the rest of its complete config as JSON."""
    values = configure.flat(run.config)
    named = {name.upper(): values.pop(path) for name, path in
             (("dataset", "data.dataset"), ("method", "method.name"), ("tasks", "data.tasks"), ("seed", "training.seed"))}
    return named | {"VARIANT": run.row, "OUT": str(out.resolve() / run.name), "CONFIG": json.dumps(values)}


# ── all of them ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_options(workers: int | None, scheduler: str | None, slurm: str | Path | None) -> None:
    """UsageError: options of the cluster that do not go together, a file that is not there."""
    if scheduler and (slurm or workers is not None):
        raise UsageError("--scheduler goes with neither --workers nor --slurm: a running cluster has its own workers")
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if slurm and not Path(slurm).is_file():
        raise UsageError(f"no file {slurm} for --slurm: a YAML file of dask_jobqueue.SLURMCluster's arguments")


def execute(grid: Grid, out: str | Path, *, retry: bool = False, workers: int | None = None, scheduler: str | None = None,
            slurm: str | Path | None = None, known: Sequence[str | Path] = (),
            say: Progress = lambda line: None) -> dict[str, str]:
    """Run what is not finished; the runs that failed, now or before, with a line each.

    Args:
        out: the folder of the run folders; with `scheduler` or `slurm` one that all workers see.
        retry: run those again that failed before.
        workers: how many runs at once. Here: one a GPU, or one; on SLURM: jobs, one a run.
        scheduler: address of a running Dask scheduler. slurm: a YAML file of `dask_jobqueue.SLURMCluster`'s arguments.
        known: folders of results; what has one there, by the hash of its config, is not run again.

    Raises:
        UsageError: folders in `out` that hold other runs, cluster options that do not go together.
        JanusError: `out` is in use, a package is missing, no scheduler answers.
    """
    out = Path(out).resolve()
    check_options(workers, scheduler, slurm)
    with _lock(out):
        found = states(grid, out, known)
        failed = {run.name: found[run.name].text.removeprefix("failed: ") for run in grid.runs
                  if found[run.name].kind == "failed" and not retry}
        todo = [run for run in grid.runs if found[run.name].kind != "finished" and run.name not in failed]
        say(f"{grid.title}: {len(grid.runs)} runs, {len(grid.runs) - len(todo) - len(failed)} finished already"
            + (f", {len(failed)} failed before" if failed else ""))
        if todo:
            with connect(len(todo), workers, scheduler, slurm) as (client, renew):
                failed |= Bench(client, renew, grid, out, found, say).finish(todo, failed)
        for name, error in failed.items():
            say(f"failed: {name}: {error}")
        return failed


@dataclass
class Running:
    run: Planned
    worker: str
    began: float


class Bench:
    """One run for each worker at a time. A run is bound to its worker, so that a worker's death is known to be that run's."""

    def __init__(self, client: Client, renew: Callable[[], None], grid: Grid, out: Path, found: Mapping[str, State],
                 say: Progress) -> None:
        self.client, self.renew, self.out, self.found, self.say = client, renew, out, found, say
        self.pace = _paced(grid, found)
        self.finished = sum(state.kind == "finished" for state in found.values())
        self.kills: Counter[str] = Counter()  # since the run last came further
        self.reached = {run.name: found[run.name].done for run in grid.runs}
        self.starts: Counter[str] = Counter()
        self.queue: deque[Planned] = deque()
        self.running: dict[Future, Running] = {}
        self.workers: set[str] = set()
        self.failed: dict[str, str] = {}
        self.counts = (0, 0, 0, 0)  # as last said, and when
        self.said = time.monotonic()

    def finish(self, todo: Sequence[Planned], before: Mapping[str, str]) -> dict[str, str]:
        """Run all of `todo`; name → error of those that failed, those from `before` included."""
        from distributed import wait

        self.queue, self.failed = deque(todo), dict(before)
        noted = renewed = time.monotonic()
        most = 0  # workers that there have been at once: jobs that have not come yet are asked for already
        while self.queue or self.running:
            try:
                self.workers = set(self.client.nthreads())  # Dask's cached `scheduler_info` has moments without any
            except OSError as error:
                raise JanusError(f"the Dask scheduler does not answer any more ({error}); the same command goes on") from None
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
                    self.say(f"no worker yet, {len(self.queue)} runs wait")
                    noted = time.monotonic()
                time.sleep(0.2)
                continue
            with contextlib.suppress(TimeoutError, CancelledError):  # of futures: the scheduler is gone, or forgot them
                wait(list(self.running), timeout=1, return_when="FIRST_COMPLETED")
            for future in [future for future in self.running if future.done()]:
                self.end(future, self.running.pop(future))
        self.status()
        return self.failed

    def start(self, run: Planned, worker: str) -> None:
        self.starts[run.name] += 1
        future = self.client.submit(work, run.name, str(self.out / run.name), run.hash, parameters(run, self.out), os.getcwd(),
                                    key=f"{run.name}-{self.starts[run.name]}", workers=[worker], pure=False)
        self.running[future] = Running(run, worker, time.monotonic())
        again = self.found[run.name].kind == "stopped" or self.starts[run.name] > 1
        self.say(f"{run.name}: {'goes on' if again else 'started'}")

    def end(self, future: Future, job: Running) -> None:
        """A run has ended; how, its worker says, or nobody if that died on the way."""
        seconds = time.monotonic() - job.began
        try:
            error = future.result(timeout=10)
        except Exception as lost:  # Dask's own: the worker died, or cannot import what it needs
            if future.status in ("lost", "cancelled", "pending") or type(lost).__name__ in ("KilledWorker", "TimeoutError"):
                return self.worker_died(job)
            error = f"its worker could not execute it ({type(lost).__name__}: {lost}); is the same janus installed there?"
        if error == DIED:
            return self.worker_died(job)
        if error == BUSY:  # a kernel of a bench that was stopped, or of a host that was cut off: it may well finish the run
            self.say(f"{job.run.name}: {BUSY}; the run waits")
            return self.queue.append(job.run)
        if error:
            return self.fail(job, error)
        self.finished += 1
        if self.found[job.run.name].kind != "stopped" and self.starts[job.run.name] == 1:
            self.pace.add(job.run, seconds)
        acc = _read(self.out / job.run.name / RESULT).get("acc")
        self.say(f"{job.run.name}: finished in {clock(seconds)}" + (f", acc {acc:.2f}" if acc is not None else ""))

    def worker_died(self, job: Running) -> None:
        name, done = job.run.name, state(job.run, self.out).done
        self.kills[name] = 1 if done > self.reached[name] else self.kills[name] + 1
        self.reached[name] = done
        if self.kills[name] < MAX_KILLS:
            self.say(f"{name}: its worker or its kernel died; the run waits for another one")
            self.queue.appendleft(job.run)
            return
        from . import checkpoint

        error = f"its worker or its kernel died {MAX_KILLS} times (out of memory?)"
        with contextlib.suppress(JanusError):
            checkpoint.write_json(self.out / name / FAILED, {"name": name, "hash": job.run.hash, "error": error})
        self.fail(job, error)

    def fail(self, job: Running, error: str) -> None:
        self.failed[job.run.name] = error
        self.say(f"{job.run.name}: failed: {error}")

    def status(self) -> None:
        """A line of what is done, running, failed and left, and of the time left, if any of the counts has changed; and now and
        then also how far each run is."""
        counts, now = (self.finished, len(self.running), len(self.failed), len(self.queue)), time.monotonic()
        late = bool(self.running) and now - self.said > WAITING
        if counts == self.counts and not late:
            return
        self.counts, self.said = counts, now
        left = [(run, self.found[run.name].done) for run in self.queue]
        for job in self.running.values():
            seconds = self.pace.estimate(job.run)
            left.append((job.run, self.found[job.run.name].done + ((now - job.began) / seconds if seconds else 0)))
        self.say("{} done, {} running, {} failed, {} left, ".format(*counts) +
                 f"time left {self.pace.left(left, len(self.workers))}")
        if late:
            from .checkpoint import header

            width = max(len(job.run.name) for job in self.running.values())
            for job in self.running.values():
                saved = header(self.out / job.run.name / CHECKPOINT)
                self.say(f"  {job.run.name:{width}s}  {clock(now - job.began)}  {how_far(saved)}")


# ── small things ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _lock(out: Path) -> FileLock:
    """Hold the folder of all runs, as `train.lock` does one run's (its module imports timm)."""
    guard = FileLock(out / ".lock", timeout=0)
    try:
        out.mkdir(parents=True, exist_ok=True)
        guard.acquire()
    except Timeout:
        raise JanusError(f"{out} is in use by another janus bench; wait for it, or choose another --out") from None
    except OSError as error:
        raise JanusError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
    return guard


def how_far(saved: Mapping[str, Any]) -> str:
    """How far a checkpoint has come; saved: what is in it, or in its header, or nothing."""
    if not saved:
        return "no checkpoint yet"
    tasks = len(saved["stream"]["tasks"])
    return f"task {min(saved['task'] + 1, tasks)} of {tasks}"


def _read(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty if there is none, or none that can be read."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _same(run: Planned, digest: str, folder: Path) -> None:
    if digest != run.hash:
        raise UsageError(f"{folder} holds another run (hash {digest}, not {run.hash}); choose another --out, or delete it")


def _paced(grid: Grid, found: Mapping[str, State]) -> Pace:
    pace = Pace()
    for run in grid.runs:
        if (seconds := found[run.name].seconds) is not None:
            pace.add(run, seconds)
    return pace


def _cost(settings: Mapping[str, Any]) -> str:
    """Equal for runs that take about as long, but for the number of tasks."""
    kept = {key: value for key, value in settings.items() if value is not None
            and (key in COST or key.startswith("data.") and key not in NO_COST)}
    return json.dumps(kept, sort_keys=True)
