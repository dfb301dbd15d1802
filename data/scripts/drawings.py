"""Drawings of icons: pixels, near-duplicates, the choice for each split, and the parquet files.

Rasterising needs `resvg_py`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from iconify import Icon
from phash import SIZE, nearest, perceptual_hash
from PIL import Image

MARGIN = 2
NEAR_WITHIN = 4  # icons of one class and group at a hash distance (of 63 bits) up to this are one drawing
NEAR_ACROSS = 6  # training and validation icons this near to an icon of a later group are dropped
SPLITS = ("train", "val", "test")


# ---- pixels ------------------------------------------------------------
def mask(svg: str) -> np.ndarray | None:
    """The ink of an icon as uint8 (32, 32), its bounding box fitted into the margins.

    None for a blank or a full box.
    """
    import resvg_py  # here, because only the scripts that draw need it

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
    sets = sorted(by_set, key=lambda s: key(s + icons[0].name))
    queues = [sorted(by_set[s], key=lambda i: key(f"{i.style}:{i.name}")) for s in sets]
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
    distance = nearest(hashes(entries), hashes(others))
    return [e for e, d in zip(entries, distance, strict=True) if d > NEAR_ACROSS]


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


def select(
    found: dict[str, dict[str, list[Icon]]], caps: dict[str, int], forbidden: list[Entry]
) -> dict[str, list[Entry]]:
    """Images of each split: test stays, validation avoids test, training avoids both (and `forbidden`)."""
    chosen: dict[str, list[Entry]] = {}
    avoid = list(forbidden)
    for split in [s for s in reversed(SPLITS) if s in caps]:
        drawn: list[Entry] = []
        for label, icons in enumerate(found[split].values()):
            drawn += draw(icons, label, 2 * caps[split])
        chosen[split] = cap(without_near(drawn, avoid), caps[split])
        avoid += chosen[split]
    return chosen


# ---- files ------------------------------------------------------------
def content_hash(images: np.ndarray, labels: np.ndarray) -> str:
    """sha256 over decoded pixels and labels: uint8 (N, 32, 32), int (N,)."""
    pixels, numbers = np.ascontiguousarray(images, np.uint8), np.asarray(labels, "<i8")
    return hashlib.sha256(pixels.tobytes() + numbers.tobytes()).hexdigest()


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
    images = [{"bytes": png(e.image), "path": f"{e.icon.style}/{e.icon.name}.png"} for e in entries]
    columns = {
        "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        "label": pa.array([e.label for e in entries], pa.int64()),
        "style": [e.icon.style for e in entries],
    }
    table = pa.table(columns)
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")


def read(path: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Classes, masks uint8 (N, 32, 32) and labels int64 (N,) of a file of `write`."""
    table = pq.read_table(path, columns=["image", "label"])
    classes = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    encoded = table["image"].combine_chunks().field("bytes")
    images = np.stack([np.asarray(Image.open(io.BytesIO(e.as_py()))) for e in encoded])
    return classes, images, table["label"].to_numpy().astype(np.int64)


def distances(a: list[Entry], b: list[Entry]) -> dict[str, object]:
    """How near the images of a come to those of b.

    The nearest hash distances, and how often the nearest is of its class.
    """
    code_a, code_b = hashes(a), hashes(b)
    near = nearest(code_a, code_b)
    label_b = np.array([e.label for e in b])
    alike = []
    for e, code, d in zip(a, code_a, near):
        alike.append(np.mean(label_b[np.bitwise_count(code_b ^ code) == d] == e.label))
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
