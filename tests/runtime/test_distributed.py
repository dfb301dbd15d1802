"""One run over two processes (gloo, on the CPU): the numbers of one process, one result.

And one line when it fails.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.processes import two_processes
from helpers.runs import distance, same_run
from helpers.toys import make_tiny_vit, toy_backbone

import janus
from janus import train
from janus.cli.commands import main as cli
from janus.data import transforms
from janus.errors import UsageError
from janus.methods.base import Method
from janus.models import backbones
from janus.models.backbones import PreprocessConfig
from janus.rectify import RectifiedAdam
from janus.runtime import checkpoint, distributed
from janus.runtime.distributed import ALONE, Processes
from janus.runtime.result import Result
from janus.train import CHECKPOINT, RESULT

pytest.importorskip("accelerate")
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the processes are forked")

# 13 images a batch are 6 and 7; tasks of 40 images end with a batch of one, where the main process has none
COMMON: dict[str, Any] = dict(tasks=3, epochs=2, batch_size=13, rank=2, energy=0.99, lr=3e-3, head_lr=1e-2)
COMMON |= {"step_score_every": 2, "device": "cpu"}
TANGENT = {"gr": "tangent", "adapter": "shared", "init": "free", "lr": 3e-4}
CONFIGS: dict[str, dict[str, Any]] = {
    "exact": {"augment": "photo", "oe_epochs": "all"},
    "tangent": {"augment": "icons", **TANGENT, "form": "softmax"},
    "gpm": {"method": "gpm", "augment": "icons"},
    "inflora": {"method": "inflora", "augment": "icons", "energy": 0.9999, "energy_end": None},
    "sdlora": {"method": "sdlora", "augment": "icons"},
    "olora": {"method": "olora", "augment": "icons"},
    "bilora": {"method": "bilora", "augment": "icons", "coefficients": 40},
    # each process looks for triplets in its own part
    "drs": {"method": "drs", "augment": "icons", "penalty": 0.0},
    "finetune": {"method": "finetune", "augment": "none"},
    "fresh": {"dataset": "icons-r", "renditions": "fresh", "per_class": 4, "augment": "icons"},
    "ncm": {"method": "ncm", "augment": "none"},
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def runs(folder: Path, jobs: dict[Path, dict[str, Any]], fault: str = "") -> None:
    """Runs (out → settings), one after the other.

    `fault` befalls the second process in task 2 of the last: nan, overflow (of its gradients alone), or
    killed; or in every step of it: weighed (its loss counts 1 % too much).
    """
    backbones.create = toy_backbone
    local, last = Method.loss, list(jobs)[-1]

    def loss(self: Method, *batch: torch.Tensor) -> torch.Tensor:
        steps[len(self.learner.heads)] += 1
        second = fault and self.learner.processes.rank == 1 and out == last
        struck = second and len(self.learner.heads) == 2 and steps[2] == 3
        if struck and fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if struck and fault == "overflow" and len(batch[0]):
            batch[0].register_hook(lambda gradient: gradient * float("inf"))
        weight = 1.01 if second and fault == "weighed" else float("nan") if struck and fault == "nan" else 1
        return local(self, *batch) * weight

    Method.loss = loss
    for out, settings in jobs.items():
        steps = Counter()  # made in each task
        train.run(out, **{"dataset": str(folder)} | COMMON | settings)


@pytest.fixture(autouse=True)
def _toy_backbone(monkeypatch):
    monkeypatch.setattr(backbones, "create", toy_backbone)


@pytest.fixture(scope="module")
def two(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every config, run by two processes."""
    out = tmp_path_factory.mktemp("two")
    for name, config in CONFIGS.items():
        assert two_processes(runs, image_folder, {out / name: config}) == [0, 0], name
    return out


def alone(folder: Path, out: Path, name: str) -> Path:
    train.run(out, **{"dataset": str(folder)} | COMMON | CONFIGS[name])
    return out


# ── the numbers of one process ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", CONFIGS)
def test_two_processes_find_what_one_finds(name, two, image_folder, tmp_path):
    same_run(alone(image_folder, tmp_path, name), two / name)
    assert Result.load(two / name).hardware["processes"] == 2
    assert "processes" not in Result.load(tmp_path).hardware
    assert sorted(path.name for path in (two / name).iterdir()) == [".lock", CHECKPOINT, RESULT]


