"""The pinned release of `@iconify/json`: its archive, its usable sets, and the concepts of icon names."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

VERSION = "2.2.535"
INTEGRITY = "sha512-nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw=="
LICENCES = set("MIT Apache-2.0 ISC BSD-2-Clause BSD-3-Clause CC0-1.0 CC-BY-3.0 CC-BY-4.0 Unlicense".split())
# brand logos; flags of countries are multi-colour sets, out by `palette`
CATEGORIES_OUT = {"Logos", "Programming"}
OVERSAMPLE = 96  # icons are drawn at this size in pixels

# Words that say how an icon is drawn, not what it shows.
STYLE = frozenset(
    """outline outlined outlines filled fill duotone twotone two-tone tone bold light thin regular solid
    rounded round sharp line linear alt monochrome mono color bulk stroke sm md lg xl small large big s f l o
    b r mini micro white black medium thick variant normal heavy 1x 2x px freehand glyph new simple classic
    standard basic flat pixel ios mo""".split()
)
STYLE_FIRST = frozenset(
    "ios md baseline outline outlined sharp round rounded twotone line fill solid filled duo".split()
)


# ---- names ------------------------------------------------------------
def concept(name: str, suffixes: frozenset[str] = frozenset()) -> str:
    """The concept in an icon's name: `home-alt-2-outline` -> `home`, `baseline-star-24px` -> `star`.

    `suffixes` are the style words of the icon's own set: `broken` is a line style in one set and a torn heart
    in others.
    """

    def says_how(word: str) -> bool:
        return word in STYLE or word in suffixes or bool(re.fullmatch(r"\d{1,2}(px)?", word))

    words = name.replace("_", "-").lower().split("-")
    while len(words) > 1 and says_how(words[-1]):
        words.pop()
    while len(words) > 1 and words[0] in STYLE_FIRST:
        words.pop(0)
    words[-1] = re.sub(r"^([a-z]{3,}?)\d+$", r"\1", words[-1])
    return "-".join(words)


@dataclass(frozen=True)
class Icon:
    style: str  # the icon set
    name: str
    svg: str


def archive(path: Path) -> dict[str, dict]:
    """The JSON files of the npm archive, by file name, after checking its integrity."""
    blob = path.read_bytes()
    found = "sha512-" + base64.b64encode(hashlib.sha512(blob).digest()).decode()
    if found != INTEGRITY:
        raise SystemExit(
            f"{path} is not @iconify/json@{VERSION}: its integrity is {found}; "
            f"run `npm pack @iconify/json@{VERSION}`"
        )
    files = {}
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        for member in tar:
            if re.fullmatch(r"package/(collections|json/[^/]+)\.json", member.name):
                files[Path(member.name).stem] = json.load(tar.extractfile(member))
    return files


def usable(info: dict) -> bool:
    """Monochrome, permissively licensed, and not a set of logos."""
    return (
        info["license"].get("spdx") in LICENCES
        and not info.get("palette")
        and info.get("category") not in CATEGORIES_OUT
    )


def icons_of(files: dict[str, dict], sets: dict[str, str]) -> Iterator[tuple[str, Icon]]:
    """(concept, icon) of every drawable icon of the chosen sets, in a fixed order."""
    for style in sorted(sets):
        data = files[style]
        suffixes = frozenset(data.get("suffixes", ()))
        for name in sorted(data["icons"]):
            icon = data["icons"][name]
            if icon.get("hidden") or "<animate" in icon["body"] or {"rotate", "hFlip", "vFlip"} & icon.keys():
                continue  # removed from the set, moving, or stored turned
            left, top = icon.get("left", data.get("left", 0)), icon.get("top", data.get("top", 0))
            width = icon.get("width", data.get("width", 16))
            height = icon.get("height", data.get("height", 16))
            zoom = OVERSAMPLE / max(width, height)
            svg = (
                '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'color="#000" viewBox="{left} {top} {width} {height}" '
                f'width="{width * zoom:.3f}" height="{height * zoom:.3f}">{icon["body"]}</svg>'
            )
            yield concept(name, suffixes), Icon(style, name, svg)
