"""Folders as people have them: accents, what systems leave, a folder too many, no labels, strange names."""

from __future__ import annotations

import unicodedata

import pytest
from helpers.image_sets import (
    all_shades,
    class_folder,
    encoded,
    noted,
    pa,
    rows,
    said,
    save,
    shades,
    table,
    write,
)

from janus.data import datasets, stream
from janus.errors import JanusError, UsageError

pytestmark = pytest.mark.usefixtures("without_home")


# ---- names -------------------------------------------------------------------------------------------------

COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def test_a_class_has_one_name_however_its_accents_are_stored(tmp_path):
    class_folder(tmp_path / "one" / "train", {COMPOSED: 3, "tea": 3})
    class_folder(tmp_path / "one" / "test", {APART: 2, "tea": 2}, 50)
    data = datasets.load(tmp_path / "one")
    assert data.classes == [COMPOSED, "tea"] and data.test.labels.tolist() == [0, 0, 1, 1]
    class_folder(tmp_path / "two", {COMPOSED: 4}, 0)
    class_folder(tmp_path / "two", {APART: 4, "tea": 8}, 10)
    data = datasets.load(tmp_path / "two")
    assert data.classes == [COMPOSED, "tea"] and len(all_shades(data)) == 16 and noted(data, "one class")
    for split, name, start in (("train", COMPOSED, 0), ("test", APART, 20)):
        cells = table([(encoded(start), name), (encoded(start + 1), "tea")])
        save(tmp_path / "texts" / f"{split}.parquet", cells)
        save(tmp_path / "names" / f"{split}.parquet", table(rows({0: 2, 1: 2}, start), [name, "tea"]))
    for kind in ("texts", "names"):
        assert datasets.load(tmp_path / kind).classes == [COMPOSED, "tea"]


def test_a_class_list_and_split_lists_find_names_however_stored(tmp_path):
    root = class_folder(tmp_path / "set", {APART: 4, "tea": 4, "milk": 4})
    # with Windows's mark
    listed = write(tmp_path / "list.txt", b"\xef\xbb\xbf" + f"{COMPOSED}\ntea\n".encode())
    assert datasets.load(root, class_list=str(listed)).classes == [COMPOSED, "tea"]
    listed.write_bytes(COMPOSED.encode("latin-1"))
    assert "save it as UTF-8" in said(JanusError, lambda: datasets.load(root, class_list=str(listed)))
    for part, i in (("train", 0), ("test", 1)):
        text = f"data: ['{COMPOSED}/00{i}.png', 'tea/00{i}.png']\ntargets: [0, 1]\n"
        write(tmp_path / f"{part}.yaml", text.encode())
    files = [str(tmp_path / f"{part}.yaml") for part in ("train", "test")]
    data = datasets.load("imagenet-r", root=root, split_files=files)
    assert data.classes == [COMPOSED, "tea"] and len(data.test) == 2


def test_new_classes_are_known_however_their_names_are_stored(tmp_path):
    old = datasets.load(class_folder(tmp_path / "old", {COMPOSED: 4, "tea": 4}))
    new = datasets.load(class_folder(tmp_path / "new", {APART: 4, "milk": 4}))
    with pytest.raises(UsageError, match="already known"):
        stream.class_incremental(old, 2).with_new_classes(new)


@pytest.mark.parametrize(
    "name", ["my cats & dogs", "100% #1", "set[1]", "{a,b}", "what?", "a*b", "ключ", "~tilde", "d=1,2"]
)
def test_any_folder_name_works(tmp_path, monkeypatch, name):
    root = class_folder(tmp_path / name, {"a": 4, name: 4})
    assert sorted(datasets.load(root).classes) == sorted(["a", name])
    monkeypatch.setenv("JANUS_DATA", str(tmp_path / name))
    for split, start in (("train", 0), ("test", 50)):
        save(tmp_path / name / "t" / f"{split}.parquet", table(rows({0: 2, 1: 2}, start), ["a", "b"]))
    for given in (tmp_path / name / "t", tmp_path / name / "t" / "*.parquet", "t/t*.parquet"):
        data = datasets.load(given)
        assert data.classes == ["a", "b"] and shades(data.test) == [50, 51, 52, 53]


def test_jpeg_by_its_other_endings(tmp_path):
    for split, count in (("train", 3), ("test", 1)):
        for i in range(count):
            for kind, ending in (("a", ".jfif"), ("b", ".jpe"), ("c", ".JFIF")):
                write(tmp_path / split / kind / f"{i}{ending}", encoded(i, form="JPEG"))
    assert datasets.load(tmp_path).train.labels.bincount().tolist() == [3, 3, 3]


def test_what_is_not_read_is_counted_with_an_example(tmp_path, caplog):
    class_folder(tmp_path / "train", {"a": 3, "b": 3})
    class_folder(tmp_path / "test", {"a": 1, "b": 1}, 50)
    for name in ("a/one.heic", "a/two.heic", "b/Thumbs.db", "b/desktop.ini", "b/.DS_Store"):
        write(tmp_path / "train" / name, b"x")
    write(tmp_path / "train" / "loose.png", encoded(99))
    data = datasets.load(tmp_path)
    assert "2 files without an image extension ignored (e.g. train/a/one.heic)" in data.notes
    assert noted(data, "1 image in no class folder", "train/loose.png") and 99 not in all_shades(data)
    caplog.set_level("INFO", "janus")
    datasets.load(tmp_path)
    assert any("2 files without an image extension" in line for line in caplog.messages)


