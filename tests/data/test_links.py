"""Links in the data: each real file counts once, and none is in two splits or two classes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from helpers.image_sets import all_shades, class_folder, noted, pa, rows, said, save, shades, table

from janus.data import datasets
from janus.errors import UsageError

pytestmark = pytest.mark.usefixtures("without_home")


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


@pytest.mark.parametrize(
    "link",
    [
        loop_in_a_class,
        loop_beside_the_classes,
        loop_to_the_root,
        loop_above_the_root,
        loop_by_way_of_elsewhere,
        links_in_a_lattice,
        one_image_twice,
    ],
)
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


@pytest.mark.parametrize("stored", ["struct", "text"])
def test_a_file_that_tables_name_is_in_one_split(tmp_path, stored):
    class_folder(tmp_path / "pictures", {"a": 6, "b": 6})
    (tmp_path / "pictures" / "b" / "link.png").symlink_to(tmp_path / "pictures" / "b" / "003.png")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if stored == "struct" else pa.string()

    def put(name: str, *paths: str) -> Path:
        cells = [f"pictures/{path}.png" for path in paths]
        cells = [{"bytes": None, "path": path} for path in cells] if stored == "struct" else cells
        labels = [path[0] for path in paths]
        return save(tmp_path / f"{name}.parquet", pa.table({"image": pa.array(cells, kind), "label": labels}))

    put("train", "a/000", "a/000", "b/002", "b/003")
    put("test", "a/001", "b/001")
    data = datasets.load("parquet", root=tmp_path)
    assert shades(data.train) == [0, 0, 8, 9] and shades(data.test) == [1, 7]
    for image in ("b/002", "b/link"):
        put("test", "a/001", image)
        assert "it cannot be in both" in said(UsageError, lambda: datasets.load("parquet", root=tmp_path))
    (tmp_path / "test.parquet").unlink()
    file = put("all", "a/000", "a/001", "a/000", "b/000", "b/001", "b/002")
    assert "without splits lists every image once" in said(UsageError, lambda: datasets.load(file))


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
