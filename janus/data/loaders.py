"""Image sets of any content: a folder of images, parquet files, a set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from ..runtime.assets import home
from . import folders, sources, splits
from .imageset import ImageSet, assemble
from .sources import Source


def folder(name: str, root: str | Path | None, **options: object) -> ImageSet:
    """One folder a class, below train/, val/, test/ or directly; see `folders.folder`."""
    place = _given(root, "imagefolder")
    return of_source(folders.folder(place), place)(name, root, **options)


def parquet(
    name: str,
    root: str | Path | None,
    image_column: str | None = None,
    label_column: str | None = None,
    style_column: str | None = None,
    **options: object,
) -> ImageSet:
    """Parquet files in the Hugging Face image layout; see `sources.parquet`."""
    path = _given(root, "parquet")
    if not sources.parquet_files(path):
        raise UsageError(f"no parquet files in {path}")
    source = sources.parquet(path, image_column, label_column, style_column)
    return of_source(source, path)(name, root, **options)


def hub(
    name: str,
    root: object,
    image_column: str | None = None,
    label_column: str | None = None,
    style_column: str | None = None,
    config: str | None = None,
    revision: str | None = None,
    **options: object,
) -> ImageSet:
    """A dataset of the Hugging Face hub; see `sources.hub`."""
    if root is not None:
        raise UsageError(
            f"hf:{name} comes from the hub and takes no root; give the folder itself as the dataset"
        )
    source = sources.hub(name, config, revision, image_column, label_column, style_column)
    return of_source(source, None)(name, root, **options)


def of_source(source: Source, place: Path | None) -> Callable[..., ImageSet]:
    """A loader of a source that is read already. place: where a `class_list` may lie, if not in the cache."""

    def loader(
        name: str,
        root: object,
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        class_list: str | None = None,
        **common: object,
    ) -> ImageSet:
        chosen = source
        if class_list is not None:
            chosen = splits.only(source, splits.locate(class_list, place or home()))
        return assemble(name, chosen, val_fraction=val_fraction, test_fraction=test_fraction, **common)

    return loader


def _given(root: str | Path | None, kind: str) -> Path:
    if root is None:
        raise UsageError(f"dataset {kind} needs root=PATH, or give the path itself as the dataset")
    path = Path(root).expanduser()
    if not path.exists() and not sources.parquet_files(path):
        raise UsageError(f"no data at {str(root)!r}: the path does not exist")
    if kind == "imagefolder" and not path.is_dir():
        raise UsageError(f"{path} is not a folder")
    return path
