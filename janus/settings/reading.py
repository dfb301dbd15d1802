"""Settings by any of their names → values by full path and a `Config`, with all that is wrong with them.

A name is a full path ("method.margin"), or the end of one where only one setting that goes with the chosen
method, classifier and data set has it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import (
    CLASSIFIERS,
    BackboneSettings,
    ClassifierSettings,
    Config,
    DataSettings,
    RuntimeSettings,
    TrainingSettings,
)
from ..data import registry
from ..errors import unknown
from .base import Known, Settings, annotation, broken, field_fault, is_settings, judge, read
from .methods import KINDS, MethodSettings

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
            yield from ((path, field) for path, field, _ in _paths(kind, f"{group}."))

    def others(self) -> dict[str, list[str]]:
        """Full path → who has a setting that goes with another method, classifier or data set."""
        found: dict[str, list[str]] = {}
        known = dict(self.fields())
        everywhere = [("method", name, kind) for name, kind in KINDS.items()]
        everywhere += [("classifier", name, kind) for name, kind in CLASSIFIERS.items()]
        everywhere += [("dataset", name, entry.options) for name, entry in registry.DATASETS.items()]
        for what, name, kind in everywhere:
            for path, *_ in _paths(kind, "data." if what == "dataset" else f"{what}."):
                if path not in known:
                    found.setdefault(path, []).append(f"{what}={name}")
        return found


def _paths(kind: type[Settings], prefix: str) -> Iterator[tuple[str, Any, type[Settings]]]:
    """The full path of each setting of a class, pydantic's description of it, and the class that has it."""
    for name, field in kind.model_fields.items():
        if is_settings(field.annotation):
            yield from _paths(field.annotation, f"{prefix}{name}.")
        elif (prefix, name) != ("data.", "options"):
            yield f"{prefix}{field.alias or name}", field, kind


def _plain(key: str) -> str:
    """A name that has a meaning of its own spelt out; `lambda_` is how Python can write `lambda`."""
    return SHORT.get(key, key).removesuffix("_")


def examine(
    layers: Sequence[Mapping[str, Any]],
    common: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    look: bool = True,
) -> tuple[Config | None, list[str]]:
    """The config of settings in layers, each over those before it; or None and all that is wrong.

    common: a layer below them all, of which only what goes with the method, classifier and data counts.
    base: what a config says of all others. look: look up the names of data sets and backbones.
    """
    reading = _Reading([dict(flattened(layer)) for layer in (common or {}, *layers)], base or {}, look)
    found = reading.found()
    config, more = _built(reading.names, found)
    faults = list(dict.fromkeys(reading.faults + more))
    return (None if faults else config), faults


def setting(key: str, value: Any) -> tuple[Any, str | None]:
    """A value as the setting of that name takes it, whatever the method; and what is wrong with the two."""
    key, owners = _plain(key), _owners()
    if key in ("method.name", "classifier.name"):
        text = f"{key.partition('.')[0]} takes a text, got {value!r}"
        return value, None if isinstance(value, str) else text
    if not (paths := _named(key, owners)):
        return value, _nameless(key, value, owners)
    faults = []
    for path in paths:
        name = path.rpartition(".")[2]
        for kind in owners[path]:
            fault = field_fault(kind, name, value, path.removesuffix(name))
            if not fault:
                return read(value, annotation(kind, name)), None
            faults.append(fault)
    return value, faults[0]


def _owners() -> dict[str, list[type[Settings]]]:
    """Full path → the classes that have the setting."""
    found: dict[str, list[type[Settings]]] = {}
    everywhere: list[tuple[str, type[Settings]]] = [(f"{group}.", kind) for group, kind in GROUPS.items()]
    everywhere += [("data.", entry.options) for entry in registry.DATASETS.values()]
    everywhere += [("method.", kind) for kind in KINDS.values()]
    everywhere += [("classifier.", kind) for kind in CLASSIFIERS.values()]
    for prefix, kind in everywhere:
        for path, _, owner in _paths(kind, prefix):
            found.setdefault(path, []).append(owner)
    return found