@pytest.mark.parametrize("name", ["exact", "tangent", "bilora", "finetune"])
def test_one_process_weighed_a_hundredth_too_high_is_another_run(name, two, image_folder, tmp_path):
    assert two_processes(runs, image_folder, {tmp_path: CONFIGS[name]}, "weighed") == [0, 0]
    a, b = (checkpoint.load(folder / CHECKPOINT)["model"] for folder in (two / name, tmp_path))
    assert max(distance(tensor, b[key]) for key, tensor in a.items()) > 1e-3  # what `same_run` allows at most


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_parts_are_everything_once_and_in_order(count):
    for n in range(12):
        parts = [list(range(n)[Processes(count, rank).part(n)]) for rank in range(count)]
        assert sum(parts, []) == list(range(n)) and max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("kind", ["icons", "photo", "none"])
@pytest.mark.parametrize("part", [slice(0, 3), slice(3, 7), slice(2, 2)])
def test_a_part_of_a_batch_is_augmented_as_it_is_in_the_batch(kind, part):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 20, 24), dtype=torch.uint8, generator=generator)
    augment = transforms.train_transform(kind, PreprocessConfig(16, (0.5,) * 3, (0.25,) * 3, "bilinear"))
    whole = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(augment(images[part], torch.Generator().manual_seed(1), 7, part), whole[part])


# ── breaks and errors ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def killed(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`exact` by two processes, the second of which is killed without warning in the middle of task 2."""
    out = tmp_path_factory.mktemp("killed") / "run"
    jobs = {out: CONFIGS["exact"] | {"save_every": 0}}
    assert two_processes(runs, image_folder, jobs, "killed") == [1, -signal.SIGKILL]
    state = checkpoint.load(out / CHECKPOINT)
    assert (state["task"], state["step"]) == (1, 2) and not (out / RESULT).exists()
    return out


@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_run_goes_on_with_any_number_of_processes(count, killed, image_folder, tmp_path):
    resumed = shutil.copytree(killed, tmp_path / "resumed")
    if count == 1:
        alone(image_folder, resumed, "exact")
    else:
        assert two_processes(runs, image_folder, {resumed: CONFIGS["exact"]}) == [0, 0]
    assert Result.load(resumed).hardware.get("processes", 1) == count
    same_run(alone(image_folder, tmp_path / "whole", "exact"), resumed)


@pytest.mark.parametrize("name", ["exact", "tangent"])
def test_nan_in_one_process_stops_both_with_one_line(name, image_folder, tmp_path, capfd):
    codes = two_processes(runs, image_folder, {tmp_path: CONFIGS[name]}, "nan")
    said = capfd.readouterr().err.splitlines()
    assert codes == [1, 1]
    assert len(said) == 1, said
    assert said[0].startswith("janus: the loss became nan in task 2, step 3; try a smaller lr"), said
    state = checkpoint.load(tmp_path / CHECKPOINT)
    assert (state["task"], state["step"]) == (1, 0) and not (tmp_path / RESULT).exists()


@pytest.mark.parametrize("name", ["exact", "tangent", "bilora"])
def test_fp16_gradients_that_overflow_in_one_process_leave_out_the_step_of_both(name, image_folder, tmp_path):
    jobs = {tmp_path: CONFIGS[name] | {"amp": "fp16"}}
    assert two_processes(runs, image_folder, jobs, "overflow") == [0, 0]
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(tmp_path / CHECKPOINT)["model"].values())


def replicas(folder: Path, gr: str, average: bool) -> None:
    """The optimiser in a loop of one's own, under DistributedDataParallel.

    The factors of each process go to a file.
    """
    torch.distributed.init_process_group("gloo")
    rank, model = torch.distributed.get_rank(), janus.adapt(make_tiny_vit(), rank=2)
    replica = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = RectifiedAdam(janus.lora.pairs(model), lr=1e-2, gr=gr)
    for step in range(3):
        optimizer.zero_grad()
        images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(10 * step + rank))
        replica(images).square().sum().backward()
        for gradient in optimizer.gradients() if average else ():
            torch.distributed.all_reduce(gradient)
            gradient /= 2
        optimizer.step()
    factors = [p.detach() for pair in janus.lora.pairs(model) for p in (pair.A, pair.B)]
    torch.save(factors, folder / f"{rank}.pt")


