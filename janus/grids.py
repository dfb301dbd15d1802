"""Grid files: which runs an experiment consists of, checked as a whole before the first one starts."""

from __future__ import annotations

import dataclasses
import itertools
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from . import ablation, resources
from .config import Config, coerce
from .errors import JanusError, UsageError, unknown

KEYS = {"title": "a text", "protocol": "the name of a protocol, or a list of them", "rows": "a list of rows",
        "seeds": "a list of whole numbers", "grid": "settings, each with a list of values", "set": "settings",
        "chosen": "true, false, or the name of a JSON file"}
NEEDED = ("title", "protocol", "rows", "seeds")
PROTOCOL_KEYS = ("title", "chosen", "settings")
SHOWN = 3  # runs with the same fault that are named; the others are counted

Note = Callable[[str], None]
Layer = dict[str, Any]


@dataclass(frozen=True)
class Planned:
    """One run of a grid: its name, which is its folder's, the row it belongs to, and everything that is set."""

    name: str
    row: str
    config: Config

    @cached_property
    def hash(self) -> str:
        return self.config.hash()


@dataclass(frozen=True)
class Grid:
    title: str
    path: Path
    runs: tuple[Planned, ...]


def load(file: str | Path) -> Grid:
    """Read a grid file and expand it: seeds × protocols × rows × the product of `grid`, in this order.

    A setting comes from the protocol; over it what a row sets (a row of `janus.ablation` brings its switches, and its
    hyper-parameters where the protocol, or over it the grid, says `chosen`: true for those of Icons-R, or a file beside the
    protocol); over that `set`; over all `grid`.

    Args:
        file: a path, or the name of a grid that comes with janus ("icons_r/table1_ablation").

    Raises:
        UsageError: everything that is wrong with the file and the runs it describes, in one message.
    """
    path = find(file)
    values, faults = parse(path), {}
    note: Note = lambda text: faults.setdefault(text)  # noqa: E731
    for key in values:
        if key not in KEYS:
            note(str(unknown("key", key, KEYS)))
    for key in NEEDED:
        if key not in values:
            note(f"no {key!r} ({KEYS[key]})")
    title = values.get("title", "")
    if not isinstance(title, str):
        note(f"title takes a text, got {title!r}")
    names = _list(values, "protocol", note, alone=str)
    protocols = {str(name): _protocol(name, path, values.get("chosen"), note) for name in names}
    rows = dict(_rows(_list(values, "rows", note, alone=dict), note))
    seeds = [seed for seed in _list(values, "seeds", note) if _seed(seed, note)]
    shared, axes = _settings("set", _mapping(values, "set"), note), _axes(_mapping(values, "grid"), note)
    runs, troubles, broken = [], {}, any(layer is None for layer in (shared, *axes.values()))
    for seed, (protocol, base), (row, own), point in itertools.product(
            seeds, protocols.items(), rows.items(), itertools.product(*(axes.values() if not broken else ()))):
        varied = ({"protocol": Path(protocol).stem} if len(protocols) > 1 else {}) | dict(zip(axes, point)) | {"seed": seed}
        name = "__".join([_plain(ablation.slug(row)), *(f"{key}={_text(value)}" for key, value in varied.items())])
        if broken or base is None or own is None:
            continue  # its fault is noted already
        try:
            settings = base[1] | _of_row(row, own, base[0]) | shared | dict(zip(axes, point))
            runs.append(Planned(name, row, Config.create(**_joined(settings), seed=seed)))
        except JanusError as error:
            troubles.setdefault(str(error), []).append(name)
    for text, names in troubles.items():
        note(f"{_some(names)}: {text}")
    for names in _groups(runs, lambda run: run.name):
        note(f"{len(names)} runs have the name {names[0]}; leave all but one out")
    for names in _groups(runs, lambda run: run.hash):
        if len(set(names)) > 1:
            note(f"{_some(names)} are the same run; leave all but one out")
    if not runs and not faults:
        note("it describes no run")
    if faults:
        found = list(faults)
        raise UsageError(f"{path}: {found[0]}" if len(found) == 1 else
                         f"{path}: {len(found)} faults: " + "; ".join(f"({n}) {text}" for n, text in enumerate(found, 1)))
    return Grid(title, path, tuple(runs))


def find(file: str | Path) -> Path:
    """A grid's path; one that comes with janus is found by its name. UsageError: there is none."""
    path = Path(file)
    if path.is_file():
        return path
    known = resources.benchmarks("grids")
    if (known / f"{file}.yaml").is_file():
        return known / f"{file}.yaml"
    if path.suffix in (".yaml", ".yml"):
        raise UsageError(f"no grid file {path}")
    raise unknown("grid", file, (p.relative_to(known).with_suffix("").as_posix() for p in known.rglob("*.yaml")))


