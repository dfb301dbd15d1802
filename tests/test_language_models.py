"""Janus's parts on causal language models through PEFT: GPT-2, Llama, Qwen (tiny, with random weights)."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from helpers.language_models import SIZES, texts, tiny_llama, weights
from torch import Tensor, nn

import janus
from janus import lora
from janus.errors import JanusError, UsageError
from janus.history import SecondMoments

peft = pytest.importorskip("peft", reason="PEFT is an optional extra: pip install janus-lora[dev]")
transformers = pytest.importorskip("transformers")

WORDS, LAYERS = 40, 2
ROTARY = dict(vocab_size=WORDS, num_key_value_heads=2, **SIZES)
# the layers whose inputs differ, in each block
GPT2 = ["c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
ROWS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def gpt2() -> nn.Module:
    sizes = dict(n_embd=48, n_layer=LAYERS, n_head=4, n_positions=32, attn_pdrop=0.0, embd_pdrop=0.0)
    tokens = dict(vocab_size=WORDS, bos_token_id=None, eos_token_id=None)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(resid_pdrop=0.0, **sizes, **tokens))


def llama() -> nn.Module:
    return tiny_llama(num_key_value_heads=2)


def qwen2() -> nn.Module:
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**ROTARY))


def qwen3() -> nn.Module:
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(head_dim=12, **ROTARY))


FAMILIES = {"gpt2": (gpt2, GPT2), "llama": (llama, ROWS), "qwen2": (qwen2, ROWS), "qwen3": (qwen3, ROWS)}
each_family = pytest.mark.parametrize("family", FAMILIES)
each_rule = pytest.mark.parametrize("gr", ["exact", "tangent"])


def plain(family: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return FAMILIES[family][0]().eval()


def wrapped(family: str, base: nn.Module | None = None, **options) -> nn.Module:
    base = plain(family) if base is None else base
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")  # PEFT sets it itself, and says so
        config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=FAMILIES[family][1])
        return peft.get_peft_model(base, config, **options)


def learned(model: nn.Module) -> nn.Module:
    """B is not zero any more."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for pair in lora.pairs(model):
            pair.B.normal_(0, 0.05, generator=generator)
    return model


def padded(batch: dict[str, Tensor], side: str) -> dict[str, Tensor]:
    """The same sentences with three and one tokens of padding on one side."""
    rows = {"input_ids": [], "attention_mask": [], "position_ids": []}
    for ids, missing in zip(batch["input_ids"], (3, 1)):
        filled = torch.full((4,), WORDS - 1)
        front, back = (missing, 4 - missing) if side == "both" else (4, 0) if side == "left" else (0, 4)
        rows["input_ids"].append(torch.cat([filled[:front], ids, filled[:back]]))
        mask = torch.cat([torch.zeros(front), torch.ones(len(ids)), torch.zeros(back)]).long()
        rows["attention_mask"].append(mask)
        rows["position_ids"].append((mask.cumsum(0) - 1).clamp(min=0))
    return {name: torch.stack(values) for name, values in rows.items()}


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: list[dict[str, Tensor]]) -> None:
    for batch in batches:
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def moments(model: nn.Module, batches: list[dict[str, Tensor]]) -> SecondMoments:
    found = SecondMoments(lora.pairs(model))
    found.active = True
    with torch.no_grad():
        for batch in batches:
            found.mask = batch["attention_mask"].bool()
            model(**{name: value for name, value in batch.items() if name != "labels"})
    found.remove()
    return found


@each_family
def test_every_layer_is_a_pair_and_its_weight_is_the_layers(family):
    model = learned(wrapped(family)).eval()
    found = lora.pairs(model)
    assert len(found) == LAYERS * len(FAMILIES[family][1])
    assert (
        len({pair.input_key for pair in found}) == LAYERS * 4
    )  # attention in, attention out, MLP in, MLP out
    seen = {}
    for pair in found:
        pair.layer.register_forward_hook(lambda _, x, y, name=pair.name: seen.update({name: (x[0], y)}))
    model(input_ids=texts(1, 0, length=6)[0]["input_ids"])
    for pair in found:
        x, y = seen[pair.name]
        bias = getattr(pair.layer.get_base_layer(), "bias", None)
        expected = x @ (pair.weight + pair.scale * pair.B @ pair.A).mT + (0 if bias is None else bias)
        torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right", "both"])
