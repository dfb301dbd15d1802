"""The benchmarks in the layouts their authors publish.

List files, class lists, Tiny-ImageNet's zip, DomainNet's text lists.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
import torch
import yaml
from helpers.image_sets import (
    class_folder,
    encoded,
    every,
    fake_hub,
    fashion,
    pq,
    rows,
    said,
    save,
    table,
    write,
)

from janus.data import datasets, folders, sources, stream
from janus.errors import JanusError, UsageError

pytestmark = pytest.mark.usefixtures("without_home")


def shades(part) -> list[int]:
    """Every image of these tests has its own shade of red."""
    return every(part)[:, 0, 0, 0].tolist()


def renditions(root: Path) -> Path:
    """ImageNet-R as its tar unpacks: <wnid>/<kind>_<n>.jpg; shades 0…9 and 10…19."""
    for c, wnid in enumerate(("n01443537", "n01484850")):
        for i in range(10):
            write(root / wnid / f"art_{i}.jpg", encoded(10 * c + i, form="PNG"))
    return root


Entries = list[tuple[str, int]]


def lists(folder: Path, train: Entries, test: Entries, prefix: str = "./data/imagenet-r/") -> list[str]:
    """imagenet-r_train.yaml and imagenet-r_test.yaml as CODA-Prompt's code has them."""
    files = []
    for part, entries in (("train", train), ("test", test)):
        content = {"data": [prefix + path for path, _ in entries], "targets": [label for _, label in entries]}
        files.append(str(write(folder / f"imagenet-r_{part}.yaml", yaml.safe_dump(content).encode())))
    return files


def cut(train: range, test: range) -> tuple[list, list]:
    names = ("n01443537", "n01484850")
    return tuple([(f"{names[c]}/art_{i}.jpg", c) for c in (0, 1) for i in part] for part in (train, test))


# ---- ImageNet-R --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["./data/imagenet-r/", "data/", ""])
def test_imagenet_r_by_the_lists_that_circulate(tmp_path, prefix):
    root = renditions(tmp_path / "r")
    files = lists(tmp_path, *cut(range(2, 10), range(2)), prefix)
    for given in (files, ",".join(files), files[::-1]):
        data = datasets.load("imagenet-r", root=root, split_files=given)
        assert data.name == "imagenet-r" and data.classes == ["n01443537", "n01484850"] and data.val is None
        assert shades(data.train) == [*range(2, 10), *range(12, 20)] and shades(data.test) == [0, 1, 10, 11]
        assert data.test.labels.tolist() == [0, 0, 1, 1]
    digest = hashlib.sha256(Path(files[0]).read_bytes()).hexdigest()
    notes = stream.class_incremental(data, 2).to_json()["notes"]  # what a result keeps
    assert f"split by the list imagenet-r_train.yaml (sha256 {digest})" in notes
    assert len(datasets.load("imagenet-r", root=root, split_files=files, val_fraction=0.25).val) == 4


def test_lists_are_found_below_the_set_and_what_they_leave_out_is_counted(tmp_path):
    root = renditions(tmp_path / "r")
    lists(root / "splits", *cut(range(4, 10), range(2)))
    files = ["imagenet-r_train.yaml", "imagenet-r_test.yaml"]
    data = datasets.load("imagenet-r", root=root, split_files=files)
    assert [len(data.train), len(data.test)] == [12, 4]
    assert "4 images in its class folders are in no list and are not used" in data.notes


