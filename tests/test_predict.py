"""What a finished run is for: predictions equal the run's own, new classes join it without the old images."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.toys import write_image_folder
from PIL import Image
from safetensors.torch import save_file

import janus
from janus import Result, configure, extend, load
from janus.data.images import TensorImages
from janus.errors import JanusError, UsageError
from janus.models import backbones
from janus.runtime import checkpoint
from janus.train import CHECKPOINT, RESULT, build_stream

TINY: dict[str, Any] = dict(weights="random", augment="icons", epochs=2, tasks=3, batch_size=16, lr=3e-3)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("old") / "old", classes=5, train=16, test=6)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named(tmp_path_factory.mktemp("new") / "new", ["anchor", "bell"], seed=1)


@pytest.fixture(scope="module")
def finished(old: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    janus.run(folder, dataset=str(old), **TINY)
    return folder


def named(root: Path, names: list[str], seed: int) -> Path:
    """An image folder with these class names."""
    write_image_folder(root, classes=len(names), train=12, test=5, seed=seed)
    for split in ("train", "test"):
        for c, name in enumerate(names):
            (root / split / f"class{c}").rename(root / split / name)
    return root


def numbers(result: Result) -> dict[str, Any]:
    """Everything that must not depend on how a run was interrupted or carried on."""
    return {k: v for k, v in result.to_dict().items() if k not in ("seconds", "date", "hardware", "versions")}


@pytest.mark.parametrize("method", ["janus", "gpm", "ncm"])
def test_predictions_are_those_of_the_run(method: str, old: Path, finished: Path, tmp_path: Path) -> None:
    folder = finished
    if method != "janus":
        folder = tmp_path / "run"
        janus.run(folder, dataset=str(old), method=method, **TINY)
    result, predictor = Result.load(folder), load(folder)
    paths = [p for t in result.stream["class_names"] for p in sorted((old / "test" / t).iterdir())]
    assert predictor.class_names == result.stream["class_names"]
    answers = predictor.predict(paths, top=5)
    right = [answer[0][0] == path.parent.name for path, answer in zip(paths, answers)]
    assert 100 * sum(right) / len(right) == pytest.approx(result.acc, abs=1e-4)
    scores = torch.tensor([[score for _, score in answer] for answer in answers])
    assert (scores.diff(dim=1) <= 0).all()
    if method == "ncm":
        assert predictor.score == "cosine" and scores.abs().max() <= 1 + 1e-6
    else:
        assert predictor.score == "probability"
        torch.testing.assert_close(scores.sum(1), torch.ones(len(paths)))


def test_weights_that_have_changed_under_their_name_are_refused(old: Path, new: Path, tmp_path: Path) -> None:
    weights, run = tmp_path / "vit.safetensors", tmp_path / "run"
    model = backbones.create("icons-vit", weights="random")[0]
    plain = model.state_dict()
    save_file(plain, weights)
    settings = TINY | {"weights": str(weights), "dataset": str(old)}
    result = janus.run(run, **settings)
    assert result.backbone == backbones.fingerprint(model)
    save_file(plain | {"norm.bias": plain["norm.bias"] + 1}, weights)
    said = "^the weights of the backbone .*vit.safetensors.* are not those [^\n]*$"
    for use in (load, lambda folder: extend(folder, new, tmp_path / "more")):
        with pytest.raises(JanusError, match=said):
            use(run)
    (run / RESULT).unlink()
    with pytest.raises(JanusError, match="not those this run was trained with"):
        janus.run(run, **settings)
    save_file(plain, weights)
    assert numbers(janus.run(run, **settings)) == numbers(result)


def test_paths_pil_images_and_tensors_give_the_same_answers(old: Path, finished: Path) -> None:
    predictor = load(str(finished))
    paths = sorted((old / "test" / "class1").iterdir())[:3]
    pictures = [Image.open(p) for p in paths]
    flat = [torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8) for i in pictures]
    pixels = torch.stack([values.view(32, 32, 3).permute(2, 0, 1) for values in flat])
    expected = predictor.scores(paths)
    for images in (pictures, [str(paths[0]), pictures[1], paths[2]], pixels):
        torch.testing.assert_close(predictor.scores(images), expected)
    alone = torch.cat([predictor.scores(p) for p in paths])  # an answer does not depend on the other images
    torch.testing.assert_close(alone, expected, rtol=1e-5, atol=1e-6)
    assert predictor.predict([]) == []
    assert predictor.scores(Image.new("RGBA", (300, 200), (255, 0, 0, 40))).shape == (1, 5)
    with pytest.raises(UsageError, match="uint8"):
        predictor.predict(pixels.float())


@pytest.mark.parametrize("images", [None, 5, [1], [None], b"x.png", {"x.png": 1}, [b"x.png"]])
def test_what_is_no_image_is_refused(images: Any, finished: Path) -> None:
    for use in (load(finished).predict, load(finished).scores):
        with pytest.raises(UsageError, match="^images are paths, PIL images or one uint8 tensor [^\n]*$"):
            use(images)


@pytest.mark.parametrize("top", [0, -1, "x", 1.5, None, True])
def test_a_wrong_top_is_refused(top: Any, finished: Path) -> None:
    with pytest.raises(UsageError, match="^top must be a whole number of at least 1, not [^\n]*$"):
        load(finished).predict([], top=top)


def test_the_others_are_answered_where_some_images_cannot_be_read(
    old: Path, finished: Path, tmp_path: Path
) -> None:
    predictor, good = load(finished), sorted((old / "test" / "class1").iterdir())[:2]
    (tmp_path / "text.png").write_text("not an image")
    data = good[0].read_bytes()
    (tmp_path / "half.png").write_bytes(data[: len(data) // 2])
    half = Image.open(tmp_path / "half.png")  # PIL looks at the rest only when somebody wants the pixels
    bad = [tmp_path / "text.png", tmp_path / "none.png", tmp_path, half]
    with pytest.warns(UserWarning) as caught:
        answers = predictor.predict([bad[0], good[0], *bad[1:], good[1]])
    assert [len(answer) for answer in answers] == [0, 5, 0, 0, 0, 5]
    assert [answers[1], answers[5]] == predictor.predict(good)
    (line,) = (str(warning.message) for warning in caught)
    assert line.startswith("4 of 6 images cannot be read: ") and "\n" not in line
    for words in ("text.png", "none.png': no such file", "that is a folder", "image number 5"):
        assert words in line
    for image in bad:  # given alone
        with pytest.raises(JanusError, match="cannot decode|no such file|that is a folder"):
            predictor.predict(image)
    with pytest.raises(JanusError, match="^4 of 5 images cannot be read: .*text.png.*none.png"):
        predictor.scores([good[0], *bad])
    with pytest.raises(JanusError, match="^12 of 12 images .*9.png': no such file; and 2 more$"):
        predictor.scores([tmp_path / f"no{i}.png" for i in range(12)])


# ── one size for all ────────────────────────────────────────────────────────────────────────────────────────

SIZES = ((40, 40), (300, 200), (90, 500), (640, 480), (97, 96))


def mixed(root: Path, names: list[str], sizes: tuple[tuple[int, int], ...] = SIZES, seed: int = 0) -> Path:
    """An image folder of images of these sizes, a coloured gradient each under coarse noise."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", 10), ("test", 5)):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                width, height = sizes[i % len(sizes)]
                coarse = Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8))
                coarse.resize((width, height)).save(root / split / name / f"{i}.png")
    return root


