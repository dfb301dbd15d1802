"""Where the files are that a run's settings name by relative paths.

A run can thus be resumed from any working directory. The settings stay as they were written, and so does the
hash, which no machine's folders may change. What is kept beside them, in `runtime.folder`, is the folder in
which the run began.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config import Config
from ..configure import changed, flat
from ..data import registry

LOCAL = "local-dir:"  # timm's prefix for the folder of a backbone
NAMED = ("data.dataset", "backbone.weights")  # one path each, which is hashed


def with_folder(config: Config, before: Mapping[str, Any]) -> Config:
    """The config with the folder that its relative paths start from.

    It is that of the run it goes on with, else the working directory if any of them is there. before:
    settings of the run that it goes on with, by full path; empty for a new run. Where both name one place in
    other words, the run's words stand.
    """
    folder, now = before.get("runtime.folder"), flat(config)
    words = {}
    for key in NAMED:
        old, new = before.get(key), now[key]
        if old and new and old != new and _place(old, folder) == _place(new, None):
            words[key] = old
    folder = config.runtime.folder or folder
    if folder is None and any(_is_there(Path(_bare(path))) for _, path in _relative(config)):
        folder = str(Path.cwd())
    found = words | ({"runtime.folder": folder} if folder else {})
    return changed(config, found) if found else config


def folder_of(out: str | Path | None) -> dict[str, str]:
    """Where the run in `out`, if any, began: a setting by name, for a layer below those that are given."""
    if out is None or not (file := Path(out) / "checkpoint.safetensors").exists():
        return {}
    from .checkpoint import header  # torch, which a new run's command does not wait for

    folder = flat(header(file).get("config", {})).get("runtime.folder")
    return {"runtime.folder": folder} if folder else {}


def resolved(config: Config) -> Config:
    """The config with the paths by which its files are opened.

    A relative one starts from `runtime.folder` if it is there, else, as it stands, from the working
    directory.
    """
    folder, found = config.runtime.folder, {}
    for key, path in _relative(config) if folder else ():
        place = Path(folder, _bare(path))
        prefix = path.removesuffix(_bare(path))
        found.setdefault(key, []).append(f"{prefix}{place}" if _is_there(place) else path)
    several = {"data.split_files"}
    return changed(config, {k: v if k in several else v[0] for k, v in found.items()}) if found else config


def _relative(config: Config) -> Iterator[tuple[str, str]]:
    """Full path of a setting, and a relative path that it holds.

    A name of a data set is none, whatever the folder holds.
    """
    data, options, root = config.data.dataset, config.data.options, config.runtime.root
    lists = [options["class_list"]] if options.get("class_list") not in (None, "own") else []
    # with a root, it is below that
    is_name = data in registry.DATASETS or data.startswith("hf:") or root is not None
    found = [
        ("data.dataset", [] if is_name else [data]),
        ("runtime.root", [root] if root else []),
        ("data.class_list", lists),
    ]
    found += [("data.split_files", list(options.get("split_files") or ()))]
    found += [("backbone.weights", [w] if (w := config.backbone.weights) not in (None, "random") else [])]
    found += [("backbone.model", [m] if (m := config.backbone.model).startswith(LOCAL) else [])]
    for key, paths in found:
        if not all(Path(_bare(path)).expanduser().is_absolute() for path in paths):
            yield from ((key, path) for path in paths)


def _bare(path: str) -> str:
    return path.removeprefix(LOCAL)


def _is_there(place: Path) -> bool:
    return place.exists() or bool(glob.glob(str(place)))  # the name of a data set may be a pattern


def _place(path: str, folder: str | None) -> Path:
    """The one place that a path means, from its folder if it is there, else from the working directory."""
    place = Path(folder or "", Path(path).expanduser())
    return (place if _is_there(place) else Path(path).expanduser()).resolve()
