"""What each method keeps, trains and costs, for a backbone and a stream of which nothing need be there but the shapes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
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
                "data.dataset": "imagefolder",
            }  # of as many classes as are asked for
            more = (
                {"method.components": max(self.tasks, 100)} if method.name == "coda" else {}
            )  # each task needs one
            config = configure.changed(Config(), values | more)
        shapes = tuple(
            (input_key(path), rows.stop - rows.start, linear.in_features)
            for path, linear, blocks in matrices(self.backbone, config.backbone.targets)
            for rows in blocks.values()
        )
        if self.rank > (most := min(min(m, n) for _, m, n in shapes)):
            raise UsageError(
                f"backbone.rank={self.rank} does not fit {self.model}: choose a whole number from 1 to {most}"
            )
        if self.classes < self.tasks:
            raise UsageError(
                f"{self.classes} classes cannot be cut into {self.tasks} tasks; every task needs one"
            )
        attentions = sum(1 for _ in matrices(self.backbone, ("k",)))
        tasks = 1 if config.method.joint else self.tasks
        return Sizes(config, shapes, attentions, self.backbone.num_features, tasks, self.classes)


# ── one method ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    """`facts` of a finished run (`janus.bench.store.read`) with the settings it had; its basis is as large as it grew."""
    config = create(run)
    classes = len(run["stream"]["class_names"])
    setting = Setting(config.backbone.model, len(run["accuracy"]), classes, config.backbone.rank)
    method = methods.get(config.method.name)
    found = facts(method, setting, config)
    if found["at_most"]:
        width = {key: n for key, _, n in setting.sizes(method, config).matrices}
        found["stored"][BASIS] = 4 * sum(
            width[key] * rank for key, rank in run["layers"]["basis_rank"][-1].items()
        )
        found |= {"stored_bytes": sum(found["stored"].values()), "at_most": False}
    return found


def passes(method: type[Method], config: Config) -> dict[str, int | str]:
    """A method's own passes, and the loop's through a finished task where its prototypes or its classifier need the features."""
    needs = {
        "class means": method.keeps_prototypes(config),
        "the classifier": config.classifier.name in ("ranpac", "aligned"),
    }
    asked = [what for what, needed in needs.items() if needed]
    own = {
        when: n
        if isinstance(n, int)
        else f"at most {getattr(config.method, n.removeprefix('method.'))} images"
        for when, n in method.passes.items()
    }
    return own | ({f"after, for {' and '.join(asked)}": 1} if asked else {})


def added(method: type[Method], s: Sizes, classes: int) -> dict[str, int]:
    """Part → bytes by which one more task of so many classes makes it larger; not what comes with task 2 and stays."""
    joint = s.config.method.joint
    now = s if joint else replace(s, tasks=max(2, s.tasks))
    then = replace(now, tasks=now.tasks + (not joint), classes=now.classes + classes)
    before, after = method.stored(now), method.stored(then)
    return {part: size - before[part] for part, size in after.items() if size > before[part]}


def settings(config: Config) -> dict[str, dict[str, Any]]:
    """What of the method's and the classifier's own may be set, and settings elsewhere that have another default with them: full
    path → the default and what it means; and what the method implies."""
    kind, values = type(config.method), configure.flat(config)
    meanings = dict(configure.meanings(config))
    own = [path for path in meanings if path in kind.defaults or path.startswith(("method.", "classifier."))]
    implied = {name: getattr(kind, name) for name in SWITCHES if f"method.{name}" not in values}
    return {
        "settings": {
            path: {"default": values[path], "meaning": meanings[path]}
            for path in own
            if not path.endswith(".name")
        },
        "implied": implied | dict(kind.fixed),
    }


def one(name: str, setting: Setting) -> dict[str, Any]:
    """`facts`, docstring and `settings` of a method. UsageError: unknown name."""
    method = methods.get(name)
    config = setting.sizes(method).config
    return (
        asdict(setting) | facts(method, setting) | settings(config) | {"description": inspect.getdoc(method)}
    )


def every(setting: Setting) -> dict[str, Any]:
    """`facts` of all methods."""
    return asdict(setting) | {
        "methods": [facts(method, setting) for method in methods.all_methods().values()]
    }


# ── in words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
    lines += [
        "",
        "Settings (`--set`) and their defaults:",
        *(f"{text:{wide}s}  {what}" for text, what in own.items()),
    ]
    return "\n".join(
        [
            f"{name}: {found['summary']}",
            *filter(None, [found["paper"]]),
            "",
            found["description"],
            "",
            *lines,
            "",
            _MEANING.format(setting),
        ]
    )


def listing(setting: Setting) -> str:
    """All methods, to be read in a terminal: under each one's line, the paper."""
    found = every(setting)["methods"]
    rows = [
        [
            f["name"],
            f["family"],
            _kept(f),
            f"{f['trained_numbers']:,}" if f["trained"] else NONE,
            f["summary"],
        ]
        for f in found
    ]
    header, *lines = Table(["method", "family", "kept", "trained", "what it is"], rows).plain().splitlines()
    start = header.index("what it is")
    told = [line + (f"\n{'':{start}s}{f['paper']}" if f["paper"] else "") for line, f in zip(lines, found)]
    return "\n".join([header, *told, "", _MEANING.format(setting), "`janus methods NAME` describes one."])


def table(setting: Setting) -> Table:
    """Methods x properties."""
    return Table(
        [
            "method",
            "family",
            "exemplar-free",
            "extra passes over a task's images",
            "kept",
            "each task adds",
            "inference beyond backbone and heads",
            "trained",
            "paper",
        ],
        [
            [
                f"`{f['name']}`",
                f["family"],
                _free(f),
                passes_text(f),
                _kept(f),
                _growth(f),
                f["inference"],
                _parts(f["trained"]),
                f["paper"],
            ]
            for f in every(setting)["methods"]
        ],
    )


_MEANING = """Kept: in a checkpoint after the last task, beside the pre-trained backbone. Trained: numbers, in the last task.
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
