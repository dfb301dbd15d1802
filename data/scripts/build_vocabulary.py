"""Build the wide vocabulary for the next embedded backbone from a pinned release of `@iconify/json`.

    npm pack @iconify/json@2.2.535                 # writes iconify-json-2.2.535.tgz
    python data/scripts/build_vocabulary.py iconify-json-2.2.535.tgz

Needs `resvg_py`, as `build_icons.py` does. Writes `train.parquet`, `val.parquet` and `manifest.json` to a
cache folder of the user: nothing of it belongs in the repository. The rules, in order:

1. Names become concepts as for Icons-R, synonyms of `concepts.json` merged. Training drawings come from the
   training group's icon sets, held-out drawings from the validation group's; the test group's are not read.
2. A concept is out if it names a class of the stream: if it shares a word with a class or one of its synonyms
   (plural or not), holds such a word of six letters or more, or has a word or name of `otherwise.json`, the
   other words for what the classes show.
3. Drawings of one concept within NEAR_WITHIN of each other are one. A concept is out if three drawings or
   more, and a quarter or more of them, are within NEAR_ACROSS of icons of one and the same class of the
   stream: it shows that class by another name.
4. Training drawings within NEAR_ACROSS of any icon of the stream are dropped; held-out ones also if so near
   to any training drawing, of whatever concept. At most 64 training and 10 held-out drawings a concept stay.
5. What stays is each concept with four training drawings or more by three icon sets or more.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from drawings import (
    NEAR_ACROSS,
    NEAR_WITHIN,
    SPLITS,
    Entry,
    cap,
    content_hash,
    counts,
    draw,
    hashes,
    without_near,
    write,
)
from iconify import INTEGRITY, VERSION, Icon, archive, icons_of, usable
from phash import nearest, perceptual_hash
from platformdirs import user_cache_path

from janus.data import icons as icons_r

HERE = Path(__file__).resolve().parent
DEFAULT_OUT = user_cache_path("janus") / "vocabulary"
CAPS = {"train": 64, "val": 10}
MIN_DRAWINGS, MIN_SETS = 4, 3
# so many near drawings of one class, and this share: the class by another name
SAME_DRAWINGS, SAME_SHARE = 3, 0.25
LONG_WORD = 6  # a class's word of so many letters is also looked for inside other words

Found = dict[str, dict[str, list[Icon]]]  # split -> concept -> icons


# ---- names ------------------------------------------------------------
def singular(word: str) -> str:
    return word.removesuffix("s") if len(word) > 3 else word


class StreamNames:
    """The names of the stream's classes, to tell whether a concept is one of them."""

    def __init__(
        self, stream: dict[str, list[str]], otherwise: dict[str, list[str]], names: Iterable[str] = ()
    ) -> None:
        own = {w for c, synonyms in stream.items() for name in (c, *synonyms) for w in name.split("-")}
        self.words = {singular(w) for w in own} | {singular(w) for words in otherwise.values() for w in words}
        self.long = sorted(w for w in own if len(w) >= LONG_WORD)
        self.names = set(names)

    def name(self, concept: str) -> bool:
        """Whether a concept names a class: by a word, by a long word within a word, or as a whole."""
        words = {singular(w) for w in concept.split("-")}
        return concept in self.names or bool(words & self.words) or any(w in concept for w in self.long)


def enough(drawn: Iterable[Icon]) -> bool:
    """Whether drawings are many enough, by icon sets enough, to make a concept."""
    drawn = list(drawn)
    return len(drawn) >= MIN_DRAWINGS and len({icon.style for icon in drawn}) >= MIN_SETS


def candidates(
    icons: Iterable[tuple[str, Icon]],
    synonyms: dict[str, list[str]],
    stream: StreamNames,
    groups: dict[str, str],
    exclude: set[str],
) -> Found:
    """Training and held-out icons of each concept that is none of the stream's and may be drawn enough."""
    of = {alias: c for c, aliases in synonyms.items() for alias in aliases}
    found: dict[str, dict[str, list[Icon]]] = {"train": defaultdict(list), "val": defaultdict(list)}
    for word, icon in icons:
        split = groups[icon.style]
        concept = of.get(word, word)
        if split not in found or f"{icon.style}:{word}" in exclude:
            continue
        if not (stream.name(word) or stream.name(concept)):
            found[split][concept].append(icon)
    kept = sorted(c for c, drawn in found["train"].items() if enough(drawn))
    return {split: {c: by.get(c, []) for c in kept} for split, by in found.items()}


