"""The complete description of a run. One config, one result; its hash names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import numbers
import types
import typing
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from .errors import UsageError, together, unknown


@dataclass(frozen=True)
class Config:
    """Everything that decides the numbers of a run, plus `threads`, `device` and `save_every`, which do not.

    Fields are the keys of `janus.run(...)` and of `janus run --set key=value`.
    """

    # what is learned
    dataset: str = "icons-r"
    root: str | None = None  # where local files of the data set are
    data: dict[str, Any] = field(default_factory=dict)  # options of the data set, e.g. {"strength": 0.5}
    tasks: int = 10
    seed: int = 0  # initialisation and batches
    class_seed: int | None = None  # class order; None: the same number as `seed`
    per_class: int | None = None  # cap on training images a class
    evaluate: Literal["test", "val"] = "test"
    extended: tuple[str, ...] = ()  # data sets whose classes came after the stream, one task each (`janus extend`)
    augment: Literal["auto", "icons", "photo", "none"] = "auto"
    # with what
    model: str = "icons-vit"
    weights: str | None = None
    normalise: Literal["auto", "checkpoint", "none"] = "auto"  # inputs: as the checkpoint says (auto too), or plain 0…1
    rank: int = 8
    scale: float = 1.0
    targets: tuple[str, ...] = ("k", "v")
    # how
    method: str = "janus"
    oe: bool = True
    gr: Literal["none", "tangent", "exact"] = "exact"
    dml: bool = True
    adapter: Literal["shared", "merged"] = "merged"
    init: Literal["free", "nullspace"] = "nullspace"
    epochs: int = 3
    batch_size: int = 16
    lr: float = 1e-3  # of the factors
    head_lr: float = 5e-3
    weight_decay: float = 0.0
    energy: float = 0.95  # ε: the share of past inputs' energy that is protected
    energy_end: float | None = None  # ε of the last task; in between it grows linearly
    oe_epochs: Literal["last", "all"] = "last"
    cap: float = 0.1
    ridge: float = 0.0
    dml_form: Literal["hinge", "squared", "logsumexp", "softmax"] = "hinge"
    dml_nearest: bool = True
    dml_push: float = 0.5
    dml_pull: float = 0.5
    dml_push_margin: float = 0.3
    dml_pull_margin: float = 0.7
    dml_temperature: float = 0.1
    head: Literal["linear", "ncm", "ranpac"] = "linear"  # how classes are scored at test; training is the same
    ranpac_dim: int = 2000  # M, the random features of the RanPAC head
    ewc_lambda: float = 1e3  # settings of a method begin with its name
    ewc_decay: float = 1.0  # of old tasks' Fisher information at each new one
    ewc_samples: int = 200  # images a task from which it is estimated
    lwf_weight: float = 1.0
    lwf_temperature: float = 2.0
    olora_penalty: float = 0.5
    drs_penalty: float = 0.05
    drs_margin: float = 1.0
    bilora_coefficients: int = 3000  # trained numbers a matrix and task
    slca_samples: int = 256
    slca_epochs: int = 5
    slca_lr: float = 0.01
    slca_temperature: float = 0.1
    l2p_pool: int = 30  # prompts
    l2p_length: int = 20  # of a prompt: half keys, half values
    l2p_top: int = 5  # prompts an image
    l2p_pull: float = 0.5
    dualprompt_general: int = 6  # lengths
    dualprompt_expert: int = 20
    dualprompt_match: float = 1.0
    coda_components: int = 100  # of the whole stream
    coda_length: int = 8
    coda_penalty: float = 0.1
    # where
    # autocast; auto: bf16 where the hardware computes it natively, fp16 on older cards, else off. A run keeps what it was at first
    amp: Literal["off", "auto", "bf16", "fp16"] = "off"
    step_score_every: int = 20  # violation_step is sampled at every so many steps
    device: str = "auto"
    threads: int | None = None
    save_every: float = 30.0  # seconds between checkpoints inside a task

    @classmethod
    def create(cls, **values: Any) -> Config:
        """Check names, types and switches; fill in the method's own settings.

        Raises:
            UsageError: unknown keys, wrong types, values out of range and illegal combinations, all of them in one message.
        """
        from . import methods  # methods know their settings; they need this module's types

        hints, found, wrong, texts = typing.get_type_hints(cls), {}, set(), []
        for key, value in values.items():
            if key not in hints:
                texts.append(str(unknown("setting", key, hints)))
                continue
            try:
                found[key] = coerce(key, value, hints[key])
            except UsageError as error:
                wrong.add(key)
                texts.append(str(error))
        if texts := texts + list(faults(found, wrong)):
            raise UsageError(together(texts))
        method = methods.get(found.get("method", cls.method))
        return cls(**{**method.defaults, **method.fixed, **found})

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def hash(self) -> str:
        """Twelve hex digits over everything that can change the numbers."""
        return hashlib.sha256(json.dumps(deciding(self.to_dict()), sort_keys=True).encode()).hexdigest()[:12]


def faults(values: dict[str, Any], wrong: Collection[str] = ()) -> Iterator[str]:
    """What is wrong with settings that each have the right type, and with their combination.

    wrong: settings with values that are not known; nothing is said of what depends on them.
    """
    from . import methods

    known, name = methods.all_methods(), values.get("method", Config.method)
    method = None if "method" in wrong else known.get(name)
    unsure = {*wrong}
    if method:
        for key, value in method.fixed.items():
            if key in values and values[key] != value:
                yield (f"{key}={values[key]} does not go with method={name}, which has {key}={value}; "
                       "leave it out, or use method=janus")
                unsure.add(key)
        for key in sorted(set(values) & set(SWITCHES) - set(method.fixed) - set(method.switches)):
            yield f"method={name} has no switch {key!r}; leave it out, or use method=janus"
            unsure.add(key)
    else:
        if "method" not in wrong:
            yield str(unknown("method", name, known))
        unsure |= set(SWITCHES) - set(values)  # the method decides them
    defaults = {f.name: f.default for f in dataclasses.fields(Config)} | (method.defaults | method.fixed if method else {})
    full = {key: value for key, value in (defaults | values).items() if key not in unsure}
    if method and "head" in full:
        for key in sorted(foreign(values | {"method": name, "head": full["head"]})):
            if values[key] != defaults[key]:
                owner = key.partition("_")[0]
                what = "head" if owner in typing.get_args(typing.get_type_hints(Config)["head"]) else "method"
                yield (f"{key} is a setting of {what}={owner} and does nothing with method={name}, head={full['head']}; "
                       f"leave it out, or set {what}={owner}")
    exact, nullspace = full.get("gr") == "exact", full.get("init") == "nullspace"
    if exact and (full.get("adapter", "merged"), full.get("init", "nullspace")) != ("merged", "nullspace"):
        yield "gr=exact requires adapter=merged and init=nullspace (its guarantee starts from A V = 0, B = 0)"
    elif nullspace and full.get("adapter", "merged") != "merged":
        yield "init=nullspace requires adapter=merged (a shared adapter never starts again)"
    if nullspace and not full.get("oe", True):
        yield "init=nullspace requires oe=true (without it there is no estimated past to start off from)"
    if method:
        yield from method.faults(full)
    for keys, fine, what in RANGES:
        for key in keys:
            if full.get(key) is not None and not fine(full[key]):
                yield f"{key} {what}, got {full[key]}"


RANGES: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (("tasks", "epochs", "batch_size", "rank", "step_score_every", "threads", "per_class", "ranpac_dim", "ewc_samples",
      "slca_samples", "slca_epochs", "l2p_pool", "l2p_top", "coda_components"), lambda v: v >= 1, "must be at least 1"),
    (("lr", "head_lr", "scale", "cap", "dml_temperature", "lwf_temperature", "slca_lr", "slca_temperature"),
     lambda v: v > 0, "must be positive"),
    (("seed", "class_seed", "weight_decay", "ridge", "save_every", "ewc_lambda", "lwf_weight", "olora_penalty", "drs_penalty",
      "drs_margin", "l2p_pull", "dualprompt_match", "coda_penalty"), lambda v: v >= 0, "must not be negative"),
    (("l2p_length", "dualprompt_general", "dualprompt_expert", "coda_length"), lambda v: v >= 2 and v % 2 == 0,
     "must be even and at least 2 (half keys, half values)"),
    (("energy", "energy_end", "ewc_decay"), lambda v: 0 <= v <= 1, "is a share in [0, 1]"),
)
SWITCHES = ("oe", "gr", "dml", "adapter", "init")
FREE = ("device", "threads", "save_every", "root")  # what may differ between two parts of one run


def foreign(config: dict[str, Any]) -> set[str]:
    """The settings in a config that belong to a method or head it does not have, by their names: `ranpac_dim` is RanPAC's."""
    from . import methods

    own, known = (config["method"], config.get("head")), methods.all_methods()
    return {key for key in config if (owner := key.partition("_")[0]) in known and owner not in own}


