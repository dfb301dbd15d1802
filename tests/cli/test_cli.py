"""The `janus` command: what it prints and writes; how it refuses: one line, right exit code, no traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from janus import predict, train
from janus.cli.commands import main
from janus.models import backbones
from janus.runtime import checkpoint

Capture, Patch = pytest.CaptureFixture[str], pytest.MonkeyPatch
TINY = ("--set", "weights=random", "augment=icons", "epochs=1")


def run_args(data: Path, out: Path, *more: str) -> list[str]:
    return ["run", "--dataset", str(data), "--tasks", "3", "--out", str(out), *TINY, *more]


def refused(capsys: Capture, argv: list[str], code: int, *words: str) -> None:
    """`argv` ends with `code` and one line on stderr that holds `words`."""
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("janus: ") and err.count("\n") == 1 and "Traceback" not in err, err
    for word in words:
        assert word in err


@pytest.fixture(scope="module")
def finished(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "r"
    assert main(run_args(image_folder, out, "--quiet")) == 0
    return out


def test_run_writes_a_result_and_is_not_repeated(finished: Path, image_folder: Path, capsys: Capture) -> None:
    result = json.loads((finished / "result.json").read_text())
    assert {"oe", "gr", "dml", "adapter", "init", "energy", "loss"} <= result["config"]["method"].keys()
    config = result["config"]
    assert config["data"]["dataset"] == str(image_folder) and config["training"]["seed"] == 0
    keys = (
        "hash versions hardware accuracy acc maa bwt forgetting learning_acc task_aware_acc violation "
        "violation_step past_output_norm drift danger basis_rank"
    )
    for key in keys.split():
        assert key in result
    assert {"train", "eval", "oe", "gr"} <= result["seconds"].keys()
    assert "uneven" in result["stream"]["note"]  # 7 classes in 3 tasks: allowed, and stated
    assert [len(row) for row in result["accuracy"]] == [1, 2, 3]
    before = (finished / "result.json").read_bytes()
    assert main(run_args(image_folder, finished)) == 0
    out, err = capsys.readouterr()
    assert "nothing was trained" in err and f"janus on {image_folder}" in out
    assert (finished / "result.json").read_bytes() == before


def test_progress_names_task_accuracy_and_time_left(
    image_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(run_args(image_folder, tmp_path / "r", "method=frozen")) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("task 2/3" in line and "acc so far" in line and "left" in line for line in lines)


WRONG = [  # a command, and the parts of its answer
    ("rum", "unknown command 'rum' | 'run'"),
    ("run --datset icons-r --out x", "'--datset' | '--dataset'"),
    ("run", "--out"),
    ("run --out x --dataset icon-r", "unknown dataset | 'icons-r'"),
    ("run --out x --dataset ./nowhere", "./nowhere | does not exist"),
    ("run --out x --method jnaus", "unknown method | 'janus'"),
    ("run --out x --model icon-vit", "unknown model | 'icons-vit'"),
    ("run --out x --model resnet18 --set weights=random", "ResNet has no attention"),
    ("run --out x --set epoch=3", "unknown setting 'epoch' | 'epochs'"),
    ("run --out x --set lr=fast", "lr takes a number | 'fast'"),
    ("run --out x --tasks ten", "tasks takes a whole number | 'ten'"),
    ("run --out x --tasks 0", "tasks | at least 1"),
    ("run --out x --set oe=maybe", "oe takes true or false"),
    ("run --out x --set gr=exat", "'exat' | 'exact'"),
    ("run --out x --set lr", "key=value"),
    ("run --out x --tasks 5 --set tasks=4", "tasks is given twice"),
    ("run --out x --tasks 5 --set data.tasks=4", "data.tasks is given twice: 4 and 5"),
    ("run --out x --set margin=2 lr=x", "2 faults | margin is a setting of method=drs | training.lr takes"),
    ("run --out x --set gr=exact adapter=shared", "gr=exact requires adapter=merged"),
    ("run --out x --method frozen --set oe=true", "oe=true | method=frozen"),
    ("predict nowhere a.png", "nowhere | no such folder"),
    ("extend nowhere --data d", "nowhere | no such folder"),
    ("models no-such-model", "no name contains"),
    ("methods inflor", "unknown method 'inflor' | 'inflora'"),
    ("methods --model icon-vit", "unknown model | 'icons-vit'"),
    ("methods --tasks ten", "--tasks | 'ten'"),
    ("methods --rank 500", "backbone.rank=500 | 1 to 192"),
    ("methods --classes 5", "5 classes | 10 tasks"),
]


@pytest.mark.parametrize(("argv", "words"), [(argv.split(), said.split(" | ")) for argv, said in WRONG])
def test_wrong_requests_exit_with_2(
    argv: list[str], words: list[str], tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    if argv[0] == "run" and "--model" not in argv:
        argv = [*argv, "--set", "weights=random"]
    refused(capsys, argv, 2, *words)
    assert not list(tmp_path.rglob("result.json"))


def test_more_is_refused_by_the_data(image_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "r"
    refused(capsys, run_args(image_folder, out, "rank=500"), 2, "backbone.rank=500", "1 to 192")
    argv = ["run", "--dataset", str(image_folder), "--tasks", "9", "--out", str(out), *TINY]
    refused(capsys, argv, 2, "between 1 and 7")
    refused(capsys, run_args(image_folder, out, "data.strenght=1"), 2, "strenght")


def test_a_corrupt_image_is_named_and_skipped_only_if_asked(tmp_path: Path, capsys: Capture) -> None:
    from helpers.toys import write_image_folder

    data = write_image_folder(tmp_path / "data", classes=6, train=5, test=3)
    broken = data / "train" / "class1" / "2.png"
    broken.write_bytes(broken.read_bytes()[:60])
    refused(capsys, run_args(data, tmp_path / "r", "--quiet"), 1, str(broken), "skip_corrupt")
    assert main(run_args(data, tmp_path / "s", "data.skip_corrupt=true", "--quiet")) == 0
    err = capsys.readouterr().err
    assert err.startswith("janus: note: ") and str(broken) in err and err.count("\n") == 1


def test_out_that_cannot_be_written(image_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("in the way")
    refused(
        capsys, run_args(image_folder, tmp_path / "file" / "r"), 1, "cannot write to", "choose another --out"
    )


def test_no_space(image_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(capsys, run_args(image_folder, tmp_path / "r", "--quiet"), 1, "No space left", "free some space")
    assert not [p for p in (tmp_path / "r").iterdir() if p.name != ".lock"]  # no half-written file is left


def test_another_run_or_another_process_in_out(
    finished: Path, image_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    refused(capsys, run_args(image_folder, finished, "lr=0.5"), 2, "another run", "lr", "--out")
    with train.lock(tmp_path / "busy"):
        refused(capsys, run_args(image_folder, tmp_path / "busy"), 1, "in use by another janus process")


def test_nan_loss_stops_and_keeps_the_checkpoint(
    image_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    from janus.methods import get

    loss = get("finetune").loss

    def diverge(self: object, f: object, z: object, y: object) -> object:
        return loss(self, f, z, y) * (float("nan") if len(self.learner.heads) == 2 else 1)

    monkeypatch.setattr(get("finetune"), "loss", diverge)
    argv = run_args(image_folder, tmp_path / "r", "method=finetune", "--quiet")
    refused(capsys, argv, 1, "the loss became nan", "task 2", "smaller lr", "checkpoint is kept")
    assert checkpoint.load(tmp_path / "r" / "checkpoint.safetensors")["task"] == 1


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, ["stopped", "same command resumes"]),
        (ValueError("strange\nand long"), 1, ["unexpected ValueError: strange", "--debug"]),
        (MemoryError("big"), 1, ["out of memory", "micro_batch=N"]),
        (OSError(errno.ENOSPC, "No space left on device"), 1, ["no space left"]),
    ],
)
def test_what_nobody_foresaw(
    error: BaseException, code: int, words: list[str], capsys: Capture, monkeypatch: Patch
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(train, "execute", fail)
    refused(capsys, ["run", "--out", "x"], code, *words)
    with pytest.raises(type(error)):
        main(["run", "--out", "x", "--debug"])


def test_warnings_are_one_line(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        train, "execute", lambda *_: warnings.warn("something\n  to know", stacklevel=1) or 1 / 0
    )
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # restored afterwards
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["run", "--out", "x"]) == 1
    assert capsys.readouterr().err.splitlines()[0] == "janus: note: something to know"


def test_predict(finished: Path, image_folder: Path, tmp_path: Path, capsys: Capture) -> None:
    images = [str(image_folder / "test" / f"class{c}" / "0.png") for c in (0, 3)]
    assert main(["predict", str(finished), *images, "--top", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == images
    assert all(line.count("class") == 3 for line in lines)
    assert main(["predict", str(finished), images[0], "--top", "9", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["image"] == images[0] and len(answer["probability"]) == 7
    refused(capsys, ["predict", str(finished), str(tmp_path / "no.png")], 1, "no.png", "no such file")
    refused(capsys, ["predict", str(finished), str(tmp_path)], 1, "that is a folder")
    (tmp_path / "text.png").write_text("not an image")
    refused(capsys, ["predict", str(finished), str(tmp_path / "text.png")], 1, "cannot decode", "text.png")
    refused(capsys, ["predict", str(finished), images[0], "--top", "0"], 2, "--top")
    refused(capsys, ["predict", str(finished), images[0], "--device", "abacus"], 2, "abacus")
    refused(capsys, ["predict", str(tmp_path), images[0]], 1, "no run in")


def test_predict_answers_what_it_can(
    finished: Path, image_folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "text.png").write_text("not an image")
    good = [str(image_folder / "test" / f"class{c}" / "0.png") for c in (0, 3)]
    argv = ["predict", str(finished), good[0], str(tmp_path / "text.png"), good[1]]
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert [line.partition(": ")[0] for line in out.splitlines()] == good
    assert err.startswith("janus: 1 of 3 images cannot be read: ") and "text.png" in err
    assert err.count("\n") == 1
    assert main([*argv, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [len(image["probability"]) for image in found] == [5, 0, 5]
    assert "cannot decode" in found[1]["error"]


def test_extend_from_the_command_line(
    finished: Path, image_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    seen = {}
    monkeypatch.setattr(
        predict,
        "execute",
        lambda config, out, progress: seen.update(config=config, out=out) or train.Result.load(finished),
    )
    new = tmp_path / "new"
    refused(capsys, ["extend", str(finished), "--data", str(image_folder)], 2, "class0", "already known")
    refused(capsys, ["extend", str(finished), "--data", str(new)], 2, str(new))
    refused(capsys, ["extend", str(finished), "--data", str(new), "--set", "lr=1"], 2, "lr")
    argv = ["extend", str(finished), "--data", str(new), "--out", str(finished)]
    refused(capsys, argv, 2, "choose another folder")
    assert not seen and not list(finished.parent.glob("*-extended*"))


@pytest.mark.parametrize(
    ("command", "word"), [("datasets", "icons-r"), ("methods", "gpm"), ("models", "icons-vit")]
)
def test_lists(command: str, word: str, capsys: Capture) -> None:
    assert main([command]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[0] == word and len(line.split()) > 1 for line in lines)


def test_methods_are_sized_without_weights_and_one_is_described(capsys: Capture, monkeypatch: Patch) -> None:
    monkeypatch.setattr(
        "janus.models.backbones._create_timm",
        lambda *a, create=backbones._create_timm, **options: (
            create(*a, **options) if not options["pretrained"] else pytest.fail("weights were asked for")
        ),
    )
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("ewc "))
    assert lines[at].split()[1:5] == ["classic", "0.52", "MB", "38,794"]
    assert lines[at + 1].strip().startswith("Kirkpatrick et al.")
    assert max(map(len, lines)) <= 155
    assert any("icons-vit, 10 tasks, 100 classes, rank 8" in line for line in lines)
    argv = "methods --model vit_base_patch16_224 --tasks 20 --classes 200 --rank 10 --json"
    assert main(argv.split()) == 0
    found = json.loads(capsys.readouterr().out)
    asked = {"model": "vit_base_patch16_224", "tasks": 20, "classes": 200, "rank": 10}
    assert {key: found[key] for key in asked} == asked
    ewc = next(method for method in found["methods"] if method["name"] == "ewc")
    factors = 12 * 2 * 10 * (768 + 768)
    assert ewc["stored"] == {"factors": 4 * factors, "heads": 4 * 200 * 769, "F and anchor": 8 * factors}
    assert ewc["trained"] == {"factors": factors, "head": 10 * 769}
    assert not ewc["at_most"] and ewc["exemplar_free"]
    assert main(["methods", "slca"]) == 0
    out = capsys.readouterr().out
    assert "Slow Learner with Classifier Alignment" in out
    assert "training.lr=0.0001" in out and "classifier.temperature=0.1" in out
    assert main(["methods", "slca", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["classifier.epochs"]["default"] == 5


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--dataset", "icons-q"],
        ["run", "--method", "janos"],
        ["run", "--model", "vit_tinny"],
        ["run", "--set", "methd=x"],
        ["run", "--set", "method.margn=2"],
        ["run", "--set", "lr=fast"],
    ],
)
def test_a_typing_error_is_answered_before_torch_is_imported(argv: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "janus", *argv, "--out", "x"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1].startswith("janus: ")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pydantic" in imported and not {"torch", "timm"} & imported


def test_help_does_not_wait_for_torch() -> None:
    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)

    done = python("-X", "importtime", "-m", "janus", "run", "--help")
    assert done.returncode == 0 and "--dataset" in done.stdout, done.stderr
    assert "argparse" in done.stderr and "torch" not in done.stderr
    assert "janus-lora 0.1.0" in python("-m", "janus", "--version").stdout
