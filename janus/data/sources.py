"""Where encoded images come from: what a source is, parquet in the Hugging Face image layout, the hub."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import JanusError, UsageError
from . import columns
from .walk import Claims, Walk, counted, nfc

WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLITS = {word: split for split, words in WORDS.items() for word in words}
IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMNS = ("label", "fine_label", "labels")
STYLE_COLUMNS = ("style", "domain")
COLUMNS = ("image_column", "label_column", "style_column")  # the options that name others


@dataclass
class Source:
    """N encoded images before they are split.

    Image i is `fetch(i)` (a path or bytes), called `name(i)` in errors. `labels[i]` indexes `classes`,
    `style_of[i]` indexes `styles`; `splits[i]` is "train", "val", "test", or "" where the source has no
    splits. `identity()` is a text that changes when the images or their order do (None: nobody knows);
    `key(i)` is what image i is called among those of its class wherever it lies, or "" (see `by_key`).
    """

    fetch: Callable[[int], Path | bytes]
    name: Callable[[int], str]
    labels: list[int]
    splits: list[str]
    classes: list[str]
    styles: list[str] | None = None
    style_of: list[int] | None = None
    notes: list[str] = field(default_factory=list)
    identity: Callable[[], str] | None = None
    key: Callable[[int], str] | None = None

    def by_key(self, rows: list[int]) -> list[int]:
        """`rows` (images of one class) by key, else by content: not in the order of files."""
        keys = ["" if self.key is None else self.key(i) for i in rows]
        if len(set(keys)) < len(keys):
            keys = [f"{k} {hashlib.sha256(self._content(i)).hexdigest()}" for k, i in zip(keys, rows)]
        return [i for _, i in sorted(zip(keys, rows))]

    def _content(self, i: int) -> bytes:
        try:
            found = self.fetch(i)
            return found.read_bytes() if isinstance(found, Path) else found
        except (OSError, ValueError):  # an image that is not there is told of when it is asked for
            return b""


def file_identity(paths: Sequence[Path], *more: object) -> str:
    """A digest over each file's absolute path, size and time of change, in order, and over `more`."""
    sha = hashlib.sha256(repr(more).encode())
    for path in paths:
        found = os.stat(path)
        line = f"{os.path.abspath(path)}\0{found.st_size}\0{found.st_mtime_ns}\n"
        sha.update(line.encode(errors="surrogateescape"))
    return sha.hexdigest()


def parquet_files(pattern: Path) -> list[Path]:
    """The parquet files meant by a file, a folder (at any depth) or a pattern (data/tiny-*.parquet); sorted.

    The part of a pattern that is there as it stands is no pattern, whatever its characters.
    """
    if pattern.is_dir():
        return sorted(Walk({".parquet"}, once=False).files(pattern))
    if pattern.is_file():
        return [pattern] if is_parquet(pattern) else []
    base = next((parent for parent in pattern.parents if parent.is_dir()), Path())
    rest = pattern.relative_to(base)
    return sorted(base / f for f in glob.glob(str(rest), root_dir=base) if f.endswith(".parquet"))


def is_parquet(file: Path) -> bool:
    """Whether a file is parquet by its ending, or by its first bytes."""
    if file.suffix == ".parquet":
        return True
    with file.open("rb") as opened:
        return opened.read(4) == b"PAR1"


def labelled_rows(files: Sequence[Path], **wanted: str | None) -> int:
    """How many rows there are in the files that have an image and a label column.

    Others, unreadable ones too, have none. wanted: the names of the columns, as `parquet` takes them.
    """
    import pyarrow.parquet as pq

    count = 0
    for file in files:
        with suppress(OSError, ValueError, UsageError), pq.ParquetFile(file) as opened:
            _columns(opened.schema_arrow, str(file), **{column: wanted.get(column) for column in COLUMNS})
            count += opened.metadata.num_rows
    return count


