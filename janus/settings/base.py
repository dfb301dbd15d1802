"""What all settings share: frozen values, checked by name, type and range, and faults that name the setting.

A group of settings is a class with documented fields. No torch is needed: a typing error is answered at once.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..errors import UsageError, unknown

Rule = Callable[[Any], str | None]  # settings → what is wrong with them together, None if nothing is


class Settings(BaseModel):
    """A group of settings. A field says what it means, its unit and its source; type and range are checked.

    rules: what is asked of several fields together. A subclass that adds rules repeats those of its parent.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True
    )
    rules: ClassVar[tuple[Rule, ...]] = ()

    @model_validator(mode="after")
    def _obey(self) -> Settings:
        if texts := [*broken(self.rules, self)]:
            raise PydanticCustomError("rule", "{text}", {"text": "; ".join(texts)})
        return self


class NotKnown(Exception):
    """A rule asks for a setting whose value is wrong itself: nothing follows from it."""


class Known:
    """Settings of which some have wrong values: those that are right, and the defaults of those not given."""

    def __init__(self, kind: type[Settings], values: Mapping[str, Any], wrong: set[str]) -> None:
        self._kind, self._values, self._wrong = kind, values, wrong

    def __getattr__(self, name: str) -> Any:
        field = self._kind.model_fields.get(name)
        key = (field and field.alias) or name
        if key in self._wrong:
            raise NotKnown(key)
        if key in self._values:
            return self._values[key]
        return field.get_default(call_default_factory=True) if field else getattr(self._kind, name)


def broken(rules: tuple[Rule, ...], settings: Any) -> Iterator[str]:
    """What the rules say of settings, as far as these are known."""
    for rule in rules:
        try:
            text = rule(settings)
        except NotKnown:
            continue
        if text:
            yield text


def judge(kind: type[Settings], values: Mapping[str, Any], path: str = "") -> tuple[Any, list[str]]:
    """Make settings of values by name; their texts are read, see `read`.

    path: the settings' own name with a dot behind it ("training."), which messages begin with.

    Returns:
        The settings and no faults; or what is known of them (`Known`) and all faults, one line each.
    """
    values = {key: read(value, annotation(kind, key)) for key, value in values.items()}
    try:
        return kind.model_validate(values), []
    except ValidationError as error:
        faults = [fault for fault in error.errors() if fault["loc"]]  # without: a rule, asked again below
    wrong = {str(fault["loc"][0]) for fault in faults}
    known = Known(kind, {key: value for key, value in values.items() if key not in wrong}, wrong)
    texts = [_message(path, kind, fault) for fault in faults]
    return known, [*dict.fromkeys(texts), *broken(kind.rules, known)]


def checked(name: str, value: Any, hint: Any) -> Any:
    """A value of the type `hint`, its text read. UsageError: it is of another type."""
    try:
        return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False)).validate_python(
            read(value, hint)
        )
    except ValidationError as error:
        raise UsageError(_message(name, Settings, error.errors()[0])) from None


def field_fault(kind: type[Settings], name: str, value: Any, path: str = "") -> str | None:
    """What is wrong with the value of one setting, whatever the others are."""
    try:
        kind.model_validate({name: read(value, annotation(kind, name))})
    except ValidationError as error:
        return next(
            (_message(path, kind, fault) for fault in error.errors() if fault["loc"][:1] == (name,)), None
        )
    return None


def fields(kind: type[Settings]) -> Iterator[tuple[str, Any]]:
    """The names of a class's settings, as they are written, and their types."""
    for name, field in kind.model_fields.items():
        yield field.alias or name, field.annotation


def annotation(kind: type[Settings], key: str) -> Any:
    """The type of a setting; None if there is no such setting."""
    return dict(fields(kind)).get(key)


def is_settings(hint: Any) -> bool:
    """Whether a type is a class of settings. (Not `dict[str, int]`, which Python 3.10 takes for a class.)"""
    return typing.get_origin(hint) is None and isinstance(hint, type) and issubclass(hint, Settings)


def read(value: Any, hint: Any) -> Any:
    """A value as a setting of type `hint` may have it: text as what it stands for ("1e-4", "true", "none",
    "k,v"), a numpy scalar as Python's own, a path as text, a list as a tuple. Else it stays as it is."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return read(value, parts[0])
    if origin in (typing.Union, types.UnionType):
        if isinstance(value, str) and value.lower() in ("none", "null"):
            return None
        return value if value is None else read(value, next(part for part in parts if part is not type(None)))
    if is_settings(hint) and isinstance(value, Mapping):
        return {key: read(item, annotation(hint, key)) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # a scalar of numpy or torch
    if origin is tuple:
        if isinstance(value, str):
            value = value.split(",") if value.strip() else []
        return tuple(_stripped(item) for item in value) if isinstance(value, (list, tuple)) else value
    if isinstance(value, str) and hint is bool:
        return {"true": True, "false": False}.get(value.lower(), value)
    if isinstance(value, str) and hint in (int, float):
        try:
            return hint(value)
        except ValueError:
            return value
    return value


def _stripped(item: Any) -> Any:
    return item.strip() if isinstance(item, str) else str(item) if isinstance(item, Path) else item


_TAKES = {
    "int": "a whole number",
    "float": "a number",
    "finite": "a finite number",
    "bool": "true or false",
    "string": "a text",
    "tuple": "names, separated by commas",
    "dict": "options by name",
    "model": "settings by name",
}
_LIMITS = {
    "gt": "must be greater than",
    "ge": "must be at least",
    "lt": "must be less than",
    "le": "must be at most",
}
_ZERO = {"gt": "must be positive", "ge": "must not be negative"}


def _message(path: str, kind: type[Settings], fault: Any) -> str:
    """One line of a fault that pydantic found."""
    loc = [str(part) for part in fault["loc"]]
    value, what, more = fault["input"], fault["type"], fault.get("ctx") or {}
    if loc and loc[-1].isdigit():  # an entry of a list of names
        loc = loc[:-1]
    name = path + ".".join(loc)
    if what == "rule":
        return more["text"]
    if what == "literal_error":
        return str(unknown(f"value for {name}:", value, re.findall(r"'([^']*)'", more["expected"])))
    if what == "extra_forbidden":
        return str(unknown("setting", name, [path + key for key, _ in fields(kind)]))
    if what == "too_short":
        return f"{name} needs at least {more['min_length']}, got none"
    if (first := what.partition("_")[0]) in _TAKES:
        return f"{name} takes {_TAKES[first]}, got {value!r}"
    for limit, phrase in _LIMITS.items():
        if limit in more:
            words = _ZERO[limit] if more[limit] == 0 and limit in _ZERO else f"{phrase} {more[limit]:g}"
            return f"{name} {words}, got {value}"
    return f"{name} {more.get('error', fault['msg'])}, got {value!r}"
