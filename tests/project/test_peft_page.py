"""docs/peft.md: its code runs, from top to bottom, on a tiny Llama; its bytes are what the formulas give."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
from helpers.language_models import texts, tiny_llama

import janus
from janus import lora

pytest.importorskip("peft", reason="PEFT is an optional extra: pip install janus-lora[dev]")
transformers = pytest.importorskip("transformers")

PAGE = (Path(janus.__file__).parents[1] / "docs" / "peft.md").read_text()


@pytest.mark.usefixtures("own_accelerate")
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_llama()
    quiet = dict(report_to=[], logging_strategy="no", save_strategy="no", disable_tqdm=True)
    arguments = transformers.TrainingArguments("out", max_steps=2, use_cpu=True, **quiet)
    dataset = [{name: value[0] for name, value in batch.items()} for batch in texts(8, 2)]
    names = dict(
        model=model, old_data=texts(4, 0), new_data=texts(4, 1), arguments=arguments, dataset=dataset
    )
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) == 4
    widths = []
    for block in blocks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(block, names)
        widths.append(sum(V.shape[1] for V in names["basis"].values()))
    assert widths[0] < widths[1] < sum(V.shape[1] for V in names["extend"].basis.values())
    assert all(pair.B.any() for pair in lora.pairs(names["model"]))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").exists()


def test_bytes_are_those_of_the_formulas():
    """The table's numbers, from the sizes in its head."""
    for layers, n, rows, said in ((30, 576, 192, "16 MB"), (32, 4096, 4096, "0.86 GB")):
        V = layers * n * (2 * n / 5) * 4
        assert said in PAGE and float(said.split()[0]) == pytest.approx(
            V / (1e6 if "MB" in said else 1e9), rel=0.02
        )
        factors = layers * 3 * 8 * (2 * n + 2 * rows) * 4
        assert f"{factors / 1e6:.2g} MB" in PAGE
        sums = layers * n * n * 4
        assert (f"{sums / 1e6:.2g} MB" in PAGE) or (f"{sums / 1e9:.2g} GB" in PAGE)
