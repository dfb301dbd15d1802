"""One run of a grid, on a worker: notebook 07 with the run's settings, executed through papermill."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .. import configure
from ..errors import JanusError, UsageError
from ..runtime import assets
from .grids import PlannedRun
from .states import FAILED, NOTEBOOK, RESULT

BUSY = "another process works in its folder"
# killed for memory, or by a batch system that ends a whole job: no error of the run's own
DIED = "the kernel died"
# seconds a dead worker's kernel has to let go of its run's folder; on a host that was cut off it learns late
HANDOVER = 120
KERNEL_START = 300  # seconds: torch on a cold, shared disk is slow


def work(name: str, folder: str, digest: str, parameters: dict[str, Any], cwd: str) -> str | None:
    """Execute one run; None, or in a line what went wrong, kept in failed.json; `DIED` and `BUSY` are not."""
    try:
        return _execute(Path(folder), parameters, cwd)
    except Exception as error:  # whatever it is, the other runs go on
        from ..runtime import checkpoint

        if type(error).__name__ == "DeadKernelError" or "Kernel died" in str(error):  # running, or starting
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
        shared = "the output folder must be shared by all of them"
        raise UsageError(f"{folder.parent} is not there on this worker: {shared}")
    if not Path(cwd).is_dir():
        raise UsageError(f"the folder {cwd}, in which the bench was started, is not there on this worker")
    folder.mkdir(exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=HANDOVER):
            (folder / FAILED).unlink(missing_ok=True)
            if (folder / RESULT).exists():
                from ..runtime.result import Result

                try:
                    Result.load(folder)
                except JanusError:  # the run resumes from its checkpoint
                    (folder / RESULT).rename(folder / f"{RESULT}.damaged")
    except Timeout:
        return BUSY
    os.environ.pop("JANUS_FAST", None)  # the lessons' switch for tiny streams would make it another run
    # Dask's, to give memory back at once: a run takes 1.5 times as long with it
    os.environ.pop("MALLOC_TRIM_THRESHOLD_", None)
    os.environ["JANUS_PNG"] = "0"  # a Chrome for each run takes longer than all else here
    papermill.execute(
        assets.notebook(),
        folder / NOTEBOOK,
        parameters,
        cwd=cwd,
        start_timeout=KERNEL_START,
        extra_arguments=["--log-level=CRITICAL"],  # of the kernel, on the bench's own stderr
    )
    return None


def parameters(run: PlannedRun, out: Path) -> dict[str, Any]:
    """Notebook 07's parameters for a run: what names it, and the rest of its complete config as JSON."""
    values = configure.flat(run.config)
    named = {
        "DATASET": values.pop("data.dataset"),
        "METHOD": values.pop("method.name"),
        "TASKS": values.pop("data.tasks"),
        "SEED": values.pop("training.seed"),
    }
    place = str(out.resolve() / run.name)
    return named | {"VARIANT": run.variant, "OUT": place, "CONFIG": json.dumps(values)}