def test_lists_that_cannot_be_right_are_refused_in_one_line(tmp_path):
    root = renditions(tmp_path / "r")
    train, test = cut(range(2, 10), range(2))

    def refused(train, test, kind: type[JanusError] = UsageError) -> str:
        files = lists(tmp_path, train, test)
        return said(kind, lambda: datasets.load("imagenet-r", root=root, split_files=files))

    message = refused([*train, ("n01443537/art_77.jpg", 0)], test)
    assert "imagenet-r_train.yaml lists ./data/imagenet-r/n01443537/art_77.jpg" in message
    assert "is not there" in message
    message = refused(train, [*test, train[3]])
    assert f"{train[3][0]} is in both" in message
    assert "imagenet-r_train.yaml" in message and "imagenet-r_test.yaml" in message
    assert "twice in the train list" in refused([*train, train[0]], test)
    message = refused(train, [("n01443537/art_0.jpg", 1), *test[1:]])
    assert "label 1 of n01443537/art_0.jpg is out of step" in message
    assert "label 5 of n01484850/art_1.jpg is out of step" in refused(train, [*test[:-1], (test[-1][0], 5)])
    assert "none of them 0" in refused([(p, c + 1) for p, c in train], [(p, c + 1) for p, c in test])
    assert "takes a path and a whole number" in refused([("n01443537/art_0.jpg", "fish")], test, JanusError)

    def load(files: object) -> str:
        return lambda: datasets.load("imagenet-r", root=root, split_files=files)

    good = lists(tmp_path, train, test)
    other = str(tmp_path / "other.yaml")
    assert f"no list file at {other}" in said(UsageError, load([good[0], other]))
    assert "one training and one test list" in said(UsageError, load(good[:1]))
    assert "one training and one test list" in said(UsageError, load([good[0], good[0]]))
    assert "split_files takes names, separated by commas" in said(UsageError, load({"train": good[0]}))
    Path(good[0]).write_text("data: [a, b]\ntargets: [0]\n")
    assert "lists 2 images and 1 targets" in said(JanusError, load(good))
    Path(good[0]).write_text("- only\n- a list\n")
    assert "needs the keys data" in said(JanusError, load(good))
    Path(good[0]).write_text("data: [a, 'b\n")
    assert "cannot read the list" in said(JanusError, load(good))
    # nothing in a list is ever run
    Path(good[0]).write_text("data: !!python/object/apply:os.getcwd []\ntargets: []\n")
    assert "cannot read the list" in said(JanusError, load(good))


def test_list_files_do_not_go_with_parquet_or_the_hub(tmp_path):
    message = said(UsageError, lambda: datasets.load("imagenet-r", split_files="a.yaml,b.yaml"))
    assert "needs the image files in a folder" in message
    message = said(UsageError, lambda: datasets.load("cifar-100", root=tmp_path, split_files="a,b"))
    assert "split_files" in message


def test_without_lists_the_cut_is_the_same_whatever_the_order_of_files(tmp_path):
    """A folder, parquet in another row order and parquet in two files: the same test images."""
    root = renditions(tmp_path / "imagenet-r")
    data = datasets.load("imagenet-r", root=root)
    assert [len(data.train), data.val, len(data.test)] == [16, None, 4]
    assert data.test.labels.tolist() == [0, 0, 1, 1]
    rule = "80% train, 0% validation, 20% test (janus's own rule, seed 1000003)"
    assert any(rule in note for note in data.notes)
    cells = [
        (f"art_{i}.jpg", encoded(10 * c + i), wnid) for c, wnid in enumerate(data.classes) for i in range(10)
    ]
    random.Random(3).shuffle(cells)

    def parquet(cells: list, path: Path, with_paths: bool) -> None:
        built = table([(d, w) for _, d, w in cells], label="wnid")
        paths = [{"bytes": d, "path": p if with_paths else None} for p, d, _ in cells]
        save(path, built.set_column(0, "image", [paths]))

    parquet(cells, tmp_path / "a" / "test.parquet", True)
    parquet(cells[7:], tmp_path / "b" / "test-0.parquet", True)
    parquet(cells[:7], tmp_path / "b" / "test-1.parquet", True)
    for other in ("a", "b"):
        again = datasets.load("imagenet-r", root=tmp_path / other)
        assert set(shades(again.test)) == set(shades(data.test))
        assert set(shades(again.train)) == set(shades(data.train))
    parquet(cells, tmp_path / "c" / "test.parquet", False)  # no names: by content
    parquet(cells[::-1], tmp_path / "d" / "test.parquet", False)
    c, d = (datasets.load("imagenet-r", root=tmp_path / other) for other in ("c", "d"))
    assert set(shades(c.test)) == set(shades(d.test)) and c.test.labels.bincount().tolist() == [2, 2]