def evaluated(folder: Path) -> tuple[list[Path], torch.Tensor]:
    """The test images of a finished run's tasks, and their scores as its own evaluation computes them."""
    predictor = load(folder)
    state = checkpoint.load(folder / CHECKPOINT)
    tasks = build_stream(predictor.config, predictor.learner.preprocess.size, state).tasks
    paths, scores = [], []
    for task in tasks:
        with torch.no_grad():
            found = predictor.learner.method.scores(predictor.learner.features(task.evaluation))
        scores.append(found.softmax(dim=1) if predictor.score == "probability" else found)
        paths += [Path(task.evaluation.store.name(i)) for i in task.evaluation.rows.tolist()]
    return paths, torch.cat(scores)


@pytest.mark.parametrize("settings", [{}, {"data.size": 80}, {"augment": "photo"}, {"method": "ncm"}])
def test_predictions_on_mixed_sizes_are_those_of_the_evaluation(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    data = mixed(tmp_path / "data", ["a", "b", "c"])
    result = janus.run(tmp_path / "run", dataset=str(data), **(TINY | {"epochs": 1} | settings))
    paths, expected = evaluated(tmp_path / "run")
    predictor = load(tmp_path / "run")
    assert len(paths) == 15
    for images in (paths, [Image.open(path) for path in paths]):
        torch.testing.assert_close(predictor.scores(images), expected, rtol=1e-5, atol=1e-6)
    pixels = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] for path in paths]
    found = torch.cat([predictor.scores(image) for image in pixels])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    guesses = [predictor.class_names[i] for i in expected.argmax(1).tolist()]
    right = [guess == path.parent.name for guess, path in zip(guesses, paths)]
    assert 100 * sum(right) / len(right) == pytest.approx(result.acc, abs=1e-4)
    assert predictor.side == result.stream["side"]


