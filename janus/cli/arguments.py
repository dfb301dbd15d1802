"""What the `janus` command takes: its commands, and the options of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError

Commands = Mapping[str, tuple[Callable[[argparse.Namespace], int | None], str]]


class Parser(argparse.ArgumentParser):
    """argparse whose errors are the project's own: one line, and exit code 2."""

    options: dict[str, list[str]]  # of each command

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[0].lower()}{message[1:]}; see {self.prog} --help")


RUN_FLAGS = {
    "--dataset": ("NAME", "name (`janus datasets`) or path of the data (icons-r)"),
    "--root": ("FOLDER", "where the data set's local files are"),
    "--model": ("NAME", "backbone (`janus models`; icons-vit)"),
    "--method": ("NAME", "method (`janus methods`; janus)"),
    "--tasks": ("T", "number of tasks (10)"),
    "--seed": ("N", "class order, initialisation and batches (0)"),
}


def _run(add: Callable[..., Any]) -> None:
    for flag, (metavar, text) in RUN_FLAGS.items():
        add(flag, metavar=metavar, help=text)
    add("--out", metavar="DIR", required=True, help="folder for result.json and the checkpoint")
    add("--variant", metavar="NAME", help="its name in tables (the method's)")
    _settings(add)


def _settings(add: Callable[..., Any]) -> None:
    what = "settings, by full path (method.margin=2) or by the last part where that is unique"
    add("--set", metavar="KEY=VALUE", nargs="+", action="extend", default=[], help=what)
    add("--quiet", action="store_true", help="no progress")


def _extend(add: Callable[..., Any]) -> None:
    add("folder", metavar="DIR", help="folder of a finished run")
    add("--data", metavar="DATA", required=True, help="the new classes: an image folder or a data set")
    add("--out", metavar="DIR", help="folder for the result (DIR-extended)")
    _settings(add)


def _bench(add: Callable[..., Any]) -> None:
    add("grid", metavar="GRID.yaml", help="the runs: a grid file, or the name of one that comes with janus")
    add("--out", metavar="DIR", required=True, help="folder of the runs, one folder each")
    add("--dry-run", action="store_true", help="only show the runs, how far each is, and the time left")
    what = "folders of results: a run that has one there, whatever it is called, counts as finished"
    add("--known", metavar="DIR", nargs="+", default=(), help=what)
    add("--retry", action="store_true", help="run those again that failed before")
    what = "runs at once (one a GPU, or one); with --slurm: jobs (one a run)"
    add("--workers", metavar="N", type=int, help=what)
    what = (
        "a running Dask scheduler, e.g. tcp://host:8786; its workers have the same janus, and share --out, "
        "the data and this folder under the same paths"
    )
    add("--scheduler", metavar="ADDRESS", help=what)
    what = (
        "workers as SLURM jobs, on the same conditions: a YAML file of dask_jobqueue.SLURMCluster's "
        "arguments (queue, cores, memory, walltime, …)"
    )
    add("--slurm", metavar="FILE", help=what)


def _predict(add: Callable[..., Any]) -> None:
    add("folder", metavar="DIR", help="folder of a finished run")
    add("images", metavar="IMAGE", nargs="+", help="image files")
    add("--top", metavar="K", type=int, default=5, help="how many classes an image (5)")
    add("--json", action="store_true", help="print JSON")
    add("--device", metavar="NAME", default="auto", help="cpu, cuda, mps or auto (auto)")


def _evaluate(add: Callable[..., Any]) -> None:
    add("folder", metavar="DIR", help="folder of a finished run")
    what = (
        "labelled images: an image folder (its test images, where it has splits) or a data set (without: "
        "those that the run was judged on)"
    )
    add("--data", metavar="DATA", help=what)
    add("--root", metavar="FOLDER", help="where the data set's local files are")
    add("--skip-unknown", action="store_true", help="leave out classes that the run has not met")
    add("--out", metavar="OUT", type=Path, help="folder for classes.csv, confusion.csv and the figure")
    add("--device", metavar="NAME", default="auto", help="cpu, cuda, mps or auto (auto)")


def _export(add: Callable[..., Any]) -> None:
    add("folder", metavar="DIR", help="folder of a finished run")
    add("--out", metavar="OUT", required=True, help="folder for the weights, load.py and README.md")


def _report(add: Callable[..., Any]) -> None:
    add("results", metavar="RESULTS", nargs="*", help="folders of runs or their tables")
    add("--to", metavar="KIND", default="md", help="md, html, csv (a line a run) or tex (md)")
    add("--out", metavar="FILE", type=Path, help="where to write it (to the terminal)")
    add("--collect", metavar="RUNS", nargs="+", help="no report: add the runs in these folders to tables")
    what = "with --collect: the tables' folder (benchmarks/results of this checkout)"
    add("--into", metavar="DIR", help=what)


def _doctor(add: Callable[..., Any]) -> None:
    add("--device", metavar="NAME", default="auto", help="cpu, cuda, mps or auto (auto)")
    add("--quick", action="store_true", help="less of it: 45 s on two CPU cores")
    add("--out", metavar="FILE", type=Path, help="write the checks as JSON, too")


def _methods(add: Callable[..., Any]) -> None:
    add("name", metavar="NAME", nargs="?", help="describe this one (without: a table of all)")
    add("--model", metavar="NAME", default="icons-vit", help="backbone, by its shapes alone (icons-vit)")
    add("--tasks", metavar="N", type=int, default=10, help="tasks (10)")
    add("--classes", metavar="N", type=int, default=100, help="all classes (100)")
    add("--rank", metavar="N", type=int, default=8, help="of the factors (8)")
    add("--json", action="store_true", help="print JSON")


def _pattern(add: Callable[..., Any]) -> None:
    add("pattern", metavar="TEXT", nargs="?", default="", help="only names that contain this")


OPTIONS = {
    "run": _run,
    "bench": _bench,
    "extend": _extend,
    "predict": _predict,
    "evaluate": _evaluate,
    "export": _export,
    "report": _report,
    "doctor": _doctor,
    "methods": _methods,
    "datasets": _pattern,
    "models": _pattern,
}


def build_parser(commands: Commands) -> Parser:
    """The parser of all commands: name → what is called with the arguments, and what it is for."""
    from .. import __version__

    about = "Janus-LoRA: LoRA-based continual learning that protects what old tasks use."
    parser = Parser(prog="janus", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"janus-lora {__version__}")
    places = parser.add_subparsers(dest="command", metavar="COMMAND")
    parts: dict[str, argparse.ArgumentParser] = {}
    for name, (call, summary) in commands.items():
        part = parts[name] = places.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        part.set_defaults(call=call)
        part.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for name, options in OPTIONS.items():
        options(parts[name].add_argument)
    parser.options = {}
    for name, part in parts.items():
        parser.options[name] = [option for action in part._actions for option in action.option_strings]
    return parser