# ---- what systems leave, and layouts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["@eaDir", ".ipynb_checkpoints", "__MACOSX", ".thumbnails", "#recycle", "$RECYCLE.BIN"]
)
def test_what_systems_leave_is_no_class_and_no_image(tmp_path, name):
    class_folder(tmp_path, {"a": 4, "b": 4})
    write(tmp_path / name / "a" / "0.png", encoded(90))
    write(tmp_path / "a" / name / "000.png" / "thumb.jpg", encoded(91))
    write(tmp_path / "b" / "._000.png", b"Mac OS X")
    data = datasets.load(tmp_path)
    assert data.classes == ["a", "b"] and all_shades(data) == [*range(8)] and not noted(data, "ignored")
    save(tmp_path / "t" / name / "test.parquet", table(rows({0: 1}, 80), ["a"]))
    save(tmp_path / "t" / "train.parquet", table(rows({0: 4, 1: 4}), ["a", "b"]))
    assert all_shades(datasets.load(tmp_path / "t")) == [*range(8)]


@pytest.mark.parametrize("splits", [True, False])
def test_a_folder_too_many_is_seen_through(tmp_path, splits):
    inner = tmp_path / "set" / "archive" / "set"
    write(tmp_path / "set" / "__MACOSX" / "a" / "._0.png", b"x")
    write(tmp_path / "set" / "readme.txt", b"x")
    if splits:
        class_folder(inner / "train", {"a": 3, "b": 3})
        class_folder(inner / "test", {"a": 1, "b": 1}, 50)
    else:
        class_folder(inner, {"a": 4, "b": 4})
    data = datasets.load(tmp_path / "set")
    assert data.classes == ["a", "b"] and noted(data, "archive/set")
    assert (shades(data.test) == [50, 51]) == splits


def test_one_class_stays_one_class(tmp_path):
    class_folder(tmp_path / "flat", {"cup": 5})
    class_folder(tmp_path / "deep" / "cup", {"2024": 5})
    class_folder(tmp_path / "mixed" / "cup", {"red": 3, "blue": 3})
    write(tmp_path / "mixed" / "cup" / "0.png", encoded(60))
    for kind in ("flat", "deep", "mixed"):
        assert datasets.load(tmp_path / kind).classes == ["cup"]


@pytest.mark.parametrize("names", [("0.png", "1.png"), ("images/0.png",), ("unknown/0.png",), ()])
def test_a_test_folder_without_labels_is_not_used(tmp_path, names):
    class_folder(tmp_path / "train", {"a": 10, "b": 10})
    (tmp_path / "test").mkdir()
    for name in names:
        write(tmp_path / "test" / name, encoded(90))
    data = datasets.load(tmp_path)
    assert data.classes == ["a", "b"] and all_shades(data) == [*range(20)]
    assert noted(data, "test/ is not used", "no labels") and noted(data, "no splits of its own", "20% test")


def test_two_folders_for_one_split_are_refused(tmp_path):
    for name in ("train", "val", "validation"):
        class_folder(tmp_path / name, {"a": 2, "b": 2})
    assert "both the val split" in said(UsageError, lambda: datasets.load(tmp_path))


@pytest.mark.parametrize(
    "place", ["meta.parquet", "train/meta.parquet", "train/a/meta.parquet", "data/meta.parquet"]
)
def test_a_stray_table_does_not_change_how_an_image_folder_is_read(tmp_path, place):
    class_folder(tmp_path / "train", {"a": 3, "b": 3})
    class_folder(tmp_path / "test", {"a": 1, "b": 1}, 50)
    file = save(tmp_path / place, pa.table({"file": ["a/0.png"], "width": [12]}))
    data = datasets.load(tmp_path)
    assert shades(data.train) == [*range(6)] and shades(data.test) == [50, 51]
    beside = place.startswith("data/") and noted(data, "not data beside them")
    assert beside or noted(data, "parquet", "not used")
    save(file, table(rows({0: 5}, 70), ["a"]))  # fewer images than the folders hold
    assert datasets.load(tmp_path).classes == ["a", "b"]
    assert all_shades(datasets.load(file)) == [*range(70, 75)]
    other = tmp_path / "classes"
    class_folder(other, {"a": 4, "b": 4})
    save(other / "tables" / "meta.parquet", pa.table({"width": [12]}))
    assert datasets.load(other).classes == ["a", "b"]


def test_pictures_beside_tables_do_not_change_how_they_are_read(tmp_path):
    for split, start in (("train", 0), ("test", 50)):
        cells = table(rows({0: 2, 1: 2}, start), ["a", "b"], label="kind")
        save(tmp_path / "data" / f"{split}.parquet", cells)
    class_folder(tmp_path, {"assets": 1, "docs": 1}, 90)
    assert datasets.load(tmp_path, label_column="kind").classes == ["a", "b"]
    for split, start in (("train", 0), ("test", 50)):
        save(tmp_path / "data" / f"{split}.parquet", table(rows({0: 2, 1: 2}, start), ["a", "b"]))
    assert shades(datasets.load(tmp_path).test) == [50, 51, 52, 53]


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz", "one.png", "labels.csv", "list.txt", "weights"])
def test_a_file_that_is_no_data_set_says_what_is(tmp_path, monkeypatch, name):
    write(tmp_path / name, encoded(0))
    monkeypatch.chdir(tmp_path)
    for given in (tmp_path / name, name):
        message = said(UsageError, lambda g=given: datasets.load(g))
        assert "no data set" in message and "one folder of images per class" in message
        assert ".parquet" in message
    message = said(UsageError, lambda: datasets.load("tiny-imagenet", root=tmp_path / name))
    assert "is a file: unpack" in message