@pytest.mark.parametrize("first", ["small", "large"])
def test_new_classes_are_held_at_the_size_of_the_run(first: str, tmp_path: Path) -> None:
    sizes = {"small": ((40, 40), (50, 40)), "large": ((300, 200), (250, 400))}
    later = "large" if first == "small" else "small"
    old = mixed(tmp_path / "old", ["a", "b", "c"], sizes[first])
    new = mixed(tmp_path / "new", ["d", "e"], sizes[later], seed=1)
    janus.run(tmp_path / "run", dataset=str(old), **(TINY | {"epochs": 1}))
    extended = extend(tmp_path / "run", new, tmp_path / "more")
    paths, expected = evaluated(tmp_path / "more")
    assert len(paths) == 25
    torch.testing.assert_close(load(tmp_path / "more").scores(paths), expected, rtol=1e-5, atol=1e-6)
    side = {"small": 40, "large": 37}[first]  # 32 px in, and a border
    assert extended.stream["side"] == side
    assert extended.stream["notes"].count(f"images held at {side} x {side} pixels") == 2


def test_a_set_in_memory_is_held_at_another_size_too() -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=generator)
    images = TensorImages(pixels, torch.arange(4)).at(48).subset(torch.tensor([3, 1]))
    assert images.side == 48 and images.labels.tolist() == [3, 1]
    image = Image.fromarray(pixels[3].permute(1, 2, 0).numpy()).resize((48, 48), Image.Resampling.BILINEAR)
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    assert torch.equal(images.batch(torch.tensor([0])), expected)
    assert images.batch(torch.tensor([], dtype=torch.long)).shape == (0, 3, 48, 48)


def test_data_of_another_size_under_a_broken_run_is_noticed(tmp_path: Path) -> None:
    data = mixed(tmp_path / "data", ["a", "b"], ((40, 40),))

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    config = TINY | {"dataset": str(data), "tasks": 2, "epochs": 1}
    with pytest.raises(KeyboardInterrupt):
        janus.run(tmp_path / "r", progress=stop, **config)
    for file in data.rglob("*.png"):
        Image.open(file).resize((60, 60)).save(file)
    said = "the data changed since this run began: images were held at 40 .* now are at 60"
    with pytest.raises(JanusError, match=said):
        janus.run(tmp_path / "r", **config)


def test_a_run_that_does_not_say_its_size_is_refused(finished: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(finished, tmp_path / "older"))
    state = checkpoint.load(older / CHECKPOINT)
    del state["stream"]["side"]
    checkpoint.save(older / CHECKPOINT, state)
    with pytest.raises(JanusError, match="made by an older janus.*run it again"):
        load(older)


def test_only_a_finished_undamaged_run_is_loaded(finished: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "copy"))
    (copy / RESULT).unlink()
    with pytest.raises(JanusError, match="not finished"):
        load(copy)
    shutil.copy(finished / RESULT, copy)
    data = bytearray((copy / CHECKPOINT).read_bytes())
    data[-5] ^= 1
    (copy / CHECKPOINT).write_bytes(data)
    with pytest.raises(JanusError, match=f"{CHECKPOINT}.*changed after it was written"):
        load(copy)
    with pytest.raises(JanusError, match="changed after it was written"):
        extend(copy, tmp_path)


@pytest.mark.parametrize("method", ["janus", "gpm"])
def test_extending_equals_knowing_from_the_start(
    method: str, old: Path, new: Path, finished: Path, tmp_path: Path
) -> None:
    folder = finished
    if method != "janus":
        folder = tmp_path / "run"
        janus.run(folder, dataset=str(old), method=method, **TINY)
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    extended = extend(folder, new, tmp_path / "extended")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} == before
    assert extended.stream["class_names"] == [*Result.load(folder).stream["class_names"], "anchor", "bell"]
    assert [len(row) for row in extended.accuracy] == [1, 2, 3, 4] and None not in extended.accuracy[-1]
    assert extended.accuracy[:3] == Result.load(folder).accuracy
    at_once = janus.run(dataset=str(old), method=method, extended=[str(new)], **TINY)
    assert numbers(at_once) == numbers(extended)
    assert load(tmp_path / "extended").class_names[-2:] == ["anchor", "bell"]


