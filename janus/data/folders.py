"""Image folders as people have them: a folder a class, below train/, val/ and test/ or not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UsageError
from . import sources
from .sources import SPLITS, Source, file_identity
from .walk import EXTENSIONS, Walk, below, children, counted, identity, images, nfc

PUT = "put the images into one folder per class"


def folder(root: Path) -> Source:
    """One folder a class, its images at any depth; either below train/, val/ and test/ or directly in `root`.

    Class names are the folder names, sorted; hidden files are ignored. A folder around all of them, as
    archives unpack, is seen through; a val/ or test/ without labels is left out; what is left out is in the
    notes. UsageError: no class folders, a class without images, a file that links put into two splits or two
    classes, two folders for one split.
    """
    walk, notes = Walk(EXTENSIONS), []
    place = _inside(root, walk)
    if place != root:
        notes.append(f"read from {below(place, root)}, the one folder in it")
    classes = _class_folders(place, walk, notes)
    found = []
    for split, folders in classes.items():
        for c in folders:
            found += [(f, nfc(c.name), split) for f in _images(c, split, walk)]
    names = sorted({name for _, name, _ in found})
    if any(len({nfc(c.name) for c in folders}) < len(folders) for folders in classes.values()):
        notes.append(
            "folders whose names differ only in how accents are stored (Unicode NFC, NFD) are one class"
        )
    notes += _left_out(root, place, classes, walk)
    number = {name: i for i, name in enumerate(names)}
    return Source(
        fetch=lambda i: found[i][0],
        name=lambda i: str(found[i][0]),
        labels=[number[name] for _, name, _ in found],
        splits=[split for _, _, split in found],
        classes=names,
        notes=notes,
        identity=lambda: file_identity([path for path, _, _ in found]),
        key=lambda i: nfc("\0".join(found[i][0].parts[len(place.parts) :])),  # sorts as the paths do
    )


def _left_out(root: Path, place: Path, classes: dict[str, list[Path]], walk: Walk) -> list[str]:
    """Notes on what was found and is not used."""
    parts = dict.fromkeys([place, *(c.parent for folders in classes.values() for c in folders)])
    loose = [f for part in parts for f in images(part)]
    tables = [f for f in walk.others if _is_table(f)]
    tables += [f for part in parts for f, _ in children(part) if _is_table(f)]
    others = [f for f in walk.others if not _is_table(f)]
    among = "among the class folders and not used; give its own path to read it instead"
    return [
        *counted(loose, "image", "in no class folder and not used", root),
        *counted(tables, "parquet file", among, root),
        *counted(walk.links, "link", "to what was read already, or to a folder around it, left out", root),
        *counted(others, "file", "without an image extension ignored", root),
    ]


def has_class_folders(root: Path) -> bool:
    """Whether there is anything that `folder` could read."""
    return bool(Walk(EXTENSIONS).folders(root))


def kind(path: Path, given: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> str:
    """How to read what is at a path, "imagefolder" or "parquet": as the kind of which it holds more images.

    given: the options that were given; one about columns is for tables. usual: those that hold where none was
    given. Tables without an image and a label column do not count, unless there is nothing else.
    """
    if not path.is_dir() or any(option in sources.COLUMNS for option in given):
        return "parquet"
    tables = sources.parquet_files(path)
    if not tables:
        return "imagefolder"
    walk = Walk(EXTENSIONS, once=False)
    held = sum(len(walk.files(part)) for part in walk.folders(path))
    columns = {option: value for option, value in (usual or {}).items() if option in sources.COLUMNS}
    return "imagefolder" if held and held >= sources.labelled_rows(tables, **columns) else "parquet"


def _inside(root: Path, walk: Walk) -> Path:
    """The folder that holds the class folders or the splits.

    It is `root`, or, where each from `root` on holds nothing but one folder, the first that holds several.
    """
    place, been = root, {identity(root)}
    while len(inside := walk.folders(place)) == 1 and inside[0].name.lower() not in SPLITS:
        (place,) = inside
        if images(place) or identity(place) in been:
            return root  # one class; or links in a circle
        been.add(identity(place))
    return place if inside else root


def _splits(place: Path, walk: Walk) -> dict[str, Path]:
    """The folders of a place that are called as splits are."""
    found: dict[str, Path] = {}
    for part in walk.folders(place):
        split = SPLITS.get(part.name.lower())
        if split in found:
            raise UsageError(f"{part} and {found[split]} are both the {split} split; keep one of them")
        if split:
            found[split] = part
    return found


def _class_folders(place: Path, walk: Walk, notes: list[str]) -> dict[str, list[Path]]:
    """Each split's class folders; "" is the split of a place without splits."""
    parts = _splits(place, walk)
    classes = {split: walk.folders(part) for split, part in (parts or {"": place}).items()}
    known = {nfc(c.name) for c in classes.get("train", ())}
    for split in ("val", "test"):
        part, folders = parts.get(split), classes.get(split, [])
        # such as test/unknown/, test/images/
        strange = len(folders) == 1 < len(known) and nfc(folders[0].name) not in known
        if part is None or not known or folders and not strange:
            continue
        del classes[split]
        held = "no class folders"
        if folders:
            held = f"only the folder {folders[0].name!r}, which is no class of train/"
        notes.append(f"{part.name}/ is not used: it holds {held}, so its images have no labels")
    beside = [f.name for f in walk.folders(place) if f not in parts.values()] if parts else []
    if beside:
        used = ", ".join(sorted(parts[split].name for split in classes))
        notes.append(f"only {used} are used, not {', '.join(beside)} beside them")
    for split, folders in classes.items():
        if not folders:
            raise UsageError(f"no class folders in {parts.get(split, place)}: {PUT}")
    return classes


def _images(folder: Path, split: str, walk: Walk) -> list[Path]:
    """The images of a class. UsageError: there are none."""
    links, others, found = len(walk.links), len(walk.others), walk.files(folder, split, nfc(folder.name))
    twin = len(walk.links) > links  # another folder of this class had them
    if not found and not twin and not any(map(_is_table, walk.others[others:])):
        raise UsageError(
            f"class folder {folder} has no images ({' '.join(sorted(EXTENSIONS))}); fill or remove it"
        )
    return found


def _is_table(path: Path) -> bool:
    return path.suffix == ".parquet"
