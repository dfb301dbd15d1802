"""A simulated CUDA device: tensors that say they are on "cuda", but are computed on the CPU.

They refuse what a GPU's tensors refuse. For tests of code that must run on a GPU, on machines without one. It
finds tensors of two devices in one operation, random numbers of a CPU generator on the GPU, and arrays of
tensors on the GPU. It knows nothing of a GPU's arithmetic or memory.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten


class FakeCudaTensor(torch.Tensor):
    """To PyTorch's C++ a tensor without memory (meta), to Python one on cuda:0; `inner` holds the numbers."""

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> FakeCudaTensor:
        layout = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), layout=inner.layout)
        t = torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), dtype=inner.dtype, device="meta", requires_grad=False, **layout
        )
        t.inner = inner
        return t

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, value: FakeCudaTensor) -> None:
        torch.Tensor.data.__set__(self, value)
        self.inner = value.inner

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **kwargs: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy it to host memory first."
        )

    def __repr__(self, **_: Any) -> str:
        return f"FakeCudaTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(op, args, kwargs or {})


class FakeCuda(TorchDispatchMode):
    """Sees operations without a tensor of the GPU, too: `torch.zeros(3, device="cuda")`."""

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return compute(op, args, kwargs or {})


def compute(op: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """One operation, on the CPU's numbers; RuntimeError where CUDA would say so."""
    if op is torch.ops.prim.device.default:
        return CUDA
    given = tree_leaves((args, kwargs))
    tensors = [x for x in given if isinstance(x, torch.Tensor)]
    inputs = [x for x in tensors if isinstance(x, FakeCudaTensor)]
    device = kwargs.get("device")
    if op is aten.copy_.default:  # between devices, too
        there = isinstance(args[0], FakeCudaTensor)
    elif device is not None:  # C++ asks for "meta" where it makes something like a tensor of the GPU
        there = torch.device(device).type in ("cuda", "meta")
    else:
        there = bool(inputs)
    if inputs and op not in (aten.copy_.default, aten._to_copy.default):
        # numbers may come from the CPU
        here = [x for x in tensors if not isinstance(x, FakeCudaTensor) and x.dim()]
        if here and op is aten.index.Tensor and isinstance(args[0], FakeCudaTensor):  # and indices
            here = []
        if here:
            shapes = [tuple(x.shape) for x in here]
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {op} got {shapes} on the CPU and others "
                "on cuda:0"
            )
    if there and any(isinstance(x, torch.Generator) and x.device.type == "cpu" for x in given):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    args, kwargs = tree_map(_inner, (args, kwargs))
    kwargs.pop("pin_memory", None)
    own = {id(x.inner): x for x in inputs}  # what an in-place operation changes is given back as it is

    def wrap(x: Any) -> Any:
        if id(x) in own:
            return own[id(x)]
        return FakeCudaTensor(x) if there and isinstance(x, torch.Tensor) else x

    return tree_map(wrap, op(*args, **kwargs))


def _inner(x: Any) -> Any:
    if isinstance(x, torch.device) and x.type in ("cuda", "meta"):
        return torch.device("cpu")
    return x.inner if isinstance(x, FakeCudaTensor) else x


def one_hot(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """PyTorch's own compares tensors that have no memory with others on the CPU."""
    return labels.new_zeros(*labels.shape, classes).scatter_(-1, labels[..., None], 1)


class Event:
    """Work on the simulated device is done when it is asked for."""

    def __init__(self, enable_timing: bool = False) -> None:
        assert enable_timing

    def record(self, stream: None = None) -> None:
        self.at = time.perf_counter()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        assert self.at

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at - self.at)


@contextlib.contextmanager
def fake_cuda() -> Iterator[None]:
    """Within it, device="cuda" is the simulated device. A test that needs it is skipped on older PyTorch."""
    if not hasattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check"):
        pytest.skip("the simulated CUDA device stands in for a newer PyTorch's insides")
    fakes = {
        "Event": Event,
        "current_stream": lambda device=None: None,
        "is_available": lambda: True,
        "_lazy_init": lambda: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "get_device_name": lambda device=None: "a simulated CUDA device",
    }
    with pytest.MonkeyPatch.context() as patch, FakeCuda():
        for name, fake in fakes.items():
            patch.setattr(torch.cuda, name, fake)
        patch.setattr(torch.Tensor, "pin_memory", lambda self, device=None: self)
        patch.setattr(torch.backends.cudnn, "enabled", False)
        patch.setattr(torch.nn.functional, "one_hot", one_hot)
        # asks the driver
        patch.setattr(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", lambda self: None)
        # `module.to("cuda")` cannot change a parameter's class
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(False)


def run_lesson(path: Path) -> None:
    """Every code cell of a notebook, on the simulated device; the first error is raised."""
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            with fake_cuda():
                shell.run_cell(cell.source).raise_error()


if __name__ == "__main__":
    run_lesson(Path(sys.argv[1]))