@each_family
def test_padded_and_unpadded_batches_give_equal_moments(family, side):
    model = learned(wrapped(family)).eval()
    bare = texts(3, 0, length=6)
    without, with_padding = moments(model, bare), moments(model, [padded(batch, side) for batch in bare])
    assert set(without.count.values()) == set(with_padding.count.values()) == {3 * 12}
    for key in without.sum:
        torch.testing.assert_close(with_padding.mean(key), without.mean(key), rtol=1e-4, atol=1e-5)
    ignored = moments(model, [padded(batch, side) | {"attention_mask": torch.ones(2, 10)} for batch in bare])
    assert any(not torch.allclose(ignored.mean(k), without.mean(k), rtol=1e-2) for k in without.sum)


def test_a_mask_fits_flattened_tokens_and_what_it_does_not_fit_is_refused():
    layer = nn.Linear(6, 6)
    model = peft.get_peft_model(nn.Sequential(layer), peft.LoraConfig(r=1, target_modules=["0"]))
    found = SecondMoments(lora.pairs(model))
    found.active, found.mask = True, torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    x = torch.randn(2, 3, 6)
    (key,) = found.sum
    model(x)
    tokens, flat = found.mean(key), found.count[key]
    found.reset()
    model(x.flatten(0, 1))
    assert flat == found.count[key] == 3 and torch.equal(found.mean(key), tokens)
    found.reset()
    model(x[:, 0])  # one vector a sample
    assert found.count[key] == 2
    with pytest.raises(JanusError, match="attention mask"):
        model(torch.randn(4, 6))


@each_rule
@each_family
def test_what_is_learned_acts_on_no_input_of_the_past(family, gr):
    model = learned(wrapped(family))
    old, new = texts(4, 0, length=6), texts(8, 1, length=6)
    basis = janus.estimate_basis(model, old, energy=0.9)
    before = [model.eval()(**batch).logits for batch in old]
    optimizer = janus.create_rectified_optimizer(model, basis=basis, lr=1e-2, gr=gr)
    for logits, batch in zip(before, old):
        torch.testing.assert_close(model(**batch).logits, logits, rtol=1e-4, atol=1e-5)
    start, losses = weights(model), [model(**batch).loss.item() for batch in new]
    train(model, optimizer, new)
    assert sum(model(**batch).loss.item() for batch in new) < sum(losses)
    end = weights(model)
    for pair in lora.pairs(model):
        change = end[pair.name] - start[pair.name]
        share = (change @ basis[pair.input_key]).norm() / change.norm()
        assert change.norm() > 1e-3 and share < (1e-4 if gr == "exact" else 0.9)


