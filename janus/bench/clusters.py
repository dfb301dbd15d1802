"""Where the runs of a grid are executed: worker processes here, a running Dask cluster, or SLURM jobs."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import JanusError, UsageError
from .grid_files import parse

if TYPE_CHECKING:
    from distributed import Client


@contextlib.contextmanager
def connect(
    runs: int, workers: int | None, scheduler: str | None, slurm: str | Path | None
) -> Iterator[tuple[Client, Callable[[], None]]]:
    """A client of the cluster that is asked for, and what asks it for workers in place of those that it has
    lost: SLURM jobs end at their time limit. A cluster that was started here ends with the client."""
    try:
        import distributed
    except ImportError as error:
        raise JanusError(f"janus bench needs {error.name}: pip install 'janus-lora[bench]'") from None
    with contextlib.ExitStack() as stack:
        if scheduler:
            try:
                client = distributed.Client(scheduler, timeout="10s")
            except (OSError, TimeoutError, ValueError) as error:
                said = str(error).splitlines()[0]
                raise JanusError(f"no Dask scheduler answers at {scheduler} ({said})") from None
            yield stack.enter_context(client), lambda: None
            return
        jobs = min(runs, workers or runs)
        cluster = stack.enter_context(slurm_jobs(Path(slurm), jobs) if slurm else local(runs, workers))
        client = stack.enter_context(distributed.Client(cluster))
        # here a worker's nanny starts it again
        yield client, (lambda: cluster.scale(jobs=jobs)) if slurm else (lambda: None)


def local(runs: int, workers: int | None) -> Any:
    """Worker processes on this machine, one thread each; each sees one GPU if there are any."""
    import logging

    import dask.config
    from distributed import Nanny, Scheduler, SpecCluster

    visible = gpus()
    count = min(runs, workers or len(visible) or 1)
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // count))  # Dask alone would set 1
    spec = {}
    for i in range(count):
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        environment |= {"CUDA_VISIBLE_DEVICES": visible[i % len(visible)]} if visible else {}
        nanny = {
            "nthreads": 1,
            "env": environment,
            "dashboard": False,
            "host": "127.0.0.1",
            "memory_limit": 0,  # it would watch the worker, not its kernel, ten times a second
            "silence_logs": logging.CRITICAL,  # what matters, `Bench` says
        }
        spec[i] = {"cls": Nanny, "options": nanny}
    settings = {
        "distributed.worker.profile.enabled": False,  # of a worker that only waits for its kernel
        # a laptop that slept: a dead worker's connection closes anyway
        "distributed.scheduler.worker-ttl": None,
    }
    dask.config.set(settings)
    options = {"host": "127.0.0.1", "port": 0, "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    scheduler = {"cls": Scheduler, "options": options}
    return SpecCluster(workers=spec, scheduler=scheduler, silence_logs=logging.CRITICAL, name="janus-bench")


def gpus() -> list[str]:
    """The CUDA GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return visible.split(",")[:count] if visible else [str(i) for i in range(count)]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slurm_jobs(file: Path, jobs: int) -> Any:
    """A SLURM cluster of so many jobs, from a YAML file of `dask_jobqueue.SLURMCluster`'s arguments."""
    try:
        from dask_jobqueue import SLURMCluster
    except ImportError:
        raise JanusError("--slurm needs dask-jobqueue: pip install 'janus-lora[slurm]'") from None
    try:
        cluster = SLURMCluster(**{"processes": 1, "name": "janus-bench"} | parse(file))
    except (TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise UsageError(f"{file}: SLURMCluster does not take this ({said})") from None
    refusal = None
    try:  # Dask alone would say what SLURM has against a job in tracebacks, and wait for it
        script = cluster.job_script()
        asked = subprocess.run(["sbatch", "--test-only"], input=script, capture_output=True, text=True)
        if asked.returncode:
            refusal = " ".join(asked.stderr.split()) or f"sbatch: exit code {asked.returncode}"
    except OSError as error:
        refusal = f"{error.strerror}: sbatch; start the bench where jobs are submitted"
    if refusal:
        cluster.close()
        raise JanusError(f"SLURM takes no job from {file} ({refusal})")
    cluster.scale(jobs=jobs)
    return cluster
