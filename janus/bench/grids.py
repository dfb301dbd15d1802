"""Grid files: which runs an experiment consists of, checked as a whole before the first one starts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import configure
from ..config import Config
from ..errors import JanusError, UsageError, first_few, join_messages, unknown
from ..runtime import assets
from ..settings import reading
from . import variants

KEYS = {
    "title": "a text",
    "protocol": "the name of a protocol, or a list of them",
    "variants": "a list of variants",
    "seeds": "a list of whole numbers",
    "grid": "settings, each with a list of values",
    "set": "settings",
    "chosen": "true, false, or the name of a JSON file",
}
NEEDED = ("title", "protocol", "variants", "seeds")
PROTOCOL_KEYS = ("title", "chosen", "settings", "variants")
LONGEST = 255  # bytes of a folder's name: the most that file systems in use allow
MERGE = "tag:yaml.org,2002:merge"  # `<<: *anchor`, which may be there twice

Note = Callable[[str], None]
SettingsDict = dict[str, Any]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a grid: its name, which is its folder's, the variant it belongs to, and everything that is set."""

    name: str
    variant: str
    config: Config

    @cached_property
    def hash(self) -> str:
        return configure.config_hash(self.config)


@dataclass(frozen=True)
class ProtocolFile:
    """settings: of all runs; those of a method, classifier or data set hold for the runs that have it. variants: name → what
    its data ask of that variant. chosen: name → what validation chose; None: nothing."""

    settings: SettingsDict
    variants: dict[str, SettingsDict]
    chosen: dict[str, SettingsDict] | None


@dataclass(frozen=True)
class Grid:
    title: str
    path: Path
    runs: tuple[PlannedRun, ...]


def load(file: str | Path) -> Grid:
    """Read a grid file and expand it: seeds × protocols × variants × the product of `grid`, in this order.

    A setting comes from the protocol; over it what a variant sets (one of `bench/variants.py` brings its switches, over them
    what the protocol says of this variant, and its hyper-parameters where the protocol, or over it the grid, says `chosen`: true
    for those of Icons-R, or a file beside the protocol); over that `set`; over all `grid`.

    Judged are the file and each run's settings. Left to the run are a path that is not there (it may be where the runs are), the
    classes in a folder, a model of the hub, or of timm without attention, its tag, and weights that are missing or do not fit.

    Args:
        file: a path, or the name of a grid that comes with janus ("icons_r/table1_ablation").

    Raises:
        UsageError: everything that is wrong with the file and the runs it describes, in one message.
    """
    path = find(file)
    values, faults = parse(path), {}
    note: Note = lambda text: faults.setdefault(text)  # noqa: E731
    title = _title(values, note)
    names = _list(values, "protocol", note, alone=str)
    for name in names:
        if names.count(name) > 1:
            note(f"protocol {name!r} is there twice; leave one out")
    protocols = {str(name): _protocol(name, path, values.get("chosen"), note) for name in names}
    listed = dict(_variants(_list(values, "variants", note, alone=dict), note))
    seeds = [seed for seed in _list(values, "seeds", note) if _seed(seed, note)]
    shared, axes = _settings("set", _mapping(values, "set"), note), _axes(_mapping(values, "grid"), note)
    runs, troubles, long = [], {}, []
    for seed, (protocol, base), (variant, own), point in itertools.product(
        seeds, protocols.items(), listed.items(), itertools.product(*axes.values())
    ):
        varied = (
            ({"protocol": Path(protocol).stem} if len(protocols) > 1 else {})
            | dict(zip(axes, point))
            | {"seed": seed}
        )
        name = "__".join(
            [_plain(variants.slug(variant)), *(f"{key}={_text(value)}" for key, value in varied.items())]
        )
        if len(name.encode()) > LONGEST:
            long.append(name)
        if shared is None or base is None or own is None:
            continue  # its fault is noted already
        try:
            layers = [
                *_of_variant(variant, own, base),
                shared,
                dict(zip(axes, point)),
                {"training.seed": seed},
            ]
        except JanusError as error:
            troubles.setdefault(str(error), []).append(name)
            continue
        config, found = reading.examine(layers, base.settings)
        for text in found:
            if not any(noted.endswith(f": {text}") for noted in faults):
                troubles.setdefault(text, []).append(name)
        if config is not None:
            runs.append(PlannedRun(name, variant, config))
    for text, names in troubles.items():
        note(f"{first_few(names)}: {text}")
    if long:
        note(
            f"names of {len(long)} runs, the first {long[0][:40]}…, are longer than the {LONGEST} bytes that a folder's may have; "
            "give their variants shorter names, or move from `grid` to `set` what does not vary"
        )
    for names in _groups(runs, lambda run: run.name):
        note(f"{len(names)} runs have the name {names[0]}; leave all but one out")
    for names in _groups(runs, lambda run: run.hash):
        if len(set(names)) > 1:
            note(f"{first_few(names)} are the same run; leave all but one out")
    if not runs and not faults:
        note("it describes no run")
    if faults:
        raise UsageError(f"{path}: {join_messages(list(faults))}")
    return Grid(title, path, tuple(runs))


