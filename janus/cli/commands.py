"""The `janus` command: run, bench, extend, predict, evaluate, report, and what there is to choose from."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import JanusError, UsageError, first_few, unknown
from ..runtime import distributed
from .arguments import build_parser

# torch is imported by the commands that need it, so that --help answers at once


def run(args: argparse.Namespace) -> None:
    from .. import configure
    from ..runtime import paths

    values = configure.from_text(args.set)
    for key in ("dataset", "root", "model", "method", "tasks", "seed"):
        value = getattr(args, key)
        if value is not None and values.setdefault(key, value) != value:
            both = f"--{key} {value} and --set {key}={values[key]}"
            raise UsageError(f"{key} is given twice: {both}; leave one out")
    # before torch: a typing error is answered at once
    config = configure.layered(paths.folder_of(args.out), values)

    from .. import train

    result = train.execute(config, args.out, _progress(args), args.variant)
    print(result.line())


def bench(args: argparse.Namespace) -> None:
    from ..bench import grids, plan, scheduler

    grid = grids.load(args.grid)
    scheduler.check_options(args.workers, args.scheduler, args.slurm)
    if args.dry_run:
        # of a cluster that runs already nothing is known
        at_once = len(grid.runs) if args.slurm else 1 if args.scheduler else None
        print("\n".join(plan.plan(grid, Path(args.out), args.workers or at_once, args.known)))
        return
    failed = scheduler.execute(
        grid,
        args.out,
        retry=args.retry,
        workers=args.workers,
        scheduler=args.scheduler,
        slurm=args.slurm,
        known=args.known,
        progress=lambda line: print(line, file=sys.stderr, flush=True),
    )
    if failed:
        where = f"named above, each with its notebook in {args.out}"
        again = "the same command with --retry tries them again"
        raise JanusError(f"{len(failed)} of {len(grid.runs)} runs failed ({where}); {again}")
    print(f"{grid.title}: all {len(grid.runs)} runs are finished, in {args.out}")


def extend(args: argparse.Namespace) -> None:
    from .. import configure, predict

    settings = configure.from_text(args.set)
    result, folder = predict.extend_to(args.folder, args.data, args.out, _progress(args), **settings)
    print(result.line())
    print(f"in {folder}")


def predict(args: argparse.Namespace) -> None:
    import json

    from .. import predict

    if args.top < 1:
        raise UsageError(f"--top must be at least 1, got {args.top}")
    predictor = predict.load(args.folder, args.device)
    answers, faults = predictor.attempt(args.images, args.top)
    if args.json:
        named = []
        for i, (image, answer) in enumerate(zip(args.images, answers)):
            scores = [{"class": name, "score": score} for name, score in answer]
            fault = {"error": faults[i]} if i in faults else {}
            named.append({"image": image, predictor.score: scores} | fault)
        print(json.dumps(named, indent=1))
    for i, (image, answer) in enumerate(zip(args.images, answers)):
        if i not in faults and not args.json:
            print(f"{image}: " + ", ".join(f"{name} {score:.3f}" for name, score in answer))
    if faults:
        raise JanusError(predict.unread(faults, len(answers)))


def evaluate(args: argparse.Namespace) -> None:
    from ..report import confusion

    found = confusion.evaluate(
        args.folder, args.data, root=args.root, skip_unknown=args.skip_unknown, device=args.device
    )
    for note in found.notes:
        print(f"janus: note: {note}", file=sys.stderr)
    print(found.table().plain())
    print(found.line())
    if args.out is not None:
        found.save(args.out)
        print(f"in {args.out}")


def export(args: argparse.Namespace) -> None:
    from ..models import timm_export

    print(f"in {timm_export.export(args.folder, args.out)}")


def report(args: argparse.Namespace) -> None:
    from ..report import document
    from ..runtime import checkpoint

    if args.collect:
        return _collect(args)
    if args.into or not args.results:
        see = "see janus report --help"
        raise UsageError(f"report takes folders of results; --into goes with --collect RUNS; {see}")
    text = document.write(args.results, args.to)
    if args.out is None:
        print(text, end="")
        return
    checkpoint.write_atomic(args.out, lambda place: Path(place).write_text(text, encoding="utf-8"))
    print(f"in {args.out}")


def _collect(args: argparse.Namespace) -> None:
    from ..bench import store
    from ..runtime import assets

    if args.results or args.out:
        why = "it goes with neither RESULTS nor --out"
        raise UsageError(f"--collect adds runs to tables and writes no report: {why}")
    into = Path(args.into) if args.into else assets.results()
    if not args.into and into.is_relative_to(assets.PACKAGE):
        why = "the tables that come with an installed janus stay as they are"
        raise UsageError(f"--collect needs --into DIR here: {why}")
    done = store.collect(args.collect, into)
    print(f"{done.added} runs added to {into}, {done.known} known already, {len(done.refused)} refused")
    if done.refused:
        raise JanusError(f"refused: {first_few(done.refused)}")


def datasets(args: argparse.Namespace) -> None:
    from ..data import registry

    _list(registry.names(), args.pattern)


def methods(args: argparse.Namespace) -> None:
    import json

    from ..report import properties

    setting = properties.Setting(args.model, args.tasks, args.classes, args.rank)
    if args.json:
        found = properties.one(args.name, setting) if args.name else properties.every(setting)
        print(json.dumps(found, indent=1))
    else:
        print(properties.described(args.name, setting) if args.name else properties.listing(setting))


def models(args: argparse.Namespace) -> None:
    from ..models import backbones

    _list(backbones.models(), args.pattern)


def doctor(args: argparse.Namespace) -> int:
    from ..doctor import examine
    from ..runtime import checkpoint

    if args.out is not None and not args.out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {args.out.absolute().parent}: make it, or choose another --out")
    found = examine(args.device, args.quick, lambda line: print(line, file=sys.stderr, flush=True))
    if args.out is not None:
        checkpoint.write_json(args.out, found.to_dict())
    print(found.table())
    return 1 if found.failed else 0


EVALUATE = "accuracy of a finished run on labelled images, class by class, and what it takes for what"
DOCTOR = "whether this machine computes what it should, and how fast; what to run first on a new one"
COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str]] = {
    "run": (run, "train and evaluate a method on a stream; the same command again resumes"),
    "bench": (bench, "run all that a grid file describes; the same command again resumes"),
    "extend": (extend, "teach new classes to a finished run, which itself stays as it is"),
    "predict": (predict, "name what is on images, with a finished run"),
    "evaluate": (evaluate, EVALUATE),
    "export": (export, "a finished run as plain timm weights, with a script that needs no janus"),
    "report": (report, "tables (and, in HTML, figures) from folders of results"),
    "datasets": (datasets, "list the data sets"),
    "methods": (methods, "list the methods and what each keeps and trains, or describe one"),
    "models": (models, "list the backbones"),
    "doctor": (doctor, DOCTOR),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if the work, or a check of the doctor, failed, 2 if the request was wrong, 130 after Ctrl-C.
        Errors are one line on stderr.
    """
    argv = sys.argv[1:] if argv is None else argv
    works = argv[:1] in (["run"], ["extend"])
    again = "; the same command resumes from the last checkpoint" if works or argv[:1] == ["bench"] else ""
    if distributed.launched()[1] > 0:  # a companion of the main process, which speaks for all
        if not works:
            return 0
        sys.stdout = open(os.devnull, "w")
        warnings.simplefilter("ignore")
    return explained(lambda: _parse(argv), "--debug" in argv, f"stopped{again}")