def test_old_images_are_not_needed(old: Path, new: Path, finished: Path, tmp_path: Path) -> None:
    full = extend(finished, new, tmp_path / "full")
    hidden = old.rename(old.with_name("hidden"))
    try:
        lines: list[str] = []
        blind = extend(finished, new, tmp_path / "blind", progress=lines.append)
        assert blind.accuracy[:3] == full.accuracy[:3]
        assert blind.accuracy[3] == [None, None, None, full.accuracy[3][3]]
        assert blind.acc == full.accuracy[3][3] and blind.bwt is None and blind.drift is None
        assert blind.violation == full.violation  # the same training, whether old images are there or not
        assert "cannot be read any more" in blind.stream["note"]
        assert any("cannot be read any more" in line for line in lines)
        assert blind.stream["class_names"] == full.stream["class_names"]
        assert [t["train"] for t in blind.stream["tasks"]] == [t["train"] for t in full.stream["tasks"]]
        # and again, on top of the extension, with all of the older images gone
        third = named(tmp_path / "third", ["cup"], seed=2)
        twice = extend(tmp_path / "blind", third, progress=lines.append)
        assert twice.accuracy[4][:3] == [None, None, None] and twice.accuracy[4][3] is not None
        assert twice.bwt == pytest.approx(twice.accuracy[4][3] - twice.accuracy[3][3])
        assert load(tmp_path / "blind-extended").class_names[-3:] == ["anchor", "bell", "cup"]
    finally:
        hidden.rename(old)