@each_rule
@each_family
def test_accumulated_gradients_are_those_of_the_whole_batch(family, gr):
    whole, parts = (wrapped(family) for _ in range(2))
    basis = janus.estimate_basis(whole, texts(4, 0, length=6), energy=0.9)
    optimizers = [
        janus.create_rectified_optimizer(model, basis=basis, lr=1e-2, gr=gr) for model in (whole, parts)
    ]
    for batch in texts(4, 1, length=6):
        whole(**batch).loss.backward()
        for i in range(2):
            (parts(**{name: value[i : i + 1] for name, value in batch.items()}).loss / 2).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    for name, value in weights(parts).items():
        torch.testing.assert_close(value, weights(whole)[name], rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("reentrant", [True, False])
@each_rule
@each_family
def test_gradient_checkpointing_changes_nothing(family, gr, reentrant):
    """The forward pass is made twice there: hooks see inputs twice, and dense gradients must count once."""
    models = [learned(wrapped(family)) for _ in range(2)]
    models[1].gradient_checkpointing_enable({"use_reentrant": reentrant})
    models[1].enable_input_require_grads()
    old, new = texts(4, 0, length=6), texts(3, 1, length=6)
    bases = [janus.estimate_basis(model, old, energy=0.9) for model in models]
    assert all(torch.equal(V, bases[1][key]) for key, V in bases[0].items())
    watchers = []
    for model, basis in zip(models, bases):
        optimizer = janus.create_rectified_optimizer(model, basis=basis, lr=1e-2, gr=gr)
        model.train()
        watchers.append(SecondMoments(lora.pairs(model)))
        watchers[-1].active = True
        watchers[-1].mask = new[0]["attention_mask"].bool()
        train(model, optimizer, new)
    for key in watchers[0].sum:
        torch.testing.assert_close(watchers[1].mean(key), watchers[0].mean(key), rtol=1e-4, atol=1e-5)
    for name, value in weights(models[1]).items():
        torch.testing.assert_close(value, weights(models[0])[name], rtol=1e-4, atol=1e-6)


@each_family
def test_weights_in_half_precision(family):
    """The factors stay in float32, and what they learn keeps off V; merging rounds, and only there."""
    model = wrapped(family, plain(family).to(torch.bfloat16))
    assert {pair.A.dtype for pair in lora.pairs(model)} == {torch.float32}
    assert {pair.weight.dtype for pair in lora.pairs(model)} == {torch.bfloat16}
    basis = janus.estimate_basis(model, texts(4, 0, length=6), energy=0.9)
    full = janus.estimate_basis(wrapped(family), texts(4, 0, length=6), energy=0.9)
    for key, V in full.items():
        W = basis[key]
        shared = min(V.shape[1], W.shape[1])
        assert torch.linalg.matrix_norm(V.mT @ W).square() > 0.97 * shared
    optimizer = janus.create_rectified_optimizer(model, basis=basis, lr=1e-2)
    train(model, optimizer, texts(4, 1, length=6))
    for pair in lora.pairs(model):
        product = pair.B @ pair.A
        assert (product @ basis[pair.input_key]).norm() < 1e-5 * product.norm()


def test_factors_in_half_precision_are_refused():
    model = wrapped("llama", plain("llama").to(torch.bfloat16), autocast_adapter_dtype=False)
    basis = janus.estimate_basis(model, texts(2, 0, length=6), energy=0.9)
    with pytest.raises(UsageError, match="bfloat16.*autocast_adapter_dtype"):
        janus.create_rectified_optimizer(model, basis=basis, lr=1e-2)
    janus.create_rectified_optimizer(model, basis=basis, lr=1e-2, gr="tangent")


def test_a_quantised_base_starts_fresh_but_takes_nothing_in():
    """Weights in 4 or 8 bits cannot take up what was learned: a fresh adapter is protected all the same."""
    model = wrapped("llama")
    basis = janus.estimate_basis(model, texts(2, 0, length=6), energy=0.9)
    for pair in lora.pairs(model):
        base = pair.layer.get_base_layer()
        packed = torch.zeros(base.weight.numel() // 2, 1, dtype=torch.uint8)
        base.weight = nn.Parameter(packed, requires_grad=False)
    janus.create_rectified_optimizer(model, basis=basis, lr=1e-2)
    assert all((p.A @ basis[p.input_key]).norm() < 1e-5 * p.A.norm() for p in lora.pairs(model))
    used = copy.deepcopy(model)
    more = janus.Basis({key: V.roll(1, 0) for key, V in basis.items()})
    with pytest.raises(UsageError, match="quantised"):
        janus.create_rectified_optimizer(learned(used), basis=more, lr=1e-2)


@each_family
def test_an_adapter_of_a_merged_model_is_read_by_peft(family, tmp_path):
    model = learned(wrapped(family)).eval()
    lora.merge(model)
    learned(model)
    batch = texts(1, 0, length=6)[0]
    expected = model(**batch).logits
    janus.export_peft(model, tmp_path)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*fan_in_fan_out")
        back = peft.PeftModel.from_pretrained(plain(family), str(tmp_path)).eval()
    torch.testing.assert_close(back(**batch).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_step_that_no_gradient_has_reached_says_so_once():
    model = wrapped("llama")
    basis = janus.estimate_basis(model, texts(2, 0, length=6), energy=0.9)
    optimizer = janus.create_rectified_optimizer(model, basis=basis, lr=1e-2)
    with pytest.warns(UserWarning, match="no gradient has reached"):
        optimizer.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        optimizer.step()