def deciding(config: dict[str, Any]) -> dict[str, Any]:
    """Those values of a config (`Config.to_dict`) that can change a run's numbers: without `FREE`, without the margin loss's
    settings where it is off, without options of the data set that have the values they have anyway, without settings that later
    versions added where they change nothing, and with the class order's seed spelt out."""
    from . import datasets

    kept = {k: v for k, v in config.items() if k not in FREE and (config["dml"] or not k.startswith("dml_"))}
    if kept.get("normalise") != "none":  # a run older than the setting keeps its hash
        kept.pop("normalise", None)
    for key in foreign(kept):
        del kept[key]
    if kept.get("head") in ("linear", kept["method"]):  # ncm, ranpac: the method is its head
        del kept["head"]
    kept["amp"] = _amp(kept["amp"], config["device"])
    kept["data"] = datasets.saying(config["dataset"], kept["data"])
    return kept | {"class_seed": config["seed"] if config["class_seed"] is None else config["class_seed"]}


def _amp(value: str | bool, device: str) -> str | bool:
    """`auto` as what it means on the device; off as False, as runs older than the other values have it."""
    if value == "auto":
        from .device import pick_device, resolve  # torch, which no other setting needs

        value = resolve(value, pick_device(device))
    return False if value == "off" else value


def from_text(pairs: list[str]) -> dict[str, Any]:
    """`["lr=1e-3", "oe=true"]` → `{"lr": "1e-3", "oe": "true"}`; `data.strength=0.5` sets a data-set option.

    Raises:
        UsageError: no `=`.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, got {pair!r}")
        if key.startswith("data."):
            values.setdefault("data", {})[key[5:]] = _literal(text)
        else:
            values[key] = text
    return values


def _literal(text: str) -> Any:
    """A number, true, false, null, a list or a mapping, as JSON writes them; else the text itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def coerce(key: str, value: Any, hint: Any) -> Any:
    """Turn text into the field's type; refuse what is not of that type."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
            return None
        return coerce(key, value, next(o for o in options if o is not type(None)))
    if key == "amp" and str(value).lower() in ("true", "false"):
        value = "auto" if str(value).lower() == "true" else "off"
    if origin is Literal:
        if value not in options:
            raise unknown(f"value for {key}:", value, options)
        return value
    if origin is tuple:
        if not isinstance(value, (str, list, tuple)):
            raise UsageError(f"{key} takes names, separated by commas, got {value!r}")
        parts = (value.split(",") if value else []) if isinstance(value, str) else list(value)
        return tuple(str(part).strip() for part in parts)
    if origin is dict:
        if not isinstance(value, dict):
            raise UsageError(f"{key} takes options by name, e.g. --set {key}.strength=0.5")
        return value
    if hint is bool and isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        value = _number(value, float)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{key} takes a finite number, got {value}")
    if hint is int and isinstance(value, str):
        value = _number(value, int)
    if type(value) is not hint:
        raise UsageError(f"{key} takes {_ARTICLE[hint]}, got {value!r}")
    return value


def fitting(key: str, value: Any, hint: Any) -> Any:
    """Like `coerce`, of a value that is no text to be read: a number is a number, and a text is a text."""
    kinds = typing.get_args(hint) or (hint,)
    if isinstance(value, Path) and str in kinds:
        return str(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool) and float in kinds:
        return coerce(key, float(value), hint)
    if isinstance(value, str) and str not in kinds:
        raise UsageError(f"{key} takes {_ARTICLE[next(kind for kind in kinds if kind in _ARTICLE)]}, got {value!r}")
    return coerce(key, value, hint)


def _number(value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        return value


_ARTICLE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