# ---- ImageNet-100 ------------------------------------------------------------------------------------------


def imagenet(root: Path, classes: int) -> list[str]:
    """ImageNet's folders; an image a class and split."""
    wnids = [f"n{7 * i:08}" for i in range(classes)]
    picture = encoded(0, (8, 8))
    for wnid in wnids:
        write(root / "train" / wnid / f"{wnid}_1.JPEG", picture)
        write(root / "val" / wnid / "ILSVRC2012_val_1.JPEG", picture)
    return wnids


def test_imagenet_100_refuses_to_guess_its_classes(tmp_path):
    imagenet(tmp_path, 3)
    for root in (tmp_path, None):
        message = said(UsageError, lambda r=root: datasets.load("imagenet-100", root=r))
        assert "three lists of 100 classes circulate" in message and "data.class_list=FILE" in message
    message = said(UsageError, lambda: datasets.load("imagenet-100", root=tmp_path, class_list="own"))
    assert "the data holds 3 classes, not 100" in message


def test_imagenet_100_by_a_class_list(tmp_path):
    wnids = imagenet(tmp_path, 104)
    chosen = wnids[:1:-1][:100]
    text = "\n".join(["# of someone", "", f"{chosen[0]} a bird", *chosen[1:]])
    file = write(tmp_path / "imagenet100.txt", text.encode())
    for given in (str(file), "imagenet100.txt"):  # as it stands, below root
        data = datasets.load("imagenet-100", root=tmp_path, class_list=given)
        assert data.classes == chosen and len(data.train) == len(data.test) == 100
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert f"100 of 104 classes by the list imagenet100.txt (sha256 {digest})" in data.notes
    assert data.train.store.name(int(data.train.rows[data.train.labels == 0])).endswith(f"{chosen[0]}_1.JPEG")

    def refused(text: str) -> str:
        file.write_text(text)
        return said(UsageError, lambda: datasets.load("imagenet-100", root=tmp_path, class_list=str(file)))

    assert "leads to 2 classes, not 100" in refused("\n".join(chosen[:2]))
    assert "unknown class of the list 'n99999999'" in refused("n99999999\n")
    assert "twice" in refused("\n".join([*chosen, chosen[4]]))
    assert "is empty" in refused("\n# nothing\n")
    missing = said(UsageError, lambda: datasets.load("imagenet-100", root=tmp_path, class_list="nowhere.txt"))
    assert "no list file at nowhere.txt" in missing


def test_a_class_list_chooses_from_any_folder_or_parquet(tmp_path):
    file = str(write(tmp_path / "two.txt", b"c\na\n"))
    class_folder(tmp_path / "f", {"a": 4, "b": 4, "c": 4})
    for split, start in (("train", 0), ("test", 50)):
        cells = table(rows({0: 2, 1: 2, 2: 2}, start), ["a", "b", "c"], style=list("xyxyxy"))
        save(tmp_path / "p" / f"{split}.parquet", cells)
    data = datasets.load(tmp_path / "f", class_list=file)
    assert data.classes == ["c", "a"] and len(data.train) + len(data.val) + len(data.test) == 8
    data = datasets.load(tmp_path / "p", class_list=file)
    assert shades(data.test) == [50, 51, 54, 55] and data.test.labels.tolist() == [1, 1, 0, 0]
    assert data.test.styles.tolist() == [0, 1, 0, 1]


# ---- DomainNet ---------------------------------------------------------------------------------------------


