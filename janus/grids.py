"""Grid files: which runs an experiment consists of, checked as a whole before the first one starts."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import itertools
import re
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import ablation, config, resources
from .config import Config, coerce
from .errors import JanusError, UsageError, together, unknown

KEYS = {"title": "a text", "protocol": "the name of a protocol, or a list of them", "rows": "a list of rows",
        "seeds": "a list of whole numbers", "grid": "settings, each with a list of values", "set": "settings",
        "chosen": "true, false, or the name of a JSON file"}
NEEDED = ("title", "protocol", "rows", "seeds")
PROTOCOL_KEYS = ("title", "chosen", "settings", "rows")
SHOWN = 3  # runs with the same fault that are named; the others are counted
LONGEST = 255  # bytes of a folder's name: the most that file systems in use allow
CLASSES = {"icons-r": 100, "fashion-mnist": 10, "cifar-100": 100, "imagenet-r": 200, "imagenet-100": 100, "tiny-imagenet": 200,
           "domainnet": 345}  # the most there are; a list of classes may take fewer
WIDTHS = {"icons-vit": 192, "photos-vit": 192}  # the project's own backbones, whose module imports timm
HUB = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's prefixes for models that only a network or a folder knows
EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # a number that YAML 1.1 takes for a text
MERGE = "tag:yaml.org,2002:merge"  # `<<: *anchor`, which may be there twice

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
class Wrong:
    """Stands for a value whose fault is noted already, so that the settings beside it are judged all the same."""

    value: Any

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True)
class Protocol:
    """settings: of all runs. rows: row → what its data ask of that row. chosen: row → what validation chose; None: nothing."""

    settings: Layer
    rows: dict[str, Layer]
    chosen: dict[str, Layer] | None


@dataclass(frozen=True)
class Grid:
    title: str
    path: Path
    runs: tuple[Planned, ...]


def load(file: str | Path) -> Grid:
    """Read a grid file and expand it: seeds × protocols × rows × the product of `grid`, in this order.

    A setting comes from the protocol; over it what a row sets (a row of `janus.ablation` brings its switches, over them what the
    protocol says of this row, and its hyper-parameters where the protocol, or over it the grid, says `chosen`: true for those of
    Icons-R, or a file beside the protocol); over that `set`; over all `grid`.

    Judged are the file, each run's settings, and of data and model what `_unfit` can know without opening them.

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
    for name in names:
        if names.count(name) > 1:
            note(f"protocol {name!r} is there twice; leave one out")
    protocols = {str(name): _protocol(name, path, values.get("chosen"), note) for name in names}
    rows = dict(_rows(_list(values, "rows", note, alone=dict), note))
    seeds = [seed for seed in _list(values, "seeds", note) if _seed(seed, note)]
    shared, axes = _settings("set", _mapping(values, "set"), note), _axes(_mapping(values, "grid"), note)
    runs, troubles, long = [], {}, []
    for seed, (protocol, base), (row, own), point in itertools.product(
            seeds, protocols.items(), rows.items(), itertools.product(*axes.values())):
        varied = ({"protocol": Path(protocol).stem} if len(protocols) > 1 else {}) | dict(zip(axes, point)) | {"seed": seed}
        name = "__".join([_plain(ablation.slug(row)), *(f"{key}={_text(value)}" for key, value in varied.items())])
        if len(name.encode()) > LONGEST:
            long.append(name)
        if shared is None or base is None or own is None:
            continue  # its fault is noted already
        try:
            layer = base.settings | _of_row(row, own, base) | shared | dict(zip(axes, point))
        except JanusError as error:
            troubles.setdefault(str(error), []).append(name)
            continue
        wrong = {key for key, value in layer.items() if isinstance(value, Wrong)}
        settings = _joined({key: value for key, value in layer.items() if key not in wrong})
        found = list(config.faults(settings | {"seed": seed}, wrong))
        for text in [*found, *_unfit(settings, wrong)]:
            troubles.setdefault(text, []).append(name)
        if not found and not wrong:
            runs.append(Planned(name, row, Config.create(**settings, seed=seed)))
    for text, names in troubles.items():
        note(f"{some(names)}: {text}")
    if long:
        note(f"names of {len(long)} runs, the first {long[0][:40]}…, are longer than the {LONGEST} bytes that a folder's may have; "
             "give their rows shorter names, or move from `grid` to `set` what does not vary")
    for names in _groups(runs, lambda run: run.name):
        note(f"{len(names)} runs have the name {names[0]}; leave all but one out")
    for names in _groups(runs, lambda run: run.hash):
        if len(set(names)) > 1:
            note(f"{some(names)} are the same run; leave all but one out")
    if not runs and not faults:
        note("it describes no run")
    if faults:
        raise UsageError(f"{path}: {together(list(faults))}")
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


