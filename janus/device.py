"""Which device a run computes on, and in which half precision it may."""

from __future__ import annotations

import torch

from .errors import UsageError


def pick_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu. Raises UsageError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used here ({reason}); use device=cpu") from None


def half_precision(device: torch.device) -> torch.dtype:
    """What `amp` computes in: bf16, or fp16 (with a scaled loss) on CUDA cards that only emulate bf16, such as Colab's T4."""
    emulated = device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.float16 if emulated else torch.bfloat16
