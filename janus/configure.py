"""Flat keys → `Config`, with all that is wrong in one message; and the hash that names a run.

The name of a setting is its full path: "training.lr", "method.margin", "data.strength" (an option of the data
set). Its last part alone will do where that is unique with the method, classifier and data set chosen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import CLASSIFIERS, Config
from .errors import JanusError, UsageError, join_messages
from .settings.methods import KINDS
from .settings.reading import _Names, examine, flattened


def make(values: Mapping[str, Any] | None = None, /, **more: Any) -> Config:
    """A config of settings by name; what is not given has the default of its field or of the method.

    Values are Python's or text ("1e-3", "true", "none"), numpy scalars and paths. A mapping stands for
    settings by name: `data={"strength": 0.5}`, or a whole `Config.to_dict()`.

    Raises:
        UsageError: unknown names, wrong types, values out of range, illegal combinations: all in one message.
    """
    return layered({**(values or {}), **more})


def layered(*layers: Mapping[str, Any], common: Mapping[str, Any] | None = None) -> Config:
    """`make` of settings in layers, each over those before it, whatever names they use.

    common: a layer below them all, of which only what goes with the method, classifier and data counts.

    Raises:
        UsageError: as `make`.
    """
    config, faults = examine(layers, common)
    if config is None:
        raise UsageError(join_messages(faults))
    return config


def changed(config: Config, values: Mapping[str, Any] | None = None, /, **more: Any) -> Config:
    """The config with other values, made anew and checked: what was not the default stays, but for what
    belongs to a method or classifier that is replaced. UsageError: as `make`; names of data and backbones are
    not looked up."""
    base = {**non_default(config), "method.name": config.method.name}
    found, faults = examine([{**(values or {}), **more}], base=base, look=False)
    if found is None:
        raise UsageError(join_messages(faults))
    return found


def restore(stored: Any, where: str | Path) -> Config:
    """The config that a result or checkpoint holds. Its data need not be there any more.

    Raises:
        JanusError: it was written by an older janus, or holds what this one does not know; `where` is named.
    """
    if not isinstance(stored, Mapping) or not isinstance(stored.get("training"), Mapping):
        raise JanusError(
            f"{where}: made by an older janus, whose settings had other names; run it again in another folder"
        )
    config, faults = examine([stored], look=False)
    if config is None:
        raise JanusError(f"{where}: its settings do not fit this janus ({join_messages(faults)})")
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


def as_text(config: Config | Mapping[str, Any]) -> list[str]:
    """The settings of a config that are not the default, or values by name, as `--set` takes them."""
    values = non_default(config) if isinstance(config, Config) else dict(flattened(config))
    texts = {k: ",".join(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
    return [f"{key}={text}" for key, text in texts.items()]


# ── a config as flat keys ───────────────────────────────────────────────────────────────────────────────────


def flat(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Full path → value, in the order of the config; of a `Config`, or of what `to_dict` made of one."""
    return dict(flattened(config.to_dict() if isinstance(config, Config) else config))


def non_default(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Full path → value of the settings that are not the default with this method and classifier."""
    values = flat(config)
    method = KINDS.get(values.get("method.name", ""))
    names = _Names(method, CLASSIFIERS.get(values.get("classifier.name", "")), None)
    usual = {path: _default(field) for path, field in names.fields()}
    usual |= {"method.name": "janus", "classifier.name": "linear"}
    usual |= {**method.defaults, **method.fixed} if method else {}
    return {path: value for path, value in values.items() if path not in usual or usual[path] != value}


def meanings(config: Config) -> Iterator[tuple[str, str]]:
    """Full path and description of each setting that a config has."""
    for path, field in _Names(type(config.method), type(config.classifier), None).fields():
        yield path, field.description or ""


def deciding(config: Config | Mapping[str, Any]) -> dict[str, Any]:
    """Full path → value of the settings that decide a run's numbers: all but `runtime`, where pixels are
    kept, and the margin loss where it is off; the class order's seed and what `amp=auto` means spelt out."""
    values = flat(config)
    aside = ("data.cache", *(path for path in values if path.startswith("runtime.")))
    kept = {path: value for path, value in values.items() if path not in aside}
    if kept.get("method.dml") is False:
        kept = {path: value for path, value in kept.items() if not path.startswith("method.loss.")}
    for path in ("classifier.replaces", "backbone.image_size"):  # younger than the first hashes
        if kept.get(path) is None:
            kept.pop(path, None)
    if kept.get("training.amp") == "auto":
        kept["training.amp"] = _amp(values.get("runtime.device", "auto"))
    if kept.get("data.class_seed") is None:
        kept["data.class_seed"] = kept.get("training.seed")
    return kept


def _amp(device: str) -> str:
    """What `auto` means on the device."""
    from .runtime.device import pick_device, resolve  # torch, which no other setting needs

    return resolve("auto", pick_device(device))


def config_hash(config: Config | Mapping[str, Any]) -> str:
    """Twelve hex digits over all that can change a run's numbers."""
    return hashlib.sha256(json.dumps(deciding(config), sort_keys=True).encode()).hexdigest()[:12]


def _default(field: Any) -> Any:
    value = field.get_default(call_default_factory=True)
    return list(value) if isinstance(value, tuple) else value
