"""The settings of a config by full path (`training.lr`, `method.loss.push`), and the config of such settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .config import Config

_PARTS = {
    "data": "dataset tasks class_seed per_class evaluate extended augment",
    "backbone": "model weights normalise rank scale targets",
    "training": "seed epochs batch_size lr head_lr weight_decay amp step_score_every",
}
_HOME = {key: f"{part}.{key}" for part, keys in _PARTS.items() for key in keys.split()}
_HOME |= {"method": "method.name", "head": "classifier.name", "ranpac_dim": "classifier.dim"}
_ALL = "energy energy_end oe_epochs"  # settings that every method has
_OWN = {
    "janus": "oe gr dml adapter init cap ridge",
    "gpm": "gr adapter init cap ridge",
    "drs": "gr init cap ridge",
}


def settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a config, flat or nested: full path → value, lists as text with commas.

    Those that its method and its classifier have; without what is None, what only says where and how fast it
    runs, and the margin loss's settings where that is off.
    """
    if isinstance(config["method"], Mapping):
        nested = {part: dict(config[part]) for part in (*_PARTS, "method", "classifier")}
        nested["data"] |= nested["data"].pop("options", {})
        found = dict(_paths(nested))
    else:
        found = _of_flat(config)
    if found.get("data.class_seed") is None:
        found["data.class_seed"] = found["training.seed"]
    unused = () if found.get("method.dml") else ("method.loss.",)
    kept = {key: value for key, value in found.items() if value is not None and not key.startswith(unused)}
    return {key: ",".join(value) if isinstance(value, list | tuple) else value for key, value in kept.items()}


def _paths(values: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{start}{key}.")
        else:
            yield f"{start}{key.rstrip('_')}", value


def _of_flat(config: Mapping[str, Any]) -> dict[str, Any]:
    from . import datasets

    method = config["method"]
    own = f"{_ALL} {_OWN.get(method, '')}".split()
    head = method if method in ("ncm", "ranpac") else "linear"  # of a run older than the setting
    options = datasets.saying(config["dataset"], config["data"])
    found = {f"data.{key}": value for key, value in options.items()}
    for key, value in ({"normalise": "auto", "head": head, "ranpac_dim": 2000} | dict(config)).items():
        owner, _, rest = key.partition("_")
        if key in _HOME and (key != "ranpac_dim" or config.get("head", head) == "ranpac"):
            found[_HOME[key]] = value
        elif key in own:
            found[f"method.{key}"] = value
        elif owner == "dml" and rest and method == "janus":
            found[f"method.loss.{rest}"] = value
        elif owner == method and rest:
            found[f"method.{rest}"] = value
    return found


def create(settings: Mapping[str, Any]) -> Config:
    """The Config with these settings, by full path. UsageError: unknown ones, or values that do not fit."""
    home, method = {path: key for key, path in _HOME.items()}, settings["method.name"]
    values: dict[str, Any] = {"data": {}, "energy_end": None}  # None, and not the method's own, unless given
    for path, value in settings.items():
        part, _, key = path.partition(".")
        if path in home:
            values[home[path]] = value
        elif part == "data":
            values["data"][key] = value
        elif key.startswith("loss."):
            values["dml_" + key.removeprefix("loss.")] = value
        else:
            values[key if key in f"{_ALL} {_OWN.get(method, '')}".split() else f"{method}_{key}"] = value
    return Config.create(**values)
