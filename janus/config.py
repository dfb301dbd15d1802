"""The complete description of a run. One config, one result; its hash names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Literal

from .errors import UsageError, unknown


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
    amp: bool = False  # autocast to bf16, or to fp16 on cards without it
    step_score_every: int = 20  # violation_step is sampled at every so many steps
    device: str = "auto"
    threads: int | None = None
    save_every: float = 30.0  # seconds between checkpoints inside a task

    @classmethod
    def create(cls, **values: Any) -> Config:
        """Check names, types and switches; fill in the method's own settings.

        Raises:
            UsageError: unknown key, wrong type, value out of range, or an illegal combination, by name.
        """
        from . import methods  # methods know their settings; they need this module's types

        known = {f.name: f for f in dataclasses.fields(cls)}
        hints = typing.get_type_hints(cls)
        for key in values:
            if key not in known:
                raise unknown("setting", key, known)
        values = {key: coerce(key, value, hints[key]) for key, value in values.items()}
        method = methods.get(values.get("method", "janus"))
        for key, value in method.fixed.items():
            if key in values and values[key] != value:
                raise UsageError(f"{key}={values[key]} does not go with method={method.name}, which has {key}={value}; "
                                 "leave it out, or use method=janus")
        for key in set(values) & set(SWITCHES) - set(method.fixed) - set(method.switches):
            raise UsageError(f"method={method.name} has no switch {key!r}; leave it out, or use method=janus")
        config = cls(**{**method.defaults, **method.fixed, **values})
        for key in sorted(foreign(values | {"method": config.method, "head": config.head})):
            if values[key] != known[key].default:
                owner = key.partition("_")[0]
                what = "head" if owner in typing.get_args(hints["head"]) else "method"
                raise UsageError(f"{key} is a setting of {what}={owner} and does nothing with method={method.name}, "
                                 f"head={config.head}; leave it out, or set {what}={owner}")
        config._check()
        return config

    def _check(self) -> None:
        if self.gr == "exact" and (self.adapter, self.init) != ("merged", "nullspace"):
            raise UsageError("gr=exact requires adapter=merged and init=nullspace (its guarantee starts from A V = 0, B = 0)")
        if self.init == "nullspace" and self.adapter != "merged":
            raise UsageError("init=nullspace requires adapter=merged (a shared adapter never starts again)")
        if self.init == "nullspace" and not self.oe:
            raise UsageError("init=nullspace requires oe=true (without it there is no estimated past to start off from)")
        for key in ("tasks", "epochs", "batch_size", "rank", "step_score_every", "threads", "per_class",
                    "ranpac_dim", "ewc_samples", "slca_samples", "slca_epochs", "l2p_pool", "l2p_top", "coda_components"):
            if getattr(self, key) is not None and getattr(self, key) < 1:
                raise UsageError(f"{key} must be at least 1, got {getattr(self, key)}")
        for key in ("lr", "head_lr", "scale", "cap", "dml_temperature", "lwf_temperature", "slca_lr", "slca_temperature"):
            if not getattr(self, key) > 0:
                raise UsageError(f"{key} must be positive, got {getattr(self, key)}")
        for key in ("seed", "class_seed", "weight_decay", "ridge", "save_every", "ewc_lambda", "lwf_weight", "olora_penalty",
                    "drs_penalty", "drs_margin", "l2p_pull", "dualprompt_match", "coda_penalty"):
            if getattr(self, key) is not None and getattr(self, key) < 0:
                raise UsageError(f"{key} must not be negative, got {getattr(self, key)}")
        for key in ("l2p_length", "dualprompt_general", "dualprompt_expert", "coda_length"):
            if getattr(self, key) < 2 or getattr(self, key) % 2:
                raise UsageError(f"{key} must be even and at least 2 (half keys, half values), got {getattr(self, key)}")
        for key in ("energy", "energy_end", "ewc_decay"):
            if getattr(self, key) is not None and not 0 <= getattr(self, key) <= 1:
                raise UsageError(f"{key} is a share in [0, 1], got {getattr(self, key)}")

    def to_dict(self) -> dict[str, Any]:
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def hash(self) -> str:
        """Twelve hex digits over everything that can change the numbers."""
        return hashlib.sha256(json.dumps(deciding(self.to_dict()), sort_keys=True).encode()).hexdigest()[:12]


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
    kept["data"] = datasets.saying(config["dataset"], kept["data"])
    return kept | {"class_seed": config["seed"] if config["class_seed"] is None else config["class_seed"]}


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


def _number(value: Any, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        return value


_ARTICLE = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