# ---- drawings ------------------------------------------------------------
def shows_a_class(drawn: list[Entry], codes: np.ndarray, labels: np.ndarray) -> bool:
    """Whether so many drawings are near icons of one class of the stream that the concept is that class.

    codes: hashes of the stream's icons, uint64 (N,); labels: their classes, int (N,).
    """
    if not drawn:
        return False
    near = np.bitwise_count(hashes(drawn)[:, None] ^ codes[None]) <= NEAR_ACROSS  # (drawings, N)
    most = max(near[:, labels == c].any(1).sum() for c in np.unique(labels))
    return bool(most >= SAME_DRAWINGS and most >= SAME_SHARE * len(drawn))


def further(entries: list[Entry], codes: np.ndarray) -> list[Entry]:
    """Entries further than NEAR_ACROSS from every hash."""
    return [e for e, d in zip(entries, nearest(hashes(entries), codes)) if d > NEAR_ACROSS]


def choose(
    found: Found, codes: np.ndarray, labels: np.ndarray
) -> tuple[list[str], dict[str, list[Entry]], dict[str, int]]:
    """Concepts, the drawings of each split, and how many concepts each rule on drawings put out.

    codes, labels: hashes and classes of the stream's icons.
    """
    concepts: list[str] = []
    train: list[Entry] = []
    out = {"show a class of the stream": 0, "too few drawings left": 0}
    for number, (concept, icons) in enumerate(found["train"].items()):
        if number % 250 == 0:
            print(f"{number} of {len(found['train'])} candidates, {len(train)} training drawings", flush=True)
        drawn = draw(icons, len(concepts), 2 * CAPS["train"])
        if shows_a_class(drawn, codes, labels):
            out["show a class of the stream"] += 1
            continue
        kept = cap(further(drawn, codes), CAPS["train"])
        if not enough(e.icon for e in kept):
            out["too few drawings left"] += 1
            continue
        concepts.append(concept)
        train += kept
    print("held-out drawings", flush=True)
    held_out = [e for label, c in enumerate(concepts) for e in draw(found["val"][c], label, 2 * CAPS["val"])]
    val = cap(without_near(further(held_out, codes), train), CAPS["val"])
    return concepts, {"train": train, "val": val}, out


def stream_icons() -> tuple[np.ndarray, np.ndarray]:
    """Hashes uint64 (N,) and classes int (N,) of every icon of the stream, all splits."""
    parts = [icons_r.masks("icons-r", split)[1] for split in SPLITS]
    return perceptual_hash(np.concatenate([p[0] for p in parts])), np.concatenate([p[1] for p in parts])


# ---- files ------------------------------------------------------------
def build(tgz: Path, out: Path) -> dict[str, object]:
    spec = json.loads((HERE / "concepts.json").read_text())
    otherwise = json.loads((HERE / "otherwise.json").read_text())
    groups = {style: split for split, sets in spec["groups"].items() for style in sets}
    files = archive(tgz)
    if bad := [s for s in groups if not usable(files["collections"][s])]:
        raise SystemExit(f"sets that may not be used: {', '.join(bad)}; remove them from concepts.json")
    read = {style: split for style, split in groups.items() if split in CAPS}
    stream = StreamNames(spec["stream"], otherwise["words"], otherwise["names"])
    found = candidates(icons_of(files, read), spec["vocabulary"], stream, groups, set(spec["exclude"]))
    concepts, chosen, put_out = choose(found, *stream_icons())
    manifest: dict[str, object] = {
        "source": f"npm @iconify/json@{VERSION}",
        "integrity": INTEGRITY,
        "near_within": NEAR_WITHIN,
        "near_across": NEAR_ACROSS,
        "min_drawings": MIN_DRAWINGS,
        "min_sets": MIN_SETS,
        "caps": CAPS,
        "concepts": len(concepts),
        "candidates": len(found["train"]),
        "candidates_out": put_out,
    }
    for split, entries in chosen.items():
        write(out / f"{split}.parquet", entries, concepts)
        digest = content_hash(np.stack([e.image for e in entries]), np.array([e.label for e in entries]))
        manifest[split] = {**counts(entries, concepts), "sha256": digest}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tgz", type=Path, help=f"iconify-json-{VERSION}.tgz from `npm pack @iconify/json@{VERSION}`"
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_OUT, help="folder for the files (default: %(default)s)"
    )
    args = parser.parse_args()
    print(json.dumps(build(args.tgz, args.out), indent=2))
    print(f"wrote {args.out}")
