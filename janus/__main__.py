"""The `janus` command: run, bench, extend, predict, report, and what there is to choose from."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from . import parallel
from .errors import JanusError, UsageError, unknown

# torch is imported by the commands that need it, so that --help answers at once


class Parser(argparse.ArgumentParser):
    """argparse whose errors are the project's own: one line, and exit code 2."""

    options: dict[str, list[str]]  # of each command

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[0].lower()}{message[1:]}; see {self.prog} --help")


def run(args: argparse.Namespace) -> None:
    from . import configure

    values = configure.from_text(args.set)
    for key in ("dataset", "root", "model", "method", "tasks", "seed"):
        value = getattr(args, key)
        if value is not None and values.setdefault(key, value) != value:
            raise UsageError(f"{key} is given twice: --{key} {value} and --set {key}={values[key]}; leave one out")
    config = configure.make(values)  # before torch: a typing error is answered at once

    from . import train

    result = train.execute(config, args.out, _progress(args), args.variant)
    print(result.line())


def bench(args: argparse.Namespace) -> None:
    from . import bench, grids

    grid = grids.load(args.grid)
    bench.check_options(args.workers, args.scheduler, args.slurm)
    if args.dry_run:
        at_once = args.workers or (len(grid.runs) if args.slurm else 1 if args.scheduler else None)  # of a cluster nothing is known
        print("\n".join(bench.plan(grid, Path(args.out), at_once, args.known)))
        return
    failed = bench.execute(grid, args.out, retry=args.retry, workers=args.workers, scheduler=args.scheduler, slurm=args.slurm,
                           known=args.known, say=lambda line: print(line, file=sys.stderr, flush=True))
    if failed:
        raise JanusError(f"{len(failed)} of {len(grid.runs)} runs failed (named above, each with its notebook in {args.out}); "
                         "the same command with --retry tries them again")
    print(f"{grid.title}: all {len(grid.runs)} runs are finished, in {args.out}")


def extend(args: argparse.Namespace) -> None:
    from . import configure, predict

    settings = configure.from_text(args.set)
    result, folder = predict.extend_to(args.folder, args.data, args.out, _progress(args), **settings)
    print(result.line())
    print(f"in {folder}")


def predict(args: argparse.Namespace) -> None:
    import json

    from . import predict

    if args.top < 1:
        raise UsageError(f"--top must be at least 1, got {args.top}")
    predictor = predict.load(args.folder, args.device)
    answers, faults = predictor.attempt(args.images, args.top)
    if args.json:
        named = [
            {"image": image, predictor.score: [{"class": name, "score": score} for name, score in answer]}
            | ({"error": faults[i]} if i in faults else {})
            for i, (image, answer) in enumerate(zip(args.images, answers))
        ]
        print(json.dumps(named, indent=1))
    for i, (image, answer) in enumerate(zip(args.images, answers)):
        if i not in faults and not args.json:
            print(f"{image}: " + ", ".join(f"{name} {score:.3f}" for name, score in answer))
    if faults:
        raise JanusError(predict.unread(faults, len(answers)))


def report(args: argparse.Namespace) -> None:
    from . import checkpoint, report

    if args.collect:
        return _collect(args)
    if args.into or not args.results:
        raise UsageError("report takes folders of results; --into goes with --collect RUNS; see janus report "
                         "--help")
    text = report.write(args.results, args.to)
    if args.out is None:
        print(text, end="")
        return
    checkpoint.write_atomic(args.out, lambda place: Path(place).write_text(text, encoding="utf-8"))
    print(f"in {args.out}")


def _collect(args: argparse.Namespace) -> None:
    from . import resources, store
    from .grids import some

    if args.results or args.out:
        raise UsageError("--collect adds runs to tables and writes no report: it goes with neither RESULTS nor "
                         "--out")
    into = Path(args.into) if args.into else resources.results()
    if not args.into and into.is_relative_to(resources.PACKAGE):
        raise UsageError("--collect needs --into DIR here: the tables that come with an installed janus stay as "
                         "they are")
    done = store.collect(args.collect, into)
    print(f"{done.added} runs added to {into}, {done.known} known already, {len(done.refused)} refused")
    if done.refused:
        raise JanusError(f"refused: {some(done.refused)}")


def datasets(args: argparse.Namespace) -> None:
    from . import registry

    _list(registry.names(), args.pattern)