def _title(values: dict[str, Any], note: Note) -> str:
    """The file's title; its keys are checked on the way."""
    for key in values:
        if key not in KEYS:
            note(str(unknown("key", key, KEYS)))
    for key in NEEDED:
        if key not in values:
            note(f"no {key!r} ({KEYS[key]})")
    title = values.get("title", "")
    if not isinstance(title, str):
        note(f"title takes a text, got {title!r}")
    return title


def find(file: str | Path) -> Path:
    """A grid's path; one that comes with janus is found by its name. UsageError: there is none."""
    path = Path(file)
    if path.is_file():
        return path
    known = assets.benchmarks("grids")
    if (known / f"{file}.yaml").is_file():
        return known / f"{file}.yaml"
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"no grid file {path}")
    raise unknown(
        "grid", file, (p.relative_to(known).with_suffix("").as_posix() for p in known.rglob("*.yaml"))
    )


def parse(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, without executing anything. UsageError: it cannot be read, or a key is there twice."""
    try:
        import yaml
    except ImportError:
        raise JanusError("grid files need pyyaml: pip install 'janus-lora[bench]'") from None

    class Loader(yaml.SafeLoader):
        """PyYAML keeps the last of two equal keys and says nothing."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != MERGE]
            if twice := [str(key) for key in keys if keys.count(key) > 1]:
                raise yaml.MarkedYAMLError(None, None, f"{twice[0]!r} is there twice", node.start_mark)
            return super().construct_mapping(node, deep)

    try:
        values = yaml.load(path.read_text(), Loader)  # noqa: S506 (a SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path} ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UsageError(f"{path}{where}: not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path}: a mapping is expected, got {values!r:.60}")
    return values


# ── the parts of a file ─────────────────────────────────────────────────────────────────────────────────────────────────


def _list(values: Mapping[str, Any], key: str, note: Note, alone: type | None = None) -> list[Any]:
    """The list under a key; a single value of type `alone` stands for a list of one, a mapping for a list of its items."""
    if key not in values:
        return []
    found = values[key]
    if alone is dict and isinstance(found, dict):
        found = [{name: settings} for name, settings in found.items()]
    elif alone is str and isinstance(found, str):
        found = [found]
    if not isinstance(found, list):
        note(f"{key} takes {KEYS[key]}, got {found!r}")
        return []
    if not found:
        note(f"{key} is empty")
    return found


def _mapping(values: Mapping[str, Any], key: str) -> Any:
    return {} if values.get(key) is None else values[key]


def _protocol(name: Any, grid: Path, chosen: Any, note: Note) -> ProtocolFile | None:
    """A protocol: a name, or a path beside the grid file. chosen: what the grid says about it, None if nothing."""
    if not isinstance(name, str):
        return note(f"protocol takes {KEYS['protocol']}, got {name!r}")
    folder = assets.benchmarks("protocols")
    path = grid.parent / name if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        return note(str(unknown("protocol", name, (p.stem for p in folder.glob("*.yaml")))))
    try:
        values = parse(path)
    except UsageError as error:
        return note(str(error))
    where = f"protocol {path.stem}"
    for key in values:
        if key not in PROTOCOL_KEYS:
            note(f"{where}: {unknown('key', key, PROTOCOL_KEYS)}")
    choices = _chosen(values.get("chosen", False) if chosen is None else chosen, where, path, note)
    listed = values.get("variants") or {}
    if not isinstance(listed, dict):
        note(f"{where}: variants takes variants by name, each with its settings, got {listed!r}")
        listed = {}
    for variant in listed:
        if variant not in variants.KNOWN:
            note(f"{where}: {unknown('variant', variant, variants.KNOWN)}")
    found = {variant: _stated(f"{where}, {variant}", listed[variant], note) or {} for variant in listed}
    settings = _stated(where, values.get("settings"), note)
    return None if settings is None else ProtocolFile(settings, found, choices)


def _stated(where: str, stated: Any, note: Note) -> SettingsDict | None:
    """Settings that each come with a source."""
    if not isinstance(stated, dict):
        return note(f"{where}: no settings (each with a value and a source)")
    sound = {}
    for key, entry in stated.items():
        if (
            not isinstance(entry, dict)
            or entry.keys() != {"value", "source"}
            or not isinstance(entry["source"], str)
        ):
            note(f"{where}: {key} needs `value` and `source`, and nothing else; got {entry!r}")
        else:
            sound[key] = entry["value"]
    return _settings(where, sound, note)


def _chosen(value: Any, where: str, protocol: Path, note: Note) -> dict[str, SettingsDict] | None:
    """What validation chose, variant → settings: of Icons-R (true), of a JSON file beside the protocol, or nothing (false)."""
    if isinstance(value, bool):
        return variants.chosen() if value else None
    if not isinstance(value, str):
        return note(f"{where}: chosen takes {KEYS['chosen']}, got {value!r}")
    try:
        return variants.chosen(protocol.parent / value)
    except JanusError as error:
        return note(f"{where}: {error}")


def _variants(entries: list[Any], note: Note) -> Iterator[tuple[str, SettingsDict | None]]:
    """Name → the settings it has of its own in the file ({} for one of `bench/variants.py`)."""
    known, seen = variants.KNOWN, set()
    for entry in entries:
        name, own = (
            (entry, {})
            if isinstance(entry, str)
            else next(iter(entry.items()))
            if _one(entry)
            else (None, None)
        )
        if not isinstance(name, str):
            note(f"variants takes names, or a name with settings, got {entry!r}")
        elif isinstance(entry, str) and name not in known:
            note(str(unknown("variant", name, known)))
        elif name in seen:
            note(f"variant {name!r} is there twice")
        elif not isinstance(entry, str) and name in known:
            note(f"variant {name!r} is a variant of janus already; give yours another name")
        else:
            seen.add(name)
            yield name, _settings(f"variant {name!r}", own, note)


def _one(entry: Any) -> bool:
    return isinstance(entry, dict) and len(entry) == 1


def _of_variant(variant: str, own: SettingsDict, protocol: ProtocolFile) -> list[SettingsDict]:
    """What a variant sets over the protocol, in layers. JanusError: validation has not chosen for it yet."""
    if variant not in variants.KNOWN:
        return [own]
    return [
        variants.KNOWN[variant],
        protocol.variants.get(variant, {}),
        variants.choice(variant, protocol.chosen),
    ]


def _seed(seed: Any, note: Note) -> bool:
    good = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
    if not good:
        note(f"seeds takes whole numbers from 0 on, got {seed!r}")
    return good


def _axes(values: Any, note: Note) -> dict[str, list[Any]]:
    """Setting → the values it takes."""
    if not isinstance(values, dict):
        note(f"grid takes {KEYS['grid']}, got {values!r}")
        return {}
    axes: dict[str, list[Any]] = {}
    for key, items in values.items():
        if not isinstance(items, list) or not items:
            note(
                f"grid: {key} takes a list of values, got {items!r}"
                if items != []
                else f"grid: {key} is empty"
            )
            continue
        layers = [_settings("grid", {key: item}, note) for item in items]
        if all(layers):
            axes[key] = [layer.get(key, item) for layer, item in zip(layers, items)]
    return axes


def _settings(where: str, values: Any, note: Note) -> SettingsDict | None:
    """Settings by the names they have in the file, their texts read; those that there are not are noted and left out. None: these
    are no settings."""
    if not isinstance(values, dict):
        return note(f"{where} takes settings by name, got {values!r}")
    found = {}
    for key, value in reading.flattened(values):
        if key in ("seed", "training.seed"):
            note(f"{where}: seed is not set here; `seeds` of the grid states them")
            continue
        found[key], fault = reading.setting(key, value)
        if fault:
            note(f"{where}: {fault}")
        if fault and fault.startswith("unknown setting"):
            del found[key]
    return found


# ── names and faults ────────────────────────────────────────────────────────────────────────────────────────────────────


def _text(value: Any) -> str:
    """A value in a file name, written as `--set` takes it where that is possible."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return "-".join(map(_text, value))
    if isinstance(value, dict):
        return "-".join(f"{key}-{_text(item)}" for key, item in value.items()) or "none"
    return f"{value:g}" if isinstance(value, float) else _plain(str(value))


def _plain(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "-", text)


def _groups(runs: list[PlannedRun], key: Callable[[PlannedRun], str]) -> list[list[str]]:
    """Names of the runs that share a key with another one, together."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run.name)
    return [names for names in groups.values() if len(names) > 1]
