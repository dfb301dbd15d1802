"""Splits and class lists that come as files: which images are for training or testing, which classes count.

Every list that is used is named in the data set's notes with its SHA-256, so that a result says which split
it is about.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import yaml

from ..errors import JanusError, UsageError, unknown
from .sources import Source, file_identity, split_of
from .walk import Claims, children, images, nfc


@dataclass(frozen=True)
class Entry:
    """One line of a list: an image's path as written there, its label, "train" or "test", the list's file."""

    path: str
    label: int
    split: str
    file: Path


def locate(file: str | Path, root: Path | None) -> Path:
    """`file` as it stands, else below `root` (or its `splits` folder).

    UsageError names the places it is not at.
    """
    given = Path(file).expanduser()
    places = [given]
    if root is not None and not given.is_absolute():
        places += [root / given, root / "splits" / given]
    for place in places:
        if place.is_file():
            return place
    raise UsageError(f"no list file at {' or '.join(map(str, places))}")


def named_files(value: object) -> list[str]:
    """File names of an option: a sequence, or one text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    several = isinstance(parts, (list, tuple)) and parts
    if not several or not all(isinstance(p, (str, Path)) and str(p).strip() for p in parts):
        raise UsageError(f"split_files takes file names, e.g. [train.yaml, test.yaml], not {value!r}")
    return [str(p).strip() for p in parts]


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def text_of(file: Path) -> str:
    """The text of a list, with or without the mark that Windows puts in front. JanusError: not UTF-8."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise JanusError(f"cannot read the list {file} ({error}); save it as UTF-8 text") from error


def yaml_lists(value: object, root: Path) -> list[Entry]:
    """The entries of a training and a test list as they circulate with CODA-Prompt's code.

    Each file maps `data` to relative image paths (`./data/imagenet-r/n01443537/art_0.jpg`) and `targets` to
    whole numbers. A file's split is the word in its name (imagenet-r_train.yaml); two files whose names say
    nothing are train, then test. JanusError: not such a file. UsageError: a file that is not there, or not
    one of each split.
    """
    files = [locate(f, root) for f in named_files(value)]
    found = [split_of(f) for f in files]
    if found == ["", ""]:
        found = ["train", "test"]
    if sorted(found) != ["test", "train"]:
        raise UsageError(
            f"split_files takes one training and one test list, not {', '.join(map(str, files))}"
        )
    return [entry for file, split in zip(files, found) for entry in _yaml_entries(file, split)]


def _yaml_entries(file: Path, split: str) -> Iterable[Entry]:
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C: 30 000 paths in seconds
        content = yaml.load(text_of(file), Loader=loader)
    except yaml.YAMLError as error:
        raise JanusError(
            f"cannot read the list {file} ({' '.join(str(error).split())}); is it complete?"
        ) from error
    paths, labels = (content.get(k) if isinstance(content, dict) else None for k in ("data", "targets"))
    if not isinstance(paths, list) or not isinstance(labels, list):
        raise JanusError(
            f"{file} is not a split list: it needs the keys data (image paths) and targets (whole numbers)"
        )
    if len(paths) != len(labels):
        raise JanusError(f"{file} lists {len(paths)} images and {len(labels)} targets")
    for path, label in zip(paths, labels):
        if not isinstance(path, str) or isinstance(label, bool) or not isinstance(label, int):
            raise JanusError(
                f"{file} lists {path!r} with target {label!r}; it takes a path and a whole number"
            )
        yield Entry(path, label, split, file)


def text_lists(files: Sequence[Path]) -> list[Entry]:
    """The entries of DomainNet's lists, `<domain>_train.txt` and `<domain>_test.txt`.

    One `path label` a line. UsageError: a list whose name does not say its split, a domain with one list
    only. JanusError: a line of another form.
    """
    entries, seen = [], set()
    for file in files:
        split = split_of(file)
        if split not in ("train", "test"):
            raise UsageError(f"the name of {file} must say train or test, as in clipart_train.txt")
        seen.add((file.stem.removesuffix("_" + split), split))
        for number, line in enumerate(text_of(file).splitlines(), 1):
            path, _, label = line.strip().rpartition(" ")
            if not line.strip():
                continue
            if not path or not label.isdecimal():
                raise JanusError(f"{file} line {number} is not 'path label' but {line.strip()!r}")
            entries.append(Entry(path.strip(), int(label), split, file))
    for domain, split in sorted(seen):
        other = "test" if split == "train" else "train"
        if (domain, other) not in seen:
            raise UsageError(f"{domain} has a {split} list and no {domain}_{other}.txt beside it")
    return entries


def listed(entries: list[Entry], root: Path, styled: bool = False) -> Source:
    """The images of lists, found below `root`.

    Path endings are `<class>/<file>`, or `<domain>/<class>/<file>` with `styled`. Leading folders of a path
    (`./data/imagenet-r/`) are those of the list's author and are not used. Class names are the folders,
    numbered as the lists number them. UsageError: a listed image that is not there, one that is listed twice
    or in both splits (under another name, too, if that is a link), a label that goes with two folders or a
    folder with two labels, labels with gaps.
    """
    depth = 3 if styled else 2
    bases = [b for b in (root, root / "imagenet-r", root / "train", root / "test") if b.is_dir()]
    names: dict[int, str] = {}
    numbers: dict[str, int] = {}
    where: dict[str, Entry] = {}
    paths: list[Path] = []
    claims = Claims()
    for entry in entries:
        parts = PurePosixPath(entry.path).parts[-depth:]
        if len(parts) < depth or ".." in parts:
            raise UsageError(
                f"{entry.file} lists {entry.path!r}, which has no class folder in front of the file"
            )
        key, folder = nfc("/".join(parts)), nfc(parts[-2])
        if other := where.get(key):
            what = f"twice in the {entry.split} list"
            if other.split != entry.split:
                what = f"in both {other.file} and {entry.file}"
            raise UsageError(f"image {key} is {what}; a split lists every image once")
        where[key] = entry
        _keep_step(entry, key, folder, names, numbers)
        path = _file_of("/".join(parts), bases)
        if path is None:
            raise UsageError(
                f"{entry.file} lists {entry.path}, which is not there as {root / key}; is the set complete?"
            )
        if not claims.take(path, entry.split, folder):
            raise UsageError(
                f"{entry.file} lists {entry.path}, which is an image listed before, through a link; "
                "leave it out"
            )
        paths.append(path)
    classes = _by_number(names)
    files = list(dict.fromkeys(e.file for e in entries))
    notes = [f"split by the list {f.name} (sha256 {sha256(f)})" for f in files]
    styles = sorted({key.split("/")[0] for key in where}) if styled else None
    notes += _left_over(root, paths)
    keys = list(where)
    return Source(
        fetch=paths.__getitem__,
        name=lambda i: str(paths[i]),
        labels=[e.label for e in entries],
        splits=[e.split for e in entries],
        classes=classes,
        styles=styles,
        style_of=[styles.index(key.split("/")[0]) for key in keys] if styles else None,
        notes=notes,
        identity=lambda: file_identity(paths),
        key=keys.__getitem__,
    )


def _keep_step(entry: Entry, key: str, folder: str, names: dict[int, str], numbers: dict[str, int]) -> None:
    """Note that an entry's label and its class folder go together. UsageError: one has another partner."""
    if (named := names.setdefault(entry.label, folder)) != folder:
        raise UsageError(
            f"{entry.file}: label {entry.label} of {key} is out of step with the folder: it is also {named}'s"
        )
    if (number := numbers.setdefault(folder, entry.label)) != entry.label:
        raise UsageError(
            f"{entry.file}: label {entry.label} of {key} is out of step with the folder, "
            f"which also has {number}"
        )


