"""Flat keys → `Config`, with all that is wrong in one message; and the hash that names a run.

The name of a setting is its full path: "training.lr", "method.margin", "data.strength" (an option of the data
set). Its last part alone will do where that is unique with the method, classifier and data set chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import registry
from .config import (
    CLASSIFIERS,
    BackboneSettings,
    ClassifierSettings,
    Config,
    DataSettings,
    RuntimeSettings,
    TrainingSettings,
)
from .errors import JanusError, UsageError, together, unknown
from .method_settings import KINDS, MethodSettings
from .settings import Known, Settings, broken, judge, read

GROUPS: dict[str, type[Settings]] = {
    "data": DataSettings,
    "backbone": BackboneSettings,
    "training": TrainingSettings,
    "runtime": RuntimeSettings,
}
SHORT = {  # what these mean whatever else is called so
    "method": "method.name",
    "classifier": "classifier.name",
    "lr": "training.lr",
    "epochs": "training.epochs",
}


def make(values: Mapping[str, Any] | None = None, /, **more: Any) -> Config:
    """A config of settings by name; what is not given has the default of its field or of the method.

    Values are Python's or text ("1e-3", "true", "none"), numpy scalars and paths. A mapping stands for
    settings by name: `data={"strength": 0.5}`, or a whole `Config.to_dict()`.

    Raises:
        UsageError: unknown names, wrong types, values out of range, illegal combinations: all in one message.
    """
    config, faults = examine({**(values or {}), **more})
    if config is None:
        raise UsageError(together(faults))
    return config


def changed(config: Config, values: Mapping[str, Any] | None = None, /, **more: Any) -> Config:
    """The config with other values, made anew and checked; what belongs to a method or classifier that is
    replaced has the new one's defaults. UsageError: as `make`; data and backbones are not looked up."""
    found, faults = examine({**(values or {}), **more}, look=False, base=flat(config))
    if found is None:
        raise UsageError(together(faults))
    return found


def restore(stored: Any, where: str | Path) -> Config:
    """The config that a result or checkpoint holds. Its data need not be there any more.

    Raises:
        JanusError: it was written by an older janus, or holds what this one does not know; `where` is named.
    """
    if not isinstance(stored, Mapping) or not isinstance(stored.get("training"), Mapping):
        raise JanusError(f"{where}: made by an older janus, whose settings had other names; run it again")
    config, faults = examine(stored, look=False)
    if config is None:
        raise JanusError(f"{where}: its settings do not fit this janus ({together(faults)})")
    return config


def from_text(pairs: Sequence[str]) -> dict[str, str]:
    """`["lr=1e-3", "method.oe=true"]` → `{"lr": "1e-3", "method.oe": "true"}`, as `make` takes them.

    Raises:
        UsageError: no `=`, or two values for one key.
    """
    values: dict[str, str] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, got {pair!r}")
        if values.setdefault(key, text) != text:
            raise UsageError(f"{key} is given twice: {values[key]} and {text}; leave one out")
    return values


# ── a config as flat keys ───────────────────────────────────────────────────────────────────────────────────


def flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Full path → value, in the order of the config; of a `Config`, or of what `to_dict` made of one."""
    return dict(_flattened(config.to_dict() if isinstance(config, Config) else config))


def non_default(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Full path → value of the settings that are not the default with this method and classifier."""
    values = flat(config)
    method = KINDS.get(values.get("method.name", ""))
    names = _Names(method, CLASSIFIERS.get(values.get("classifier.name", "")), None)
    usual = {path: _default(field) for path, field in names.fields()}
    usual |= {"method.name": "janus", "classifier.name": "linear"}
    usual |= {**method.defaults, **method.fixed} if method else {}
    return {path: value for path, value in values.items() if path not in usual or usual[path] != value}


