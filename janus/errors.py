"""Errors written for people: one line that says what was wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 3  # names in a message; the others are counted


class JanusError(Exception):
    """Something went wrong while working (exit code 1)."""

    exit_code = 1

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the line, without the forty that lead to it."""
        return [f"{type(self).__name__}: {self}"]


class UsageError(JanusError):
    """The request itself was wrong: an unknown name, a wrong type, an illegal combination (exit code 2)."""

    exit_code = 2


def unknown(kind: str, name: object, known: Iterable[str]) -> UsageError:
    """The error for a name that does not exist; it proposes the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
    return UsageError(f"unknown {kind} {name!r}: {hint}")


def join_messages(texts: Sequence[str]) -> str:
    """One line that holds several messages; one alone stays as it is."""
    if len(texts) == 1:
        return texts[0]
    return f"{len(texts)} faults: " + "; ".join(f"({n}) {text}" for n, text in enumerate(texts, 1))


def first_few(names: Sequence[str]) -> str:
    """The first of many names, and how many more there are."""
    more = len(names) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