def flattened(values: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The entries of nested mappings, the names joined by dots."""
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flattened(value, "data." if path == "data.options" else f"{path}.")
        else:
            yield path.replace("data.options.", "data."), value


class _Reading:
    """Reads values by any name into values by full path, and collects what is wrong with the names."""

    def __init__(self, layers: list[dict[str, Any]], base: Mapping[str, Any], look: bool) -> None:
        self.layers, self.base, self.look = layers, base, look
        self.given = {_plain(key): value for layer in layers for key, value in layer.items()}
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
        name = self.given.get(f"{group}.name", self.base.get(f"{group}.name", usual))
        if not isinstance(name, str):
            self.faults.append(f"{group} takes a text, got {name!r}")
        elif name not in kinds:
            self.faults.append(str(unknown(group, name, kinds)))
        else:
            if name != self.base.get(f"{group}.name", name):  # what was set is another's
                self.base = _without(group, kinds[name], self.base)
            return kinds[name]

    def dataset(self) -> str | None:
        """The data set's name; None: there is none of that name, and nothing follows for its options."""
        usual = {"data.dataset": "icons-r", "runtime.root": None, "runtime.folder": None}
        usual["backbone.model"] = ""
        name, root, folder, model = (
            self.given.get(path, self.given.get(path.partition(".")[2], self.base.get(path, value)))
            for path, value in usual.items()
        )
        if self.look and isinstance(model, str) and model and (fault := registry.model_fault(model)):
            self.faults.append(fault)
        if not isinstance(name, (str, Path)):
            return None
        places = (str(place) if place else None for place in (root, folder))
        if self.look and (fault := registry.dataset_fault(str(name), *places)):
            self.faults.append(fault)
            return None
        return str(name)

    def found(self) -> dict[str, Any]:
        """Full path → value: what layers and base say, and what the method implies elsewhere."""
        method = self.names.method
        found = {**method.defaults, **method.fixed} if method else {}
        found |= {path: value for path, value in self.base.items() if path in self.paths}
        for depth, layer in enumerate(self.layers):
            said: dict[str, Any] = {}
            for key, value in layer.items():
                path = self.path(_plain(key), value, strict=depth > 0)
                if path is None:
                    continue
                value = read(value, self.paths[path].annotation)
                if said.setdefault(path, value) != value:
                    self.faults.append(f"{path} is given twice: {said[path]} and {value}; leave one out")
            found |= said
        return found

    def path(self, key: str, value: Any, strict: bool) -> str | None:
        """The full path that a key means. None: there is none, a fault unless its owner is not known, or the
        setting is another's and not `strict`."""
        if key in ("method.name", "classifier.name") and key not in self.paths:
            return None  # said already
        if len(mine := _named(key, self.paths)) == 1:
            return mine[0]
        if mine:
            self.faults.append(f"{key} can mean {' or '.join(mine)}: give the whole name")
        elif theirs := _named(key, self.others):
            if strict:
                self.foreign(key, value, [owner for path in theirs for owner in self.others[path]])
        else:
            self.faults.append(_nameless(key, value, {**self.paths, **self.others}))
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


def _without(group: str, kind: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values by full path without those of a group whose kind changes, and those that the new kind fixes."""
    fixed = getattr(kind, "fixed", {})
    return {path: v for path, v in values.items() if not (path.startswith(f"{group}.") or path in fixed)}


def _nameless(key: str, value: Any, known: Mapping[str, Any]) -> str:
    """What is wrong with a name that no setting has."""
    if inside := next((path for path in known if f".{key}." in f".{path}"), None):
        start = f".{inside}".index(f".{key}.") + len(key) + 1
        example = inside[:start] + inside[start:].partition(".")[0]
        return f"{key} takes settings by name, e.g. {example}=…, got {value!r}"
    ends = {path.rpartition(".")[2] for path in known} | {*SHORT}
    return str(unknown("setting", key, known if "." in key else ends))


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