def explained(work: Callable[[], int | None], debug: bool, stopped: str) -> int:
    """Do the work, which may return an exit code; an error becomes one line on stderr and an exit code,
    Ctrl-C the line `stopped`. `debug`: tracebacks."""
    warnings.showwarning = _show_warning
    try:
        code = work() or 0
        sys.stdout.flush()
        distributed.stop()
        return code
    except BrokenPipeError:  # `janus models | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        if debug:
            raise
        return _fail(stopped, 130)
    except JanusError as error:
        if debug:
            raise
        return _fail(str(error), error.exit_code)
    except Exception as error:
        if debug:
            raise
        return _fail(_explain(error), 1)


def _parse(argv: list[str]) -> int | None:
    parser = build_parser(COMMANDS)
    if not argv:
        return parser.print_help()
    if not argv[0].startswith("-") and argv[0] not in COMMANDS:
        raise unknown("command", argv[0], COMMANDS)
    if argv[0] in COMMANDS:  # an unknown option is named before argparse misses a required one
        options = parser.options[argv[0]]
        for flag in (part.partition("=")[0] for part in argv[1:] if part.startswith("--")):
            if flag not in options:
                raise unknown(f"option of janus {argv[0]}", flag, options)
    args = parser.parse_args(argv)
    return args.call(args)


def _explain(error: Exception) -> str:
    """An error nobody wrote a message for, in one line."""
    text = (str(error).strip().splitlines() or ["no message"])[0]
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk ({text}); free some and run the same command again"
    if isinstance(error, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        less = "--set micro_batch=N (the same run, N images at a time)"
        return f"out of memory ({text}); try {less}, or another device"
    if "by peer" in text and distributed.launched()[0] > 1:
        again = "the same command resumes from the last checkpoint"
        return f"another process of this run stopped without a word; {again}"
    return f"unexpected {type(error).__name__}: {text}; the same command with --debug shows where"


def _fail(message: str, code: int) -> int:
    if distributed.first_to_fail():
        print("janus: " + " ".join(message.split("\n")), file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"janus: note: {' '.join(str(message).split())}", file=sys.stderr)


def _progress(args: argparse.Namespace) -> Callable[[str], None] | None:
    from ..runtime.progress import print_progress

    return None if args.quiet else print_progress


def _list(entries: dict[str, str], pattern: str) -> None:
    found = {name: text for name, text in entries.items() if pattern.lower() in name.lower()}
    if not found:
        raise UsageError(f"no name contains {pattern!r}; without it all are listed")
    width = min(44, max(map(len, found)))
    for name, text in found.items():
        print(f"{name:{width}s}  {text}")