def split_of(file: Path, root: Path | None = None) -> str:
    """What a file's name, else its folders below `root`, say in words: "train", "val", "test", else ""."""
    below = file.parent.relative_to(root).parts if root is not None and root in file.parents else ()
    for name in (file.stem, *reversed(below)):
        found = {SPLITS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLITS}
        if len(found) > 1:
            raise UsageError(
                f"the name {name!r} of {file} speaks of two splits, {' and '.join(sorted(found))}; rename it"
            )
        if found:
            return found.pop()
    return ""


def parquet(
    pattern: Path,
    image_column: str | None = None,
    label_column: str | None = None,
    style_column: str | None = None,
) -> Source:
    """Local parquet files in the Hugging Face image layout: an image column {bytes, path} and a label column.

    Split by file name (train-00000-of-00001.parquet). The encoded bytes are held in memory. JanusError:
    unreadable file. UsageError: one file is in two splits, through a link.
    """
    import pyarrow.parquet as pq

    root = pattern if pattern.is_dir() else None
    claims, files, links = Claims(), [], []
    for file in parquet_files(pattern):
        (files if claims.take(file, split_of(file, root)) else links).append(file)
    wanted = {"image_column": image_column, "label_column": label_column, "style_column": style_column}
    tables = []
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                schema = opened.schema_arrow
                chosen = [c for c in _columns(schema, str(file), **wanted) if c]
                table = opened.read(columns=chosen)
        except (OSError, ValueError) as error:  # pyarrow.ArrowInvalid is a ValueError
            raise JanusError(
                f"cannot read parquet file {file} ({_first_line(error)}); is it complete?"
            ) from error
        tables.append((table, _features(schema), split_of(file, root), str(file), file.parent))
    source = _tables(tables, lambda: file_identity(files, wanted), **wanted)
    what = "to a file that was read already, left out"
    source.notes += counted(links, "link", what, root or pattern.parent)
    return source


