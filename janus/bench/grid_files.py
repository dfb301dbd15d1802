"""What grid files and protocol files state: their parts, each with what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import JanusError, UsageError, unknown
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
MERGE = "tag:yaml.org,2002:merge"  # `<<: *anchor`, which may be there twice


Note = Callable[[str], None]
SettingsDict = dict[str, Any]


@dataclass(frozen=True)
class ProtocolFile:
    """What a protocol file states.

    settings: of all runs; those of a method, classifier or data set hold for the runs that have it.
    variants: name → what its data ask of that variant. chosen: name → what validation chose; None: nothing.
    """

    settings: SettingsDict
    variants: dict[str, SettingsDict]
    chosen: dict[str, SettingsDict] | None


@dataclass(frozen=True)
class GridFile:
    """What a grid file states, as far as it is sound; None in place of a part that is not.

    protocols, variants: by name. shared: the settings of all runs. axes: setting → the values it takes.
    """

    title: str
    protocols: dict[str, ProtocolFile | None]
    variants: dict[str, SettingsDict | None]
    seeds: list[int]
    shared: SettingsDict | None
    axes: dict[str, list[Any]]


def read(path: Path, note: Note) -> GridFile:
    """The parts of a grid file. note: takes what is wrong with them. UsageError: it is no YAML file."""
    values = parse(path)
    title = _title(values, note)
    names = _list(values, "protocol", note, alone=str)
    for name in names:
        if names.count(name) > 1:
            note(f"protocol {name!r} is there twice; leave one out")
    protocols = {str(name): _protocol(name, path, values.get("chosen"), note) for name in names}
    listed = dict(_variants(_list(values, "variants", note, alone=dict), note))
    seeds = [seed for seed in _list(values, "seeds", note) if _seed(seed, note)]
    shared, axes = _settings("set", _mapping(values, "set"), note), _axes(_mapping(values, "grid"), note)
    return GridFile(title, protocols, listed, seeds, shared, axes)


def parse(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, without executing anything. UsageError: it cannot be read, or a key
    is there twice."""
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


def _list(values: Mapping[str, Any], key: str, note: Note, alone: type | None = None) -> list[Any]:
    """The list under a key; one value of type `alone` stands for a list of one, a mapping for its items."""
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
    """A protocol: a name, or a path beside the grid file. chosen: what the grid says about it, or None."""
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
        complete = isinstance(entry, dict) and entry.keys() == {"value", "source"}
        if complete and isinstance(entry["source"], str):
            sound[key] = entry["value"]
        else:
            note(f"{where}: {key} needs `value` and `source`, and nothing else; got {entry!r}")
    return _settings(where, sound, note)


def _chosen(value: Any, where: str, protocol: Path, note: Note) -> dict[str, SettingsDict] | None:
    """What validation chose, variant → settings: of Icons-R (true), of a JSON file beside the protocol, or
    nothing (false)."""
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
        name, own = entry, {}
        if not isinstance(entry, str):
            name, own = next(iter(entry.items())) if _one(entry) else (None, None)
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


def of_variant(variant: str, own: SettingsDict, protocol: ProtocolFile) -> list[SettingsDict]:
    """What a variant sets over the protocol, in layers; the later ones have the last word.

    Raises:
        JanusError: a known variant, and validation has not chosen for it yet. One of the file's own needs no
            choice: it may state its settings.
    """
    if variant not in variants.KNOWN:
        return [(protocol.chosen or {}).get(variant, {}), own]
    switches, asked = variants.KNOWN[variant], protocol.variants.get(variant, {})
    return [switches, asked, variants.choice(variant, protocol.chosen)]


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
        if items == []:
            note(f"grid: {key} is empty")
            continue
        if not isinstance(items, list):
            note(f"grid: {key} takes a list of values, got {items!r}")
            continue
        layers = [_settings("grid", {key: item}, note) for item in items]
        if all(layers):
            axes[key] = [layer.get(key, item) for layer, item in zip(layers, items)]
    return axes


def _settings(where: str, values: Any, note: Note) -> SettingsDict | None:
    """Settings by the names they have in the file, their texts read; those that there are not are noted and
    left out. None: these are no settings."""
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
