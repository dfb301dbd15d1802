"""Texts that come with packages, so that nothing is downloaded: Python's own manual, and dialogues."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import yaml
from torch import Tensor

from ..errors import JanusError, UsageError, unknown

Encode = Callable[[str], list[int]]

DIALOGUES = ("english", "italian", "spanish")
NAMES = ("manual", *DIALOGUES)
LABELS = {"manual": "Python's manual"} | {name: f"{name.capitalize()} dialogues" for name in DIALOGUES}
# among the English ones: programs, and ten sentences repeated a hundred times
LEFT_OUT = ("coding.yml", "tech_support.yml")
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Texts:
    """Pieces of text in three parts that share none: three fifths, a fifth, a fifth."""

    train: list[str]
    val: list[str]
    test: list[str]


def load(name: str) -> Texts:
    """One of `NAMES`.

    `manual`: the topics of Python's language reference, English (`pydoc_data.topics`). The others: dialogues
    of `chatterbot-corpus` (BSD) in that language, each different one once.

    Raises UsageError: an unknown name, or the package is missing.
    """
    if name not in NAMES:
        raise unknown("text", name, NAMES)
    pieces = _manual() if name == "manual" else _dialogues(name)
    return Texts(
        train=[piece for i, piece in enumerate(pieces) if i % 5 < 3],
        val=pieces[3::5],
        test=pieces[4::5],
    )


def _manual() -> list[str]:
    from pydoc_data.topics import topics

    return [text for _, text in sorted(topics.items())]


@cache  # yaml takes a second or two
def _dialogues(language: str) -> list[str]:
    found = importlib.util.find_spec("chatterbot_corpus")
    if found is None or found.origin is None:
        raise UsageError(
            "the dialogues are in the package chatterbot-corpus: pip install chatterbot-corpus "
            "(or janus-lora[lm])"
        )
    files = sorted(Path(found.origin).parent.glob(f"data/{language}/*.yml"))
    talks = [talk for file in files if file.name not in LEFT_OUT for talk in _conversations(file)]
    if not talks:
        raise JanusError(f"chatterbot-corpus has no dialogues in {language}: another version?")
    return list(dict.fromkeys("\n".join(str(line) for line in talk) for talk in talks))


def _conversations(file: Path) -> list[list[str]]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]


def windows(pieces: list[str], encode: Encode, length: int, most: int | None = None) -> Tensor:
    """(count, length) token numbers: the pieces one after the other, cut into windows; the rest is dropped.

    most: of more windows than that, as many, spread evenly.

    Raises UsageError: not one window is full.
    """
    ids = torch.tensor(encode("\n\n".join(pieces)))
    count = len(ids) // length
    if not count:
        raise UsageError(f"{len(ids)} tokens do not fill one window of {length}")
    cut = ids[: count * length].view(count, length)
    if most is None or count <= most:
        return cut
    return cut[torch.linspace(0, count - 1, most).round().long()]