def methods(args: argparse.Namespace) -> None:
    import json

    from . import properties

    setting = properties.Setting(args.model, args.tasks, args.classes, args.rank)
    if args.json:
        print(json.dumps(properties.one(args.name, setting) if args.name else properties.every(setting), indent=1))
    else:
        print(properties.described(args.name, setting) if args.name else properties.listing(setting))


def models(args: argparse.Namespace) -> None:
    from . import backbones

    _list(backbones.models(), args.pattern)


def doctor(args: argparse.Namespace) -> int:
    from . import checkpoint
    from .doctor import examine

    if args.out is not None and not args.out.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {args.out.absolute().parent}: make it, or choose another --out")
    found = examine(args.device, args.quick, lambda line: print(line, file=sys.stderr, flush=True))
    if args.out is not None:
        checkpoint.write_json(args.out, found.to_dict())
    print(found.table())
    return 1 if found.failed else 0


COMMANDS: dict[str, tuple[Callable[[argparse.Namespace], int | None], str]] = {
    "run": (run, "train and evaluate a method on a stream; the same command again goes on where it stopped"),
    "bench": (bench, "run all that a grid file describes; the same command again goes on where it stopped"),
    "extend": (extend, "teach new classes to a finished run, which itself stays as it is"),
    "predict": (predict, "name what is on images, with a finished run"),
    "report": (report, "tables (and, in HTML, figures) from folders of results"),
    "datasets": (datasets, "list the data sets"),
    "methods": (methods, "list the methods and what each keeps and trains, or describe one"),
    "models": (models, "list the backbones"),
    "doctor": (doctor, "whether this machine computes what it should, and how fast; what to run first on a new one"),
}


