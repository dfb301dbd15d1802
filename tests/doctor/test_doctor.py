"""The doctor finds what is broken, and says what it cannot look at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.fake_cuda import fake_cuda
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from janus import doctor, rectify
from janus.cli.commands import main
from janus.doctor import checks, cost, speed
from janus.doctor.place import Finding, Place
from janus.errors import UsageError
from janus.methods.frozen import Frozen
from janus.runtime.updates import Updates

ROOT = Path(__file__).parents[2]
PEFT = "cost: PEFT's LoRA, batch 4, float32"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are measured on the embedded ViT, and the machine may be busy."""
    monkeypatch.setattr(doctor, "LIMITS", dict.fromkeys(doctor.LIMITS, 1e6))
    monkeypatch.setattr(
        Place,
        "case",
        lambda self, batch=None, half=None: cost.Case("icons-vit", batch or 4, 2, 8, 1, self.device, half),
    )


@pytest.fixture
def _same_attention() -> Iterator[None]:
    """The CPU's own fused attention rounds otherwise than the simulated device."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


def verdicts(**kwargs: Any) -> dict[str, str]:
    return {check.name: check.verdict for check in doctor.examine(**kwargs).checks}


def test_a_sound_machine(tmp_path: Path) -> None:
    lines: list[str] = []
    report = doctor.examine("cpu", quick=True, progress=lines.append, methods=("coda", "joint", "ncm"))
    found = {check.name: check for check in report.checks}
    assert not report.failed and list(found) == [line[8:] for line in lines]
    skipped = {name for name, check in found.items() if check.verdict == "skipped"}
    assert skipped - {PEFT} == {"step: ncm", "autocast fp16", "A V = 0, TF32 allowed"}
    assert found["step: coda"].value.keys() == {"loss", "heads", "own", "bounds"}
    zeros = {"factors": 0, "heads": 0, "accuracy": 0}
    assert found["resume"].value == zeros | {"bounds": zeros}
    row = found["cost: exact + DML, batch 4, float32"].value
    assert row["images_per_second"] == pytest.approx(4e3 / row["ms"])
    assert row["megabytes"] > 11  # the backbone alone
    assert 0.9 < row["memory_to_lora"] < 1.2 and 0 < found["waiting for data"].value["waiting_percent"] < 100

    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert values.keys() == {"format", "device", "quick", "checks", "seconds", "versions", "hardware"}
    assert all(check.keys() == {"name", "verdict", "value"} for check in values["checks"])
    table, verdict = report.table().splitlines(), re.compile(" (pass|skipped)  ")
    assert len(table) == len(found) + 2 and len({verdict.search(line).start() for line in table[:-2]}) == 1
    assert table[-1].startswith(f"{len(found) - len(skipped)} passed, 0 failed, {len(skipped)} skipped on ")


def test_every_method_is_looked_at() -> None:
    place = Place(torch.device("cpu"), True, Path("nowhere"))
    names = [name for name, _ in checks.steps(place)]
    assert names == [f"step: {name}" for name in [*sorted(checks.methods.all_methods()), "janus, tangent"]]


def test_a_projection_in_bf16_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    project_out = rectify.project_out

    def short(M: Tensor, V: Tensor | None) -> Tensor:
        if V is None or M.dtype != torch.float32:
            return project_out(M, V)
        return project_out(M.bfloat16(), V.bfloat16()).float()

    sound = verdicts(device="cpu", quick=True, parts=["projection"])
    monkeypatch.setattr(rectify, "project_out", short)
    broken = verdicts(device="cpu", quick=True, parts=["projection"])
    names = ["A V = 0, float32", "A V = 0, bf16 autocast"]
    assert [sound[name] for name in names] == ["pass"] * 2
    assert [broken[name] for name in names] == ["fail"] * 2


def test_a_resumed_run_that_lost_its_optimiser_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Updates, "load_state", lambda self, state: None)
    assert verdicts(device="cpu", quick=True, parts=["resume"]) == {"resume": "fail"}


@pytest.mark.usefixtures("_same_attention")
def test_on_a_simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_cuda():
        parts = ["machine", "steps", "resume", "projection"]
        report = doctor.examine("cuda", quick=True, parts=parts, methods=("janus",))
        assert [check.name for check in report.failed] == ["A V = 0, bf16 autocast"]  # it knows no autocast
        assert report.device == "cuda" and "a simulated CUDA device" in report.table()
        assert not any(check.verdict == "skipped" for check in report.checks)
        loss = Frozen.loss

        def wrong_there(self: Frozen, *args: Tensor) -> Tensor:
            return loss(self, *args) * (1.01 if self.learner.device.type == "cuda" else 1)

        monkeypatch.setattr(Frozen, "loss", wrong_there)
        (wrong,) = doctor.examine("cuda", quick=True, parts=["steps"], methods=("frozen",)).checks
    assert wrong.verdict == "fail" and wrong.value["loss"] == pytest.approx(0.01, rel=1e-2)
    assert "loss 0.01 > the bound 0.0001" in wrong.line()


def test_memory_on_a_gpu_is_what_its_tensors_rise_by(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(name: str, value: float | None, *_: Any) -> float | None:
        asked.append(name)
        return value

    for name, value in (
        ("empty_cache", None),
        ("memory_allocated", 3e6),
        ("reset_peak_memory_stats", None),
        ("max_memory_allocated", 10e6),
    ):
        monkeypatch.setattr(torch.cuda, name, partial(answer, name, value))
    with fake_cuda():
        assert cost.peak(cost.Case("icons-vit", 2, 2, 8, 1, torch.device("cuda", 0)), "exact")[0] == 7
    assert asked == ["empty_cache", "memory_allocated", "reset_peak_memory_stats", "max_memory_allocated"]


def planned(*works: Callable[[], Finding]) -> dict[str, Any]:
    return {"made": lambda place: iter([(f"check {i}", work) for i, work in enumerate(works)])}


def raising(error: Exception) -> Callable[[], Finding]:
    def work() -> Finding:
        raise error

    return work


def test_what_goes_wrong_is_one_checks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    works = [
        raising(RuntimeError("no kernel\nand more")),
        lambda: Finding({"a": float("nan")}, {}),
        lambda: Finding({"a": 2.0}, {"a": 1.0}),
        raising(torch.cuda.OutOfMemoryError("1 GiB")),
        lambda: Finding({"a": 1.0, "text": "b"}, {"a": 1.0}),
    ]
    monkeypatch.setattr(doctor, "PARTS", planned(*works))
    report = doctor.examine("cpu", parts=["made"])
    assert [check.verdict for check in report.checks] == ["fail", "fail", "fail", "skipped", "pass"]
    assert [check.line() for check in report.checks] == [
        "RuntimeError: no kernel",
        "a nan",
        "a 2 > the bound 1",
        "the device's memory does not hold it",
        "a 1 ≤ 1, text b",
    ]
    assert report.to_dict()["checks"][1]["value"] == {"a": "nan"}


def test_when_the_time_is_up_the_rest_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PARTS", planned(*[lambda: Finding({}, {})] * 2))
    monkeypatch.setitem(doctor.LIMITS, "other", 0.0)
    report = doctor.examine("cpu", parts=["made"])
    assert [check.line() for check in report.checks] == ["the time was up (0 s)"] * 2 and not report.failed


def test_what_does_not_suit_a_method_is_a_reason_to_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise UsageError("coda cannot do that")

    monkeypatch.setattr(checks, "watch", refuse)
    (check,) = doctor.examine("cpu", quick=True, parts=["steps"], methods=("coda",)).checks
    assert check.verdict == "skipped" and check.line() == "coda cannot do that"


def test_without_peft_its_row_is_skipped_and_the_others_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed.importlib.util, "find_spec", lambda name: None)
    found = {check.name: check for check in doctor.examine("cpu", quick=True, parts=["costs"]).checks}
    assert found.pop(PEFT).line() == "peft is not installed"
    assert {check.verdict for check in found.values()} == {"pass"}
    assert not any("peft" in key for check in found.values() for key in check.value)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    examine = doctor.examine
    for value, code in ((1.0, 0), (3.0, 1)):
        parts = planned(lambda value=value: Finding({"a": value}, {"a": 2.0}))
        monkeypatch.setattr(doctor, "PARTS", parts)
        monkeypatch.setattr(doctor, "examine", partial(examine, parts=["made"]))
        assert main(["doctor", "--device", "cpu", "--quick", "--out", str(tmp_path / "doctor.json")]) == code
        said = capsys.readouterr()
        assert said.err == "   0 s  check 0\n" and ("1 failed" in said.out) == code
        (check,) = json.loads((tmp_path / "doctor.json").read_text())["checks"]
        assert check["verdict"] == ["pass", "fail"][code]
        assert check["value"] == {"a": value, "bounds": {"a": 2.0}}


@pytest.mark.parametrize("wrong", [["--device", "cuda:77"], ["--out", "nowhere/doctor.json"], ["--quik"]])
def test_wrong_requests_are_refused_in_one_line(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *wrong]) == 2
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1 and said.err.startswith("janus: ")


BARE = """
import sys

for name in sys.argv[3:]:
    sys.modules[name] = None  # as if it were not installed

from janus import doctor
from janus.__main__ import main
from janus.doctor import speed

settings = ["epochs=1", "batch_size=32", "augment=icons", "device=cpu"]
run = ["run", "--dataset", sys.argv[1], "--method", "joint", "--out", sys.argv[2], "--quiet"]
code = main([*run, "--set", *settings])
report = doctor.examine("cpu", True, parts=["machine", "steps", "autocast"], methods=("janus",))
assert code == 0 and not report.failed, report.table()
print(speed._no_peft())
"""
ABSENT = (
    "papermill distributed dask plotly kaleido sklearn scipy pandas jupyterlab notebook nbformat nbclient "
    "IPython ipykernel ipywidgets datasets psutil peft accelerate"
).split()


def test_run_and_doctor_need_only_what_a_bare_gpu_machine_has(image_folder: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BARE, image_folder, tmp_path / "run", *ABSENT]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert (tmp_path / "run" / "result.json").exists()
    assert ended.stdout.splitlines()[-1] == "peft is not installed"
