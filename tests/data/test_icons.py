"""Icons-R and its vocabulary: what the data card promises, and the renditions."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.scripts import load_script

from janus.data import icons
from janus.errors import UsageError
from janus.runtime import assets

DATA = Path(__file__).resolve().parents[2] / "data"
RENDITION = "3fcd32eff6ecc9ba0bd0ddaa476670492919d91b9e5a32b902a1df1bd9f298c0"
SPLITS = {"icons-r": ("train", "val", "test"), "icons-vocab": ("train", "val")}


def luma(images: np.ndarray) -> np.ndarray:
    """uint8 (N, 3, H, W) -> int (N, H, W)."""
    return (images.astype(int) * np.array([77, 150, 29])[:, None, None]).sum(1) >> 8


@pytest.fixture(scope="module")
def manifest() -> dict:
    return json.loads(assets.path("icons-r/manifest.json").read_text())


@pytest.fixture(scope="module")
def phash() -> ModuleType:
    if not hasattr(np, "bitwise_count"):
        pytest.skip("the scripts that draw the data need NumPy 2")
    return load_script("data/scripts/phash.py")


@pytest.fixture(scope="module")
def files() -> dict:
    """(folder, split) -> (classes, (masks, labels, styles))."""
    return {
        (folder, split): icons.masks(folder, split) for folder, splits in SPLITS.items() for split in splits
    }


# ---- the files ------------------------------------------------------------
@pytest.mark.parametrize("folder, split", [(f, s) for f, splits in SPLITS.items() for s in splits])
def test_pixels_and_labels_are_those_of_the_manifest(files, manifest, folder, split) -> None:
    classes, (images, labels, _) = files[folder, split]
    digest = hashlib.sha256(images.tobytes() + labels.astype("<i8").tobytes()).hexdigest()
    assert digest == manifest[folder][split]["sha256"]
    assert len(labels) == manifest[folder][split]["images"]
    assert len(classes) == manifest[folder]["classes"]


def test_classes(files) -> None:
    stream, vocabulary = files["icons-r", "train"][0], files["icons-vocab", "train"][0]
    assert len(stream) == len(set(stream)) == 100
    assert not set(stream) & set(vocabulary)
    for (folder, _), (classes, _) in files.items():
        assert classes == (stream if folder == "icons-r" else vocabulary)
    for split, least in {"train": 42, "val": 12, "test": 15}.items():
        n = np.bincount(files["icons-r", split][1][1], minlength=100)
        assert n.min() >= least, (split, stream[n.argmin()], n.min())
    for split, least in {"train": 8, "val": 1}.items():
        assert np.bincount(files["icons-vocab", split][1][1], minlength=len(vocabulary)).min() >= least


def test_no_word_of_the_vocabulary_names_a_class_of_the_stream() -> None:
    spec = json.loads((DATA / "scripts" / "concepts.json").read_text())
    words = []
    for part in ("stream", "vocabulary"):
        for name, aliases in spec[part].items():
            words += {name, *aliases}
    assert len(words) == len(set(words))


def test_no_icon_set_is_in_two_splits(files, manifest) -> None:
    groups = {split: set(names) for split, names in manifest["groups"].items()}
    assert not groups["train"] & groups["val"] and not (groups["train"] | groups["val"]) & groups["test"]
    for (_, split), (_, (_, _, styles)) in files.items():
        assert set(styles) <= groups[split]


def test_no_near_duplicates_across_splits(files, manifest, phash) -> None:
    code = {key: phash.perceptual_hash(images) for key, (_, (images, _, _)) in files.items()}
    limit = manifest["near_across"]
    pairs = [
        (("icons-r", "test"), ("icons-r", "train")),
        (("icons-r", "val"), ("icons-r", "train")),
        (("icons-r", "test"), ("icons-r", "val")),
        (("icons-vocab", "val"), ("icons-vocab", "train")),
        *((("icons-r", s), ("icons-vocab", v)) for s in SPLITS["icons-r"] for v in SPLITS["icons-vocab"]),
    ]
    for a, b in pairs:
        assert phash.nearest(code[a], code[b]).min() > limit, (a, b)


def test_no_near_duplicates_within_a_class(files, manifest, phash) -> None:
    _, (images, labels, _) = files["icons-r", "train"]
    for c in range(100):
        code = phash.perceptual_hash(images[labels == c])
        distance = np.bitwise_count(code[:, None] ^ code) + 64 * np.eye(len(code), dtype=int)
        assert distance.min() > manifest["near_within"]


def test_every_set_is_attributed(files) -> None:
    text = (DATA / "ATTRIBUTION.md").read_text()
    for _, (_, (_, _, styles)) in files.items():
        for style in set(styles):
            assert f"| `{style}` |" in text
            assert (DATA / "LICENSES" / f"NOTICE-{style}.txt").is_file()


# ---- renditions ------------------------------------------------------------
def test_rendition_is_the_same_everywhere() -> None:
    y, x = np.mgrid[0:32, 0:32]
    masks = np.stack([((x * (k + 3) + y * 7) % 256).astype(np.uint8) for k in range(64)])
    images = icons.render(masks, np.arange(64), 1.0)
    assert images.shape == (64, 3, 32, 32) and images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes()).hexdigest() == RENDITION
    # no image depends on its neighbours
    assert np.array_equal(icons.render(masks[40:], np.arange(40, 64), 1.0), images[40:])


def test_strength_zero_is_black_on_white(files) -> None:
    _, (masks, _, _) = files["icons-r", "val"]
    images = icons.render(masks[:200], np.arange(200), 0.0)
    assert np.abs(images.astype(int) - (255 - masks[:200, None].astype(int))).max() <= 1  # 7 bits of coverage
    assert set(np.unique(icons.render(np.full((9, 32, 32), 255, np.uint8), np.arange(9), 0.0))) == {0}
    assert set(np.unique(icons.render(np.zeros((9, 32, 32), np.uint8), np.arange(9), 0.0))) == {255}


@pytest.mark.parametrize("strength", [0.1, 0.5, 1.0])
def test_contrast(strength) -> None:
    seeds = np.arange(1500)
    ground = luma(icons.render(np.zeros((1500, 32, 32), np.uint8), seeds, strength))
    ink = luma(icons.render(np.full((1500, 32, 32), 255, np.uint8), seeds, strength))
    assert np.abs(ground - ink).min() >= icons.MIN_CONTRAST


def test_both_polarities_colours_and_textures_at_full_strength() -> None:
    seeds = np.arange(1500)
    ground = icons.render(np.zeros((1500, 32, 32), np.uint8), seeds, 1.0)
    ink = icons.render(np.full((1500, 32, 32), 255, np.uint8), seeds, 1.0)
    dark = (luma(ink) < luma(ground)).all((1, 2)).mean()
    assert 0.45 < dark < 0.55
    colourful = ink[:, :, 0, 0].max(1).astype(int) - ink[:, :, 0, 0].min(1)
    assert np.median(colourful) > 50
    # a few grounds draw two colours that are nearly the same
    assert (ground.std((2, 3)).max(1) > 5).mean() > 0.8


def test_load(files) -> None:
    classes, parts = icons.load(strength=0.5)
    assert len(classes) == 100 and set(parts) == {"train", "val", "test"}
    images, labels, styles = parts["test"]
    assert images.shape == (len(labels), 3, 32, 32) and images.dtype == np.uint8
    assert labels.dtype == np.int64 and len(styles) == len(labels)
    assert np.array_equal(icons.load(0.5, split="test")[1]["test"][0], images)


def test_vocabulary(files) -> None:
    classes, parts = icons.vocabulary()
    assert set(parts) == {"train", "val"}
    assert parts["train"][0].shape[1:] == (32, 32) and parts["train"][1].max() < len(classes)


def test_the_vocabulary_behind_the_classes(files) -> None:
    plain, (concepts, held) = icons.load(), icons.vocabulary()
    classes, parts = icons.load(vocabulary=True)
    counts = np.bincount(held["val"][1], minlength=len(concepts))
    assert classes == plain[0] + [name for name, count in zip(concepts, counts) if count > 1]
    seen = {}
    for name, (images, labels, styles) in parts.items():
        first = len(plain[1][name][1])
        assert np.array_equal(images[:first], plain[1][name][0])
        assert np.array_equal(labels[:first], plain[1][name][1])
        assert styles[:first] == plain[1][name][2] and len(images) == len(labels) == len(styles)
        assert np.bincount(labels, minlength=len(classes)).min() > 0
        seen[name] = [(classes[label], style) for label, style in zip(labels[first:], styles[first:])]
    whole = [(concepts[label], style) for label, style in zip(*held["val"][1:]) if counts[label] > 1]
    assert sorted(seen["val"] + seen["test"]) == sorted(whole)
    of = {name: [concept for concept, _ in seen[name]] for name in ("val", "test")}
    assert all(of["val"].count(name) - of["test"].count(name) in (0, 1) for name in classes[100:])
    common = ((concepts[c], style) for c, style in zip(*held["train"][1:]) if counts[c] > 1)
    assert sorted(seen["train"]) == sorted(common)


def test_bad_requests() -> None:
    with pytest.raises(UsageError, match="did you mean 'test'"):
        icons.load(split="tset")
    with pytest.raises(UsageError, match="strength"):
        icons.render(np.zeros((1, 32, 32), np.uint8), np.zeros(1), 1.5)
    with pytest.raises(UsageError, match="masks"):
        icons.render(np.zeros((1, 28, 28), np.uint8), np.zeros(1), 1.0)
    with pytest.raises(UsageError, match="seeds"):
        icons.render(np.zeros((2, 32, 32), np.uint8), np.zeros(1), 1.0)


def test_the_backbone_was_trained_on_this_vocabulary(manifest) -> None:
    card = json.loads(assets.path("backbone/icons-vit.json").read_text())
    assert card["vocabulary_sha256"] == manifest["icons-vocab"]["train"]["sha256"]
    assert assets.path("backbone/icons-vit.safetensors").stat().st_size < 7_000_000


def test_the_wide_backbone_began_with_the_embedded_one_and_is_worth_more() -> None:
    card = json.loads(assets.path("backbone/icons-vit-wide.json").read_text())
    start = hashlib.sha256(assets.path("backbone/icons-vit.safetensors").read_bytes()).hexdigest()
    assert start in card.values() and card["vocabulary"]["concepts"] == 2542
    first, last = card["curve"][0], card["curve"][-1]
    assert first["passes"] == 0 and last["passes"] > 2_990_000
    assert all(last[key] > first[key] + 10 for key in first if "@" in key)
    assert assets.path("backbone/icons-vit-wide.safetensors").stat().st_size < 7_000_000