def test_extension_resumes_and_finds_its_folder(new: Path, finished: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    uninterrupted = extend(folder, new, tmp_path / "uninterrupted")

    def stop(line: str) -> None:
        if line.startswith("task 4/4 epoch 2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extend(folder, new, progress=stop, save_every=0.0)
    assert (tmp_path / "run-extended" / CHECKPOINT).exists()
    assert not (tmp_path / "run-extended" / RESULT).exists()
    lines: list[str] = []
    assert numbers(extend(folder, new, progress=lines.append))["accuracy"] == uninterrupted.accuracy
    assert lines[0].startswith("resumed at task 4/4") and "step 0" not in lines[0]
    other = named(tmp_path / "other", ["cup"], seed=2)
    extend(folder, other)  # another extension of the same run goes beside the first
    assert Result.load(tmp_path / "run-extended-2").stream["class_names"][-1] == "cup"
    assert Result.load(tmp_path / "run-extended").stream["class_names"][-1] == "bell"


def test_what_an_extension_refuses(old: Path, new: Path, finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'class0'.*already known"):
        extend(finished, old, tmp_path / "x")
    with pytest.raises(UsageError, match="unknown setting of an extension"):
        extend(finished, new, tmp_path / "x", lr=1.0)
    janus.run(tmp_path / "joint", dataset=str(old), method="joint", **TINY)
    with pytest.raises(UsageError, match="all classes at once"):
        extend(tmp_path / "joint", new)
    assert not (tmp_path / "x").exists() and not (tmp_path / "joint-extended").exists()


def test_data_that_changed_under_a_broken_run_is_noticed(tmp_path: Path) -> None:
    data = write_image_folder(tmp_path / "data", classes=4, train=6, test=3)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    config = TINY | {"dataset": str(data), "tasks": 2}
    with pytest.raises(KeyboardInterrupt):
        janus.run(tmp_path / "r", progress=stop, **config)
    assert checkpoint.load(tmp_path / "r" / CHECKPOINT)["task"] == 1
    (data / "train" / "class2" / "0.png").unlink()
    with pytest.raises(JanusError, match="the data changed since this run began.*train images"):
        janus.run(tmp_path / "r", **config)


def test_a_run_is_found_from_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    write_image_folder(home / "data", classes=4, train=6, test=3), away.mkdir()
    named(home / "new", ["anchor", "bell"], seed=1)
    save_file(backbones.create("icons-vit", weights="random")[0].state_dict(), home / "vit.safetensors")
    settings = TINY | {"weights": "vit.safetensors", "tasks": 2, "epochs": 1}
    monkeypatch.chdir(home)
    words = {"dataset": "data"} | settings
    uninterrupted = janus.run(tmp_path / "uninterrupted", **words)
    assert uninterrupted.config["data"]["dataset"] == "data"
    assert uninterrupted.config["backbone"]["weights"] == "vit.safetensors"

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        janus.run(tmp_path / "run", progress=stop, **words)
    monkeypatch.chdir(away)
    # the very same command, elsewhere
    assert numbers(janus.run(tmp_path / "run", **words)) == numbers(uninterrupted)
    # the same places in other words
    others = {"weights": "../home/vit.safetensors", "dataset": str(home / "data")}
    assert janus.run(tmp_path / "run", **settings | others).acc == uninterrupted.acc
    picture = sorted((home / "data" / "test" / "class1").iterdir())
    assert len(load(tmp_path / "run").predict(picture)) == 3
    extended = extend(tmp_path / "run", "../home/new", tmp_path / "more")
    assert None not in extended.accuracy[-1] and len(extended.accuracy) == 3  # the old images were found, too
    with pytest.raises(UsageError, match="unknown dataset 'data'"):
        janus.run(tmp_path / "other", **words)
    home.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    # where the files are not any more: as the words stand
    assert len(load(tmp_path / "run").predict([])) == 0


def test_the_hash_of_a_run_knows_no_folder_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for place in ("a", "b"):
        write_image_folder(tmp_path / place / "data", classes=2, train=4, test=2)
        monkeypatch.chdir(tmp_path / place)
        short = TINY | {"dataset": "./data", "tasks": 1, "epochs": 1}
        results.append(janus.run(tmp_path / place / "run", **short))
    assert results[0].hash == results[1].hash and results[0].accuracy == results[1].accuracy
    assert [Path(result.config["runtime"]["folder"]).name for result in results] == ["a", "b"]
    unwritten = janus.run(**TINY | {"dataset": str(tmp_path / "a" / "data"), "tasks": 1})
    assert unwritten.config["runtime"]["folder"] is None


def test_a_class_that_comes_alone_is_warned_of_and_learned_by_class_means(old: Path, tmp_path: Path) -> None:
    cup = named(tmp_path / "cup", ["cup"], seed=2)
    finished, settings = tmp_path / "run", TINY | {"dataset": str(old), "tasks": 2}
    before = janus.run(finished, **settings)
    warned = (
        r"^task 3 has one class \(cup\): cross-entropy over one class is 0, so no head learns to name it "
        r"with classifier=linear; extend the run with classifier=ncm[^\n]*$"
    )
    with pytest.warns(UserWarning, match=warned):
        linear = extend(finished, cup, tmp_path / "linear")
    assert any("task 3 has one class (cup)" in note for note in linear.stream["notes"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        means = extend(finished, cup, tmp_path / "means", classifier="ncm")
        assert extend(finished, cup, tmp_path / "means", classifier="ncm") == means  # read back
    assert linear.accuracy[2][2] == 0 and means.accuracy[2][2] > 50 and means.hash != linear.hash
    assert means.accuracy[:2] == before.accuracy
    assert any("those of classifier=linear" in n for n in means.stream["notes"])
    at_once = janus.run(**settings, classifier="ncm", extended=[str(cup)])
    # whose earlier rows are the heads'
    assert at_once.accuracy[2] == means.accuracy[2] and at_once.hash != means.hash
    assert load(tmp_path / "means").score == "cosine"
    twice = extend(tmp_path / "means", named(tmp_path / "pen", ["pen"], seed=3), tmp_path / "twice")
    assert twice.config["classifier"] == {"name": "ncm", "replaces": "linear"} and len(twice.accuracy) == 4
    said = "keeps classifier=linear or takes classifier=ncm.*ranpac does: choose it when"
    with pytest.raises(UsageError, match=said):
        extend(finished, cup, tmp_path / "x", classifier="ranpac")
    with pytest.raises(UsageError, match="classifier.replaces=linear is set by `janus extend`"):
        janus.run(**settings, classifier="ncm", replaces="linear")
    # as before there was such a setting
    assert configure.config_hash(configure.make(classifier="ncm")) == "4b6364be4fb3"


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        (
            {"method": "finetune", "tasks": 5},
            r"^5 of 5 tasks have one class each \(the first: task 1, class\d\): .*; choose "
            r"classifier=ncm, ranpac or aligned when a run begins, or fewer tasks$",
        ),
        ({"method": "frozen", "tasks": 4}, r"^3 of 4 tasks have one class each \(the first: task 2"),
        ({"method": "finetune", "tasks": 5, "classifier": "ranpac", "dim": 20}, None),
        ({"method": "ncm", "tasks": 5}, None),
        ({"method": "finetune", "tasks": 5, "classifier": "aligned", "samples": 10}, None),
        ({"method": "slca", "tasks": 5}, None),  # aligns all heads on samples of all classes
        ({"method": "finetune", "tasks": 2}, None),
        ({"method": "joint", "tasks": 5}, None),
    ],
)
def test_streams_of_one_class_a_task_are_warned_of(old: Path, settings: dict, warns: str | None) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = janus.run(dataset=str(old), **TINY | {"epochs": 1} | settings)
    said = [str(warning.message) for warning in caught if "one class" in str(warning.message)]
    assert len(said) == (warns is not None)
    assert [n for n in result.stream["notes"] if "one class" in n] == said
    if warns:
        assert re.search(warns, said[0])
