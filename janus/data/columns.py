"""Columns of tables in the Hugging Face image layout: labels, and images as bytes or as paths of files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError


def values(column, where: str, name: str) -> list:
    """A column of whole numbers or strings as Python values."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
        column = column.cast(kind)
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise UsageError(
            f"{where}: column {name!r} holds {kind}, not whole numbers or strings; choose another column"
        )
    return column.to_pylist()


def encoded(column, where: str, name: str) -> Callable[[int, Path], Path | bytes]:
    """get(row, base) -> an image's bytes, or its path below `base`; of a struct, binary or string column.

    The fields of a struct are bytes and path.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return lambda row, base: _bytes(column[row].as_py())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return lambda row, base: base / column[row].as_py()
    if pa.types.is_struct(kind) and "bytes" in [kind.field(i).name for i in range(kind.num_fields)]:

        def get(row: int, base: Path) -> Path | bytes:
            value = column[row].as_py() or {}
            if value.get("bytes") is None and value.get("path"):
                return base / value["path"]
            return _bytes(value.get("bytes"))

        return get
    raise UsageError(f"{where}: column {name!r} holds {kind}, not encoded images; set image_column")


def paths(column) -> Callable[[int], str]:
    """get(row) -> the path stored with an image, "" where there is none."""
    import pyarrow as pa

    if not pa.types.is_struct(column.type) or "path" not in [field.name for field in column.type]:
        return lambda row: ""
    return lambda row: (column[row]["path"].as_py() if column[row].is_valid else None) or ""


def _bytes(value: bytes | None) -> bytes:
    if value is None:
        raise ValueError("no bytes and no path")
    return value


def files(column) -> list[tuple[int, str]]:
    """(row, path) of the images that are stored as a path alone."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [(row, path) for row, path in enumerate(column.to_pylist()) if path]
    if not pa.types.is_struct(kind) or not {"bytes", "path"} <= {field.name for field in kind}:
        return []
    stored, named = pc.struct_field(column, "bytes"), pc.struct_field(column, "path")
    rows = pc.indices_nonzero(pc.and_(pc.is_null(stored), pc.is_valid(named))).to_pylist()
    return [(row, named[row].as_py()) for row in rows]
