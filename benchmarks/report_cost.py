"""What the measurements of cost say, in sentences, for `report.py`."""

from __future__ import annotations

import statistics
from typing import Any

from janus.report.tables import Table


def step_memory(cost: dict[str, Any]) -> str:
    """Resident memory of the cases in which it was measured, as a multiple of PEFT's."""
    said = []
    for case in cost["cases"]:
        found = {name: v["megabytes"] for name, v in case["variants"].items() if "megabytes" in v}
        if found:
            base, *others = found
            more = ", ".join(f"{found[name] / found[base]:.2f} × that with {name}" for name in others)
            where = f"{case['model']}, batch {case['batch']}"
            said.append(f"{where}: {found[base]:.0f} MB with {base}, {more}")
    return f"Peak resident memory, {'; '.join(said)}." if said else ""


def against_ours(cost: dict[str, Any]) -> str:
    """The same medians as a multiple of janus's own LoRA on K and V, which adapts what Janus adapts."""
    base, said = "janus LoRA on k, v", []
    for case in cost["cases"]:
        ours = case["variants"][base]
        times = []
        for name, v in case["variants"].items():
            if name.endswith("+ OE + DML"):
                time, size = v["ratio"] / ours["ratio"], v["megabytes"] / ours["megabytes"]
                times.append(f"{name} {time:.2f} × the time, {size:.2f} × the memory")
        said.append(f"{case['model']}: {', '.join(times)}")
    return f"Against {base}, by the quotients of these medians: {'; '.join(said)}."


def memory(record: dict[str, Any]) -> str:
    """What a batch of the paper's protocol needs, counted; plain LoRA, then Janus as a multiple of it."""

    def gigabytes(name: str, precision: str) -> float:
        case = record["counted"][name][precision]
        return (case["fixed"] + 128 * case["image"]) / 1e3

    base, *others = record["counted"]
    said = []
    for precision in record["counted"][base]:
        least = gigabytes(base, precision)
        more = (f"{gigabytes(name, precision) / least:.2f} × that with {name}" for name in others)
        said.append(f"in {precision} {least:.1f} GB with {base}, {', '.join(more)}")
    return (
        f"What a training step of {record['model']} keeps (batch 128, 224 px, rank {record['rank']}, "
        f"{record['basis']} protected directions a layer), counted tensor by tensor, not measured on a card: "
        f"{'; '.join(said)}."
    )


def bf16_on_the_cpu(record: dict[str, Any]) -> str:
    """A step in bf16 as a multiple of one in float32, by the instructions that a CPU has."""
    lines = []
    for case in record["cases"]:
        ratio = f"{case['ratio']:.1f} ({case['low']:.1f} … {case['high']:.1f})"
        lines.append([case["instructions"], f"{case['float32_ms']:.0f}", f"{case['bf16_ms']:.0f}", ratio])
    header = ["instructions", "float32, ms", "bf16, ms", "bf16 / float32, median and quarter points"]
    machine = f"{record['hardware']['cpu']}, one thread, torch {record['versions']['torch']}"
    return f"{Table(header, lines)}\n\n{machine}, a machine shared with other work; milliseconds: the least."


def overhead(record: dict[str, Any]) -> str:
    """`janus bench` beside `janus run`, and two workers beside one."""
    runs = record["run_seconds"]
    workers, plain = f"{record['speed_up']:.2f} ×", f"{record['pairs_speed_up']:.2f} ×"
    return (
        f"{len(runs)} small runs of one thread each: {statistics.fmean(runs):.0f} s a run as `janus run`, "
        f"{record['overhead_seconds']:+.1f} s a run as `janus bench`, whose two workers are {workers} as "
        f"fast as one ({record['hardware']['cpu']}, imports, kernels and the cluster's start included). Two "
        f"commands `janus run` side by side are {plain} as fast as one after another: what the machine gives."
    )


def many_tasks(record: dict[str, Any]) -> str:
    """How a step's time and the process's memory change over a hundred tasks."""
    said = []
    for name, rows in record["methods"].items():
        fifth = len(rows) // 5
        early, late = rows[fifth : 2 * fifth], rows[-fifth:]
        ratio = statistics.median(row["ms"] for row in late) / statistics.median(row["ms"] for row in early)
        grown = (late[-1]["resident"] - early[0]["resident"]) / 1e6
        said.append(f"{name} {ratio:.2f} × and {grown:+.0f} MB")
    count = len(next(iter(record["methods"].values())))
    kept = sum(late[-1][key] for key in ("heads", "basis", "prototypes", "test features")) / 1e6
    return (
        f"Over {count} tiny tasks, from the second fifth to the last: time of a step and resident memory of "
        f"the process {', '.join(said)} ({record['hardware']['cpu']}, {record['hardware']['threads']} "
        "thread, one run each). Heads, basis, prototypes and the test features that drift is measured with "
        f"are {kept:.1f} MB at the end; images were decoded before the first task, and freed memory was "
        "given back before each look."
    )


def input_pipeline(record: dict[str, Any]) -> str:
    """Photographs from the decoded cache, augmented, against a DataLoader that decodes."""
    case = record["case"]
    speed, ratio = case["images_per_core_second"], case["ratio"]
    width, height = case["photograph"]
    return (
        f"{case['images']} photographs of {width} x {height} pixels to {case['size']}, cropped and flipped: "
        f"{speed['cache']:.0f} images a second and core from the decoded cache, {speed['dataloader']:.0f} "
        f"from a DataLoader that decodes JPEG with Pillow; round by round {ratio['median']:.1f} × "
        f"({ratio['lowest']:.1f} … {ratio['highest']:.1f}; {case['rounds']} rounds, "
        f"{record['hardware']['cpu']}, {record['hardware']['threads']} thread, a machine shared with other "
        "work)."
    )