def domains(root: Path) -> Path:
    """Two of its domains, two classes, and the lists beside them.

    sketch/cat: 0 1 2, sketch/dog: 10 11 12, clipart + 50.
    """
    for start, domain in ((50, "clipart"), (0, "sketch")):
        lines: dict[str, list[str]] = {"train": [], "test": []}
        for label, name in enumerate(("cat", "dog")):
            for i in range(3):
                path = f"{domain}/{name}/{domain}_00{label}_00000{i}.jpg"
                write(root / path, encoded(start + 10 * label + i))
                lines["test" if i == 2 else "train"].append(f"{path} {label}")
        for part, text in lines.items():
            write(root / f"{domain}_{part}.txt", ("\n".join(text) + "\n").encode())
    return root


def test_domainnet_by_its_official_lists_is_class_incremental(tmp_path):
    root = domains(tmp_path)
    data = datasets.load("domainnet", root=root)
    assert data.classes == ["cat", "dog"] and data.styles == ["clipart", "sketch"]
    assert shades(data.train) == [50, 51, 60, 61, 0, 1, 10, 11] and shades(data.test) == [52, 62, 2, 12]
    assert data.test.styles.tolist() == [0, 0, 1, 1] and data.test.labels.tolist() == [0, 1, 0, 1]
    assert sum("split by the list" in note and "sha256" in note for note in data.notes) == 4
    tasks = stream.class_incremental(data, 2, seed=None).tasks
    assert [len(t.train) for t in tasks] == [4, 4]
    assert shades(tasks[1].test) == [62, 12]  # one class in all its domains
    only = datasets.load("domainnet", root=root, split_files=["sketch_train.txt", "sketch_test.txt"])
    assert only.styles == ["sketch"] and shades(only.test) == [2, 12]


def test_domainnet_lists_that_cannot_be_right(tmp_path):
    root = domains(tmp_path)

    def load():
        return datasets.load("domainnet", root=root)

    with (root / "sketch_test.txt").open("a") as file:
        file.write("sketch/cat/sketch_000_000000.jpg 0\n")
    assert "sketch/cat/sketch_000_000000.jpg is in both" in said(UsageError, load)
    (root / "sketch_test.txt").write_text("sketch/cat/sketch_000_000002.jpg\n")
    assert "sketch_test.txt line 1 is not 'path label'" in said(JanusError, load)
    (root / "sketch_test.txt").unlink()
    assert "no sketch_test.txt beside it" in said(UsageError, load)


# ---- Tiny-ImageNet -----------------------------------------------------------------------------------------


def tiny(root: Path) -> Path:
    for c, wnid in enumerate(("n02", "n01")):
        for i in range(3):
            write(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", encoded(10 * c + i, (64, 64)))
        write(root / "train" / wnid / f"{wnid}_boxes.txt", b"x\t0\t0\t1\t1\n")
    for i in range(4):
        write(root / "val" / "images" / f"val_{i}.JPEG", encoded(100 + i, (64, 64)))
    text = "".join(f"val_{i}.JPEG\t{('n01', 'n02')[i % 2]}\t0\t32\t44\t62\n" for i in range(4))
    write(root / "val" / "val_annotations.txt", text.encode())
    write(root / "test" / "images" / "test_0.JPEG", encoded(7, (64, 64)))  # without labels
    return root


@pytest.mark.parametrize("inside", ["", "tiny-imagenet-200"])
def test_tiny_imagenet_as_its_zip_unpacks(tmp_path, inside):
    tiny(tmp_path / inside)
    data = datasets.load("tiny-imagenet", root=tmp_path)
    assert data.classes == ["n01", "n02"] and data.val is None and every(data.train).shape == (6, 3, 64, 64)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1] and shades(data.train) == [10, 11, 12, 0, 1, 2]
    assert data.test.labels.tolist() == [0, 1, 0, 1] and shades(data.test) == [100, 101, 102, 103]
    assert any("val_annotations.txt (sha256 " in note for note in data.notes)


