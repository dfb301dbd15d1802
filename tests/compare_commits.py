"""The same numbers, bit for bit? Toy runs of every method, by an old commit and by the present tree.

    python tests/compare_commits.py COMMIT [--only WORD ...]        (or: make same-numbers BASE=COMMIT)

The commit is checked out in a temporary `git worktree`. Each tree makes all runs in one process, on one
thread of this machine's CPU, and writes down what they found (accuracies, drift, danger, violations, ranks)
and digests of what they learned (every tensor in the checkpoint's parts `PARTS`). The first difference of
each run is shown; the exit code is 1 if there is any. What the commit found is kept in `runs/same-numbers`,
so that a second comparison with it takes half the time.

Settings are given by their bare names. Where one has another name in one of the trees, `NAMES` says so; where
a part of the checkpoint has moved, `MOVED` does.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

NUMBERS = (
    "accuracy task_aware drift danger violation violation_step past_output_norm basis_rank "
    "acc maa bwt learning_acc task_aware_acc"
).split()
PARTS = ("model", "heads", "method", "classifier", "history", "prototypes")
# old name of a setting → new
NAMES = {"head": "classifier", "ranpac_dim": "dim", "dml_form": "form", "ewc_lambda": "method.lambda"}
VALUES = {("amp", True): "bf16"}  # old value → new
# where a part's tensors are in a newer checkpoint → where they were, e.g. "method/basis": "history/basis"
MOVED: dict[str, str] = {}

TOY = dict(tasks=3, epochs=2, batch_size=8, seed=3, class_seed=1, step_score_every=2, device="cpu", threads=1)
SHARED = {"adapter": "shared", "init": "free"}
FREE = {"adapter": "merged", "init": "free"}
# a run is broken off at the second such line of progress: in mid-epoch, and moments are being taken
BREAK = "task 2/3 epoch 2/2"
SMALL = {"ranpac": {"ranpac_dim": 100}}  # settings of a method that make it quick
SPECIAL: dict[str, dict[str, Any]] = {
    "gr=tangent": {"gr": "tangent"},
    "gr=none": {"gr": "none"},
    "gr=tangent adapter=shared": {"gr": "tangent", **SHARED},
    "gr=none adapter=shared": {"gr": "none", **SHARED},
    "gr=tangent init=free": {"gr": "tangent", **FREE},
    "dml=off": {"dml": False},
    "oe=off": {"oe": False, "gr": "none", **SHARED},
    "oe=off dml=off": {"oe": False, "dml": False, "gr": "none", **FREE},
    "cap, ridge": {"gr": "tangent", "cap": 0.01, "ridge": 0.1, **SHARED},
    "dml_form=softmax": {"dml_form": "softmax"},
    "head=ncm": {"head": "ncm"},
    "head=ranpac": {"head": "ranpac", "ranpac_dim": 100},
    "targets": {"targets": ("q", "proj"), "weight_decay": 0.1, "scale": 2.0},
    "energy_end, oe_epochs": {"energy": 0.8, "energy_end": 0.99, "oe_epochs": "all"},
    "amp": {"amp": True},
    "finetune head=ncm": {"method": "finetune", "head": "ncm"},
    "finetune head=ranpac": {"method": "finetune", "head": "ranpac", "ranpac_dim": 100},
    "finetune lr": {"method": "finetune", "lr": 1e-2, "head_lr": 1e-2, "rank": 2, "augment": "photo"},
    "gpm gr=exact": {"method": "gpm", "gr": "exact", "adapter": "merged", "init": "nullspace"},
    "drs gr=exact": {"method": "drs", "gr": "exact", "init": "nullspace"},
    "ewc_lambda": {"method": "ewc", "ewc_lambda": 1e5},
    "icons-r": {"dataset": "icons-r", "per_class": 2, "epochs": 1, "evaluate": "val"},
}
# broken off in mid-task and resumed
BROKEN = ("janus", "finetune", "gr=tangent adapter=shared", "gpm", "sdlora", "bilora")
LOADED = ("janus", "finetune", "head=ncm", "head=ranpac", "l2p", "bilora")  # their predictor scores images
EXTENDED = ("janus", "finetune", "gr=tangent adapter=shared", "head=ranpac", "coda", "drs")


# ── in a tree: all runs, one after the other ────────────────────────────────────────────────────────────────


class Stopped(BaseException):
    """The run is broken off here."""


def dump(out: Path, only: list[str]) -> None:
    """Make every run with the `janus` imported here; {run: {number or tensor: value}} to the file `out`."""
    import torch

    import janus
    from janus.methods import all_methods

    home = Path(janus.__file__).resolve()
    if not home.is_relative_to(Path(os.environ["PYTHONPATH"]).resolve()):
        sys.exit(f"janus comes from {home}, not from {os.environ['PYTHONPATH']}")
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        old, new = write_images(folder / "old", 7, 0), write_images(folder / "new", 2, 1)
        generator = torch.Generator().manual_seed(0)
        shots = torch.randint(0, 256, (5, 3, 32, 32), generator=generator, dtype=torch.uint8)
        for name, work in jobs(sorted(all_methods()), folder / "runs", old, new, shots):
            if not only or any(word in name for word in only):
                began = time.monotonic()
                try:
                    found[name] = work()
                except Exception as error:
                    # a run that fails is a difference, and the others still say something
                    found[name] = {"error": f"{type(error).__name__}: {error}"}
                print(f"  {name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    out.write_text(json.dumps(found))


def jobs(
    methods: list[str], runs: Path, old: Path, new: Path, shots: Any
) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Each comparison's name and what makes its values. Finished runs are used again by those that follow."""
    import janus

    settings = {name: {"method": name} | SMALL.get(name, {}) for name in methods}
    settings |= {name: {"method": "janus"} | own for name, own in SPECIAL.items()}

    def place(name: str) -> Path:
        return runs / hashlib.sha256(name.encode()).hexdigest()[:12]

    def run(
        name: str, out: Path | None = None, progress: Callable[[str], None] | None = None, **more: Any
    ) -> Any:
        given = {"dataset": str(old), **TOY, **settings[name], **more}
        return known_names(given, lambda values: janus.run(out or place(name), progress=progress, **values))

    def whole(name: str) -> dict[str, Any]:
        return numbers(run(name)) | learned(place(name))

    def broken(name: str) -> dict[str, Any]:
        lines: list[str] = []

        def stop(line: str) -> None:
            lines.append(line)
            if sum(BREAK in said for said in lines) == 2:
                raise Stopped

        out, done = place(f"{name} broken"), False
        try:
            run(name, out, stop, save_every=0)
            done = True
        except Stopped:
            pass
        if done or (out / "result.json").exists():
            raise AssertionError(f"the run was not broken off: no line of progress has {BREAK!r}")
        lines.clear()
        found = numbers(run(name, out, lines.append)) | learned(out)
        if not any("resumed at task 2/3, step" in line for line in lines):
            raise AssertionError(f"the run was not resumed in the middle of task 2: {lines[:1]}")
        return found

    def scores(name: str) -> dict[str, Any]:
        run(name)
        predictor = janus.load(place(name), device="cpu")
        return {"class_names": list(predictor.class_names), "scores": described(predictor.scores(shots))}

    def extended(name: str) -> dict[str, Any]:
        run(name)
        out = place(f"{name} extended")
        return numbers(janus.extend(place(name), new, out)) | learned(out)

    for title, names, work in (
        ("", settings, whole),
        ("broken: ", BROKEN, broken),
        ("load: ", LOADED, scores),
        ("extend: ", EXTENDED, extended),
    ):
        for name in names:
            if name in settings:
                yield title + name, lambda work=work, name=name: work(name)


