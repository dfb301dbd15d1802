"""Image sets from generated files in the layouts people have, and what is said when they are broken."""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.image_sets import (
    class_folder,
    encoded,
    every,
    fake_hub,
    fashion,
    idx,
    rows,
    said,
    save,
    table,
    write,
)
from PIL import Image

from janus.data import datasets, icons, images, registry, sources
from janus.data.images import Encoded, TensorImages, from_paths
from janus.errors import JanusError, UsageError

pytestmark = pytest.mark.usefixtures("without_home")

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


# ---- images ------------------------------------------------------------------------------------------------


def test_subsets_share_pixels_and_compose():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (10, 3, 4, 4), dtype=torch.uint8, generator=generator)
    whole = TensorImages(pixels, torch.arange(10), torch.arange(10) % 2)
    part = whole.subset(torch.tensor([7, 3, 5])).subset(torch.tensor([2, 0]), torch.tensor([40, 41]))
    assert len(part) == 2 and part.labels.tolist() == [40, 41] and part.styles.tolist() == [1, 1]
    assert torch.equal(part.batch(torch.tensor([1, 0, 1])), pixels[[7, 5, 7]])
    assert part.store.data_ptr() == pixels.data_ptr()


def test_file_images_decode_once_and_survive_the_files(tmp_path):
    paths = [write(tmp_path / f"{i}.png", encoded(10 * i)) for i in range(6)]
    kept, streamed = from_paths(paths), from_paths(paths, cache_bytes=0)
    first = every(kept)
    assert first.shape == (6, 3, 10, 10) and first[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert torch.equal(every(streamed), first)
    for path in paths:
        path.unlink()
    assert torch.equal(kept.batch(torch.tensor([4, 4, 1])), first[[4, 4, 1]])  # from memory
    assert "3.png" in said(JanusError, lambda: streamed.batch(torch.tensor([3])))


def test_an_empty_batch_is_empty(tmp_path):
    paths = [write(tmp_path / "a.png", encoded(1))]
    for cache_bytes in (0, 10**6):
        empty = from_paths(paths, cache_bytes=cache_bytes).batch(torch.tensor([], dtype=torch.long))
        assert empty.shape == (0, 3, 10, 10)


def test_photographs_keep_a_border_and_the_centre(tmp_path):
    wide = np.zeros((300, 600, 3), np.uint8)
    wide[:, 150:450] = 255  # the central square is white, both wings black
    buffer = io.BytesIO()
    Image.fromarray(wide).save(buffer, "PNG")
    path = write(tmp_path / "wide.png", buffer.getvalue())
    assert every(from_paths([path])).shape == (1, 3, 256, 256)
    square = every(from_paths([path], size=112))
    assert square.shape == (1, 3, 128, 128)
    assert (square[..., 2:-2] == 255).all()


@pytest.mark.parametrize("size", [(2, 6000), (6000, 2), (1, 6001), (3, 100)])
def test_a_strip_costs_no_more_than_its_middle(size):
    """Resized whole to 256 pixels a side, 2 x 6000 would be 590 MB."""
    width, height = size
    seen = []
    resize = Image.Image.resize

    def watched(image, shape, *more, **options):
        seen.append(shape)
        return resize(image, shape, *more, **options)

    values = np.linspace(0, 255, max(size)).astype(np.uint8)
    picture = np.broadcast_to(values[None] if width > height else values[:, None], (height, width))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        found = images.square(Image.fromarray(np.stack([picture] * 3, -1)), 256)
    assert found.shape == (256, 256, 3)
    assert all(w * h <= 18 * 256 * 256 for w, h in seen) and seen
    middle = values[(max(size) - min(size)) // 2 :][: min(size)]  # what the central square shows
    assert abs(found.mean() - middle.mean()) <= 2


@pytest.mark.parametrize("size", [(300, 200), (640, 480), (500, 90), (16, 256), (1600, 100)])
def test_a_photograph_is_resized_whole(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    scale = 64 / min(size)
    width, height = (round(scale * side) for side in size)
    left, top = (width - 64) // 2, (height - 64) // 2
    whole = picture.resize((width, height), Image.Resampling.BILINEAR).crop((left, top, left + 64, top + 64))
    assert np.array_equal(images.square(picture, 64), np.array(whole))


def test_small_images_of_different_sizes_take_the_usual_one(tmp_path):
    sizes = [(32, 32)] * 5 + [(40, 64)]
    paths = [write(tmp_path / f"{i}.png", encoded(i, size)) for i, size in enumerate(sizes)]
    assert every(from_paths(paths, size=224)).shape == (6, 3, 32, 32)


def pixel_of(image: Image.Image, tmp_path: Path, name: str = "x.png", **options) -> list[int]:
    image.save(tmp_path / name, **options)
    return every(from_paths([tmp_path / name]))[0, :, 0, 0].tolist()


def test_modes_become_rgb(tmp_path):
    size = (8, 8)
    assert pixel_of(Image.new("L", size, 90), tmp_path) == [90, 90, 90]
    assert pixel_of(Image.new("1", size, 1), tmp_path) == [255, 255, 255]
    # transparent: white shows
    assert pixel_of(Image.new("RGBA", size, (255, 0, 0, 0)), tmp_path) == [255, 255, 255]
    half = pixel_of(Image.new("RGBA", size, (200, 0, 0, 128)), tmp_path)
    assert all(abs(a - b) <= 1 for a, b in zip(half, [227, 127, 127]))
    assert pixel_of(Image.new("LA", size, (0, 0)), tmp_path) == [255, 255, 255]
    palette = Image.new("P", size, 1)
    palette.putpalette([0, 0, 0, 10, 200, 30])
    assert pixel_of(palette, tmp_path) == [10, 200, 30]
    assert pixel_of(palette, tmp_path, transparency=1) == [255, 255, 255]
    deep = Image.fromarray(np.full((8, 8), 0x8000, np.uint16))
    assert pixel_of(deep, tmp_path) == [128, 128, 128]  # not clipped to white
    assert pixel_of(Image.fromarray(np.full((8, 8), 0.5, np.float32)), tmp_path, "x.tiff") == [128, 128, 128]
    cmyk = pixel_of(Image.new("CMYK", size, (0, 255, 255, 0)), tmp_path, "x.tiff")
    assert cmyk[0] > 200 and cmyk[1] < 60 and cmyk[2] < 60


def test_exif_orientation_is_applied(tmp_path):
    picture = np.zeros((20, 20, 3), np.uint8)
    picture[:10] = 255  # top white
    exif = Image.Exif()
    exif[0x0112] = 3  # stored upside down
    Image.fromarray(picture).save(tmp_path / "x.png", exif=exif)
    upright = every(from_paths([tmp_path / "x.png"]))
    assert upright[0, 0, 0, 0] == 0 and upright[0, 0, -1, 0] == 255


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not an image at all"]
)
def test_a_corrupt_image_is_named(tmp_path, damage):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG")
    path = write(tmp_path / "broken.jpg", damage(buffer.getvalue()))
    assert str(path) in said(JanusError, lambda: every(from_paths([path])))


def test_decoding_is_the_same_in_any_order(tmp_path):
    paths = [write(tmp_path / f"{i}.png", encoded(i)) for i in range(20)]
    shuffled = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert torch.equal(from_paths(paths).batch(shuffled), every(from_paths(paths))[shuffled])


# ---- folders -----------------------------------------------------------------------------------------------


def test_a_folder_with_splits(tmp_path):
    class_folder(tmp_path / "train", {"b": 3, "a": 4})
    class_folder(tmp_path / "validation", {"a": 1, "b": 1}, 50)
    class_folder(tmp_path / "test", {"a": 2, "b": 2}, 60)
    write(tmp_path / "train" / "a" / ".hidden.png", b"junk")
    write(tmp_path / "train" / ".cache" / "x.png", b"junk")
    write(tmp_path / "train" / "a" / "deeper" / "more.png", encoded(99))
    write(tmp_path / "train" / "a" / "notes.txt", b"text")
    for data in (datasets.load(tmp_path), datasets.load("imagefolder", root=tmp_path)):
        assert data.classes == ["a", "b"] and data.transform == "photo"
        assert [len(data.train), len(data.val), len(data.test)] == [8, 2, 4]
        assert data.train.labels.bincount().tolist() == [5, 3]
        # sorted by class, then by name
        assert every(data.train)[:, 0, 0, 0].tolist() == [3, 4, 5, 6, 99, 0, 1, 2]
        assert "1 file without an image extension ignored (train/a/notes.txt)" in data.notes


def test_val_alone_beside_train_becomes_the_test_split(tmp_path):
    class_folder(tmp_path / "train", {"a": 3, "b": 3})
    class_folder(tmp_path / "val", {"a": 1, "b": 2}, 50)
    data = datasets.load(tmp_path)
    assert data.val is None and len(data.test) == 3
    assert "its validation split serves as the test split" in data.notes


def test_one_folder_is_cut_70_10_20_class_by_class_and_always_alike(tmp_path):
    class_folder(tmp_path, {"a": 40, "b": 10, "c": 3})
    data, again = datasets.load(tmp_path), datasets.load(tmp_path)
    counts = [part.labels.bincount(minlength=3).tolist() for part in (data.train, data.val, data.test)]
    assert counts == [[28, 7, 1], [4, 1, 1], [8, 2, 1]]
    shades = [set(every(part)[:, 0, 0, 0].tolist()) for part in (data.train, data.val, data.test)]
    assert set.union(*shades) == set(range(53)) and sum(map(len, shades)) == 53  # disjoint and complete
    assert torch.equal(every(data.test), every(again.test)) and torch.equal(every(data.val), every(again.val))
    assert any("70% train, 10% validation, 20% test" in note for note in data.notes)
    other = datasets.load(tmp_path, test_fraction=0.5, val_fraction=0.0)
    assert other.val is None and other.test.labels.bincount().tolist() == [20, 5, 2]


def test_val_fraction_takes_validation_from_train(tmp_path):
    class_folder(tmp_path / "train", {"a": 10, "b": 5})
    class_folder(tmp_path / "test", {"a": 1, "b": 1}, 50)
    assert datasets.load(tmp_path).val is None
    data = datasets.load(tmp_path, val_fraction=0.2)
    assert data.val.labels.bincount().tolist() == [2, 1] and data.train.labels.bincount().tolist() == [8, 4]
    assert len(data.test) == 2
    assert not set(every(data.val)[:, 0, 0, 0].tolist()) & set(every(data.train)[:, 0, 0, 0].tolist())


def test_folders_that_cannot_be_used_are_named(tmp_path):
    class_folder(tmp_path / "one", {"a": 5, "b": 5})
    (tmp_path / "one" / "empty").mkdir()
    assert "empty has no images" in said(UsageError, lambda: datasets.load(tmp_path / "one"))
    class_folder(tmp_path / "two" / "train", {"a": 2, "b": 2})
    class_folder(tmp_path / "two" / "test", {"a": 2})
    assert "class 'b' of two has no test images" in said(UsageError, lambda: datasets.load(tmp_path / "two"))
    class_folder(tmp_path / "three" / "train", {"a": 2})
    class_folder(tmp_path / "three" / "test", {"a": 2, "c": 1})
    message = said(UsageError, lambda: datasets.load(tmp_path / "three"))
    assert "class 'c' of three has no training images" in message
    class_folder(tmp_path / "four", {"a": 5, "b": 1})
    assert "class 'b' has too few images" in said(UsageError, lambda: datasets.load(tmp_path / "four"))
    write(tmp_path / "five" / "loose.png", encoded(0))
    assert "one folder per class" in said(UsageError, lambda: datasets.load(tmp_path / "five"))
    class_folder(tmp_path / "six" / "test", {"a": 2})
    class_folder(tmp_path / "six" / "val", {"a": 2})
    assert "no training split" in said(UsageError, lambda: datasets.load(tmp_path / "six"))


def test_a_corrupt_image_in_a_set_is_named_and_skipped_only_if_asked(tmp_path):
    class_folder(tmp_path, {"a": 10, "b": 10})
    bad = write(tmp_path / "a" / "004.png", b"\x89PNG broken")
    data = datasets.load(tmp_path)
    message = said(JanusError, lambda: [every(part) for part in (data.train, data.val, data.test)])
    assert str(bad) in message and "skip_corrupt=true" in message
    with pytest.warns(UserWarning, match="1 corrupt images skipped: .*004.png"):
        data = datasets.load(tmp_path, skip_corrupt=True)
    assert sum(len(part) for part in (data.train, data.val, data.test)) == 19
    assert all(len(every(part)) == len(part) for part in (data.train, data.val, data.test))
    assert any("004.png" in note for note in data.notes)


def test_a_class_that_only_has_corrupt_images_is_named(tmp_path):
    class_folder(tmp_path / "train", {"a": 2, "b": 2})
    class_folder(tmp_path / "test", {"a": 2})
    write(tmp_path / "test" / "b" / "0.png", b"broken")
    with pytest.warns(UserWarning):
        message = said(UsageError, lambda: datasets.load(tmp_path, skip_corrupt=True))
    assert "class 'b'" in message and "no test images" in message


# ---- parquet and the hub -----------------------------------------------------------------------------------


def test_parquet_in_the_hub_layout(tmp_path):
    names = ["cat", "dog"]
    save(tmp_path / "data" / "train-00000-of-00002.parquet", table(rows({0: 3, 1: 1}), names))
    save(tmp_path / "data" / "train-00001-of-00002.parquet", table(rows({1: 2}, 20), names))
    save(tmp_path / "data" / "validation-00000-of-00001.parquet", table(rows({0: 1, 1: 1}, 30), names))
    save(tmp_path / "data" / "test-00000-of-00001.parquet", table(rows({1: 2, 0: 1}, 40), names))
    data = datasets.load(tmp_path)
    assert data.classes == names and [len(data.train), len(data.val), len(data.test)] == [6, 2, 3]
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and data.test.labels.tolist() == [1, 1, 0]
    assert every(data.train)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 20, 21]  # rows of both files, in order
    assert every(data.test)[:, 0, 0, 0].tolist() == [40, 41, 42]


def test_parquet_by_pattern_below_janus_data(tmp_path, monkeypatch):
    for stem in ("pets", "cars"):
        for split, start in (("train", 0), ("test", 50)):
            cells = table(rows({0: 2, 1: 2}, start), [f"{stem}0", f"{stem}1"])
            save(tmp_path / f"{stem}-{split}.parquet", cells)
    monkeypatch.setenv("JANUS_DATA", str(tmp_path))
    data = datasets.load("pets-*.parquet")
    assert data.classes == ["pets0", "pets1"] and len(data.train) == len(data.test) == 4
    assert datasets.load("cars-*.parquet", root=tmp_path).classes == ["cars0", "cars1"]
    assert datasets.load("parquet", root=tmp_path / "cars-*.parquet").classes == ["cars0", "cars1"]


def test_one_parquet_file_is_cut(tmp_path):
    file = save(tmp_path / "x-train.parquet", table(rows({0: 10, 1: 10}), ["a", "b"]))
    data = datasets.load(file)
    assert [len(data.train), len(data.val), len(data.test)] == [14, 2, 4]


@pytest.mark.parametrize(
    ("labels", "names", "classes"),
    [
        ([10, 2, 10, 2], None, ["2", "10"]),  # numbers in their own order, not the alphabet's
        (["b", "a", "b", "a"], None, ["a", "b"]),
        ([0, 2, 0, 2], ["x", "never", "y"], ["x", "y"]),
        ([0, 1, 0, 1], ["crane", "crane"], ["crane (0)", "crane (1)"]),
    ],
)
def test_class_names(tmp_path, labels, names, classes):
    for split in ("train", "test"):
        save(tmp_path / f"{split}.parquet", table([(encoded(i), v) for i, v in enumerate(labels)], names))
    data = datasets.load(tmp_path)
    assert data.classes == classes
    order = [classes.index(name) for name in (classes if labels[0] in (0, classes[0]) else classes[::-1])] * 2
    assert data.train.labels.tolist() == order
    unseen = any("1 of 3 class names have no images" in n for n in data.notes)
    assert unseen == (names is not None and "never" in names)


def test_columns_are_found_or_asked_for(tmp_path):
    built = table(rows({0: 2, 1: 2}), ["a", "b"], image="img", label="fine_label", coarse_label=[5, 6, 5, 6])
    for split in ("train", "test"):
        save(tmp_path / "cifar" / f"{split}.parquet", built)
        save(tmp_path / "odd" / f"{split}.parquet", table(rows({0: 2, 1: 2}), image="photo", label="what"))
    assert datasets.load(tmp_path / "cifar").classes == ["a", "b"]
    assert datasets.load(tmp_path / "cifar", label_column="coarse_label").classes == ["5", "6"]
    message = said(UsageError, lambda: datasets.load(tmp_path / "odd"))
    assert "photo, what" in message and "image_column" in message
    assert datasets.load(tmp_path / "odd", image_column="photo", label_column="what").classes == ["0", "1"]
    message = said(UsageError, lambda: datasets.load(tmp_path / "cifar", label_column="img"))
    assert "struct" in message


def test_styles_are_kept(tmp_path):
    for split in ("train", "test"):
        cells = table(rows({0: 2, 1: 2}), ["a", "b"], style=["ink", "oil", "ink", "oil"])
        save(tmp_path / f"{split}.parquet", cells)
    data = datasets.load(tmp_path)
    assert data.styles == ["ink", "oil"] and data.train.styles.tolist() == [0, 1, 0, 1]


def test_images_stored_as_paths_or_plain_bytes(tmp_path):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, shade in (("train", 11), ("test", 13)):
        write(tmp_path / "pics" / f"{split}.png", encoded(shade))
        cells = [{"bytes": None, "path": f"pics/{split}.png"}] * 2
        save(tmp_path / "s" / f"{split}.parquet", pa.table({"image": pa.array(cells, kind), "label": [0, 0]}))
        bare = pa.table({"image": pa.array([encoded(12)], pa.binary()), "label": [0]})
        save(tmp_path / "b" / f"{split}.parquet", bare)
    (tmp_path / "pics").rename(tmp_path / "s" / "pics")
    assert every(datasets.load(tmp_path / "s").train)[:, 0, 0, 0].tolist() == [11, 11]
    assert every(datasets.load(tmp_path / "b").train)[:, 0, 0, 0].tolist() == [12]


def test_a_corrupt_row_is_named(tmp_path):
    built = table([(encoded(0), 0), (b"broken", 0), (None, 0), (encoded(1), 0)], ["a"])
    file = save(tmp_path / "train.parquet", built)
    save(tmp_path / "test.parquet", table(rows({0: 1}), ["a"]))
    data = datasets.load(tmp_path)
    assert f"{file} row 1" in said(JanusError, lambda: data.train.batch(torch.tensor([0, 1])))
    assert "2.png" in said(JanusError, lambda: data.train.batch(torch.tensor([2])))
    with pytest.warns(UserWarning, match="2 corrupt images skipped"):
        data = datasets.load(tmp_path, skip_corrupt=True)
    assert every(data.train)[:, 0, 0, 0].tolist() == [0, 1]


def test_unlabelled_rows(tmp_path):
    names = ["a", "b"]
    save(tmp_path / "train.parquet", table(rows({0: 2, 1: 2}), names))
    save(tmp_path / "valid.parquet", table(rows({0: 1, 1: 1}, 30), names))
    hidden = save(tmp_path / "test.parquet", table(rows({-1: 3}), names))
    data = datasets.load(tmp_path)  # as on the hub: the labels of test are withheld
    assert len(data.test) == 2 and data.val is None
    assert any("test.parquet has no labels and is not used" in n for n in data.notes)
    save(hidden, table(rows({-1: 1, 0: 2}), names))
    assert "1 of 3 rows have no label" in said(JanusError, lambda: datasets.load(tmp_path))
    save(hidden, table(rows({0: 1, 7: 1}), names))
    assert "label 7 has no name" in said(JanusError, lambda: datasets.load(tmp_path))


def test_truncated_parquet_is_named(tmp_path):
    file = save(tmp_path / "train.parquet", table(rows({0: 2}), ["a"]))
    file.write_bytes(file.read_bytes()[:-20])
    assert str(file) in said(JanusError, lambda: datasets.load(file))


@pytest.mark.parametrize(
    ("file", "split"),
    [
        ("train-00000-of-00005.parquet", "train"),
        ("tin100-test.parquet", "test"),
        ("valid-00000-of-00001-703a.parquet", "val"),
        ("default/train/0000.parquet", "train"),
        ("partial-train/0001.parquet", "train"),
        ("my_validation.parquet", "val"),
        ("latest.parquet", ""),
        ("constrain.parquet", ""),
    ],
)
def test_splits_by_file_name(file, split):
    assert sources.split_of(Path("/root") / file, Path("/root")) == split


def test_file_names_that_leave_the_split_open(tmp_path):
    assert "two splits" in said(UsageError, lambda: sources.split_of(tmp_path / "train-test.parquet"))
    save(tmp_path / "train.parquet", table(rows({0: 2})))
    save(tmp_path / "more.parquet", table(rows({0: 2})))
    assert "name all of them" in said(UsageError, lambda: datasets.load(tmp_path))


def test_the_hub_when_offline_or_not_installed(monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("Couldn't reach the Hub\nwith many\nmore lines")

    fake_hub(monkeypatch, offline)
    message = said(JanusError, lambda: datasets.load("hf:someone/pets"))
    assert "'someone/pets'" in message and "Couldn't reach the Hub" in message
    assert "give the folder" in message
    assert "uoft-cs/cifar100" in said(JanusError, lambda: datasets.load("cifar-100"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install datasets" in said(JanusError, lambda: datasets.load("hf:someone/pets"))


def test_the_hub_through_the_real_library(tmp_path, monkeypatch):
    hf = pytest.importorskip("datasets")
    monkeypatch.setattr(hf.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "repo" / "data"
    save(folder / "train-00000-of-00001.parquet", table(rows({0: 3, 1: 3}), ["cat", "dog"]))
    save(folder / "test-00000-of-00001.parquet", table(rows({0: 1, 1: 2}, 40), ["cat", "dog"]))
    data = datasets.load(f"hf:{tmp_path / 'repo'}")
    assert data.classes == ["cat", "dog"] and data.val is None
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert every(data.test)[:, 0, 0, 0].tolist() == [40, 41, 42]


def test_a_published_benchmark_from_local_files(tmp_path, monkeypatch):
    built = table(rows({0: 4, 1: 4}), ["a", "b"], image="img", label="fine_label", coarse_label=[0] * 8)
    for split in ("train", "test"):
        save(tmp_path / "cifar-100" / f"{split}.parquet", built)
    save(tmp_path / "imagenet-r" / "test.parquet", table(rows({0: 10, 1: 10}), label="wnid"))
    monkeypatch.setenv("JANUS_DATA", str(tmp_path))
    data = datasets.load("cifar-100")
    assert data.name == "cifar-100" and data.classes == ["a", "b"]
    data = datasets.load("imagenet-r")  # published as one split: 80/20, as the field cuts it
    assert [len(data.train), data.val, len(data.test)] == [16, None, 4]
    assert len(datasets.load("imagenet-r", val_fraction=0.1).val) == 2
    assert "does not exist" in said(UsageError, lambda: datasets.load("cifar-100", root=tmp_path / "nowhere"))


# ---- Fashion-MNIST -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_from_idx_files(tmp_path, monkeypatch, zipped):
    fashion(tmp_path / "fashion-mnist", zipped)
    monkeypatch.setenv("JANUS_DATA", str(tmp_path))
    data = datasets.load("fashion-mnist")
    first = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert len(data.classes) == 10 and data.classes[9] == "Ankle boot" and data.val is None
    pixels = every(data.train)
    assert pixels.shape == (40, 3, 28, 28) and pixels.is_contiguous()
    assert all(np.array_equal(pixels[:, c].numpy(), first) for c in range(3))
    assert data.train.labels.tolist() == [i % 10 for i in range(40)] and len(data.test) == 20
    assert data.transform == "icons"  # no flips
    split = datasets.load("fashion-mnist", root=tmp_path / "fashion-mnist", val_fraction=0.25)
    assert split.val.labels.bincount().tolist() == [1] * 10 and len(split.train) == 30


def test_damaged_idx_files_are_named(tmp_path):
    file = fashion(tmp_path) / "train-images-idx3-ubyte"
    good = file.read_bytes()

    def message() -> str:
        return said(JanusError, lambda: datasets.load("fashion-mnist", root=tmp_path))

    file.write_bytes(good[:-5])
    assert "train-images-idx3-ubyte is truncated" in message()
    file.write_bytes(good + b"x")
    assert "too long" in message()
    file.write_bytes(b"\x1f\x8b\x08\x00" + good[4:])
    assert "not an IDX file" in message() and "1f8b0800" in message()
    file.write_bytes(b"")
    assert "not an IDX file" in message()
    file.unlink()
    write(tmp_path / "train-images-idx3-ubyte.gz", gzip.compress(good)[:-30])
    assert "train-images-idx3-ubyte.gz" in message() and "truncated or damaged" in message()
    file.write_bytes(idx(np.zeros((39, 28, 28), np.uint8)))
    assert "40 labels for 39 images" in message()
    file.write_bytes(good)
    write(tmp_path / "t10k-labels-idx1-ubyte", idx(np.full(20, 31, np.uint8)))
    assert "label 31" in message()
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "t10k-labels-idx1-ubyte" in said(UsageError, lambda: datasets.load("fashion-mnist", root=tmp_path))
    assert "JANUS_DATA" in said(UsageError, lambda: datasets.load("fashion-mnist"))


# ---- Icons-R -----------------------------------------------------------------------------------------------


def test_icons_r_wires_the_embedded_arrays(monkeypatch):
    def parts(count):
        shade = np.arange(count, dtype=np.uint8)[:, None, None, None]
        pixels = shade.repeat(3, 1).repeat(32, 2).repeat(32, 3)
        return pixels, np.arange(count, dtype=np.int64) % 2, [["line", "solid"][i % 2] for i in range(count)]

    asked = []

    def load(strength, vocabulary, copies):
        asked.append((strength, vocabulary))
        return ["arrow-left", "mail"], {"train": parts(6), "val": parts(2), "test": parts(4)}

    monkeypatch.setattr(icons, "load", load)
    data = datasets.load("icons-r", size=32)
    assert data.classes == ["arrow-left", "mail"] and data.styles == ["line", "solid"]
    assert data.transform == "icons"
    assert [len(data.train), len(data.val), len(data.test)] == [6, 2, 4]
    assert every(data.test)[:, 0, 0, 0].tolist() == [0, 1, 2, 3] and data.test.styles.tolist() == [0, 1, 0, 1]
    datasets.load("icons-r", strength=0.5, vocabulary=True)
    assert asked == [(1.0, False), (0.5, True)]


def test_icons_r_is_there():
    data = datasets.load("icons-r")
    assert len(data.classes) == len(set(data.classes)) == 100
    for part in (data.train, data.val, data.test):
        assert part.labels.bincount(minlength=100).min() > 0
        assert part.batch(torch.tensor([0, len(part) - 1])).shape == (2, 3, 32, 32)


# ---- names and options -------------------------------------------------------------------------------------


def refused(*names: object, **options: object) -> str:
    """What `datasets.load` says against them."""
    return said(UsageError, lambda: datasets.load(*names, **options))


def test_unknown_names_paths_and_options(tmp_path):
    assert "did you mean 'icons-r'" in refused("icon-r")
    assert "did you mean 'fashion-mnist'" in refused("fashion_mnist")
    assert "known: " in refused("")
    assert "does not exist" in refused(tmp_path / "nowhere")
    assert "does not exist" in refused("nothing.parquet")
    assert "build_tin100.py tiny-imagenet-200 --out photographs` makes it" in refused("tin100-*.parquet")
    assert "does not exist" in refused("imagefolder", root=tmp_path / "nowhere")
    assert "needs root" in refused("parquet")
    assert "no parquet files" in refused("parquet", root=tmp_path)
    assert "is not a folder" in refused("imagefolder", root=write(tmp_path / "file.txt", b"x"))
    message = refused("fashion-mnist", root=tmp_path, strength=1.0)
    assert "'strength' belongs to dataset icons-r, not to fashion-mnist" in message
    message = refused("icons-r", label_column="x")
    assert "belongs to dataset" in message and "parquet" in message
    message = refused("fashion-mnist", val_fracton=0.1)
    assert "did you mean 'val_fraction'" in message
    assert "embedded" in refused("icons-r", root=tmp_path)
    assert "takes a number" in refused("icons-r", strength="strong")
    assert "takes true or false, got 1" in refused("icons-r", vocabulary=1)
    assert refused("imagenet-100", class_list=100) == "data.class_list takes a text, got 100"


def test_impossible_fractions(tmp_path):
    class_folder(tmp_path / "one", {"a": 10})
    class_folder(tmp_path / "two" / "train", {"a": 10})
    class_folder(tmp_path / "two" / "test", {"a": 10})
    class_folder(tmp_path / "three" / "train", {"a": 10})
    class_folder(tmp_path / "three" / "val", {"a": 10})
    class_folder(tmp_path / "three" / "test", {"a": 10})
    assert "val_fraction takes a number" in refused(tmp_path / "one", val_fraction="lots")
    for options in ({"val_fraction": 1.5}, {"test_fraction": 0}, {"test_fraction": -0.1}):
        assert "_fraction must be " in refused(tmp_path / "one", **options)
    message = refused(tmp_path / "one", val_fraction=0.5, test_fraction=0.5)
    assert "nothing to train on" in message
    assert "test_fraction has no use" in refused(tmp_path / "two", test_fraction=0.1)
    assert "val_fraction has no use" in refused(tmp_path / "three", val_fraction=0.1)


def test_every_set_is_described():
    assert registry.DATASETS.keys() == datasets.LOADERS.keys()
    for name, description in registry.names().items():
        assert name and description and len(description) < 120


def test_the_cache_limit_is_what_the_docs_say():
    def store(count):
        return Encoded(count, lambda i: encoded(i % 256, (64, 64)), str)

    fitting = images.CACHE_BYTES // (3 * 64 * 64)
    assert store(fitting).pixels is not None and store(fitting + 1).pixels is None
