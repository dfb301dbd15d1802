"""What runs on a GPU never mixes a GPU's tensors with the CPU's, and finds what it finds on the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fake_cuda import FakeCudaTensor, fake_cuda
from helpers.toys import make_tiny_vit, toy_backbone
from torch.nn.attention import SDPBackend, sdpa_kernel

import janus
from janus.doctor import cost
from janus.history import History, SecondMoments
from janus.models import backbones
from janus.rectify import RectifiedAdam

ROOT = Path(__file__).parents[2]
COMMON: dict[str, Any] = dict(
    tasks=2, epochs=1, batch_size=32, rank=2, lr=3e-3, head_lr=1e-2, augment="icons", energy=0.9
)
TANGENT = {"gr": "tangent", "adapter": "shared", "init": "free", "lr": 3e-4}
FAMILY = (
    "finetune frozen gpm inflora drs sdlora olora ewc lwf slca l2p dualprompt joint probe lorafa ncm ranpac"
).split()
CONFIGS: dict[str, dict[str, Any]] = {name: {"method": name} for name in FAMILY} | {
    "exact": {"augment": "photo", "oe_epochs": "all"},
    "tangent": {**TANGENT, "form": "softmax", "augment": "none"},
    "drs under rectification": {"method": "drs", "gr": "tangent"},
    "bilora": {"method": "bilora", "coefficients": 40},
    "coda": {"method": "coda", "components": 10},
    "RanPAC's head": {"classifier": "ranpac"},
    "all targets": {"targets": ["q", "k", "v", "proj", "fc1", "fc2"]},
}


@pytest.fixture(autouse=True)
def _toy_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "create", toy_backbone)


@pytest.fixture(autouse=True)
def _same_attention() -> Iterator[None]:
    """The CPU's own fused attention rounds otherwise than the simulated device."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@pytest.mark.parametrize("name", CONFIGS)
def test_a_run_on_a_gpu_is_the_run_on_the_cpu(name: str, image_folder: Path, tmp_path: Path) -> None:
    settings = {"dataset": str(image_folder), **COMMON, **CONFIGS[name]}
    with fake_cuda():
        there = janus.run(out=tmp_path / "gpu", device="cuda", **settings)
    here = janus.run(out=tmp_path / "cpu", device="cpu", **settings)
    assert there.hardware["device"] == "cuda"
    assert there.accuracy == here.accuracy and there.task_aware == here.task_aware
    assert there.basis_rank == here.basis_rank


def test_a_run_that_was_broken_off_on_a_gpu_goes_on_there_and_on_the_cpu(
    image_folder: Path, tmp_path: Path
) -> None:
    settings = {"dataset": str(image_folder), **COMMON, "save_every": 0}

    def stop(line: str) -> None:
        if line.startswith("task 2"):
            raise KeyboardInterrupt

    with fake_cuda():
        with pytest.raises(KeyboardInterrupt):
            janus.run(out=tmp_path / "gpu", device="cuda", progress=stop, **settings)
        shutil.copytree(tmp_path / "gpu", tmp_path / "cpu")
        there = janus.run(out=tmp_path / "gpu", device="cuda", **settings)
    here = janus.run(out=tmp_path / "cpu", device="cpu", **settings)
    assert there.accuracy == here.accuracy == janus.run(device="cpu", **settings).accuracy


@pytest.mark.parametrize(
    "settings", [{}, {"classifier": "ncm"}, {"classifier": "ranpac"}, {"method": "l2p"}], ids=str
)
def test_a_finished_run_is_used_and_extended_on_a_gpu(
    settings: dict[str, Any], image_folder: Path, tmp_path: Path
) -> None:
    janus.run(dataset=str(image_folder), out=tmp_path / "run", device="cpu", **COMMON, **settings)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=generator)
    for split in ("train", "test"):
        shutil.copytree(image_folder / split / "class0", tmp_path / "new" / split / "another")
    with fake_cuda():
        predictor = janus.load(tmp_path / "run", device="cuda")
        there = predictor.scores(images)
        extended = janus.extend(tmp_path / "run", tmp_path / "new", tmp_path / "gpu", device="cuda")
    assert not isinstance(there, FakeCudaTensor) and predictor.learner.prototypes.old.device.type == "cuda"
    assert torch.allclose(there, janus.load(tmp_path / "run", device="cpu").scores(images), atol=1e-5)
    on_the_cpu = janus.extend(tmp_path / "run", tmp_path / "new", tmp_path / "cpu", device="cpu")
    assert extended.accuracy == on_the_cpu.accuracy


