"""The files below a folder as a data set has them.

Each real file once, and nothing that systems and tools leave there.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Collection
from pathlib import Path

from ..errors import UsageError

EXTENSIONS = set(".jpg .jpeg .jpe .jfif .png .webp .bmp .gif .tif .tiff .ppm .pgm".split())
# what file managers and servers make beside the user's own files; names with a dot in front are hidden anyway
JUNK = {
    "@eadir",
    "#recycle",
    "#snapshot",
    "@recycle",
    "@recently-snapshot",
    "__macosx",
    "__pycache__",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "desktop.ini",
    "ehthumbs.db",
}


def nfc(text: str) -> str:
    """A name in Unicode's composed form: macOS stores é as e and an accent, other systems as one."""
    return unicodedata.normalize("NFC", text)


def hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to a system or a tool, and not to a data set."""
    return name.startswith(".") or name.lower() in JUNK


def children(folder: Path) -> list[tuple[Path, bool]]:
    """What lies in a folder, sorted by name, without what is hidden.

    For each: (path, whether it is a folder or a link to one).
    """
    with os.scandir(folder) as entries:
        kept = sorted((e for e in entries if not hidden(e.name)), key=lambda e: nfc(e.name))
    return [(folder / e.name, e.is_dir()) for e in kept]


def images(folder: Path) -> list[Path]:
    """The image files directly in a folder, sorted by name."""
    files = [path for path, is_folder in children(folder) if not is_folder]
    return [path for path in files if path.suffix.lower() in EXTENSIONS]


def identity(path: Path) -> object:
    """What is the same for two paths that lead to one file or folder, by a symbolic link or a hard link."""
    found = os.stat(path)
    if not found.st_ino:  # a file system without such numbers
        return os.path.realpath(path)
    return found.st_dev, found.st_ino


class Claims:
    """Which real file was taken for which split and class, so that none is taken twice."""

    def __init__(self) -> None:
        self.first: dict[object, tuple[Path, str, str | None]] = {}

    def take(self, path: Path, split: str, name: str | None = None) -> bool:
        """Whether the file is new.

        UsageError: it is in another split or of another class, under another path. split: "train", "val",
        "test" or "". name: the class; None: the file holds images of several.
        """
        key = identity(path)
        if key not in self.first:
            self.first[key] = path, split, name
            return True
        other, its_split, its_name = self.first[key]
        what = f"{path} is named twice"
        if path != other:
            what = f"{path} and {other} are one file, through a link"
        if its_split != split:
            raise UsageError(
                f"{what}: it cannot be in both {its_split} and {split}; remove it from one of them"
            )
        if its_name != name:
            raise UsageError(
                f"{what}: it cannot be of both class {its_name!r} and class {name!r}; remove one of them"
            )
        return False


class Walk:
    """Finds the files below folders of a data set.

    endings: of the files that are looked for, in lower case. once: each real file once, whatever links lead
    to it. links: links that were left out, because they lead to what was found already or to a folder around
    themselves. others: files of other endings.
    """

    def __init__(self, endings: Collection[str], once: bool = True) -> None:
        self.endings, self.claims = endings, Claims() if once else None
        self.links: list[Path] = []
        self.others: list[Path] = []

    def folders(self, folder: Path) -> list[Path]:
        """The folders in a folder, links to folders among them; not a link to a folder around it."""
        around = _lineage(folder)
        found = []
        for path in (path for path, is_folder in children(folder) if is_folder):
            if identity(path) not in around:
                found.append(path)
            elif path not in self.links:
                self.links.append(path)
        return found

    def files(self, folder: Path, split: str = "", name: str | None = None) -> list[Path]:
        """The files below a folder, at any depth, in the order of their names.

        split, name: as in `Claims.take`. UsageError: a file that was found in another split or class.
        """
        found: list[Path] = []
        self._visit(folder, _lineage(folder), set(), found, split, name)
        return found

    def _visit(
        self,
        folder: Path,
        around: set[object],
        been: set[object],
        found: list[Path],
        split: str,
        name: str | None,
    ) -> None:
        """around: the folders above the links that led here; been: the folders that were read."""
        been.add(identity(folder))
        for path, is_folder in children(folder):
            if not is_folder:
                if path.suffix.lower() not in self.endings:
                    self.others.append(path)
                elif self.claims is None or self.claims.take(path, split, name):
                    found.append(path)
                else:
                    self.links.append(path)
            elif identity(path) in around | been:
                self.links.append(path)
            else:
                above = around | _lineage(path) if path.is_symlink() else around
                self._visit(path, above, been, found, split, name)


def _lineage(folder: Path) -> set[object]:
    """A folder and all folders above where it really is."""
    real = Path(os.path.realpath(folder))
    return {identity(path) for path in (real, *real.parents)}


def counted(paths: Collection[Path], noun: str, rest: str, root: Path) -> list[str]:
    """A note on files that are not used, with one of them as the example; none if there are none.

    noun: what one is; several have an s. rest: what is said of them.
    """
    if not paths:
        return []
    example = below(next(iter(paths)), root)
    if len(paths) == 1:
        return [f"1 {noun} {rest} ({example})"]
    return [f"{len(paths)} {noun}s {rest} (e.g. {example})"]


def below(path: Path, root: Path) -> str:
    """A path as it is called from `root`."""
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
