"""One run over several processes.

They are started by `accelerate launch`, Accelerate's `notebook_launcher` or `torchrun`. Each computes its
part of every batch. What a single process sums over images (the gradients of the batch's mean loss, second
moments, class sums of the margin loss) is summed over the processes too; then all make the same step. Nothing
else has to travel: like DistributedDataParallel, this counts on GPUs of one kind, where equal sums give equal
steps.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import JanusError, UsageError

if TYPE_CHECKING:  # the command asks for its rank before anything slow is imported
    import torch
    from torch import Tensor

T = TypeVar("T")
# for one that downloads; who waits for a process that died is ended by the launcher
PATIENCE = timedelta(hours=2)


class Processes:
    """This process and its companions. Alone (`ALONE`), every method leaves things as they are.

    count: of processes. rank: of this one; the main process is 0. device: this one's, None: not yet chosen.
    """

    def __init__(
        self, count: int = 1, rank: int = 0, device: torch.device | None = None, group: Any = None
    ) -> None:
        self.count, self.rank, self.main, self.device = count, rank, rank == 0, device
        self._group = group  # for what lies on the CPU

    def part(self, n: int) -> slice:
        """This process's part of n things, in order; the parts differ by one at most and may be empty."""
        return slice(n * self.rank // self.count, n * (self.rank + 1) // self.count)

    def share(self, loss: Tensor, part: int, whole: int) -> tuple[Tensor, Tensor]:
        """Of a mean over `part` images: its share of the mean over the `whole` batch, and that mean."""
        if self.count == 1:
            return loss, loss
        share = loss * (part / whole) if part else loss.nan_to_num(0.0)  # the mean over no image is nan
        mean = share.detach().clone()
        self.sum([mean])
        return share, mean

    def sum(self, tensors: Iterable[Tensor]) -> None:
        """Put the sum over all processes in the place of each tensor; one message for all of them."""
        if self.count == 1 or not (tensors := list(tensors)):
            return
        import torch

        flat = torch.cat([t.detach().flatten() for t in tensors])
        torch.distributed.all_reduce(flat)
        for t, summed in zip(tensors, flat.split([t.numel() for t in tensors])):
            t.detach().copy_(summed.view_as(t))

    def sum_gradients(self, *optimizers: torch.optim.Optimizer | None) -> None:
        """Sum what the optimisers' next step is computed from.

        A process whose part of the batch was empty adds zero. An optimiser that makes gradients of its own
        (`gradients()`) makes them here, for a scaler to see before the step.
        """
        found = [o.gradients() for o in optimizers if hasattr(o, "gradients")]
        if self.count > 1:
            found += [gradients(o) for o in optimizers if o and not hasattr(o, "gradients")]
            self.sum(g for some in found for g in some)

    def gather(self, part: Tensor, total: int) -> Tensor:
        """(total, …) from each process's `part(total)`, in order; on the CPU."""
        if self.count == 1:
            return part
        import torch

        sizes = [total * (rank + 1) // self.count - total * rank // self.count for rank in range(self.count)]
        padded = part.new_zeros(max(sizes), *part.shape[1:])  # messages of a gathering have one size
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(parts, padded, group=self._group)
        return torch.cat([p[:size] for p, size in zip(parts, sizes)])

    def on_main(self, work: Callable[[], T]) -> T:
        """Do something on the main process alone. All get what it returns, or the JanusError it raises."""
        if self.count == 1:
            return work()
        import torch

        said: list[Any] = [None, None]
        if self.main:
            try:
                said[0] = work()
            except JanusError as error:
                said[1] = error
        torch.distributed.broadcast_object_list(said, src=0, group=self._group)
        if said[1] is not None:
            raise said[1]
        return said[0]

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The main process (of each machine) goes first: it downloads and prepares, others find it done."""
        if self.count == 1:
            yield
            return
        import torch

        first = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        if not first:
            torch.distributed.barrier(group=self._group)
        yield
        if first:
            torch.distributed.barrier(group=self._group)


ALONE = Processes()
_started = ALONE


def launched() -> tuple[int, int]:
    """How many processes the launcher started, and which one this is: (count, rank)."""
    count = int(os.environ.get("WORLD_SIZE") or 1)
    return count, int(os.environ.get("RANK") or 0) if count > 1 else 0


def start(device: str = "auto") -> Processes:
    """Meet the other processes of this run; alone, nothing happens.

    Raises:
        UsageError: accelerate is not installed, or `device` is not the one the launcher chose.
    """
    global _started
    count = launched()[0]
    if count == 1:
        if os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ:
            raise UsageError(
                "accelerate launch --cpu starts one process, not several (they would need MPI); "
                "start them with torchrun --nproc-per-node N -m janus run …"
            )
        return ALONE
    if _started is not ALONE:
        return _started
    try:
        from accelerate import PartialState
    except ImportError:
        raise UsageError(
            "several processes need accelerate, which is not installed: pip install 'janus-lora[parallel]'"
        ) from None
    import torch

    # forked by a notebook: OpenMP's threads did not come along, and waiting for them hangs
    if multiprocessing.parent_process():
        torch.set_num_threads(1)
    state = PartialState(cpu=device == "cpu" or not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes != count:
        raise JanusError(
            f"the launcher started {count} processes, but Accelerate was set up here before as "
            f"{state.num_processes}; make its Accelerator or PartialState only in what is launched"
        )
    if device not in ("auto", state.device.type):
        raise UsageError(
            f"device={device} does not go with several processes on {state.device.type}; leave it out"
        )
    group = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
    _started = Processes(state.num_processes, state.process_index, state.device, group)
    return _started


def stop() -> None:
    """Part from the others: at the end of a command that went well."""
    global _started
    if _started is not ALONE:
        import torch

        torch.distributed.destroy_process_group()
        _started = ALONE


def first_to_fail() -> bool:
    """Whether this process is the first to have an error; others fail of the same, or because it stopped."""
    count, rank = launched()
    if count == 1:
        return True
    if _started is ALONE:  # they have not met: the request is at fault, and that is the same for all
        return rank == 0
    from torch.distributed.distributed_c10d import _get_default_store

    try:
        return _get_default_store().add("janus/failed", 1) == 1
    except RuntimeError:  # the store went with the process that kept it
        return False


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradient of every parameter; a missing one becomes zero."""
    found = [p for group in optimizer.param_groups for p in group["params"]]
    for p in found:
        if p.grad is None:
            p.grad = p.detach().new_zeros(p.shape)
    return [p.grad for p in found]
