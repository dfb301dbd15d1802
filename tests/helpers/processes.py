"""Two processes of one run, without a launcher."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import Any

import torch

from janus.cli.commands import explained


def two_processes(work: Callable[..., None], *args: Any) -> list[int]:
    """Two forked processes, which meet and do `work(*args)`; their exit codes.

    That spares two imports of torch a test. They meet where a launcher would let them, but nobody ends one
    when the other has failed: both must end by themselves.
    """
    fork = multiprocessing.get_context("fork")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    processes = [fork.Process(target=one_of_two, args=(rank, store.port, work, args)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
        process.join()
    return [process.exitcode for process in processes]


def one_of_two(rank: int, port: int, work: Callable[..., None], args: tuple) -> None:
    """What a launcher and `janus.__main__` do around the work."""
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), OMP_NUM_THREADS="1")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="True", TORCHELASTIC_RESTART_COUNT="0")
    sys.exit(explained(lambda: work(*args), False, "stopped"))
