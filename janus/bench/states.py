"""How far the runs of a grid are: what their folders hold, and finished runs elsewhere."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import configure
from ..data.registry import EMBEDDED
from ..errors import JanusError, UsageError, first_few
from ..runtime import assets
from ..runtime.timing import total
from .grids import Grid, PlannedRun

if TYPE_CHECKING:
    from .store import Line

# torch, timm and pandas take seconds to import, so functions import what needs them

CHECKPOINT, RESULT = "checkpoint.safetensors", "result.json"
FAILED, NOTEBOOK = "failed.json", "notebook.ipynb"


@dataclass(frozen=True)
class State:
    """How far a run is. kind: finished, stopped, failed, to do. done: its finished share of tasks. Of a
    finished run, seconds: what it took; backbone: the fingerprint of its weights."""

    kind: str
    text: str
    done: float = 0.0
    seconds: float | None = None
    backbone: str | None = None


Finished = dict[str, dict[str, "Line"]]  # hash of a config → place → the run with it, of whatever name


def finished_below(*folders: str | Path) -> Finished:
    """The finished runs anywhere below the folders, in tables too, by the hashes of their configs. A note
    names the files that cannot be read."""
    from . import store

    found: Finished = {}
    unread = []
    for runs, faults in (store.lines(folder, detail=False) for folder in folders):
        unread += faults
        for run, place in runs:
            found.setdefault(run["hash"], {})[place] = run
    if unread:
        warnings.warn(f"{len(unread)} files of results count as absent: {first_few(unread)}", stacklevel=2)
    return found


def state(run: PlannedRun, out: Path, known: Finished | None = None) -> State:
    """What the run's folder says, or else a result of the same config among `known`. UsageError: the folder
    holds another run."""
    from ..runtime import checkpoint
    from ..runtime.result import Result

    folder = out / run.name
    try:
        result = Result.load(folder)
    except JanusError:  # missing, or damaged: then `work` moves it aside
        for place, found in (known or {}).get(run.hash, {}).items():
            text = f"finished, acc {found['acc']:.2f}, in {place}"
            return State("finished", text, 1.0, found["seconds"], found["fingerprint"])
    else:
        _same(run, result.hash, folder)
        text = f"finished, acc {result.acc:.2f}"
        return State("finished", text, 1.0, total(result.seconds), result.backbone)
    failed = read_json(folder / FAILED)  # with a result, what failed is a figure, or the notebook's file
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
    """Run name → state. known: more folders of results; a run whose config has a result there, or under
    another name in `out`, is finished, unless its backbone is known to have had other weights than there are
    now. UsageError: all the folders that hold other runs, a folder of results that is not there."""
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
    """Take out of `results`, in place, what was found with other weights than a run of the grid would load
    now, with a note; of those that stand in a run's own folder, where it would be found again, the faults."""
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
                faults.append(
                    f"{out / run.name} holds this run with other weights of {backbone.model} "
                    f"({prints}); put those back, choose another --out, or delete it"
                )
            else:
                others.append(f"{place} ({prints})")
    if others:
        why = "since their backbones' weights were not those that are there now"
        warnings.warn(f"{len(others)} results do not count, {why}: {first_few(others)}", stacklevel=3)
    return faults


def _fingerprint(model: str, weights: str | None) -> str | None:
    """What `backbones.fingerprint` would say of one of the project's own backbones, without timm; None where
    that is not known.

    Their files are loaded strictly, into float32; those of another layout, and of timm's models, may be
    converted first.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from ..runtime import checkpoint

    if model not in EMBEDDED or weights == "random":
        return None
    try:
        if weights:
            places = [Path(weights), (assets.home() or Path()) / weights]
        else:
            places = [assets.path(EMBEDDED[model])]
        tensors = load_file(next(place for place in places if place.exists()))
    except (StopIteration, OSError, SafetensorError, JanusError):  # missing or damaged: the run says so
        return None
    tensors = {name: t for name, t in tensors.items() if name.rpartition(".")[0] != "head"}
    own = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    return checkpoint.digest(own)[:12] if "patch_embed.stem.0.weight" in own else None


def _agree(grid: Grid, found: Mapping[str, State]) -> None:
    """A note where finished runs of one backbone had different weights: files of one name may hold different
    ones."""
    seen: dict[tuple[str, str | None], dict[str, list[str]]] = {}
    for run in grid.runs:
        if backbone := found[run.name].backbone:
            prints = seen.setdefault((run.config.backbone.model, run.config.backbone.weights), {})
            prints.setdefault(backbone, []).append(run.name)
    for (model, weights), prints in seen.items():
        if len(prints) > 1:
            name = f"{model} ({weights})" if weights else model
            each = (f"fingerprint {backbone}: {first_few(names)}" for backbone, names in prints.items())
            warnings.warn(
                f"the finished runs had different weights of {name}, so they cannot be compared: "
                f"{'; '.join(each)}; run all of them with the same weights, in another --out",
                stacklevel=3,
            )


def how_far(saved: Mapping[str, Any]) -> str:
    """How far a checkpoint has come; saved: what is in it, or in its header, or nothing."""
    if not saved:
        return "no checkpoint yet"
    tasks = len(saved["stream"]["tasks"])
    return f"task {min(saved['task'] + 1, tasks)} of {tasks}"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file's mapping; empty if there is none, or none that can be read."""
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _same(run: PlannedRun, digest: str, folder: Path) -> None:
    if digest != run.hash:
        raise UsageError(
            f"{folder} holds another run (hash {digest}, not {run.hash}); choose another --out, or delete it"
        )