def _protocol(name: Any, grid: Path, chosen: Any, note: Note) -> Protocol | None:
    """A protocol: a name, or a path beside the grid file. chosen: what the grid says about it, None if nothing."""
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
    choices = _chosen(values.get("chosen", False) if chosen is None else chosen, where, path, note)
    rows = values.get("rows") or {}
    if not isinstance(rows, dict):
        note(f"{where}: rows takes rows by name, each with its settings, got {rows!r}")
        rows = {}
    for row in rows:
        if row not in ablation.KNOWN:
            note(f"{where}: {unknown('row', row, ablation.KNOWN)}")
    found = {row: _stated(f"{where}, {row}", rows[row], note) or {} for row in rows}
    settings = _stated(where, values.get("settings"), note)
    return None if settings is None else Protocol(settings, found, choices)


def _stated(where: str, stated: Any, note: Note) -> Layer | None:
    """Settings that each come with a source."""
    if not isinstance(stated, dict):
        return note(f"{where}: no settings (each with a value and a source)")
    sound, unsound = {}, {}
    for key, entry in stated.items():
        if not isinstance(entry, dict) or entry.keys() != {"value", "source"} or not isinstance(entry["source"], str):
            note(f"{where}: {key} needs `value` and `source`, and nothing else; got {entry!r}")
            unsound[key] = Wrong(entry)
        else:
            sound[key] = entry["value"]
    return _settings(where, sound, note) | unsound


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


def _of_row(row: str, own: Layer, protocol: Protocol) -> Layer:
    """What a row sets over the protocol. JanusError: validation has not chosen for it yet."""
    if row not in ablation.KNOWN:
        return own
    return ablation.KNOWN[row] | protocol.rows.get(row, {}) | ablation.choice(row, protocol.chosen)


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
            note(f"grid: {key} takes a list of values, got {items!r}" if items != [] else f"grid: {key} is empty")
            axes[key] = [Wrong(items)]
            continue
        layers = [_settings("grid", {key: item}, note) for item in items]
        if all(key in layer for layer in layers):
            axes[key] = [layer[key] for layer in layers]
    return axes


def _settings(where: str, values: Any, note: Note) -> Layer | None:
    """Names and types of settings; those that exist, `Wrong` where a value is of the wrong type. None: these are no settings."""
    if not isinstance(values, dict):
        return note(f"{where} takes settings by name, got {values!r}")
    hints, found = typing.get_type_hints(Config), {}
    known = [field.name for field in dataclasses.fields(Config) if field.name != "seed"]
    for key, value in values.items():
        if key == "seed":
            note(f"{where}: seed is not set here; `seeds` of the grid states them")
        elif isinstance(key, str) and key.startswith("data."):
            found[key] = float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value
        elif key not in known:
            note(f"{where}: {unknown('setting', key, known)}")
        else:
            try:
                found[key] = coerce(key, value, hints[key])
            except UsageError as error:
                found[key] = Wrong(value)
                note(f"{where}: {error}")
    return found


def _joined(settings: Layer) -> Layer:
    """`data.strength: 0.5` → `data: {strength: 0.5}`, as the command line reads it."""
    plain = {key: value for key, value in settings.items() if not key.startswith("data.")}
    options = {key[5:]: value for key, value in settings.items() if key.startswith("data.")}
    return plain | {"data": plain.get("data", {}) | options} if options else plain


# ── what a run would find out only when it starts ───────────────────────────────────────────────────────────────────────


