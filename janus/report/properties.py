"""What each method keeps, trains and costs, for a backbone and a stream that need only their shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from .. import configure, methods
from ..bench.store import create
from ..config import Config
from ..errors import UsageError
from ..methods.base import BASIS, Method, Sizes
from ..models import backbones
from ..models.vit import input_key, matrices
from .compare import NONE
from .tables import Table

SWITCHES = ("oe", "gr", "dml", "adapter", "init")  # of Janus; other methods have some of them, or imply them


@dataclass(frozen=True)
class Setting:
    """Backbone, stream and rank that sizes are given for: by default those of the embedded benchmark."""

    model: str = backbones.EMBEDDED
    tasks: int = 10
    classes: int = 100
    rank: int = 8

    def __str__(self) -> str:
        return f"{self.model}, {self.tasks} tasks, {self.classes} classes, rank {self.rank}"

    @cached_property
    def backbone(self) -> nn.Module:
        """The model without its numbers: no weight is made, read or fetched."""
        with torch.device("meta"):
            return backbones.create(self.model, weights="random")[0]

    def sizes(self, method: type[Method], config: Config | None = None) -> Sizes:
        """With all else as the method has it unless set, or as in `config`.

        Raises:
            UsageError: an unknown model, a rank that does not fit its matrices, fewer classes than tasks.
        """
        if config is None:
            values = {
                "method.name": method.name,
                "backbone.model": self.model,
                "backbone.rank": self.rank,
                "data.tasks": self.tasks,
                "data.dataset": "imagefolder",  # of as many classes as are asked for
            }
            if method.name == "coda":
                values["method.components"] = max(self.tasks, 100)  # each task needs one
            config = configure.changed(Config(), values)
        shapes = tuple(
            (input_key(path), rows.stop - rows.start, linear.in_features)
            for path, linear, blocks in matrices(self.backbone, config.backbone.targets)
            for rows in blocks.values()
        )
        if self.rank > (most := min(min(m, n) for _, m, n in shapes)):
            choice = f"choose a whole number from 1 to {most}"
            raise UsageError(f"backbone.rank={self.rank} does not fit {self.model}: {choice}")
        if self.classes < self.tasks:
            cut = f"{self.classes} classes cannot be cut into {self.tasks} tasks"
            raise UsageError(f"{cut}; every task needs one")
        attentions = sum(1 for _ in matrices(self.backbone, ("k",)))
        tasks = 1 if config.method.joint else self.tasks
        return Sizes(config, shapes, attentions, self.backbone.num_features, tasks, self.classes)


# ── one method ──────────────────────────────────────────────────────────────────────────────────────────────


def facts(method: type[Method], setting: Setting, config: Config | None = None) -> dict[str, Any]:
    """All there is to say of a method, in JSON's types. See `Setting.sizes`."""
    s = setting.sizes(method, config)
    stored, trained = method.stored(s), method.trainable(s)
    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "family": method.family,
        "exemplar_free": not s.config.method.joint,
        "extra_passes": passes(method, s.config),
        "inference": method.inference,
        "stored": stored,
        "stored_bytes": sum(stored.values()),
        "at_most": BASIS in stored,
        "each_task_adds": added(method, s, setting.classes // setting.tasks),
        "trained": trained,
        "trained_numbers": sum(trained.values()),
    }


def of_run(run: Mapping[str, Any]) -> dict[str, Any]:
    """`facts` of a finished run (`janus.bench.store.read`) with the settings it had; its basis is as large as
    it grew."""
    config = create(run)
    classes = len(run["stream"]["class_names"])
    setting = Setting(config.backbone.model, len(run["accuracy"]), classes, config.backbone.rank)
    method = methods.get(config.method.name)
    found = facts(method, setting, config)
    if found["at_most"]:
        width = {key: n for key, _, n in setting.sizes(method, config).matrices}
        ranks = run["layers"]["basis_rank"][-1]
        found["stored"][BASIS] = 4 * sum(width[key] * rank for key, rank in ranks.items())
        found |= {"stored_bytes": sum(found["stored"].values()), "at_most": False}
    return found


def passes(method: type[Method], config: Config) -> dict[str, int | str]:
    """A method's own passes, and the loop's through a finished task where its prototypes or its classifier
    need the features."""
    needs = {
        "class means": method.keeps_prototypes(config),
        "the classifier": config.classifier.name in ("ranpac", "aligned"),
    }
    asked = [what for what, needed in needs.items() if needed]
    own: dict[str, int | str] = {}
    for when, n in method.passes.items():  # a number, or the setting that bounds the images
        bounded = not isinstance(n, int)
        own[when] = f"at most {getattr(config.method, n.removeprefix('method.'))} images" if bounded else n
    return own | ({f"after, for {' and '.join(asked)}": 1} if asked else {})