def _by_number(names: dict[int, str]) -> list[str]:
    """The class names in the order of their numbers. UsageError: a number is left out."""
    gap = next((i for i in range(len(names)) if i not in names), None)
    if gap is not None:
        raise UsageError(
            f"the lists number {len(names)} classes and none of them {gap}; "
            f"labels must be 0 … {len(names) - 1}"
        )
    return [names[i] for i in range(len(names))]


def _file_of(ending: str, bases: list[Path]) -> Path | None:
    """The file with this path ending below one of the folders, by the list's spelling or by a disk's."""
    key = nfc(ending)
    spellings = dict.fromkeys([ending, key, unicodedata.normalize("NFD", key)])
    return next((b / k for b in bases for k in spellings if (b / k).is_file()), None)


def _left_over(root: Path, used: list[Path]) -> list[str]:
    """A note on images beside the listed ones, in the same class folders."""
    taken = set(used)
    beside = sum(file not in taken for folder in sorted({p.parent for p in used}) for file in images(folder))
    return [f"{beside} images in its class folders are in no list and are not used"] if beside else []


def class_list(file: Path) -> list[str]:
    """The names in a class list: one a line, empty lines and those that start with # left out.

    UsageError: none, or one twice.
    """
    lines = [line.strip() for line in text_of(file).splitlines()]
    names = [nfc(line) for line in lines if line and not line.startswith("#")]
    if not names:
        raise UsageError(f"the class list {file} is empty; it takes one class name (or wnid) a line")
    again = next((n for i, n in enumerate(names) if n in names[:i]), None)
    if again:
        raise UsageError(f"the class list {file} names {again!r} twice")
    return names


