"""Build Icons-R and its pre-training vocabulary from a pinned release of `@iconify/json`.

    npm pack @iconify/json@2.2.535                 # writes iconify-json-2.2.535.tgz
    python data/scripts/build_icons.py iconify-json-2.2.535.tgz

Needs `resvg_py`, `pillow` and `pyarrow`. The steps, in order: check the integrity of the archive, keep monochrome icon
sets under permissive licences, map icon names to concepts (`concepts.json`), rasterise to 32x32 alpha masks, drop
near-duplicates within and across the three groups of icon sets, cap the images per class, write parquet files in
the Hugging Face image layout and a manifest with counts, leak numbers and a content hash.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from phash import SIZE, nearest, perceptual_hash
from PIL import Image

HERE = Path(__file__).resolve().parent
VERSION = "2.2.535"
INTEGRITY = "sha512-nAV60ACUSHwnsb6fsp+letHlNkrwO4vzBtcC6B4EDHErQQfezk7E3nJdnwJjve6OCfMNO0uVT5Vrgna9/NCmXw=="
LICENCES = {"MIT", "Apache-2.0", "ISC", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "Unlicense"}
CATEGORIES_OUT = {"Logos", "Programming"}  # brand logos; flags of countries are multi-colour sets, out by `palette`

MARGIN, OVERSAMPLE = 2, 96
NEAR_WITHIN = 4  # icons of one class and group at a hash distance (of 63 bits) up to this are one drawing
NEAR_ACROSS = 6  # training and validation icons this near to an icon of a later group are dropped
CAPS = {"icons-r": {"train": 60, "val": 12, "test": 15}, "icons-vocab": {"train": 64, "val": 10}}
SPLITS = ("train", "val", "test")

# Words that say how an icon is drawn, not what it shows.
STYLE = frozenset(
    """outline outlined outlines filled fill duotone twotone two-tone tone bold light thin regular solid rounded round sharp
    line linear alt monochrome mono color bulk stroke sm md lg xl small large big s f l o b r mini micro white black
    medium thick variant normal heavy 1x 2x px freehand glyph new simple classic standard basic flat pixel ios mo""".split()
)
STYLE_FIRST = frozenset("ios md baseline outline outlined sharp round rounded twotone line fill solid filled duo".split())


# ---- names ------------------------------------------------------------
def concept(name: str, suffixes: frozenset[str] = frozenset()) -> str:
    """The concept in an icon's name: `home-alt-2-outline` -> `home`, `baseline-star-24px` -> `star`.

    `suffixes` are the style words of the icon's own set: `broken` is a line style in one set and a torn heart in others.
    """
    words = name.replace("_", "-").lower().split("-")
    while len(words) > 1 and (words[-1] in STYLE or words[-1] in suffixes or re.fullmatch(r"\d{1,2}(px)?", words[-1])):
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
            f"{path} is not @iconify/json@{VERSION}: its integrity is {found}; run `npm pack @iconify/json@{VERSION}`"
        )
    files = {}
    with tarfile.open(fileobj=io.BytesIO(blob)) as tar:
        for member in tar:
            if member.name == "package/collections.json" or re.fullmatch(r"package/json/[^/]+\.json", member.name):
                files[Path(member.name).stem] = json.load(tar.extractfile(member))
    return files


def usable(info: dict) -> bool:
    """Monochrome, permissively licensed, and not a set of logos."""
    return info["license"].get("spdx") in LICENCES and not info.get("palette") and info.get("category") not in CATEGORIES_OUT


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
            width, height = icon.get("width", data.get("width", 16)), icon.get("height", data.get("height", 16))
            zoom = OVERSAMPLE / max(width, height)
            svg = (
                f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" color="#000" '
                f'viewBox="{left} {top} {width} {height}" width="{width * zoom:.3f}" height="{height * zoom:.3f}">'
                f"{icon['body']}</svg>"
            )
            yield concept(name, suffixes), Icon(style, name, svg)


# ---- pixels ------------------------------------------------------------
def mask(svg: str) -> np.ndarray | None:
    """The ink of an icon as uint8 (32, 32), its bounding box fitted into the margins; None for a blank or a full box."""
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, skip_system_fonts=True))
    except ValueError:
        return None
    rgba = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).astype(np.uint32)
    luma = (299 * rgba[..., 0] + 587 * rgba[..., 1] + 114 * rgba[..., 2]) // 1000
    ink = (rgba[..., 3] * (255 - luma) // 255).astype(np.uint8)  # a white part inside black ink is a hole
    rows, cols = np.flatnonzero((ink > 16).any(1)), np.flatnonzero((ink > 16).any(0))
    if rows.size < 6 or cols.size < 6 or not 0.02 < ink.mean() / 255 < 0.9:
        return None
    box = Image.fromarray(ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1])
    zoom = (SIZE - 2 * MARGIN) / max(box.size)
    box = box.resize([max(1, round(side * zoom)) for side in box.size], Image.Resampling.BILINEAR)
    page = Image.new("L", (SIZE, SIZE))
    page.paste(box, ((SIZE - box.width) // 2, (SIZE - box.height) // 2))
    return np.asarray(page)


# ---- selection ------------------------------------------------------------
@dataclass
class Entry:
    label: int
    icon: Icon
    image: np.ndarray
    hash: np.uint64


def turns(icons: list[Icon]) -> list[Icon]:
    """One icon of each set in turn, so that a cap keeps as many styles as it can."""
    by_set: dict[str, list[Icon]] = defaultdict(list)
    for icon in icons:
        by_set[icon.style].append(icon)
    # sets and drawings in an order that a hash decides: no set is first in every class
    key = lambda text: hashlib.sha256(text.encode()).digest()  # noqa: E731
    queues = [
        sorted(by_set[s], key=lambda i: key(f"{i.style}:{i.name}"))
        for s in sorted(by_set, key=lambda s: key(s + icons[0].name))
    ]
    return [q[turn] for turn in range(max(map(len, queues))) for q in queues if turn < len(q)]


def draw(icons: list[Icon], label: int, limit: int) -> list[Entry]:
    """Rasterise in turn, leaving out near-duplicates, until `limit` images stand."""
    kept: list[Entry] = []
    for icon in turns(icons) if icons else []:
        image = mask(icon.svg)
        if image is None:
            continue
        code = perceptual_hash(image[None])[0]
        if kept and nearest(np.array([code]), np.array([e.hash for e in kept]))[0] <= NEAR_WITHIN:
            continue
        kept.append(Entry(label, icon, image, code))
        if len(kept) == limit:
            break
    return kept


def hashes(entries: list[Entry]) -> np.ndarray:
    return np.array([e.hash for e in entries], dtype=np.uint64)


def without_near(entries: list[Entry], others: list[Entry]) -> list[Entry]:
    """Entries further than NEAR_ACROSS from every other."""
    return [e for e, d in zip(entries, nearest(hashes(entries), hashes(others)), strict=True) if d > NEAR_ACROSS]


def cap(entries: list[Entry], limit: int) -> list[Entry]:
    seen: Counter[int] = Counter()
    kept = []
    for e in entries:
        if seen[e.label] < limit:
            seen[e.label] += 1
            kept.append(e)
    return kept


def gather(
    concepts: dict[str, list[str]], exclude: set[str], icons: list[tuple[str, Icon]], groups: dict[str, str]
) -> dict[str, dict[str, list[Icon]]]:
    """split -> class -> icons."""
    label_of = {alias: name for name, aliases in concepts.items() for alias in [name, *aliases]}
    found: dict[str, dict[str, list[Icon]]] = {s: {c: [] for c in concepts} for s in SPLITS}
    for word, icon in icons:
        if word in label_of and f"{icon.style}:{word}" not in exclude:  # one set's drawings of one word
            found[groups[icon.style]][label_of[word]].append(icon)
    return found


def select(found: dict[str, dict[str, list[Icon]]], caps: dict[str, int], forbidden: list[Entry]) -> dict[str, list[Entry]]:
    """Images of each split: test stays, validation avoids test, training avoids both (and `forbidden`)."""
    chosen: dict[str, list[Entry]] = {}
    avoid = list(forbidden)
    for split in [s for s in reversed(SPLITS) if s in caps]:
        drawn = [e for label, c in enumerate(found[split]) for e in draw(found[split][c], label, 2 * caps[split])]
        chosen[split] = cap(without_near(drawn, avoid), caps[split])
        avoid += chosen[split]
    return chosen


# ---- files ------------------------------------------------------------
def content_hash(images: np.ndarray, labels: np.ndarray) -> str:
    """sha256 over decoded pixels and labels: uint8 (N, 32, 32), int (N,)."""
    return hashlib.sha256(np.ascontiguousarray(images, np.uint8).tobytes() + np.asarray(labels, "<i8").tobytes()).hexdigest()


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def write(path: Path, entries: list[Entry], classes: list[str]) -> None:
    """One parquet file in the layout that Hugging Face `datasets` reads as Image and ClassLabel features."""
    features = {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": classes},
        "style": {"_type": "Value", "dtype": "string"},
    }
    image = pa.array(
        [{"bytes": png(e.image), "path": f"{e.icon.style}/{e.icon.name}.png"} for e in entries],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table(
        {"image": image, "label": pa.array([e.label for e in entries], pa.int64()), "style": [e.icon.style for e in entries]}
    )
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def distances(a: list[Entry], b: list[Entry]) -> dict[str, object]:
    """How near the images of a come to those of b: the nearest hash distances, and how often the nearest is of its class."""
    code_a, code_b = hashes(a), hashes(b)
    near = nearest(code_a, code_b)
    label_b = np.array([e.label for e in b])
    alike = [np.mean(label_b[np.bitwise_count(code_b ^ code) == d] == e.label) for e, code, d in zip(a, code_a, near)]
    return {
        "min": int(near.min()),
        "quantiles_5_25_50_75_95": [int(q) for q in np.quantile(near, [0.05, 0.25, 0.5, 0.75, 0.95])],
        "share_within_8": round(float((near <= 8).mean()), 4),
        "share_within_10": round(float((near <= 10).mean()), 4),
        "nearest_is_of_the_class": round(float(np.mean(alike)), 4),
    }


def counts(entries: list[Entry], classes: list[str]) -> dict[str, object]:
    n = np.bincount([e.label for e in entries], minlength=len(classes))
    return {
        "images": int(n.sum()),
        "per_class_min": int(n.min()),
        "per_class_median": int(np.median(n)),
        "per_class_max": int(n.max()),
        "styles": len({e.icon.style for e in entries}),
    }


def build(tgz: Path, out: Path) -> dict[str, object]:
    spec = json.loads((HERE / "concepts.json").read_text())
    groups = {style: split for split, sets in spec["groups"].items() for style in sets}
    files = archive(tgz)
    bad = [s for s in groups if not usable(files["collections"][s])]
    if bad:
        raise SystemExit(f"sets that may not be used: {', '.join(bad)}; remove them from concepts.json")
    icons = list(icons_of(files, groups))
    exclude = set(spec["exclude"])
    manifest: dict[str, object] = {
        "source": f"npm @iconify/json@{VERSION}",
        "integrity": INTEGRITY,
        "near_within": NEAR_WITHIN,
        "near_across": NEAR_ACROSS,
        "groups": {k: sorted(v) for k, v in spec["groups"].items()},
    }
    forbidden: list[Entry] = []  # the vocabulary must not hold a drawing of the stream
    for folder, key in (("icons-r", "stream"), ("icons-vocab", "vocabulary")):
        classes = sorted(spec[key])
        chosen = select(gather({c: spec[key][c] for c in classes}, exclude, icons, groups), CAPS[folder], forbidden)
        part: dict[str, object] = {"classes": len(classes)}
        for split, entries in chosen.items():
            write(out / folder / f"{split}.parquet", entries, classes)
            digest = content_hash(np.stack([e.image for e in entries]), np.array([e.label for e in entries]))
            part[split] = {**counts(entries, classes), "sha256": digest}
        others = {
            f"{a}_to_{b}": distances(chosen[a], chosen[b])
            for a, b in (("test", "train"), ("val", "train"), ("test", "val"))
            if {a, b} <= chosen.keys()
        }
        part["nearest_hash_distance"] = others
        if folder == "icons-r":
            forbidden = [e for split in SPLITS for e in chosen[split]]
        else:
            others["stream_to_vocab_train"] = distances(forbidden, chosen["train"])
            del others["stream_to_vocab_train"]["nearest_is_of_the_class"]  # other classes by construction
        manifest[folder] = part
    (out / "icons-r" / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tgz", type=Path, help=f"iconify-json-{VERSION}.tgz from `npm pack @iconify/json@{VERSION}`")
    parser.add_argument(
        "--out", type=Path, default=HERE.parent, help="where icons-r/ and icons-vocab/ are written (default: data/)"
    )
    args = parser.parse_args()
    done = build(args.tgz, args.out)
    for folder in ("icons-r", "icons-vocab"):
        for split in SPLITS:
            if split in done[folder]:
                print(folder, split, done[folder][split])
        print(folder, "nearest", json.dumps(done[folder]["nearest_hash_distance"]))