def _unfit(settings: Layer, wrong: Collection[str]) -> Iterator[str]:
    """What data and model will not take, as far as names and known sizes tell: no image is opened, no model built or fetched, and
    timm, which takes seconds to import, is asked for its names through its source text.

    Left to the run are a path that is not there (it may be where the runs are), the classes in a folder; a model of timm that has
    no attention or is narrower than `rank`, its tag, a model of the hub; and weights that are missing or do not fit.
    wrong: settings whose values are not known.
    """
    from .vit import target_faults

    known = {field.name: field.default for field in dataclasses.fields(Config)} | {"data": {}} | settings
    known = {key: value for key, value in known.items() if key not in wrong}
    if {"dataset", "root", "data"} <= known.keys():
        yield from _unfit_data(known["dataset"], known["root"], known["data"], wrong)
    if {"dataset", "data", "tasks"} <= known.keys():
        yield from _unfit_tasks(known["dataset"], known["data"], known["tasks"], known.get("method"))
    if "model" in known:
        yield from _unfit_model(known["model"], known.get("rank"), known.get("weights", ""))
    if "targets" in known:
        yield from target_faults(known["targets"])


def _unfit_data(name: str, root: str | None, data: Layer, wrong: Collection[str]) -> Iterator[str]:
    from . import datasets, splits

    places = [Path(root).expanduser()] if root else [Path(), resources.home() or Path()]
    if name.startswith("hf:"):
        kinds = ["hf:"]
    elif name in datasets.SETS:
        kinds = [name]
    elif re.search(r"[/\\*?~]|^\.|\.parquet$", name) or name and any((place / name).exists() for place in places):
        kinds = ["imagefolder", "parquet"]  # which of the two, only its files say
    else:
        yield str(unknown("dataset", name, datasets.SETS))
        return
    options = {option for kind in kinds for option in inspect.signature(datasets.SETS[kind][0]).parameters} | {*datasets.COMMON}
    options -= {"name", "root", "tell", "common"}  # no settings below `data`
    for option in data:
        if option not in options:
            yield str(unknown(f"option of dataset {name}", option, options))
    yield from dict.fromkeys(fault for kind in kinds for fault in datasets.option_faults(datasets.SETS[kind][0], data, "data."))
    if data.get("cache", "auto") not in datasets.CACHES:
        yield str(unknown("cache", data["cache"], datasets.CACHES))
    if name == "imagenet-100" and data.get("class_list") is None and "data.class_list" not in wrong:
        yield splits.IMAGENET_100


def _unfit_tasks(name: str, data: Layer, tasks: int, method: str | None) -> Iterator[str]:
    from . import methods

    kind, most = methods.all_methods().get(method), CLASSES.get(name)
    alone = kind is None or kind.joint  # one task, whatever `tasks` says; of a method that there is not nothing is known
    if most and tasks > most and not alone and not data.get("vocabulary"):  # this adds classes to those of Icons-R
        yield f"tasks={tasks} is more than {name} has classes; choose {most} at most"


def _unfit_model(name: str, rank: int | None, weights: str | None) -> Iterator[str]:
    if fault := _unknown_model(name):
        yield fault
    if name == "photos-vit" and weights is None:
        yield resources.NO_PHOTOS
    if weights not in (None, "", "random") and not weights.endswith(".safetensors"):
        yield f"weights={weights} {resources.PICKLED}"
    if rank and rank > WIDTHS.get(name, rank):
        yield f"rank {rank} does not fit {name}: choose a whole number from 1 to {WIDTHS[name]}"


@cache
def _unknown_model(name: str) -> str | None:
    """What is wrong with a model's name, without the tag of its weights."""
    (text, names), model = _timm(), name.partition(".")[0]
    if name in WIDTHS or name.startswith(HUB) or not names:  # none: a timm that is written otherwise, so nothing is known
        return None
    if model in names or model and re.search(rf"['\"]{re.escape(model)}['\"]", text):  # in quotes: an old name among others
        return None
    near = difflib.get_close_matches(name, names | WIDTHS.keys(), n=1, cutoff=0.5)
    return f"unknown model {name!r}: " + (f"did you mean {near[0]!r}?" if near else "`janus models` lists them")


@cache
def _timm() -> tuple[str, set[str]]:
    """The source text of timm's models, and the names of those that it registers there: a tenth of a second, without an import."""
    spec = find_spec("timm")
    folders = [Path(place) / "models" for place in (spec and spec.submodule_search_locations) or ()]
    text = "\n".join(file.read_text(encoding="utf-8") for folder in folders for file in sorted(folder.glob("*.py")))
    return text, set(re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE))


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


def some(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