def hub(
    name: str,
    config: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    style_column: str | None = None,
) -> Source:
    """A dataset of the Hugging Face hub by `datasets.load_dataset`.

    JanusError: not installed, offline, no such set.
    """
    try:
        import datasets
    except ImportError as error:
        raise JanusError(f"hf:{name} needs the package 'datasets': pip install datasets") from error
    try:
        loaded = datasets.load_dataset(name, config, revision=revision)
    except Exception as error:  # the hub's client raises a dozen types when offline, gated or misspelt
        raise JanusError(
            f"cannot load {name!r} from the Hugging Face hub ({_first_line(error)}); "
            "check its name and the network, or download it and give the folder of parquet files or images"
        ) from error
    tables = []
    for split, part in loaded.items():
        names = {c: f.names for c, f in part.features.items() if isinstance(f, datasets.ClassLabel)}
        table = part.with_format("arrow")[:]  # encoded as stored, memory-mapped
        tables.append((table, names, split_of(Path(split)), f"hf:{name} {split}", Path(".")))
    # the library's own digest of a split's content
    prints = [(split, part._fingerprint) for split, part in loaded.items()]
    wanted = {"image_column": image_column, "label_column": label_column, "style_column": style_column}
    return _tables(tables, lambda: file_identity([], name, prints, wanted), **wanted)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _features(schema) -> dict[str, list[str]]:
    """Class names by column, from the `huggingface` entry of the schema's metadata; empty: there is none."""
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    try:
        features = json.loads(text)["info"]["features"]
        named = {column: f for column, f in features.items() if isinstance(f, dict) and f.get("names")}
        return {column: list(f["names"]) for column, f in named.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _columns(schema, where: str, image_column, label_column, style_column) -> tuple[str, str, str | None]:
    """The names of the image, label and style columns; UsageError lists the columns there are."""
    chosen = []
    for kind, asked, usual in (
        ("image", image_column, IMAGE_COLUMNS),
        ("label", label_column, LABEL_COLUMNS),
        ("style", style_column, STYLE_COLUMNS),
    ):
        found = [c for c in ([asked] if asked else usual) if c in schema.names]
        if not found and (asked or kind != "style"):
            raise UsageError(
                f"{where} has no {kind} column {asked or ' or '.join(usual)!r}; "
                f"its columns: {', '.join(schema.names)}; set {kind}_column"
            )
        chosen.append(found[0] if found else None)
    return tuple(chosen)


def _tables(tables: list[tuple], identity: Callable[[], str], **wanted: str | None) -> Source:
    """One source from arrow tables.

    tables: (table, class names by column, split, what to call it, folder of its paths) each. UsageError: a
    file that rows of two splits or classes name, or two rows of a table without splits.
    """
    images, labels, styles, splits, starts, notes = [], [], [], [], [0], []
    files: list[tuple[int, Path]] = []
    label_names: list[str] = []
    style_names: list[str] = []
    for table, names, split, where, base in tables:
        image, label, style = _columns(table.schema, where, **wanted)
        values = columns.values(table.column(label), where, label)
        missing = sum(v is None or v == -1 for v in values)  # -1: so the hub's test splits without labels
        if missing == len(values) and split == "test":
            notes.append(f"{where} has no labels and is not used")
            continue
        if missing:
            raise JanusError(f"{where}: {missing} of {len(values)} rows have no label; remove them")
        labels += _named(values, names.get(label), label_names, f"{where}, column {label!r}")
        if style:
            values = columns.values(table.column(style), where, style)
            styles += _named(values, names.get(style), style_names, f"{where}, column {style!r}")
        column = table.column(image)
        files += [(len(splits) + row, base / path) for row, path in columns.files(column)]
        images.append((columns.encoded(column, where, image), where, base, columns.paths(column)))
        splits += [split] * len(table)
        starts.append(len(splits))
    if styles and len(styles) != len(labels):
        raise UsageError("some of the files have a style column and some have not")
    offsets = starts[:-1]

    def place(i: int) -> tuple[int, int]:
        k = bisect_right(offsets, i) - 1
        return k, i - offsets[k]

    def fetch(i: int) -> Path | bytes:
        k, row = place(i)
        get, _, base, _ = images[k]
        return get(row, base)

    def name(i: int) -> str:
        k, row = place(i)
        return f"{images[k][1]} row {row}"

    def key(i: int) -> str:
        k, row = place(i)
        return images[k][3](row)

    classes, label_of = _numbered(labels, label_names)
    style_list, style_of = _numbered(styles, style_names)
    styled = style_list or None, style_of if styles else None
    source = Source(fetch, name, label_of, splits, classes, *styled, notes, identity, key)
    _refuse_repeated(files, source)
    return source


def _refuse_repeated(files: list[tuple[int, Path]], source: Source) -> None:
    """UsageError: a file of several rows; files are those (row, file) that the source holds as paths."""
    claims = Claims()
    for i, file in files:  # a file that is not there is told of when its image is asked for
        split, name = source.splits[i], source.classes[source.labels[i]]
        if file.is_file() and not claims.take(file, split, name) and not split:
            where = source.name(i)
            raise UsageError(f"{where} holds {file} again; a table without splits lists every image once")


def _named(values: list, names: list[str] | None, order: list[str], where: str) -> list:
    """Numbers become the schema's names (collected in `order`); without names they stay what they are.

    Texts in NFC.
    """
    if not names or not all(isinstance(v, int) for v in values):
        return [nfc(v) if isinstance(v, str) else v for v in values]
    names = [nfc(n) for n in names]
    repeated = {n for n in names if names.count(n) > 1}
    names = [f"{n} ({i})" if n in repeated else n for i, n in enumerate(names)]
    wrong = [v for v in values if not 0 <= v < len(names)]
    if wrong:
        raise JanusError(f"{where}: label {wrong[0]} has no name, the schema lists {len(names)}")
    order += [n for n in names if n not in set(order)]
    return [names[v] for v in values]


def _numbered(values: list, order: list[str]) -> tuple[list[str], list[int]]:
    """Class names (the schema's order, then numbers by size, strings by alphabet) and each row's index."""
    rest = sorted(set(values) - set(order), key=lambda v: (isinstance(v, str), v))
    names = list(order) + rest
    if order and any(not isinstance(v, str) for v in rest):
        raise JanusError(
            f"some files name their classes and some only number them ({rest[0]}); give all of them a schema"
        )
    number = {value: i for i, value in enumerate(names)}
    return [str(n) for n in names], [number[v] for v in values]