def known_names(values: dict[str, Any], work: Callable[[dict[str, Any]], Any]) -> Any:
    """`work` with the settings' old names or, where those are refused, with new ones: all or some of them."""
    from janus import UsageError

    changed = {
        key: (NAMES.get(key, key), VALUES.get((key, value) if isinstance(value, (bool, str)) else (), value))
        for key, value in values.items()
    }
    changed = {key: new for key, new in changed.items() if new != (key, values[key])}
    refusals: list[str] = []
    for count in (0, *range(len(changed), 0, -1)):
        for keys in combinations(changed, count):
            try:
                given = dict(changed[key] if key in keys else (key, value) for key, value in values.items())
                return work(given)
            except UsageError as error:
                refusals.append(str(error))
    raise UsageError("; and with new names: ".join(refusals[:2]))


def write_images(root: Path, classes: int, seed: int) -> Path:
    """`root/{train,test}/<class>/<n>.png`, 32x32: a pattern a class, under noise.

    10 training and 4 test images a class.
    """
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    for c in range(classes):
        pattern = rng.integers(40, 216, size=(4, 4, 3)).repeat(8, 0).repeat(8, 1)
        for split, count in (("train", 10), ("test", 4)):
            folder = root / split / f"{root.name}{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                noisy = np.clip(pattern + rng.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
                Image.fromarray(noisy).save(folder / f"{i}.png")
    return root


def numbers(result: Any) -> dict[str, Any]:
    """What a result says, without when and how fast."""
    return {key: getattr(result, key) for key in NUMBERS}