def only(source: Source, file: Path) -> Source:
    """The images of the classes that a class list names, numbered in the list's order.

    A line is a class name, or a wnid with anything behind it. UsageError: a class that the source does not
    have.
    """
    lines = class_list(file)
    known = {name: i for i, name in enumerate(source.classes)}
    chosen: list[str] = []
    for line in lines:
        name = line if line in known else line.split()[0]
        if name not in known:
            raise UsageError(f"{file}: {unknown('class of the list', line, known)}")
        chosen.append(name)
    number = {known[name]: i for i, name in enumerate(chosen)}
    rows = [i for i, label in enumerate(source.labels) if label in number]
    note = f"{len(chosen)} of {len(known)} classes by the list {file.name} (sha256 {sha256(file)})"
    return replace(
        pick(source, rows),
        labels=[number[source.labels[i]] for i in rows],
        classes=chosen,
        notes=[*source.notes, note],
    )


def pick(source: Source, rows: list[int]) -> Source:
    """The images `rows` of a source, in that order."""
    identity, key = source.identity, source.key

    def picked() -> str:
        return f"{identity()} rows {hashlib.sha256(repr(rows).encode()).hexdigest()}"

    return replace(
        source,
        fetch=lambda i: source.fetch(rows[i]),
        name=lambda i: source.name(rows[i]),
        labels=[source.labels[i] for i in rows],
        splits=[source.splits[i] for i in rows],
        style_of=None if source.style_of is None else [source.style_of[i] for i in rows],
        identity=None if identity is None else picked,
        key=None if key is None else lambda i: key(rows[i]),
    )


def tiny_imagenet(root: Path) -> Source:
    """Tiny-ImageNet as its zip unpacks: train/<wnid>/images/*.JPEG, val/images/*, val/val_annotations.txt.

    The 10 000 validation images are the test split, as in the field; the zip's own test images have no
    labels. UsageError: a folder or an annotated image that is not there, an annotation of an unknown class,
    one file in both through a link.
    """
    if not (root / "train").is_dir():
        raise UsageError(
            f"{root} has val/val_annotations.txt and no train folder; unpack tiny-imagenet-200.zip again"
        )
    claims = Claims()
    folders = [folder for folder, is_folder in children(root / "train") if is_folder]
    wnids = [folder for folder in folders if (folder / "images").is_dir()]
    train = [(f, c.name) for c in wnids for f in images(c / "images") if claims.take(f, "train", c.name)]
    known = {name for _, name in train}
    annotations = root / "val" / "val_annotations.txt"
    held = []
    for number, line in enumerate(text_of(annotations).splitlines(), 1):
        name, _, rest = line.partition("\t")
        wnid = rest.split("\t")[0].strip()
        if not line.strip():
            continue
        file = root / "val" / "images" / name
        if wnid not in known:
            raise UsageError(f"{annotations} line {number}: class {wnid!r} has no images in {root / 'train'}")
        if not file.is_file():
            raise UsageError(
                f"{annotations} line {number}: {file} is not there; unpack tiny-imagenet-200.zip again"
            )
        if claims.take(file, "test", wnid):
            held.append((file, wnid))
    names = sorted(known)
    number_of = {name: i for i, name in enumerate(names)}
    found = train + held
    paths = [f for f, _ in found]
    by = f"by val_annotations.txt (sha256 {sha256(annotations)})"
    return Source(
        fetch=paths.__getitem__,
        name=lambda i: str(paths[i]),
        labels=[number_of[c] for _, c in found],
        splits=["train"] * len(train) + ["test"] * len(held),
        classes=names,
        notes=[f"its validation images serve as the test split, {by}"],
        identity=lambda: file_identity(paths),
        key=lambda i: paths[i].name,
    )