@pytest.mark.parametrize("gr", ["none", "exact", "tangent"])
def test_the_optimiser_in_a_loop_of_ones_own_on_a_gpu(gr: str) -> None:
    def train(device: str) -> list[torch.Tensor]:
        model = janus.adapt(make_tiny_vit(), rank=2, generator=torch.Generator().manual_seed(0)).to(device)
        pairs = janus.lora.pairs(model)
        moments, past = SecondMoments(pairs), History(pairs, rank=2)
        optimizer = RectifiedAdam(pairs, lr=1e-2, gr=gr, basis=past.basis)
        images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1)).to(device)
        for _ in range(2):
            moments.active = True
            for _ in range(3):
                optimizer.zero_grad()
                model(images).square().sum().backward()
                optimizer.step()
            past.end_task(moments, energy=0.9)
            moments.reset()
            optimizer.protect(past.basis)
        return [model(images).detach().cpu()] + [V.cpu() for V in past.basis.values()]

    with fake_cuda():
        there = train("cuda:0")
    for mine, others in zip(train("cpu"), there, strict=True):
        assert torch.allclose(mine, others, atol=1e-5)


def test_the_steps_whose_cost_is_measured_can_be_taken_on_a_gpu() -> None:
    pytest.importorskip("peft", reason="in the bench extra")

    def train(device: torch.device, name: str) -> list[torch.Tensor]:
        case = cost.Case("icons-vit", batch=4, rank=2, basis=8, threads=1, device=device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            variant = case.variant(name)
        for _ in range(2):
            variant.step(*case.example())
        groups = [group for o in variant.optimizers for group in o.param_groups]
        return [p.detach().cpu() for group in groups for p in group["params"]]

    for name in cost.VARIANTS:
        here = train(torch.device("cpu"), name)
        with fake_cuda():
            there = train(torch.device("cuda", 0), name)
        for mine, others in zip(here, there, strict=True):
            assert torch.allclose(mine, others, atol=1e-5), name


def test_waiting_is_measured_in_the_training_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import waiting

    monkeypatch.setenv("JANUS_CACHE", str(tmp_path / "cache"))
    waiting.write_photographs(tmp_path / "photographs", 40)
    settings = {"epochs": 1, "batch_size": 8, "rank": 2, "device": "cuda"}
    with fake_cuda():
        found = waiting.measure(tmp_path / "photographs", 40, ["LoRA", "OE+GR+DML"], **settings)
    for row in found.values():
        assert row["images_per_second"] > 0 and 0 < row["waiting_percent"] < 100


@pytest.mark.parametrize("made", [torch.zeros(3), torch.tensor([1, 2, 0])])
def test_the_simulated_device_refuses_what_a_gpu_refuses(made: torch.Tensor) -> None:
    with fake_cuda():
        x = torch.ones(3, device="cuda")
        with pytest.raises(RuntimeError, match="same device"):
            x + made
        with pytest.raises(RuntimeError, match="generator"):
            torch.randn(3, device="cuda", generator=torch.Generator())
        with pytest.raises(TypeError, match="numpy"):
            x.numpy()
        assert (x + made.to("cuda:0")).cpu().tolist() == (made + 1).tolist()
        assert (x * torch.tensor(2)).tolist() == [2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "lesson", ["03_online_estimation", "04_gradient_rectification", "05_feature_separation", "09_your_data"]
)
def test_lessons_that_compute_with_a_runs_tensors_do_so_on_a_gpu(lesson: str, tmp_path: Path) -> None:
    environment = os.environ | {"JANUS_FAST": "1", "JANUS_PNG": "0", "JANUS_RUNS": str(tmp_path)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, ROOT / "tests" / "helpers" / "fake_cuda.py", f"{lesson}.ipynb"]
    ended = subprocess.run(
        command, cwd=ROOT / "notebooks", env=environment, capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]
