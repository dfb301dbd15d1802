"""What all tests share: one thread, reproducible random examples, a folder of images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings
from toys import write_image_folder

settings.register_profile("janus", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("janus")
torch.set_num_threads(1)  # small matrices: more threads only wait for one another


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven classes (no T but 1 and 7 divides them), 20 training and 8 test images each."""
    return write_image_folder(tmp_path_factory.mktemp("folder"), classes=7, train=20, test=8)
