"""Icons-R, the embedded benchmark: icons as plain alpha masks, rendered as coloured and textured renditions.

The stored images are masks of ink. `render` gives each one a random ink on a textured two-colour ground, from
integer hashes of a seed and integer arithmetic alone, so that every machine sees the same pixels.
"""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from ..errors import UsageError, unknown
from ..runtime import assets

DEFAULT_STRENGTH = 1.0  # chosen with the backbone, on validation: see data/README.md
SIZE = 32
SPLITS = ("train", "val", "test")
MIN_CONTRAST = 72  # least difference of luma, of 255, between the ink and either colour of the ground

Split = tuple[np.ndarray, np.ndarray, list[str]]  # images, labels int64 (N,), styles


# ---- randomness from integers ------------------------------------------------------------
def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 whose output bits look independent of the input (the finaliser of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _draw(seeds: np.ndarray, stream: int, n: int) -> np.ndarray:
    """An integer in [0, n) for each seed; another `stream`, another independent number.

    uint64 (N,) -> int32 (N,).
    """
    step = np.uint64((0x9E3779B97F4A7C15 * (stream + 1)) & 0xFFFFFFFFFFFFFFFF)
    return ((_mix(seeds + step) >> np.uint64(32)) * np.uint64(n) >> np.uint64(32)).astype(np.int32)


# ---- colours ------------------------------------------------------------
LUMA = np.array([77, 150, 29], dtype=np.int32)  # of 256


def _luma(colour: np.ndarray) -> np.ndarray:
    """Brightness, 0..255: int (..., 3) -> int (...)."""
    return (colour * LUMA).sum(-1) >> 8


def _at_luma(colour: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The colour moved towards black or white until its luma is `target`.

    int (N, 3), int (N,) -> int (N, 3).
    """
    luma = _luma(colour)
    darker = colour * target[:, None] // np.maximum(luma, 1)[:, None]
    lighter = 255 - (255 - colour) * (255 - target)[:, None] // np.maximum(255 - luma, 1)[:, None]
    return np.where((target <= luma)[:, None], darker, lighter).clip(0, 255)


def _hue(seeds: np.ndarray, stream: int) -> np.ndarray:
    """A colour of random hue and of full to middling saturation. -> int32 (N, 3)."""
    hue = _draw(seeds, stream, 6 * 256)
    sector, up = hue >> 8, hue & 255
    zero, one = np.zeros_like(up), np.full_like(up, 255)
    wheel = np.stack(  # the six sides of the hue hexagon
        [
            np.stack([one, up, zero], -1),
            np.stack([255 - up, one, zero], -1),
            np.stack([zero, one, up], -1),
            np.stack([zero, 255 - up, one], -1),
            np.stack([up, zero, one], -1),
            np.stack([one, zero, 255 - up], -1),
        ]
    )
    pure = wheel[sector, np.arange(len(sector))]
    grey = _draw(seeds, stream + 1, 128)[:, None]  # 0: pure, 127: half grey
    return (pure * (255 - grey) + 128 * grey) // 255


# ---- textures ------------------------------------------------------------
def _textures(seeds: np.ndarray) -> np.ndarray:
    """A weight between the two colours of the ground at each pixel: int32 (N, 32, 32) in 0..255.

    Six kinds: stripes, dots, a ramp, checks, blotchy and fine noise, each of random scale and direction.
    """
    n = len(seeds)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.int32)
    kind = _draw(seeds, 20, 6)
    out = np.zeros((n, SIZE, SIZE), np.int32)
    # a direction from a table of integer vectors about 16 long: a sine's last bit differs by machine
    table = [(16, 0), (15, 6), (11, 11), (6, 15), (0, 16), (-6, 15), (-11, 11), (-15, 6)]
    along = np.array(table, dtype=np.int32)[_draw(seeds, 21, 8)]  # (N, 2)
    period = (64 + _draw(seeds, 22, 193))[:, None, None]  # 4 to 16 px, times 16
    phase = _draw(seeds, 23, 4096)[:, None, None]

    def where(k: int) -> tuple[np.ndarray, np.ndarray]:
        """The images of kind k, and their position along the direction times 16, int32 (n, 32, 32)."""
        at = np.flatnonzero(kind == k)
        return at, along[at, 0, None, None] * x + along[at, 1, None, None] * y + phase[at]

    at, position = where(0)  # stripes: a triangle wave with steep flanks
    wave = position % period[at] * 510 // period[at]
    out[at] = ((np.minimum(wave, 510 - wave) - 128) * 4 + 128).clip(0, 255)

    at, _ = where(1)  # dots on a square grid
    side = period[at] >> 4
    dx, dy = (x + phase[at] % side) % side * 2 - side + 1, (y + phase[at] // 64 % side) % side * 2 - side + 1
    out[at] = (255 * (side * side * 9 // 20 - dx * dx - dy * dy) // np.maximum(side * 2, 1)).clip(0, 255)

    at, position = where(2)  # a ramp from one side to the other
    span = np.abs(along[at]).sum(1)[:, None, None] * (SIZE - 1)
    low = (np.minimum(along[at], 0).sum(1) * (SIZE - 1))[:, None, None]
    out[at] = ((position - phase[at] - low) * 255 // np.maximum(span, 1)).clip(0, 255)

    at, _ = where(3)  # checks
    side = np.maximum(period[at] >> 5, 2)
    out[at] = (((x + phase[at] % 16) // side + (y + phase[at] // 64 % 16) // side) & 1) * 255

    for k, size, contrast in ((4, 5, 2), (5, 16, 1)):  # noise on a coarse and a fine lattice, linear between
        at, _ = where(k)
        cells = np.arange(size * size, dtype=np.uint64) + np.uint64(1000 * k)
        drawn = _mix(seeds[at, None] ^ _mix(cells)) >> np.uint64(56)
        lattice = drawn.astype(np.int32).reshape(-1, size, size)
        place = np.arange(SIZE) * (size - 1) * 256 // (SIZE - 1)  # in 1/256 of a cell
        i = np.minimum(place >> 8, size - 2)
        f = (place - (i << 8)).astype(np.int32)
        rows = (lattice[:, i] * (256 - f)[:, None] + lattice[:, i + 1] * f[:, None]) >> 8
        both = (rows[:, :, i] * (256 - f) + rows[:, :, i + 1] * f) >> 8
        out[at] = ((both - 128) * contrast + 128).clip(0, 255)
    return out


# ---- rendition ------------------------------------------------------------
def render(alpha: np.ndarray, seeds: np.ndarray, strength: float = DEFAULT_STRENGTH) -> np.ndarray:
    """Icons in a random ink on a textured two-colour ground.

    Args:
        alpha: masks of ink, uint8 (N, 32, 32).
        seeds: one non-negative integer an icon, (N,): the same seed is the same rendition on every machine.
        strength: 0 is plain black on white, 1 the full rendition. Between them colours fade to black and
            white and the two colours of the ground to one; the share of images with light ink on a dark
            ground grows from 0 to a half.

    Returns:
        uint8 (N, 3, 32, 32). Ink and ground differ by at least 72 of 255 in luma, all over the ground.

    Raises:
        UsageError: masks of another shape or type, another number of seeds, or a strength outside 0..1.
    """
    alpha = np.asarray(alpha)
    seeds = np.atleast_1d(np.asarray(seeds)).astype(np.uint64)
    if alpha.dtype != np.uint8 or alpha.shape[1:] != (SIZE, SIZE) or len(alpha) != len(seeds):
        raise UsageError(
            f"render wants uint8 masks (N, {SIZE}, {SIZE}) and N seeds, "
            f"got {alpha.dtype} {alpha.shape} and {len(seeds)} seeds"
        )
    if not 0 <= strength <= 1:
        raise UsageError(
            f"strength is a number from 0 (black on white) to 1 (full renditions), got {strength!r}"
        )
    level = round(strength * 256)

    # Full rendition: luma first, so that contrast holds by construction; then hues at those lumas.
    ink_luma = _draw(seeds, 0, 88)  # 0..87: a dark ink ...
    room = 255 - MIN_CONTRAST - 8 - ink_luma  # 8 to spare for rounding of hues
    above = [_draw(seeds, 1 + k, 1 << 16) * room // (1 << 16) for k in range(2)]
    ground_luma = [ink_luma + MIN_CONTRAST + 8 + more for more in above]
    ink = _at_luma(_hue(seeds, 4), ink_luma)
    ground = [_at_luma(_hue(seeds, 6 + 2 * k), ground_luma[k]) for k in range(2)]  # 2 x (N, 3)

    # Towards plain black on white.
    ink = ink * level >> 8
    second = (ground[1] * level + ground[0] * (256 - level)) >> 8
    first, second = (255 - ((255 - g) * level >> 8) for g in (ground[0], second))
    negative = _draw(seeds, 30, 512) < level  # a light ink on a dark ground

    # Weights in 0..128 keep the products within int16, small parts keep them in the cache: five times faster.
    first, second, ink = (c.astype(np.int16)[:, :, None, None] for c in (first, second, ink))  # (N, 3, 1, 1)
    out = np.empty((len(alpha), 3, SIZE, SIZE), np.uint8)
    for i in range(0, len(alpha), 128):
        part = slice(i, i + 128)
        cover = ((alpha[part].astype(np.int16) + 1) >> 1)[:, None]  # (n, 1, 32, 32)
        weave = ((_textures(seeds[part]) + 1) >> 1).astype(np.int16)[:, None] if level else np.int16(0)
        back = first[part] + ((second[part] - first[part]) * weave >> 7)  # (n, 3, 32, 32)
        out[part] = back + ((ink[part] - back) * cover >> 7)
    np.bitwise_xor(out, np.where(negative, 255, 0).astype(np.uint8)[:, None, None, None], out=out)  # 255 - x
    return out


def fresh_seeds(rows: np.ndarray, draw: int) -> np.ndarray:
    """A seed for each row of the training file, another one in each draw (an epoch of a run).

    int (N,) -> uint64 (N,). Renditions follow from them, and so do not depend on which batch, or which
    process, an icon is in.
    """
    return _mix(np.asarray(rows).astype(np.uint64) ^ _mix(np.array([draw], dtype=np.uint64)))


# ---- files ------------------------------------------------------------
def masks(folder: str, split: str) -> tuple[list[str], Split]:
    """Classes and (masks uint8 (N, 32, 32), labels int64 (N,), styles) of `data/<folder>/<split>.parquet`.

    Raises:
        JanusError: the file is missing.
    """
    table = pq.read_table(assets.path(f"{folder}/{split}.parquet"))
    classes = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    encoded = table["image"].combine_chunks().field("bytes")
    images = np.stack([np.asarray(Image.open(io.BytesIO(e.as_py()))) for e in encoded])
    return classes, (images, table["label"].to_numpy().astype(np.int64), table["style"].to_pylist())


def load(
    strength: float = DEFAULT_STRENGTH, split: str | None = None, vocabulary: bool = False, copies: int = 1
) -> tuple[list[str], dict[str, Split]]:
    """Icons-R: class names and, by split, (images uint8 (N, 3, 32, 32), labels int64 (N,), styles).

    Each icon has one fixed rendition, seeded by its split and its place in the file. The style is its icon
    set; no set is in two splits.

    Args:
        strength: of the renditions, 0..1, see `render`.
        split: load only `train`, `val` or `test`.
        vocabulary: behind the 100 classes also, as further ones, the concepts that the embedded backbone was
            pre-trained on. Their held-out drawings are for val and test in turn; concepts with a single one
            are left out. This makes streams of many tasks, and is no test of what a backbone does with
            concepts it has not seen.
        copies: fixed renditions of each icon in val and test. The first is the one that `copies=1` has; those
            of one icon stand N apart.

    Raises:
        UsageError: an unknown split, or a strength outside 0..1.
        JanusError: a data file is missing.
    """
    if split is not None and split not in SPLITS:
        raise unknown("split of icons-r", split, SPLITS)
    classes: list[str] = []
    parts: dict[str, Split] = {}
    for name in SPLITS if split is None else (split,):
        classes, (inks, seeds, labels, styles) = _drawings(name, vocabulary)
        count = 1 if name == "train" else copies
        again = np.concatenate([seeds + np.uint64(k << 40) for k in range(count)])
        images = render(np.tile(inks, (count, 1, 1)), again, strength)
        parts[name] = images, np.tile(labels, count), styles * count
    return classes, parts


def training_masks(vocabulary: bool = False) -> np.ndarray:
    """uint8 (N, 32, 32): the masks of `load`'s training images, in their order."""
    return _drawings("train", vocabulary)[1][0]


def _drawings(
    name: str, vocabulary: bool
) -> tuple[list[str], tuple[np.ndarray, np.ndarray, np.ndarray, list[str]]]:
    """Classes, and of one split (masks uint8 (N, 32, 32), seeds uint64 (N,), labels int64 (N,), styles)."""
    classes, (images, labels, styles) = masks("icons-r", name)
    seeds = np.arange(len(labels), dtype=np.uint64) + np.uint64(SPLITS.index(name) << 32)
    if vocabulary:
        concepts, (more, of, drawn_by) = _held_out(name)
        further = np.uint64(len(SPLITS) + SPLITS.index(name) << 32)
        seeds = np.append(seeds, np.arange(len(of), dtype=np.uint64) + further)
        images, labels = np.append(images, more, 0), np.append(labels, of + len(classes))
        styles = styles + drawn_by
        classes = classes + concepts
    return classes, (images, seeds, labels, styles)


def _held_out(name: str) -> tuple[list[str], Split]:
    """The vocabulary's concepts with two held-out drawings or more, and of these what belongs to a split."""
    concepts, parts = vocabulary()
    kept = np.flatnonzero(np.bincount(parts["val"][1], minlength=len(concepts)) > 1)
    images, labels, styles = parts["train" if name == "train" else "val"]
    chosen = np.isin(labels, kept)
    if name != "train":
        for concept in kept:
            mine = np.flatnonzero(labels == concept)
            chosen[mine[int(name == "val") :: 2]] = False  # val has the first, third, …
    left = images[chosen], np.searchsorted(kept, labels[chosen]), np.array(styles)[chosen].tolist()
    return [concepts[c] for c in kept], left


def vocabulary() -> tuple[list[str], dict[str, Split]]:
    """The pre-training vocabulary: concept names and, for `train` and `val`, (masks, labels, styles).

    Masks are uint8 (N, 32, 32).

    Raises:
        JanusError: a data file is missing.
    """
    parts = {}
    classes: list[str] = []
    for name in SPLITS[:2]:
        classes, parts[name] = masks("icons-vocab", name)
    return classes, parts