def build_parser() -> Parser:
    from . import __version__

    about = "Janus-LoRA: LoRA-based continual learning without forgetting."
    parser = Parser(prog="janus", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"janus-lora {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parts: dict[str, argparse.ArgumentParser] = {}
    for name, (call, summary) in COMMANDS.items():
        part = parts[name] = commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        part.set_defaults(call=call)
        part.add_argument("--debug", action="store_true", help="show the traceback of an error")
    flags: dict[str, dict[str, Any]] = {
        "--dataset": {"metavar": "NAME", "help": "name (`janus datasets`) or path of the data (icons-r)"},
        "--root": {"metavar": "FOLDER", "help": "where the data set's local files are"},
        "--model": {"metavar": "NAME", "help": "backbone (`janus models`; icons-vit)"},
        "--method": {"metavar": "NAME", "help": "method (`janus methods`; janus)"},
        "--tasks": {"metavar": "T", "help": "number of tasks (10)"},
        "--seed": {"metavar": "N", "help": "class order, initialisation and batches (0)"},
    }
    for flag, options in flags.items():
        parts["run"].add_argument(flag, **options)
    parts["run"].add_argument("--out", metavar="DIR", required=True, help="folder for result.json and the checkpoint")
    parts["run"].add_argument("--variant", metavar="NAME", help="its name in tables (the method's)")
    parts["bench"].add_argument("grid", metavar="GRID.yaml", help="the runs: a grid file, or the name of one that comes with janus")
    parts["bench"].add_argument("--out", metavar="DIR", required=True, help="folder of the runs, one folder each")
    parts["bench"].add_argument("--dry-run", action="store_true", help="only show the runs, how far each is, and the time left")
    parts["bench"].add_argument("--known", metavar="DIR", nargs="+", default=(), help="folders of results: a run that "
                                "has one there, whatever it is called, counts as finished")
    parts["bench"].add_argument("--retry", action="store_true", help="run those again that failed before")
    parts["bench"].add_argument("--workers", metavar="N", type=int,
                                help="runs at once (one a GPU, or one); with --slurm: jobs (one a run)")
    parts["bench"].add_argument("--scheduler", metavar="ADDRESS", help="a running Dask scheduler, e.g. tcp://host:8786; its "
                                "workers have the same janus, and share --out, the data and this folder under the same paths")
    parts["bench"].add_argument("--slurm", metavar="FILE", help="workers as SLURM jobs, on the same conditions: a YAML file of "
                                "dask_jobqueue.SLURMCluster's arguments (queue, cores, memory, walltime, …)")
    parts["extend"].add_argument("folder", metavar="DIR", help="folder of a finished run")
    parts["extend"].add_argument("--data", metavar="DATA", required=True, help="the new classes: an image folder or a data set")
    parts["extend"].add_argument("--out", metavar="DIR", help="folder for the result (DIR-extended)")
    for name in ("run", "extend"):
        parts[name].add_argument("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[],
                                 help="settings, by full path (method.margin=2) or by the last part where that is unique")
        parts[name].add_argument("--quiet", action="store_true", help="no progress")
    parts["predict"].add_argument("folder", metavar="DIR", help="folder of a finished run")
    parts["predict"].add_argument("images", metavar="IMAGE", nargs="+", help="image files")
    parts["predict"].add_argument("--top", metavar="K", type=int, default=5, help="how many classes an image (5)")
    parts["predict"].add_argument("--json", action="store_true", help="print JSON")
    parts["predict"].add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda, mps or auto (auto)")
    parts["report"].add_argument("results", metavar="RESULTS", nargs="*", help="folders of runs or their tables")
    parts["report"].add_argument("--to", metavar="KIND", default="md", help="md, html, csv (a line a run) or tex (md)")
    parts["report"].add_argument("--out", metavar="FILE", type=Path, help="where to write it (to the terminal)")
    parts["report"].add_argument("--collect", metavar="RUNS", nargs="+",
                                 help="no report: add the runs in these folders to tables")
    parts["report"].add_argument("--into", metavar="DIR",
                                 help="with --collect: the tables' folder (benchmarks/results of this checkout)")
    parts["doctor"].add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda, mps or auto (auto)")
    parts["doctor"].add_argument("--quick", action="store_true", help="less of it: 45 s on two CPU cores")
    parts["doctor"].add_argument("--out", metavar="FILE", type=Path, help="write the checks as JSON, too")
    parts["methods"].add_argument("name", metavar="NAME", nargs="?", help="describe this one (without: a table of all)")
    parts["methods"].add_argument("--model", metavar="NAME", default="icons-vit", help="backbone, by its shapes alone (icons-vit)")
    for flag, value, what in (("--tasks", 10, "tasks"), ("--classes", 100, "all classes"), ("--rank", 8, "of the factors")):
        parts["methods"].add_argument(flag, metavar="N", type=int, default=value, help=f"{what} ({value})")
    parts["methods"].add_argument("--json", action="store_true", help="print JSON")
    for name in ("datasets", "models"):
        parts[name].add_argument("pattern", metavar="TEXT", nargs="?", default="", help="only names that contain this")
    parser.options = {name: [o for a in part._actions for o in a.option_strings] for name, part in parts.items()}
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 1 if the work, or a check of the doctor, failed, 2 if the request was wrong, 130 after Ctrl-C. Errors are one line
        on stderr.
    """
    argv = sys.argv[1:] if argv is None else argv
    works = argv[:1] in (["run"], ["extend"])
    again = "; the same command goes on from the last checkpoint" if works or argv[:1] == ["bench"] else ""
    if parallel.launched()[1] > 0:  # a companion of the main process, which speaks for all
        if not works:
            return 0
        sys.stdout = open(os.devnull, "w")
        warnings.simplefilter("ignore")
    return explained(lambda: _parse(argv), "--debug" in argv, f"stopped{again}")


def explained(work: Callable[[], int | None], debug: bool, stopped: str) -> int:
    """Do the work, which may return an exit code; an error becomes one line on stderr and an exit code, Ctrl-C the line
    `stopped`. `debug`: tracebacks."""
    warnings.showwarning = _show_warning
    try:
        code = work() or 0
        sys.stdout.flush()
        parallel.stop()
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
    parser = build_parser()
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
        return f"out of memory ({text}); try a smaller batch_size (that is another run: another --out), or another device"
    if "by peer" in text and parallel.launched()[0] > 1:
        return "another process of this run stopped without a word; the same command goes on from the last checkpoint"
    return f"unexpected {type(error).__name__}: {text}; the same command with --debug shows where"


def _fail(message: str, code: int) -> int:
    if parallel.first_to_fail():
        print("janus: " + " ".join(message.split("\n")), file=sys.stderr)
    return code


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    print(f"janus: note: {' '.join(str(message).split())}", file=sys.stderr)


def _progress(args: argparse.Namespace) -> Callable[[str], None] | None:
    from .train import print_progress

    return None if args.quiet else print_progress


def _list(entries: dict[str, str], pattern: str) -> None:
    found = {name: text for name, text in entries.items() if pattern.lower() in name.lower()}
    if not found:
        raise UsageError(f"no name contains {pattern!r}; without it all are listed")
    width = min(44, max(map(len, found)))
    for name, text in found.items():
        print(f"{name:{width}s}  {text}")


if __name__ == "__main__":
    sys.exit(main())