def parse(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping, without executing anything. UsageError: it cannot be read, or a key is there twice."""
    try:
        import yaml
    except ImportError:
        raise JanusError("grid files need pyyaml: pip install 'janus-lora[bench]'") from None

    class Loader(yaml.SafeLoader):
        """PyYAML keeps the last of two equal keys and says nothing."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
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


def _protocol(name: Any, grid: Path, chosen: Any, note: Note) -> tuple[dict[str, Layer] | None, Layer] | None:
    """(what validation chose for each row, or None, settings) of a protocol: a name, or a path beside the grid file.

    chosen: what the grid says about it, None if nothing.
    """
    if not isinstance(name, str):
        return note(f"protocol takes {KEYS['protocol']}, got {name!r}")
    folder = resources.benchmarks("protocols")
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
    choices, stated = _chosen(values.get("chosen", False) if chosen is None else chosen, where, path, note), values.get("settings")
    if not isinstance(stated, dict):
        return note(f"{where}: no 'settings' (each with a value and a source)")
    for key, entry in stated.items():
        if not isinstance(entry, dict) or entry.keys() != {"value", "source"} or not isinstance(entry["source"], str):
            return note(f"{where}: {key} needs `value` and `source`, and nothing else; got {entry!r}")
    settings = _settings(where, {key: entry["value"] for key, entry in stated.items()}, note)
    return None if settings is None else (choices, settings)


def _chosen(value: Any, where: str, protocol: Path, note: Note) -> dict[str, Layer] | None:
    """What validation chose, row → settings: of Icons-R (true), of a JSON file beside the protocol, or nothing (false)."""
    if isinstance(value, bool):
        return ablation.chosen() if value else None
    if not isinstance(value, str):
        return note(f"{where}: chosen takes {KEYS['chosen']}, got {value!r}")
    try:
        return ablation.chosen(protocol.parent / value)
    except JanusError as error:
        return note(f"{where}: {error}")


def _rows(entries: list[Any], note: Note) -> Iterator[tuple[str, Layer | None]]:
    """Row → the settings it has of its own in the file ({} for a row of `janus.ablation`)."""
    known, seen = ablation.KNOWN, set()
    for entry in entries:
        name, own = (entry, {}) if isinstance(entry, str) else next(iter(entry.items())) if _one(entry) else (None, None)
        if not isinstance(name, str):
            note(f"rows takes names, or a name with settings, got {entry!r}")
        elif isinstance(entry, str) and name not in known:
            note(str(unknown("row", name, known)))
        elif name in seen:
            note(f"row {name!r} is there twice")
        elif not isinstance(entry, str) and name in known:
            note(f"row {name!r} is a row of janus already; give yours another name")
        else:
            seen.add(name)
            yield name, _settings(f"row {name!r}", own, note)


def _one(entry: Any) -> bool:
    return isinstance(entry, dict) and len(entry) == 1


def _of_row(row: str, own: Layer, chosen: dict[str, Layer] | None) -> Layer:
    """What a row sets over the protocol. JanusError: validation has not chosen for it yet."""
    if row not in ablation.KNOWN:
        return own
    return ablation.switched(row, chosen)


def _seed(seed: Any, note: Note) -> bool:
    good = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
    if not good:
        note(f"seeds takes whole numbers from 0 on, got {seed!r}")
    return good


def _axes(values: Any, note: Note) -> dict[str, list[Any] | None]:
    """Setting → the values it takes."""
    if not isinstance(values, dict):
        note(f"grid takes {KEYS['grid']}, got {values!r}")
        return {}
    axes: dict[str, list[Any] | None] = {}
    for key, items in values.items():
        if not isinstance(items, list) or not items:
            note(f"grid: {key} takes a list of values, got {items!r}" if items != [] else f"grid: {key} is empty")
            axes[key] = None
            continue
        layers = [_settings("grid", {key: item}, note) for item in items]
        if all(layer is not None and key in layer for layer in layers):
            axes[key] = [layer[key] for layer in layers]
        elif None in layers:
            axes[key] = None
    return axes


def _settings(where: str, values: Any, note: Note) -> Layer | None:
    """Names and types of settings; those that exist, or None where a value is of the wrong type or not allowed."""
    if not isinstance(values, dict):
        return note(f"{where} takes settings by name, got {values!r}")
    hints, good, sound = typing.get_type_hints(Config), {}, True
    known = [field.name for field in dataclasses.fields(Config) if field.name != "seed"]
    for key, value in values.items():
        try:
            if key == "seed":
                raise UsageError("seed is not set here; `seeds` of the grid states them")
            if isinstance(key, str) and key.startswith("data."):
                good[key] = value
            elif key not in known:
                note(f"{where}: {unknown('setting', key, known)}")  # the others can still be looked at together
            else:
                good[key] = coerce(key, value, hints[key])
        except UsageError as error:
            sound = False
            note(f"{where}: {error}")
    return good if sound else None


def _joined(settings: Layer) -> Layer:
    """`data.strength: 0.5` → `data: {strength: 0.5}`, as the command line reads it."""
    plain = {key: value for key, value in settings.items() if not key.startswith("data.")}
    options = {key[5:]: value for key, value in settings.items() if key.startswith("data.")}
    return plain | {"data": plain.get("data", {}) | options} if options else plain


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


def _groups(runs: list[Planned], key: Callable[[Planned], str]) -> list[list[str]]:
    """Names of the runs that share a key with another one, together."""
    groups: dict[str, list[str]] = {}
    for run in runs:
        groups.setdefault(key(run), []).append(run.name)
    return [names for names in groups.values() if len(names) > 1]


def _some(names: list[str]) -> str:
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
