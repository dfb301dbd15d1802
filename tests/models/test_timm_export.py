"""`janus export`: a folder that needs no janus gives the run's scores."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import write_image_folder
from PIL import Image
from safetensors.torch import load_file

import janus
from janus.cli.commands import main
from janus.errors import JanusError, UsageError
from janus.methods.base import Method

TINY: dict[str, Any] = dict(weights="random", augment="icons", epochs=2, tasks=2, batch_size=16, lr=1e-2)
CASES: dict[str, dict[str, Any]] = {
    "exact": {},
    "tangent": {
        "gr": "tangent",
        "adapter": "shared",
        "init": "free",
        "targets": ("q", "v", "fc1"),
        "scale": 2.0,
    },
    "sdlora": {"method": "sdlora"},
    "slca": {"method": "slca"},
    "class means": {"method": "finetune", "classifier": "ncm"},
    "ranpac": {"method": "finetune", "classifier": "ranpac", "dim": 60},
    "timm, smaller images": {
        "model": "vit_tiny_patch16_224",
        "image_size": 48,
        "augment": "photo",
        "epochs": 1,
    },
    "timm, photographs": {
        "model": "vit_tiny_patch16_224",
        "augment": "photo",
        "epochs": 1,
        "normalise": "none",
        "per_class": 4,
    },
}
READER = """
import sys
class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "janus":
            raise ImportError("janus is not here")
sys.meta_path.insert(0, Blocked())
try:
    import janus
except ImportError:
    pass
else:
    raise SystemExit("janus is here")
sys.path.insert(0, sys.argv[1])
import torch
from PIL import Image
from safetensors.torch import save_file
from load import C, load, pixels, scores
torch.set_num_threads(1)
x = torch.cat([pixels(Image.open(path)) for path in sys.argv[3:]])
save_file({"x": x, "scores": scores(load(), x)}, sys.argv[2])
assert not any(name.partition(".")[0] == "janus" for name in sys.modules)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_image_folder(tmp_path_factory.mktemp("data") / "data", classes=4, train=8, test=3)


def without_janus(*words: object) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd="/")


def pictures(data: Path, folder: Path) -> list[Path]:
    """Images as the run's, one on its side by its EXIF, one with transparency, a grey one, a photograph."""
    folder.mkdir()
    mine = Image.open(data / "test" / "class1" / "0.png").resize((48, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = torch.randint(0, 255, (3, 300, 400), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    photograph = Image.frombytes("RGB", (400, 300), wide.permute(1, 2, 0).contiguous().numpy().tobytes())
    mine.save(folder / "turned.png", exif=exif)
    mine.convert("RGBA").rotate(30).save(folder / "clear.png")
    mine.convert("L").save(folder / "grey.png")
    photograph.save(folder / "photo.png")
    return [data / "test" / "class0" / "1.png", *sorted(folder.iterdir())]


@pytest.mark.parametrize("name", CASES)
def test_the_files_give_the_runs_scores_where_janus_cannot_be_imported(
    name: str, data: Path, tmp_path: Path
) -> None:
    janus.run(tmp_path / "run", dataset=str(data), **TINY | CASES[name])
    assert janus.export(tmp_path / "run", tmp_path / "out") == tmp_path / "out"
    files = {"model.safetensors", "classifier.safetensors", "config.json", "load.py", "README.md"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files
    images = pictures(data, tmp_path / "images")
    ended = without_janus("-c", READER, tmp_path / "out", tmp_path / "found.safetensors", *images)
    assert ended.returncode == 0, ended.stderr
    found, predictor = load_file(tmp_path / "found.safetensors"), janus.load(tmp_path / "run", "cpu")
    learner = predictor.learner
    with torch.no_grad():
        expected = learner.method.scores(learner.forward(found["x"]).float())
    assert (found["scores"] - expected).abs().max() <= 1e-5 * max(1.0, expected.abs().max())
    own = predictor.scores(images)  # from the files' pixels, too
    mine = found["scores"].softmax(dim=1) if predictor.score == "probability" else found["scores"]
    torch.testing.assert_close(mine, own, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["classes"] == predictor.class_names
    said = without_janus(tmp_path / "out" / "load.py", images[0])
    assert said.returncode == 0, said.stderr
    assert predictor.predict(images[0])[0][0][0] in said.stdout.partition(",")[0], said.stderr


def test_the_weights_are_timms_own_and_nothing_of_lora_is_left(data: Path, tmp_path: Path) -> None:
    """They go into timm's model, and back into janus as a backbone."""
    janus.run(tmp_path / "run", dataset=str(data), **TINY | {"epochs": 1})
    out, before = janus.export(tmp_path / "run", tmp_path / "out"), janus.load(tmp_path / "run").learner
    weights = load_file(out / "model.safetensors")
    plain = janus.models.backbones.create("icons-vit", weights=out / "model.safetensors")[0]
    assert weights.keys() == plain.state_dict().keys()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), before.model(x), rtol=1e-5, atol=1e-5)
    untrained = janus.models.backbones.create("icons-vit", "random")[0]
    moved = weights["blocks.0.attn.qkv.weight"] - untrained.blocks[0].attn.qkv.weight
    assert moved[:192].abs().max() == 0 and moved[192:].abs().max() > 0


def test_what_cannot_be_merged_is_refused_by_name(data: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    janus.run(tmp_path / "l2p", dataset=str(data), method="l2p", **TINY | {"epochs": 1})
    said = "method=l2p asks for prompts with each image.*keep the run's folder"
    with pytest.raises(UsageError, match=said):
        janus.export(tmp_path / "l2p", tmp_path / "out")
    janus.run(tmp_path / "run", dataset=str(data), **TINY | {"epochs": 1})
    # a method of one's own
    monkeypatch.setattr(Method, "scores", lambda self, f: self.learner.classifier.scores(f).flip(1))
    with pytest.raises(UsageError, match="scores of method=janus do not follow from its weights"):
        janus.export(tmp_path / "run", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(JanusError, match="cannot write to"):
        janus.export(tmp_path / "run", tmp_path / "file" / "out")
    assert main(["export", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == f"in {tmp_path / 'out'}\n"
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "x")]) == 1
    assert "no run in" in capsys.readouterr().err


def test_a_backbone_that_its_name_does_not_build_is_refused(data: Path, tmp_path: Path, monkeypatch) -> None:
    more = TINY | {"model": "vit_tiny_patch16_224", "per_class": 2, "epochs": 1}
    janus.run(tmp_path / "run", dataset=str(data), **more)
    other = {"architecture": "vit_small_patch16_224", "arguments": {}}
    monkeypatch.setattr("janus.models.timm_export.described", lambda *_: other)
    with pytest.raises(UsageError, match="timm cannot build this run's backbone.*janus.export_peft"):
        janus.export(tmp_path / "run", tmp_path / "out")
