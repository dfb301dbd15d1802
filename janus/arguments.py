"""What the `janus` command takes: its commands, and the options of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from .errors import UsageError

Commands = Mapping[str, tuple[Callable[[argparse.Namespace], int | None], str]]


class Parser(argparse.ArgumentParser):
    """argparse whose errors are the project's own: one line, and exit code 2."""

    options: dict[str, list[str]]  # of each command

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message[0].lower()}{message[1:]}; see {self.prog} --help")


def build_parser(commands: Commands) -> Parser:
    """The parser of all commands: name → what is called with the arguments, and what it is for."""
    from . import __version__

    about = "Janus-LoRA: LoRA-based continual learning without forgetting."
    parser = Parser(prog="janus", description=about, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"janus-lora {__version__}")
    places = parser.add_subparsers(dest="command", metavar="COMMAND")
    parts: dict[str, argparse.ArgumentParser] = {}
    for name, (call, summary) in commands.items():
        part = parts[name] = places.add_parser(name, help=summary, description=summary, allow_abbrev=False)
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
    parts["evaluate"].add_argument("folder", metavar="DIR", help="folder of a finished run")
    parts["evaluate"].add_argument("--data", metavar="DATA", help="labelled images: an image folder (its test images, where it "
                                   "has splits) or a data set (without: those that the run was judged on)")
    parts["evaluate"].add_argument("--root", metavar="FOLDER", help="where the data set's local files are")
    parts["evaluate"].add_argument("--skip-unknown", action="store_true", help="leave out classes that the run has not met")
    parts["evaluate"].add_argument("--out", metavar="OUT", type=Path, help="folder for classes.csv, confusion.csv and the figure")
    parts["evaluate"].add_argument("--device", metavar="NAME", default="auto", help="cpu, cuda, mps or auto (auto)")
    parts["export"].add_argument("folder", metavar="DIR", help="folder of a finished run")
    parts["export"].add_argument("--out", metavar="OUT", required=True, help="folder for the weights, load.py and README.md")
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
