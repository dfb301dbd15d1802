"""The setting `amp`: what it means on a device, that a run keeps it, that it is hashed as what it means."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.toys import make_tiny_vit, toy_backbone

import janus
from janus.configure import config_hash, from_text, make
from janus.errors import UsageError
from janus.models import backbones
from janus.runtime import checkpoint, device
from janus.train import CHECKPOINT, RESULT

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


@pytest.fixture(autouse=True)
def _toy_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "create", toy_backbone)


def able(monkeypatch: pytest.MonkeyPatch, *flags: str) -> None:
    """A CPU that can do `flags`."""
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset(flags))


@pytest.fixture
def settings(image_folder: Path) -> dict[str, Any]:
    return dict(
        dataset=str(image_folder), tasks=2, epochs=2, rank=2, augment="icons", device="cpu", save_every=0
    )


@pytest.mark.parametrize(
    "flags, native, meant",
    [
        ((), False, "off"),
        (("avx512f", "amx_tile"), False, "off"),
        (("avx512_bf16",), True, "off"),
        (("avx512_bf16", "amx_bf16"), True, "bf16"),
        (("asimd", "bf16"), True, "bf16"),
    ],
)
def test_auto_is_bf16_on_a_cpu_where_it_is_fast_else_off(
    flags: tuple[str, ...], native: bool, meant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    able(monkeypatch, *flags)
    assert device.native_bf16(CPU) == native and device.resolve("auto", CPU) == meant
    assert device.resolve("auto", MPS) == "off"
    for said in ("off", "bf16", "fp16"):
        assert device.resolve(said, CPU) == device.resolve(said, CUDA) == said
    # what is measured as half precision, whatever the CPU
    assert device.half_precision(CPU) is torch.bfloat16


@pytest.mark.parametrize(
    "amp, flags, noted",
    [
        ("bf16", (), "amp=bf16: this cpu is not known to compute bf16 natively; .* amp=auto would take off"),
        ("bf16", ("avx512_bf16",), None),
        ("fp16", ("amx_bf16",), "amp=fp16: this cpu .* amp=auto would take bf16"),
        ("off", (), None),
    ],
)
def test_a_run_says_when_the_cpu_may_only_emulate_its_arithmetic(
    amp: str, flags: tuple[str, ...], noted: str | None, settings: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    able(monkeypatch, *flags)
    lines: list[str] = []
    janus.run(progress=lines.append, **settings | {"amp": amp, "epochs": 1})
    notes = [line for line in lines if "natively" in line]
    assert len(notes) == (noted is not None)
    assert noted is None or re.search(noted, notes[0])


@pytest.mark.parametrize(
    "native, meant, dtype", [(True, "bf16", torch.bfloat16), (False, "fp16", torch.float16)]
)
def test_auto_is_fp16_where_a_card_emulates_bf16(
    native: bool, meant: str, dtype: torch.dtype, monkeypatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert device.resolve("auto", CUDA) == meant and device.half_precision(CUDA) is dtype


@pytest.mark.parametrize(
    "amp, where, fused",
    [("bf16", CPU, False), ("fp16", CPU, False), ("off", CPU, True), ("bf16", CUDA, True)],
)
def test_attention_is_two_products_on_the_cpu_in_half_precision(
    amp: str, where: torch.device, fused: bool
) -> None:
    model, x = make_tiny_vit(), torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for block in model.blocks:
        block.attn.fused_attn = True
    with torch.no_grad():
        before = model(x)
        device.choose_attention(model, amp, where)
        assert [block.attn.fused_attn for block in model.blocks] == [fused] * len(model.blocks)
        assert torch.allclose(model(x), before, atol=1e-5)


def test_this_cpus_flags_are_read() -> None:
    flags = device.cpu_flags()
    assert all(flag and " " not in flag for flag in flags)
    info = Path("/proc/cpuinfo")
    if info.exists() and any(line.startswith("flags") for line in info.read_text().splitlines()):
        assert "sse2" in flags  # every x86-64


@pytest.mark.parametrize(
    "amp, dtype", [("off", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_autocast_computes_in_what_it_says(
    amp: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.ones(2, 2)
    with device.autocast(amp, CPU):
        assert (x @ x).dtype is dtype
    able(monkeypatch, *(["amx_bf16"] if amp == "bf16" else []))
    with device.autocast("auto", CPU):
        assert (x @ x).dtype is (torch.bfloat16 if amp == "bf16" else torch.float32)


def test_true_is_auto_and_false_is_off() -> None:
    for yes, no in ((True, False), ("true", "False")):
        assert make(amp=yes).training.amp == "auto" and make(amp=no).training.amp == "off"
    assert make(from_text(["amp=bf16"])).training.amp == "bf16" and make().training.amp == "off"
    with pytest.raises(UsageError, match="amp.*'bf17'.*did you mean 'bf16'"):
        make(amp="bf17")


def test_auto_is_hashed_as_what_it_means_here(monkeypatch: pytest.MonkeyPatch) -> None:
    able(monkeypatch, "amx_bf16")
    assert config_hash(make(amp="auto", device="cpu")) == config_hash(make(amp="bf16")) != config_hash(make())
    able(monkeypatch)
    assert config_hash(make(amp="auto", device="cpu")) == config_hash(make(amp="off")) == config_hash(make())
    assert config_hash(make(amp="fp16")) not in (config_hash(make()), config_hash(make(amp="bf16")))


def test_a_run_keeps_what_auto_meant_when_it_began(
    settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken off on a CPU with bf16, resumed on one without it, and the other way round.

    Then read back, and used.
    """

    def stop(line: str) -> None:
        if line.startswith("task 2/2 epoch 1"):
            raise KeyboardInterrupt

    for began, ended in (("bf16", ()), ("off", ("amx_bf16",))):
        out = tmp_path / began
        able(monkeypatch, *(["amx_bf16"] if began == "bf16" else []))
        with pytest.raises(KeyboardInterrupt):
            janus.run(out, amp="auto", progress=stop, **settings)
        assert checkpoint.load(out / CHECKPOINT)["config"]["training"]["amp"] == began
        able(monkeypatch, *ended)
        result = janus.run(out, amp="auto", **settings)
        whole = janus.run(amp=began, **settings)
        assert result.config["training"]["amp"] == began and result.hash == whole.hash
        assert (result.drift, result.accuracy) == (whole.drift, whole.accuracy)
        assert result.violation == whole.violation
        assert json.loads((out / RESULT).read_text())["config"]["training"]["amp"] == began
        lines: list[str] = []
        again = janus.run(out, amp="auto", progress=lines.append, **settings)
        assert again == result and "nothing was trained" in lines[0]
        assert janus.load(out, device="cpu").config.training.amp == began
        with pytest.raises(UsageError, match=r"another run \(it differs in training.amp\)"):
            janus.run(out, amp="fp16", **settings)
    assert janus.run(amp="bf16", **settings).drift != janus.run(amp="off", **settings).drift


def test_what_is_measured_of_the_two_precisions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import amp

    near = amp.compared([50.0, 52.0, 54.0], [51.0, 52.0, 56.0])
    assert near == {
        "off": 52.0,
        "bf16": 53.0,
        "seeds_sd": 2.0,
        "difference": 1.0,
        "differences": [1.0, 0.0, 2.0],
        "within": True,
    }
    assert not amp.compared([50.0, 52.0, 54.0], [53.0, 55.0, 57.0])["within"]
    assert amp.compared([1e-8, 1e-8, 1.1e-8], [3e-8, 3e-8, 3e-8])["within"]  # both are rounding
    assert not amp.compared([1e-8, 1e-8, 1.1e-8], [3e-3, 3e-3, 3e-3])["within"]