def learned(folder: Path) -> dict[str, Any]:
    """Every tensor and number in the parts of a run's checkpoint, by part and name."""
    try:
        from janus.runtime import checkpoint
    except ImportError:  # a commit before the package had folders
        from janus import checkpoint

    found: dict[str, Any] = {}
    for path, value in leaves(checkpoint.load(folder / "checkpoint.safetensors")):
        at = next((i for i, step in enumerate(path) if step in PARTS), None)  # a part may lie deeper one day
        if at is not None and path[0] != "config":  # where a method's settings are under its name
            found["/".join(path[at:])] = described(value)
    return found


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        yield path, value
        return
    for key, item in items:
        yield from leaves(item, (*path, str(key)))


def described(value: Any) -> Any:
    """A tensor's shape, type, norm (to see how far it is off) and digest; anything else as it is."""
    import torch

    if not isinstance(value, torch.Tensor):
        return value
    data = value.detach().cpu().contiguous()
    digest = hashlib.sha256(data.flatten().view(torch.uint8).numpy()).hexdigest()[:16]
    return {
        "shape": list(data.shape),
        "dtype": str(data.dtype),
        "norm": float(data.double().norm()),
        "digest": digest,
    }


# ── two trees ───────────────────────────────────────────────────────────────────────────────────────────────


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("commit", nargs="?", help="the old commit")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="only runs whose names have one of these words"
    )
    parser.add_argument("--dump", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.dump:
        dump(args.dump, args.only)
        return 0
    if not args.commit:
        parser.error("which commit? e.g. main")
    tree = Path(git("rev-parse", "--show-toplevel"))
    commit = git("rev-parse", "--verify", f"{args.commit}^{{commit}}")
    old, new = of_commit(commit, tree, args.only), of_tree(tree, args.only)
    if not old:
        sys.exit(f"no run's name has any of: {', '.join(args.only)}")
    differing = [f"{name}: {text}" for name in old if (text := difference(old[name], new.get(name)))]
    more = sorted(new.keys() - old.keys())
    print("\n".join(differing + ([f"(only in the present tree: {', '.join(more)})"] if more else [])))
    print(f"{len(old) - len(differing)} of {len(old)} runs are bit for bit those of {commit[:10]}")
    return 1 if differing else 0


def git(*command: str) -> str:
    done = subprocess.run(["git", *command], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"git {command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def of_tree(tree: Path, only: list[str]) -> dict[str, Any]:
    """What the runs of a checked-out tree give."""
    print(f"{tree}", file=sys.stderr, flush=True)
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "dump.json"
        command = [sys.executable, __file__, "--dump", str(out), *(["--only", *only] if only else [])]
        done = subprocess.run(command, env=env, cwd=tree)
        if done.returncode:
            sys.exit(f"the runs of {tree} stopped with exit code {done.returncode} (see above)")
        return json.loads(out.read_text())


def of_commit(commit: str, repository: Path, only: list[str]) -> dict[str, Any]:
    """What the runs of a commit give; kept, for this very script, machine and selection."""
    from importlib.metadata import version

    cpu: str | list[str] = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = [line for line in info.read_text().splitlines() if line.startswith(("model name", "flags"))][:2]
    versions = [platform.python_version(), *map(version, ("torch", "timm", "numpy"))]
    what = [Path(__file__).read_text(), cpu, *versions, sorted(only)]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()[:10]
    kept = repository / "runs" / "same-numbers" / f"{commit[:10]}-{digest}.json"
    if kept.exists():
        return json.loads(kept.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        tree = Path(scratch) / "tree"
        git("worktree", "add", "--detach", str(tree), commit)
        try:
            found = of_tree(tree, only)
        finally:
            git("worktree", "remove", "--force", str(tree))
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(found))
    return found


def difference(old: dict[str, Any], new: dict[str, Any] | None) -> str:
    """The first difference between two runs, or an empty text. What only the new one has is none."""
    if new is None:
        return "there is no such run any more"
    for which, run in (("the commit", old), ("the present tree", new)):
        if "error" in run:
            return f"fails in {which}: {run['error']}"
    new = {moved(key): value for key, value in new.items()}
    for key, value in old.items():
        if key not in new:
            return f"{key} is not there any more"
        if json.dumps(value) != json.dumps(new[key]):
            return f"{key}: {first(value, new[key])}"
    return ""


def moved(key: str) -> str:
    for now, before in MOVED.items():
        if key == now or key.startswith(f"{now}/"):
            return before + key[len(now) :]
    return key


def first(old: Any, new: Any) -> str:
    """Where two values differ first."""
    a, b = dict(leaves(old)), dict(leaves(new))
    for path in [*a, *(path for path in b if path not in a)]:
        if json.dumps(a.get(path)) != json.dumps(b.get(path)) or (path in a) != (path in b):
            where = "/".join(path)
            return f"{where + ' ' if where else ''}{a.get(path, 'nothing')!r} → {b.get(path, 'nothing')!r}"
    return f"{old!r} → {new!r}"


if __name__ == "__main__":
    sys.exit(main())
