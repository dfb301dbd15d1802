"""What all tests share: one thread, reproducible random examples, a folder of images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.made_results import result_values
from helpers.runs import CONFIGS, REPARAMETRISED
from helpers.toys import toy_backbone, write_image_folder
from hypothesis import settings as hypothesis_settings

from janus.models import backbones

hypothesis_settings.register_profile(
    "janus", deadline=None, derandomize=True, max_examples=40, print_blob=True
)
hypothesis_settings.load_profile("janus")
torch.set_num_threads(1)  # small matrices: more threads only wait for one another


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes (no T but 1 and 7 divides them), 20 training and 8 test images each."""
    return write_image_folder(tmp_path_factory.mktemp("folder"), classes=7, train=20, test=8)


@pytest.fixture
def results_folder(tmp_path: Path) -> Path:
    """rows: OE+GR with three seeds, frozen with two, one that no table knows; tune: two learning rates.

    And files that are no runs.
    """
    files = {
        f"rows/a{seed}": result_values(seed, last, variant="OE+GR")
        for seed, last in ((1, 30.0), (0, 20.0), (2, 10.0))
    }
    files |= {f"rows/b{seed}": result_values(seed, 15.0, "frozen") for seed in (0, 1)}
    files |= {"rows/c": result_values(0, variant="mine")}
    files |= {
        f"tune/{lr:g}": result_values(7, last, variant="OE+GR", lr=lr, evaluate="val")
        for lr, last in ((1e-3, 25.0), (1e-4, 5.0))
    }
    files |= {"tune/d": result_values(7, 12.0, "frozen", head_lr=0.01, evaluate="val")}
    files = {f"{name}/result": content for name, content in files.items()}
    files |= {"step_cost": {"cases": []}, "probe": [1, 2]}
    for name, content in files.items():
        path = tmp_path / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def with_toy_backbone(monkeypatch):
    """Every run has the toy backbone."""
    monkeypatch.setattr(backbones, "create", toy_backbone)


@pytest.fixture
def settings(image_folder: Path):
    """`settings("exact", lr=…)`: a run of three uneven tasks (3, 2, 2 classes) and 20 steps."""

    def make(name: str = "exact", **more: Any) -> dict[str, Any]:
        common = {"dataset": str(image_folder), "tasks": 3, "epochs": 2, "batch_size": 16, "rank": 2}
        common |= {"energy": 0.8, "lr": 3e-3, "head_lr": 1e-2, "augment": "icons"}
        common |= {"step_score_every": 2, "device": "cpu"}
        return {**common, **(CONFIGS | REPARAMETRISED)[name], **more}

    return make


@pytest.fixture
def own_accelerate():
    """A Trainer sets Accelerate up for the whole process, as one process; other tests start several."""
    yield
    state = pytest.importorskip("accelerate.state")
    state.AcceleratorState._reset_state(reset_partial_state=True)
    state.GradientState._reset_state()


@pytest.fixture
def without_home(monkeypatch):
    monkeypatch.delenv("JANUS_DATA", raising=False)
