"""A training step of the embedded ViT on the CPU: bf16 against float32, by the instructions that it may use.

    python benchmarks/bf16_cpu.py      # one thread; three minutes

Torch and its oneDNN are held to an instruction set by environment variables, in a process of its own for
each. There each round takes one step in float32 and one in bf16; the ratio is taken round by round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from attention import CASES, build, step

from janus.runtime.checkpoint import write_json
from janus.runtime.device import choose_attention, cpu_flags
from janus.runtime.result import hardware, versions
from janus.runtime.timing import interleaved, ratios

OUT = Path(__file__).parent / "results" / "measurements" / "bf16_cpu.json"
NAME = "icons-vit-wide"
SETS = {  # name: (a flag that the CPU needs, what holds torch and oneDNN to the set)
    "AMX": ("amx_bf16", {}),
    "AVX512-BF16": ("avx512_bf16", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}),
    "AVX512": ("avx512bw", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    "AVX2": ("avx2", {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
}


def measure(rounds: int) -> dict[str, float]:
    """In this process, with the instructions that it may use."""
    torch.set_num_threads(1)
    batch, side = CASES[NAME]
    single, half = build(NAME, side), build(NAME, side)
    choose_attention(half, "bf16", torch.device("cpu"))
    images = torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    work = {"float32": partial(step, single, images, half=False), "bf16": partial(step, half, images)}
    seconds = interleaved(work, rounds, warm_up=1, progress=None)
    least = {f"{kind}_ms": 1000 * min(found) for kind, found in seconds.items()}
    return least | ratios(seconds, "float32")["bf16"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        return print(json.dumps(measure(args.rounds)))
    cases = []
    for name, (flag, held) in SETS.items():
        if flag not in cpu_flags():
            continue
        command = [sys.executable, __file__, "--here", "--rounds", str(args.rounds)]
        done = subprocess.run(command, env=os.environ | held, stdout=subprocess.PIPE, text=True, check=True)
        case = {"instructions": name, "batch": CASES[NAME][0]} | json.loads(done.stdout)
        cases.append(case)
        line = "{instructions:12s} float32 {float32_ms:6.0f} ms, bf16 {bf16_ms:6.0f} ms, ratio {ratio:.2f}"
        print(line.format(**case))
    write_json(args.out, {"cases": cases, "hardware": hardware(torch.device("cpu")), "versions": versions()})


if __name__ == "__main__":
    main()