@pytest.mark.parametrize("gr, average", [("exact", False), ("tangent", True)])
def test_replicas_of_a_loop_of_ones_own_make_the_same_steps(gr, average, tmp_path):
    assert two_processes(replicas, tmp_path, gr, average) == [0, 0]
    mine, others = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(mine) == 8 and all(map(torch.equal, mine, others)) and mine[1].norm() > 0


def test_replicas_that_would_drift_apart_in_silence_are_refused(tmp_path, capfd):
    assert two_processes(replicas, tmp_path, "tangent", False) == [2, 2]
    assert "average them too" in capfd.readouterr().err


def test_what_only_the_main_process_sees_stops_both_with_one_line(image_folder, tmp_path, capfd):
    with train.lock(tmp_path / "run"):
        assert two_processes(runs, image_folder, {tmp_path / "run": CONFIGS["ncm"]}) == [1, 1]
    (tmp_path / "file").touch()
    assert two_processes(runs, image_folder, {tmp_path / "file" / "run": CONFIGS["ncm"]}) == [1, 1]
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 2 and "in use by another janus process" in said[0], said
    assert "cannot write to" in said[1], said


def test_alone_nothing_asks_for_accelerate(image_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)  # importing it is an ImportError now
    monkeypatch.setenv("WORLD_SIZE", "1")
    alone(image_folder, tmp_path, "ncm")
    assert distributed.start() is ALONE and distributed.first_to_fail()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"need accelerate.*pip install 'janus-lora\[parallel\]'"):
        alone(image_folder, tmp_path / "several", "ncm")
    assert not (tmp_path / "several").exists()


def test_accelerate_that_starts_one_process_where_several_were_asked_for_is_an_error(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")  # accelerate launch --cpu
    assert distributed.start() is ALONE
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # … --num_processes 2
    with pytest.raises(UsageError, match="starts one process.*torchrun"):
        distributed.start()


# ── the launchers ───────────────────────────────────────────────────────────────────────────────────────────


def python(*words: object, **environment: str) -> subprocess.CompletedProcess:
    """`python WORDS…` to its end; one that hangs is an error."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": "", **environment}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=120, env=environment)


@pytest.mark.slow
def test_accelerate_launch_runs_the_command(image_folder, tmp_path):
    launch = "-m accelerate.commands.launch --multi_gpu --num_processes 2 --main_process_port".split()
    run = ["-m", "janus", "run", "--dataset", image_folder, "--tasks", 1, "--out", tmp_path / "run"]
    run += "--set weights=random augment=icons epochs=1".split()
    ended = python(*launch, free_port(), *run, ACCELERATE_USE_CPU="true", OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    result = Result.load(tmp_path / "run")
    assert ended.stdout.count(result.line()) == 1 and ended.stderr.count("task 1/1") == 1
    assert result.hardware["processes"] == 2


def test_two_processes_extend_a_run(two, image_folder, tmp_path, capfd):
    new, finished = tmp_path / "new", shutil.copytree(two / "finetune", tmp_path / "run")
    for split in ("train", "test"):
        shutil.copytree(image_folder / split / "class0", new / split / "another")
    command = ["extend", str(finished), "--data", str(new), "--quiet"]
    assert two_processes(extends, command) == [0, 0]
    assert capfd.readouterr().out.endswith(f"\nin {tmp_path / 'run-extended'}\n")
    assert len(Result.load(tmp_path / "run-extended").accuracy) == 4


def extends(command: list[str]) -> None:
    backbones.create = toy_backbone
    assert cli(command) == 0


NOTEBOOK = """
import sys, torch, janus
from accelerate import notebook_launcher
from janus.data import datasets
folder, out, port = sys.argv[1:]
torch.set_num_threads(2)
datasets.load(folder).train.batch(torch.arange(4))  # decoding threads
torch.rand(1000, 1000) @ torch.rand(1000, 1000)     # OpenMP's threads: no fork inherits either
def train():
    janus.run(dataset=folder, tasks=1, weights="random", augment="icons", epochs=1, out=out, progress=print)
notebook_launcher(train, num_processes=2, use_port=port)
"""


@pytest.mark.slow
def test_notebook_launcher_after_cells_that_have_used_threads(image_folder, tmp_path):
    ended = python("-c", NOTEBOOK, image_folder, tmp_path / "run", free_port(), OMP_NUM_THREADS="2")
    assert ended.returncode == 0 and ended.stdout.count("task 1/1") == 1, ended.stderr
    assert Result.load(tmp_path / "run").hardware["processes"] == 2