def deciding(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Full path → value of the settings that decide a run's numbers: all but `runtime`, where pixels are
    kept, and the margin loss where it is off; the seed of the class order spelt out."""
    values = flat(config)
    aside = ("data.cache", *(path for path in values if path.startswith("runtime.")))
    kept = {path: value for path, value in values.items() if path not in aside}
    if kept.get("method.dml") is False:
        kept = {path: value for path, value in kept.items() if not path.startswith("method.loss.")}
    if kept.get("data.class_seed") is None:
        kept["data.class_seed"] = kept.get("training.seed")
    return kept


def config_hash(config: Config | Mapping[str, Any]) -> str:
    """Twelve hex digits over all that can change a run's numbers."""
    return hashlib.sha256(json.dumps(deciding(config), sort_keys=True).encode()).hexdigest()[:12]


def _flattened(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _flattened(value, "data." if path == "data.options" else f"{path}.")
        else:
            yield path.replace("data.options.", "data."), value


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value


# ── names and faults ────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Names:
    """The names that settings can have. A kind that is None is not known: nothing is said of its settings."""

    method: type[MethodSettings] | None
    classifier: type[ClassifierSettings] | None
    options: type[registry.Options] | None

    def kinds(self) -> dict[str, type[Settings]]:
        chosen = {"method": self.method, "classifier": self.classifier}
        return GROUPS | {group: kind for group, kind in chosen.items() if kind}

    def fields(self) -> Iterator[tuple[str, Any]]:
        """The full paths, each with pydantic's description of the field."""
        for group, kind in [*self.kinds().items(), *([("data", self.options)] if self.options else [])]:
            yield from _paths(kind, f"{group}.")

    def others(self) -> dict[str, list[str]]:
        """Full path → who has a setting that goes with another method, classifier or data set."""
        found: dict[str, list[str]] = {}
        known = dict(self.fields())
        everywhere = [("method", name, kind) for name, kind in KINDS.items()]
        everywhere += [("classifier", name, kind) for name, kind in CLASSIFIERS.items()]
        everywhere += [("dataset", name, entry.options) for name, entry in registry.DATASETS.items()]
        for what, name, kind in everywhere:
            for path, _ in _paths(kind, "data." if what == "dataset" else f"{what}."):
                if path not in known:
                    found.setdefault(path, []).append(f"{what}={name}")
        return found


def _paths(kind: type[Settings], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in kind.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from _paths(field.annotation, f"{prefix}{name}.")
        elif (prefix, name) != ("data.", "options"):
            yield f"{prefix}{field.alias or name}", field


def examine(
    values: Mapping[str, Any], look: bool = True, base: Mapping[str, Any] | None = None
) -> tuple[Config | None, list[str]]:
    """The config that `make` makes, or None and all that is wrong with the values.

    look: names of data sets and backbones are looked up. base: what a config (`flat`) says of all others.
    """
    reading = _Reading(dict(_flattened(values)), base or {}, look)
    found = reading.found()
    config, more = _built(reading.names, found)
    faults = list(dict.fromkeys(reading.faults + more))
    return (None if faults else config), faults


class _Reading:
    """Reads values by any name into values by full path, and collects what is wrong with the names."""

    def __init__(self, given: dict[str, Any], base: Mapping[str, Any], look: bool) -> None:
        self.given, self.base, self.look = given, base, look
        self.faults: list[str] = []
        self.names = self.chosen()
        self.paths = dict(self.names.fields())
        self.others = self.names.others()

    def chosen(self) -> _Names:
        """Method, classifier and data set; a name that does not exist is a fault."""
        method = self.kind("method", KINDS, "janus")
        usual = method.fixed.get("classifier.name", "linear") if method else "linear"
        options = registry.options(name) if (name := self.dataset()) is not None else None
        return _Names(method, self.kind("classifier", CLASSIFIERS, usual), options)

    def kind(self, group: str, kinds: Mapping[str, Any], usual: str) -> Any:
        name = self.given.get(f"{group}.name", self.given.get(group, self.base.get(f"{group}.name", usual)))
        if not isinstance(name, str):
            self.faults.append(f"{group} takes a text, got {name!r}")
        elif name not in kinds:
            self.faults.append(str(unknown(group, name, kinds)))
        else:
            if name != (before := self.base.get(f"{group}.name")):  # what was set is another's
                self.base = _without(group, kinds.get(before), kinds[name], self.base)
            return kinds[name]

    def dataset(self) -> str | None:
        """The data set's name; None: there is none of that name, and nothing follows for its options."""
        name, root, model = (
            self.given.get(path, self.given.get(path.partition(".")[2], self.base.get(path, usual)))
            for path, usual in (("data.dataset", "icons-r"), ("runtime.root", None), ("backbone.model", ""))
        )
        if self.look and isinstance(model, str) and model and (fault := registry.model_fault(model)):
            self.faults.append(fault)
        if not isinstance(name, (str, Path)):
            return None
        if self.look and (fault := registry.dataset_fault(str(name), str(root) if root else None)):
            self.faults.append(fault)
            return None
        return str(name)

    def found(self) -> dict[str, Any]:
        """Full path → value: what is given, what the base says, and what the method implies elsewhere."""
        found: dict[str, Any] = {}
        for key, value in self.given.items():
            path = self.path(
                SHORT.get(key, key).removesuffix("_"), value
            )  # `lambda_`: Python's way to write it
            if path is None:
                continue
            value = read(value, self.paths[path].annotation)
            if found.setdefault(path, value) != value:
                self.faults.append(f"{path} is given twice: {found[path]} and {value}; leave one out")
        method = self.names.method
        usual = {**method.defaults, **method.fixed} if method else {}
        return usual | {path: value for path, value in self.base.items() if path in self.paths} | found

    def path(self, key: str, value: Any) -> str | None:
        """The full path that a key means; None: there is none, a fault unless its owner is not known."""
        if key in ("method.name", "classifier.name") and key not in self.paths:
            return None  # said already
        if len(mine := _named(key, self.paths)) == 1:
            return mine[0]
        if mine:
            self.faults.append(f"{key} can mean {' or '.join(mine)}: give the whole name")
        elif theirs := _named(key, self.others):
            self.foreign(key, value, [owner for path in theirs for owner in self.others[path]])
        elif inside := next((path for path in self.paths if f".{key}." in f".{path}"), None):
            start = f".{inside}".index(f".{key}.") + len(key) + 1
            example = inside[:start] + inside[start:].partition(".")[0]
            self.faults.append(f"{key} takes settings by name, e.g. {example}=…, got {value!r}")
        else:
            known = {*self.paths, *self.others}
            known = known if "." in key else {path.rpartition(".")[2] for path in known} | {*SHORT}
            self.faults.append(str(unknown("setting", key, known)))
        return None

    def foreign(self, key: str, value: Any, owners: list[str]) -> None:
        """A setting of other methods, classifiers or data sets. What the method implies may be said."""
        what, tail = owners[0].partition("=")[0], key.rpartition(".")[2]
        mine = getattr(self.names, "options" if what == "dataset" else what)
        if mine is None:
            return
        name = f"{what}={mine.model_fields['name'].default}" if what != "dataset" else "this data set"
        implied = getattr(mine, tail, None)
        if not isinstance(implied, (bool, str, float)):
            text = f"{key} is a setting of {' and of '.join(owners)} and does nothing with {name}"
            self.faults.append(f"{text}; leave it out, or set {owners[0]}")
        elif read(value, type(implied)) != implied:
            text = f"{tail}={value} does not go with {name}, which has {tail}={str(implied).lower()}"
            having = ", ".join(owner.partition("=")[2] for owner in owners)
            self.faults.append(f"{text}; leave it out, or use a method that has this setting: {having}")


def _without(group: str, old: Any, new: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by full path without those of a group whose kind changes, and what the old kind implied."""
    implied = {**getattr(old, "defaults", {}), **getattr(old, "fixed", {})}
    fixed = getattr(new, "fixed", {})
    return {
        path: value
        for path, value in values.items()
        if not (path.startswith(f"{group}.") or path in fixed or (path, value) in implied.items())
    }


def _named(key: str, paths: Mapping[str, Any]) -> list[str]:
    """The paths that a key can mean: its own, or those that end with it."""
    return [key] if key in paths else [path for path in paths if path.endswith(f".{key}")]


def _built(names: _Names, found: Mapping[str, Any]) -> tuple[Config | None, list[str]]:
    """The config of values by full path, or all that is wrong with these."""
    nested: dict[str, dict[str, Any]] = {group: {} for group in names.kinds()}
    options = {"data." + name for name in names.options.model_fields} if names.options else set()
    for path, value in found.items():
        group, _, rest = path.partition(".")
        place = nested.setdefault(group, {})
        for part in ["options"] if path in options else rest.split(".")[:-1]:
            place = place.setdefault(part, {})
        place[path.rpartition(".")[2]] = value
    parts, faults = {}, []
    for group, kind in names.kinds().items():
        parts[group], texts = judge(kind, nested[group], f"{group}.")
        faults += [text.replace("data.options.", "data.") for text in texts]
    unsure = {"method", "classifier"} - parts.keys()
    if faults or unsure:
        return None, faults + list(broken(Config.rules, Known(Config, parts, unsure)))
    config, faults = judge(Config, parts)
    return (None if faults else config), faults