def test_a_broken_tiny_imagenet_is_named(tmp_path):
    root = tiny(tmp_path)

    def message() -> str:
        return said(UsageError, lambda: datasets.load("tiny-imagenet", root=root))

    (root / "val" / "images" / "val_2.JPEG").unlink()
    assert "line 3" in message() and "val_2.JPEG is not there" in message()
    (root / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn77\t0\t0\t1\t1\n")
    assert "class 'n77' has no images" in message()


# ---- the small ones, and sets that are not there -----------------------------------------------------------


def test_the_small_benchmarks_from_parquet_and_folders(tmp_path, monkeypatch):
    monkeypatch.setenv("JANUS_DATA", str(tmp_path))
    for name, image, label in (
        ("fashion-mnist", "image", "label"),
        ("cifar-100", "img", "fine_label"),
        ("tiny-imagenet", "image", "label"),
    ):
        for split, start in (("train", 0), ("valid" if name == "tiny-imagenet" else "test", 50)):
            cells = table(rows({0: 3, 1: 3}, start), ["a", "b"], image=image, label=label)
            save(tmp_path / name / "data" / f"{split}-00000-of-00001.parquet", cells)
        data = datasets.load(name)
        assert data.name == name and data.classes == ["a", "b"] and shades(data.test) == [*range(50, 56)]
        assert data.transform == ("icons" if name == "fashion-mnist" else "photo")
        assert any("its own splits" in n or "validation split serves" in n for n in data.notes)
        root = tmp_path / "folders" / name
        class_folder(root / "train", {"a": 3, "b": 3})
        class_folder(root / "test", {"a": 1, "b": 1}, 50)
        data = datasets.load(name, root=root)
        assert data.name == name and len(data.train) == 6 and shades(data.test) == [50, 51]
        assert data.transform == ("icons" if name == "fashion-mnist" else "photo")
    fashion(tmp_path / "fashion-mnist")  # the authors' own files come first
    assert len(datasets.load("fashion-mnist").classes) == 10


def test_a_set_that_is_not_there_names_the_command_that_provides_it(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise ConnectionError("no network")

    fake_hub(monkeypatch, offline)
    for name, repository in datasets.HUB.items():
        options = {"class_list": "own"} if name == "imagenet-100" else {}
        kind = UsageError if name == "fashion-mnist" else JanusError
        message = said(kind, lambda n=name, o=options: datasets.load(n, **o))
        assert f"`hf download {repository} --repo-type dataset --local-dir " in message and "root=" in message
    monkeypatch.setenv("JANUS_DATA", str(tmp_path))
    assert f"--local-dir {tmp_path / 'cifar-100'}`" in said(JanusError, lambda: datasets.load("cifar-100"))
    (tmp_path / "cifar-100" / "cifar-100-python").mkdir(parents=True)
    message = said(UsageError, lambda: datasets.load("cifar-100"))
    assert "pickled" in message and "hf download uoft-cs/cifar100" in message


def test_the_key_of_an_image_orders_as_its_path_does(tmp_path):
    for name in ("a-x.png", "a/b.png", "a.png", "b.png", "a/a/z.png"):
        write(tmp_path / "k" / name, encoded(1))
    source = folders.folder(tmp_path)
    count = list(range(len(source.labels)))
    assert source.by_key(count[::-1]) == count  # a folder is cut as it always was


def test_identity_changes_with_the_images(tmp_path):
    class_folder(tmp_path, {"a": 3, "b": 3})
    first = folders.folder(tmp_path).identity()
    assert folders.folder(tmp_path).identity() == first
    write(tmp_path / "a" / "000.png", encoded(200, (9, 9)))
    second = folders.folder(tmp_path).identity()
    (tmp_path / "b" / "002.png").rename(tmp_path / "b" / "003.png")
    assert len({first, second, folders.folder(tmp_path).identity()}) == 3


def test_identity_of_parquet_follows_the_file_and_the_columns(tmp_path):
    file = save(tmp_path / "x.parquet", table(rows({0: 2, 1: 2}), other=[1, 2, 3, 4]))
    first = sources.parquet(file).identity()
    assert sources.parquet(file).identity() == first != sources.parquet(file, label_column="other").identity()
    save(file, pq.read_table(file).slice(0, 3))
    assert sources.parquet(file).identity() != first
    assert torch.tensor(sources.parquet(file).labels).tolist() == [0, 0, 1]
