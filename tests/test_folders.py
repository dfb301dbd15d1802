"""Folders as people have them: links, accents, what systems leave there, a folder too many, no labels, strange names."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from test_datasets import class_folder, encoded, every, no_home, pa, rows, said, save, table, write

from janus import datasets, stream
from janus.errors import JanusError, UsageError

__all__ = ["no_home"]  # the fixture that takes JANUS_DATA away here too


def shades(*parts) -> list[int]:
    """Every image of these tests has its own shade of red."""
    return sorted(shade for part in parts if part is not None for shade in every(part)[:, 0, 0, 0].tolist())


def all_shades(data) -> list[int]:
    return shades(data.train, data.val, data.test)


def noted(data, *words: str) -> bool:
    """Whether one note holds all these words."""
    return any(all(word in note for word in words) for note in data.notes)


# ---- links ----------------------------------------------------------------------------------------------------------


def loop_in_a_class(root: Path) -> None:
    (root / "a" / "self").symlink_to(root / "a")


def loop_beside_the_classes(root: Path) -> None:
    (root / "self").symlink_to(root, target_is_directory=True)


def loop_to_the_root(root: Path) -> None:
    (root / "a" / "up").symlink_to(root)


def loop_above_the_root(root: Path) -> None:
    (root / "b" / "far").symlink_to(root.parent)


def loop_by_way_of_elsewhere(root: Path) -> None:
    away = root.parent / "away"
    away.mkdir()
    (away / "back").symlink_to(root / "a")
    (root / "a" / "out").symlink_to(away)


def links_in_a_lattice(root: Path) -> None:
    """2^20 paths lead to the last folder."""
    for i in range(20):
        (root / "a" / f"d{i}").mkdir()
    for i in range(19):
        for name in "xy":
            (root / "a" / f"d{i}" / name).symlink_to(root / "a" / f"d{i + 1}")


def one_image_twice(root: Path) -> None:
    (root / "a" / "again.png").symlink_to(root / "a" / "000.png")
    os.link(root / "b" / "000.png", root / "b" / "hard.png")


@pytest.mark.parametrize("link", [loop_in_a_class, loop_beside_the_classes, loop_to_the_root, loop_above_the_root,
                                  loop_by_way_of_elsewhere, links_in_a_lattice, one_image_twice])
def test_each_real_file_counts_once(tmp_path, link):
    root = class_folder(tmp_path / "set", {"a": 8, "b": 8})
    link(root)
    data = datasets.load(root)
    assert data.classes == ["a", "b"] and all_shades(data) == [*range(16)]
    assert noted(data, "link", "left out")


def test_a_loop_of_links_around_one_folder_ends(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "y").mkdir()
    (tmp_path / "x" / "in").symlink_to(tmp_path / "y")
    (tmp_path / "y" / "in").symlink_to(tmp_path / "x")
    assert "no images" in said(UsageError, lambda: datasets.load(tmp_path / "x"))


def test_links_to_folders_are_followed(tmp_path):
    real = class_folder(tmp_path / "real", {"cats": 4})
    class_folder(tmp_path / "disk", {"dogs": 4}, 10)
    (real / "dogs").symlink_to(tmp_path / "disk" / "dogs")
    (tmp_path / "set").symlink_to(real)
    data = datasets.load(tmp_path / "set", test_fraction=0.5)
    assert data.classes == ["cats", "dogs"] and all_shades(data) == [0, 1, 2, 3, 10, 11, 12, 13]
    farm = tmp_path / "farm"  # one real folder of images, splits made of links to files
    for split, numbers in (("train", (0, 1, 2)), ("test", (3,))):
        for kind, there in (("cats", real / "cats"), ("dogs", tmp_path / "disk" / "dogs")):
            (farm / split / kind).mkdir(parents=True)
            for i in numbers:
                (farm / split / kind / f"{i}.png").symlink_to(there / f"{i:03}.png")
    data = datasets.load(farm)
    assert shades(data.train) == [0, 1, 2, 10, 11, 12] and shades(data.test) == [3, 13]


def whole_split(root: Path) -> None:
    (root / "test").symlink_to(root / "train")


def one_class(root: Path) -> None:
    class_folder(root / "test", {"a": 2}, 50)
    (root / "test" / "b").symlink_to(root / "train" / "b")


def one_file(root: Path) -> None:
    class_folder(root / "test", {"a": 2, "b": 2}, 50)
    (root / "test" / "a" / "x.png").symlink_to(root / "train" / "a" / "001.png")


def hard_link(root: Path) -> None:
    class_folder(root / "test", {"a": 2, "b": 2}, 50)
    os.link(root / "train" / "a" / "001.png", root / "test" / "a" / "x.png")


def validation(root: Path) -> None:
    class_folder(root / "test", {"a": 2, "b": 2}, 50)
    (root / "val").symlink_to(root / "test")


@pytest.mark.parametrize("link", [whole_split, one_class, one_file, hard_link, validation])
def test_an_image_in_two_splits_is_refused(tmp_path, link):
    class_folder(tmp_path / "train", {"a": 3, "b": 3})
    link(tmp_path)
    message = said(UsageError, lambda: datasets.load(tmp_path))
    assert "are one file, through a link: it cannot be in both" in message and "remove it" in message


def test_an_image_in_two_classes_is_refused(tmp_path):
    class_folder(tmp_path, {"a": 3, "b": 3})
    (tmp_path / "c").symlink_to(tmp_path / "a")
    message = said(UsageError, lambda: datasets.load(tmp_path))
    assert "of both class 'a' and class 'c'" in message


def test_links_between_parquet_files(tmp_path):
    file = save(tmp_path / "train.parquet", table(rows({0: 4, 1: 4}), ["a", "b"]))
    (tmp_path / "train-again.parquet").symlink_to(file)
    data = datasets.load(tmp_path)
    assert all_shades(data) == [*range(8)] and noted(data, "1 link", "left out")
    (tmp_path / "test.parquet").symlink_to(file)
    assert "it cannot be in both" in said(UsageError, lambda: datasets.load(tmp_path))


def test_links_under_split_lists(tmp_path):
    root = class_folder(tmp_path / "r", {"n01": 4, "n02": 4})
    (root / "n01" / "link.png").symlink_to(root / "n01" / "000.png")
    for part, names in (("train", ("000", "001")), ("test", ("link", "003"))):
        entries = [(f"{c}/{i}.png", n) for n, c in enumerate(("n01", "n02")) for i in names]
        entries = [(p, n) for p, n in entries if (root / p).exists()]
        text = f"data: [{', '.join(p for p, _ in entries)}]\ntargets: {[n for _, n in entries]}\n"
        (tmp_path / f"{part}.yaml").write_text(text)
    files = [str(tmp_path / f"{part}.yaml") for part in ("train", "test")]
    message = said(UsageError, lambda: datasets.load("imagenet-r", root=root, split_files=files))
    assert "link.png" in message and "it cannot be in both train and test" in message


# ---- names ----------------------------------------------------------------------------------------------------------

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
        save(tmp_path / "texts" / f"{split}.parquet", table([(encoded(start), name), (encoded(start + 1), "tea")]))
        save(tmp_path / "names" / f"{split}.parquet", table(rows({0: 2, 1: 2}, start), [name, "tea"]))
    for kind in ("texts", "names"):
        assert datasets.load(tmp_path / kind).classes == [COMPOSED, "tea"]


def test_a_class_list_and_split_lists_find_names_however_stored(tmp_path):
    root = class_folder(tmp_path / "set", {APART: 4, "tea": 4, "milk": 4})
    listed = write(tmp_path / "list.txt", b"\xef\xbb\xbf" + f"{COMPOSED}\ntea\n".encode())  # with Windows's mark
    assert datasets.load(root, class_list=str(listed)).classes == [COMPOSED, "tea"]
    listed.write_bytes(COMPOSED.encode("latin-1"))
    assert "save it as UTF-8" in said(JanusError, lambda: datasets.load(root, class_list=str(listed)))
    for part, i in (("train", 0), ("test", 1)):
        write(tmp_path / f"{part}.yaml", f"data: ['{COMPOSED}/00{i}.png', 'tea/00{i}.png']\ntargets: [0, 1]\n".encode())
    files = [str(tmp_path / f"{part}.yaml") for part in ("train", "test")]
    data = datasets.load("imagenet-r", root=root, split_files=files)
    assert data.classes == [COMPOSED, "tea"] and len(data.test) == 2


def test_new_classes_are_known_however_their_names_are_stored(tmp_path):
    old = datasets.load(class_folder(tmp_path / "old", {COMPOSED: 4, "tea": 4}))
    new = datasets.load(class_folder(tmp_path / "new", {APART: 4, "milk": 4}))
    with pytest.raises(UsageError, match="already known"):
        stream.class_incremental(old, 2).with_new_classes(new)


@pytest.mark.parametrize("name", ["my cats & dogs", "100% #1", "set[1]", "{a,b}", "what?", "a*b", "ключ", "~tilde", "d=1,2"])
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


def test_what_is_not_read_is_counted_with_an_example(tmp_path):
    class_folder(tmp_path / "train", {"a": 3, "b": 3})
    class_folder(tmp_path / "test", {"a": 1, "b": 1}, 50)
    for name in ("a/one.heic", "a/two.heic", "b/Thumbs.db", "b/desktop.ini", "b/.DS_Store"):
        write(tmp_path / "train" / name, b"x")
    write(tmp_path / "train" / "loose.png", encoded(99))
    data = datasets.load(tmp_path)
    assert "2 files without an image extension ignored (e.g. train/a/one.heic)" in data.notes
    assert noted(data, "1 image in no class folder", "train/loose.png") and 99 not in all_shades(data)
    heard: list[str] = []
    datasets.load(tmp_path, tell=heard.append)
    assert any("2 files without an image extension" in line for line in heard)


# ---- what systems leave, and layouts --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["@eaDir", ".ipynb_checkpoints", "__MACOSX", ".thumbnails", "#recycle", "$RECYCLE.BIN"])
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
    assert data.classes == ["a", "b"] and noted(data, "archive/set") and (shades(data.test) == [50, 51]) == splits


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


@pytest.mark.parametrize("place", ["meta.parquet", "train/meta.parquet", "train/a/meta.parquet", "data/meta.parquet"])
def test_a_stray_table_does_not_change_how_an_image_folder_is_read(tmp_path, place):
    class_folder(tmp_path / "train", {"a": 3, "b": 3})
    class_folder(tmp_path / "test", {"a": 1, "b": 1}, 50)
    file = save(tmp_path / place, pa.table({"file": ["a/0.png"], "width": [12]}))
    data = datasets.load(tmp_path)
    assert shades(data.train) == [*range(6)] and shades(data.test) == [50, 51]
    assert noted(data, "parquet", "not used") or place.startswith("data/") and noted(data, "not data beside them")
    save(file, table(rows({0: 5}, 70), ["a"]))  # fewer images than the folders hold
    assert datasets.load(tmp_path).classes == ["a", "b"]
    assert all_shades(datasets.load(file)) == [*range(70, 75)]
    other = tmp_path / "classes"
    class_folder(other, {"a": 4, "b": 4})
    save(other / "tables" / "meta.parquet", pa.table({"width": [12]}))
    assert datasets.load(other).classes == ["a", "b"]


def test_pictures_beside_tables_do_not_change_how_they_are_read(tmp_path):
    for split, start in (("train", 0), ("test", 50)):
        save(tmp_path / "data" / f"{split}.parquet", table(rows({0: 2, 1: 2}, start), ["a", "b"], label="kind"))
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
        assert "no data set" in message and "one folder of images per class" in message and ".parquet" in message
    message = said(UsageError, lambda: datasets.load("tiny-imagenet", root=tmp_path / name))
    assert "is a file: unpack" in message