def added(method: type[Method], s: Sizes, classes: int) -> dict[str, int]:
    """Part → bytes that one more task of so many classes adds to it; not what comes with task 2 and stays."""
    joint = s.config.method.joint
    now = s if joint else replace(s, tasks=max(2, s.tasks))
    then = replace(now, tasks=now.tasks + (not joint), classes=now.classes + classes)
    before, after = method.stored(now), method.stored(then)
    return {part: size - before[part] for part, size in after.items() if size > before[part]}


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """What of the method's and the classifier's own may be set, and settings elsewhere that have another
    default with them: full path → the default and what it means; and what the method implies."""
    kind, values = type(config.method), configure.flat(config)
    meanings = dict(configure.meanings(config))
    own = [path for path in meanings if path in kind.defaults or path.startswith(("method.", "classifier."))]
    implied = {name: getattr(kind, name) for name in SWITCHES if f"method.{name}" not in values}
    own = [path for path in own if not path.endswith(".name")]
    told = {path: {"default": values[path], "meaning": meanings[path]} for path in own}
    return {"settings": told, "implied": implied | dict(kind.fixed)}


def one(name: str, setting: Setting) -> dict[str, Any]:
    """`facts`, docstring and `settings` of a method. UsageError: unknown name."""
    method = methods.get(name)
    about = facts(method, setting) | settings(setting.sizes(method).config)
    return asdict(setting) | about | {"description": inspect.getdoc(method)}


def every(setting: Setting) -> dict[str, Any]:
    """`facts` of all methods."""
    found = [facts(method, setting) for method in methods.all_methods().values()]
    return asdict(setting) | {"methods": found}


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────


def described(name: str, setting: Setting) -> str:
    """One method, to be read in a terminal."""
    found = one(name, setting)
    said = {
        "implied": ", ".join(f"{k}={v}" for k, v in found["implied"].items()),
        "family": found["family"],
        "exemplar-free": _free(found),
        "extra passes": passes_text(found),
        "inference": f"{found['inference']} (beyond backbone and heads)",
        "kept": f"{_kept(found)} ({_parts(found['stored'], _megabytes)})",
        "each task adds": _growth(found),
        "trained": f"{found['trained_numbers']:,} ({_parts(found['trained'])})" if found["trained"] else NONE,
    }
    width = max(map(len, said))
    lines = [f"{key:{width}s}  {text}" for key, text in said.items() if text]
    own = {f"{path}={what['default']}": what["meaning"] for path, what in found["settings"].items()}
    wide = max(map(len, own))
    lines += ["", "Settings (`--set`) and their defaults:"]
    lines += [f"{text:{wide}s}  {what}" for text, what in own.items()]
    head = [f"{name}: {found['summary']}", *filter(None, [found["paper"]])]
    return "\n".join([*head, "", found["description"], "", *lines, "", _MEANING.format(setting)])


def listing(setting: Setting) -> str:
    """All methods, to be read in a terminal: under each one's line, the paper."""
    found = every(setting)["methods"]
    rows = []
    for f in found:
        trained = f"{f['trained_numbers']:,}" if f["trained"] else NONE
        rows.append([f["name"], f["family"], _kept(f), trained, f["summary"]])
    header, *lines = Table(["method", "family", "kept", "trained", "what it is"], rows).plain().splitlines()
    start = header.index("what it is")
    told = [line + (f"\n{'':{start}s}{f['paper']}" if f["paper"] else "") for line, f in zip(lines, found)]
    return "\n".join([header, *told, "", _MEANING.format(setting), "`janus methods NAME` describes one."])


def table(setting: Setting) -> Table:
    """Methods x properties."""
    columns: dict[str, Callable[[dict[str, Any]], str]] = {
        "method": lambda f: f"`{f['name']}`",
        "family": itemgetter("family"),
        "exemplar-free": _free,
        "extra passes over a task's images": passes_text,
        "kept": _kept,
        "each task adds": _growth,
        "inference beyond backbone and heads": itemgetter("inference"),
        "trained": lambda f: _parts(f["trained"]),
        "paper": itemgetter("paper"),
    }
    found = every(setting)["methods"]
    return Table(list(columns), [[cell(f) for cell in columns.values()] for f in found])


_MEANING = """Kept: in a checkpoint after the last task, beside the pre-trained backbone. \
Trained: numbers, in the last task.
Both for {}."""


def _free(found: dict[str, Any]) -> str:
    return "yes" if found["exemplar_free"] else "no, all images at once"


def passes_text(found: dict[str, Any]) -> str:
    return "; ".join(f"{n} {when}" for when, n in found["extra_passes"].items()) or NONE


def _kept(found: dict[str, Any]) -> str:
    return ("at most " if found["at_most"] else "") + _megabytes(found["stored_bytes"])


def _growth(found: dict[str, Any]) -> str:
    parts = found["each_task_adds"]
    text = f"{sum(parts.values()) / 1e3:,.1f} kB ({', '.join(parts)})"
    return text + ("; the basis grows up to its bound" if found["at_most"] else "")


def _parts(parts: dict[str, int], written: Callable[[int], str] = "{:,}".format) -> str:
    return ", ".join(f"{part} {written(size)}" for part, size in parts.items()) or NONE


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.2f} MB"
