"""Where a run computes, and in what precision.

The device, and whether its forward passes are autocast to half precision.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import nn

from ..errors import UsageError

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by the setting `amp`


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu. Raises UsageError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); use device=cpu"
        ) from None


def resolve(amp: str, device: torch.device) -> str:
    """What the setting `amp` means on a device: "bf16", "fp16" or "off".

    `auto` is what is fast. On CUDA GPUs bf16, or fp16 (with a scaled loss) on those that only emulate bf16,
    such as Colab's T4. On CPUs bf16 with AMX or ARM's BF16; AVX512-BF16 alone made a step slower than
    float32 (`benchmarks/bf16_cpu.py`). Off anywhere else. The other values are what they say.
    """
    if amp != "auto":
        return amp
    if device.type == "cuda":
        return "bf16" if native_bf16(device) else "fp16"
    fast = device.type == "cpu" and not cpu_flags().isdisjoint({"amx_bf16", "bf16"})
    return "bf16" if fast else "off"


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices itself.

    CUDA GPUs of compute capability 8.0 and later do, x86 CPUs with AVX512-BF16 or AMX, ARM CPUs with BF16.
    Where it cannot be found out (mps, CPUs outside Linux), no.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})


def emulation_note(amp: str, device: torch.device) -> str | None:
    """What to say where the hardware may only emulate `amp`; on a CPU with AVX2 a step in bf16 then takes
    about twenty times as long as in float32 (`benchmarks/bf16_cpu.py`). None: nothing to say."""
    native = native_bf16(device) if amp == "bf16" else device.type != "cpu"
    if amp not in HALF or native or device.type == "mps":
        return None
    return (
        f"amp={amp}: this {device.type} is not known to compute {amp} natively; if it is emulated, steps "
        f"take many times as long. amp=auto would take {resolve('auto', device)}"
    )


@cache
def cpu_flags() -> frozenset[str]:
    """What the CPU can do, as Linux names it (`flags` of an x86, `Features` of an ARM); empty elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    found = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    return frozenset(next(found, "").split())


def autocast(amp: str, device: torch.device) -> torch.autocast:
    """Inside, forward passes on the device compute as `amp` says."""
    amp = resolve(amp, device)
    return torch.autocast(device.type, dtype=HALF.get(amp, torch.bfloat16), enabled=amp in HALF)


def choose_attention(model: nn.Module, amp: str, device: torch.device) -> None:
    """On the CPU in half precision, attention as two products instead of torch's fused kernel.

    The kernel's backward pass is slow there: a training step of a small ViT takes about half as long with the
    products (`benchmarks/attention.py`). A model of timm; others stay as they are. The value is the same up
    to rounding.
    """
    if device.type == "cpu" and resolve(amp, device) in HALF:
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False


def half_precision(device: torch.device) -> torch.dtype:
    """What half precision is measured in on a device: bf16, or fp16 on CUDA GPUs that only emulate bf16."""
    return torch.float16 if device.type == "cuda" and not native_bf16(device) else torch.bfloat16
