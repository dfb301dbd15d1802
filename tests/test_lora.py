"""LoRALinear against plain autograd; adapt, merge and unadapt on the families of timm."""

from __future__ import annotations

import copy
import io
import tempfile

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from helpers.vits import FAMILIES, distance, fill, images, make
from torch import nn
from torch.utils.checkpoint import checkpoint

from janus import lora
from janus.errors import JanusError, UsageError
from janus.history import SecondMoments
from janus.lora import LoRALinear, adapt, merge, pairs, unadapt
from janus.rectify import DenseGradient

BLOCKS = {"k": (slice(4, 8), 3), "v": (slice(8, 12), 2)}


def layer(bias: bool = True, dtype: torch.dtype = torch.float64, blocks=BLOCKS) -> LoRALinear:
    torch.manual_seed(0)
    linear = nn.Linear(6, 12, bias=bias, dtype=dtype)
    module = LoRALinear(linear, blocks, 0.7, torch.Generator().manual_seed(1))
    for name in blocks:
        nn.init.normal_(getattr(module, f"B_{name}"))
    return module


def plain(module: LoRALinear, x: torch.Tensor) -> torch.Tensor:
    """The textbook forward pass, in operations that autograd differentiates by itself."""
    y = F.linear(x, module.weight, module.bias)
    for name, rows in module.blocks.items():
        update = module.scale * (x @ getattr(module, f"A_{name}").mT @ getattr(module, f"B_{name}").mT)
        y = y + F.pad(update, (rows.start, module.out_features - rows.stop))
    return y


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 3, 6)])
def test_forward_and_gradients_equal_autograd(bias, shape):
    module = layer(bias)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(*shape[:-1], 12, dtype=torch.float64)
    inputs = (x, *module.factors())
    ours, reference = module(x), plain(module, x)
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-13)
    got = torch.autograd.grad((ours * weights).sum(), inputs)
    expected = torch.autograd.grad((reference * weights).sum(), inputs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("blocks", [BLOCKS, {"all": (slice(0, 12), 4)}, {"v": (slice(8, 12), 1)}])
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(blocks, bias):
    module = layer(bias, blocks=blocks)
    names = [name for name, p in module.named_parameters() if p.requires_grad]

    def f(x, *values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), (x,))

    values = [module.get_parameter(n).detach().requires_grad_() for n in names]
    x = torch.randn(2, 3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(f, (x, *values))


def test_input_without_gradient_and_frozen_factors():
    module = layer()
    x = torch.randn(4, 6, dtype=torch.float64)
    module.A_k.requires_grad_(False)
    (module(x) ** 2).sum().backward()
    assert x.grad is None and module.A_k.grad is None and module.weight.grad is None
    assert all(p.grad is not None for p in (module.A_v, module.B_k, module.B_v))
    module.requires_grad_(False)
    assert not module(x).requires_grad
    with torch.no_grad():
        torch.testing.assert_close(module(x), plain(module, x), rtol=0, atol=1e-13)


def test_gradient_checkpointing_and_steps_between_forwards():
    module = layer()
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.05)
    for reentrant in (False, True):
        x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
        expected = torch.autograd.grad(plain(module, x).square().sum(), module.factors())
        optimizer.zero_grad()
        checkpoint(module, x, use_reentrant=reentrant).square().sum().backward()
        torch.testing.assert_close([p.grad for p in module.factors()], list(expected), rtol=0, atol=1e-12)
        optimizer.step()  # in place: the next forward pass must see the new factors
        torch.testing.assert_close(module(x), plain(module, x), rtol=0, atol=1e-13)


def test_step_between_forward_and_backward_is_an_error_not_a_wrong_gradient():
    module = layer()
    y = module(torch.randn(4, 6, dtype=torch.float64, requires_grad=True)).sum()
    with torch.no_grad():
        module.B_k.add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        y.backward()


def test_autocast_bfloat16():
    module = layer(dtype=torch.float32)
    x = torch.randn(5, 6, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = module(x)
    assert y.dtype == torch.bfloat16
    y.float().square().sum().backward()
    assert x.grad.dtype == module.A_k.grad.dtype == torch.float32
    reference = copy.deepcopy(module)
    reference.zero_grad()
    plain(reference, x.detach()).square().sum().backward()
    for ours, exact in zip(module.factors(), reference.factors(), strict=True):
        assert distance(ours.grad, exact.grad) < 0.03  # bfloat16 has 8 bits


def test_half_precision_weights_are_merged_in_float32_and_given_back_in_half():
    linear = nn.Linear(6, 12, dtype=torch.bfloat16)
    module = LoRALinear(linear, BLOCKS, 1.0, torch.Generator().manual_seed(0))
    assert module.weight.dtype == module.A_k.dtype == torch.float32
    x = torch.randn(3, 6, dtype=torch.bfloat16)
    torch.testing.assert_close(module(x), linear(x))
    assert module.to_linear().weight.dtype == torch.bfloat16


def test_unadapt_after_double_gives_a_double_layer():
    module = layer(dtype=torch.float32).double()
    linear, x = module.to_linear(), torch.randn(3, 6, dtype=torch.float64)
    assert linear.weight.dtype == linear.bias.dtype == torch.float64
    torch.testing.assert_close(linear(x), module(x))


@pytest.mark.parametrize("family", [*FAMILIES, "icons-vit"])
def test_families(family):
    """adapt leaves the features; only factors require grad, each gets one; merge, unadapt change nothing."""
    model = make(family)
    x = images(model)
    with torch.no_grad():
        before = model(x)
    before_state = {k: v.clone() for k, v in model.state_dict().items()}
    structure = str(model)
    adapt(model, rank=4, targets=lora.TARGETS, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert distance(model(x), before) < 1e-6
    found = pairs(model)
    assert [p.name for p in found[:4]] == [f"blocks.0.attn.{m}" for m in ("q", "k", "v", "proj")]
    trained = {id(p) for p in model.parameters() if p.requires_grad}
    assert {id(p) for pair in found for p in (pair.A, pair.B)} == trained
    assert len({p.name for p in found}) == len(found) and not any(m.training for m in model.modules())
    fill(model)
    y = model(x)
    assert distance(y, before) > 1e-3
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for pair in found for p in (pair.A, pair.B))
    after_state = model.state_dict()
    # BatchNorm statistics included
    assert all(torch.equal(v, after_state[k]) for k, v in before_state.items())
    with torch.no_grad():
        assert distance(merge(model)(x), y) < 1e-6
        assert all(not pair.B.any() for pair in found)
        assert str(unadapt(model)) == structure
        assert not any(isinstance(m, LoRALinear) for m in model.modules())
        assert distance(model(x), y) < 1e-5
    assert model.state_dict().keys() == before_state.keys()


@pytest.mark.parametrize("family", ["plain", "eva", "beit", "eva02-separate"])
def test_pairs_describe_what_the_layers_do(family):
    """Hooks on Pair.layer see the common input x, and the layer's rows `rows` are (W0 + s·B·A)x (+ bias)."""
    model = adapt(make(family), rank=3, scale=0.5)
    found = pairs(fill(model))
    assert [p.name for p in found] == [f"blocks.{i}.attn.{m}" for i in range(2) for m in "kv"]
    assert [p.input_key for p in found] == [f"blocks.{i}.attn" for i in range(2) for _ in "kv"]
    seen = {}
    for pair in found:
        pair.layer.register_forward_hook(
            lambda _, args, y, name=pair.name: seen.__setitem__(name, (args[0].detach(), y.detach().clone()))
        )
    model(images(model))
    inputs = {}
    for pair in found:
        x, y = seen[pair.name]
        W = pair.layer.weight[pair.rows] + pair.scale * pair.B @ pair.A
        bias = 0 if pair.layer.bias is None else pair.layer.bias[pair.rows]
        torch.testing.assert_close(y[..., pair.rows], x @ W.mT + bias, rtol=1e-4, atol=1e-5)
        assert torch.equal(inputs.setdefault(pair.input_key, x), x)


def test_swiglu_and_mlp_input_keys():
    keys = {p.name: p.input_key for p in pairs(adapt(make("eva02-separate"), 2, ("proj", "fc1", "fc2")))}
    assert keys["blocks.0.mlp.fc1_g"] == keys["blocks.0.mlp.fc1_x"] == "blocks.0.mlp.fc1"
    assert keys["blocks.0.mlp.fc2"] == "blocks.0.mlp.fc2"
    assert keys["blocks.1.attn.proj"] == "blocks.1.attn.proj"


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_really_q_k_and_v(family, monkeypatch):
    """What reaches the attention product in the first block: a pair on K changes k and neither q nor v."""
    calls = []
    attend = F.scaled_dot_product_attention

    def record(q, k, v, **kwargs):
        calls.append({"q": q, "k": k, "v": v})
        return attend(q, k, v, **kwargs)

    monkeypatch.setattr(F, "scaled_dot_product_attention", record)
    model = make(family)
    x = images(model)
    with torch.no_grad():
        model(x)
        before = calls[0]
        for target in "qkv":
            fill(adapt(model, rank=2, targets=target))
            calls.clear()
            model(x)
            moved = {name for name in "qkv" if distance(calls[0][name], before[name]) > 1e-5}
            assert moved == {target}
            model = make(family)


def test_refusals_by_name():
    def message(model, *args, **kwargs):
        with pytest.raises(UsageError) as error:
            adapt(model, *args, **kwargs)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "unknown target 'key'" in message(make("plain"), targets=("key",))
    assert "unknown target 'fc3': did you mean" in message(make("plain"), targets=("fc3",))
    assert "no targets" in message(make("plain"), targets=())
    assert "rank 49" in message(make("plain"), rank=49) and "1 to 48" in message(make("plain"), rank=0)
    assert "rank 2.0" in message(make("plain"), rank=2.0)
    assert "no attention" in message(timm.create_model("resnet18", num_classes=0))
    assert "maxxvit.AttentionCl" in message(timm.create_model("maxvit_tiny_rw_224", num_classes=0))
    swin = timm.create_model("swinv2_tiny_window8_256", num_classes=0)
    assert "swin_transformer_v2.WindowAttention" in message(swin)
    assert "adapted already" in message(adapt(make("plain")))


def test_bypassed_layer_is_refused_and_the_model_left_plain():
    class Bypass(timm.layers.attention.Attention):
        def forward(self, x, **kwargs):
            y = F.linear(x, self.qkv.weight, self.qkv.bias)
            return self.proj(y[..., : x.shape[-1]])

    model = make("plain")
    for block in model.blocks:
        block.attn.__class__ = Bypass
    with pytest.raises(UsageError, match=r"Bypass uses the weight of blocks.0.attn.qkv without calling"):
        adapt(model)
    assert type(model.blocks[0].attn.qkv) is nn.Linear


def test_adapt_is_reproducible_and_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    model = make("plain")
    before = torch.get_rng_state()
    a, b = (adapt(copy.deepcopy(model), generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(p.A, q.A) for p, q in zip(pairs(a), pairs(b), strict=True))
    bound = 1 / 48**0.5
    assert 0.9 * bound < pairs(a)[0].A.abs().max() <= bound


def test_reset():
    model = fill(adapt(make("plain"), rank=4))
    old = [p.A.clone() for p in pairs(model)]
    lora.reset(pairs(model)[0], torch.Generator().manual_seed(9))
    assert not pairs(model)[0].B.any() and pairs(model)[1].B.any() and torch.equal(pairs(model)[1].A, old[1])
    lora.reset(model, torch.Generator().manual_seed(9))
    assert not any(p.B.any() or torch.equal(p.A, A) for p, A in zip(pairs(model), old, strict=True))


def test_state_round_trip_and_damage():
    model = fill(merge(fill(adapt(make("plain"), rank=4))), seed=11)
    saved = {k: v.clone() for k, v in lora.state(model).items()}
    other = adapt(make("plain"), rank=4)
    lora.load_state(other, saved)
    x = images(model)
    assert torch.equal(other(x), model(x))
    assert torch.equal(other.blocks[0].attn.qkv.W0_k, model.blocks[0].attn.qkv.W0_k)
    without = {k: v for k, v in saved.items() if "A_k" not in k}
    foreign = saved | {"blocks.9.A_k": torch.zeros(1)}
    for damaged in (without, foreign):
        with pytest.raises(JanusError, match="another adaptation"):
            lora.load_state(adapt(make("plain"), rank=4), damaged)
    with pytest.raises(JanusError, match="another"):
        lora.load_state(adapt(make("plain"), rank=3), saved)


# ── merged is a property of the model; copies are free ──────────────────────────────────────────────────────


def through_a_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


def through_state_dict(model: nn.Module, **options) -> nn.Module:
    fresh = adapt(make("plain"), rank=4, generator=torch.Generator().manual_seed(77))
    fresh.load_state_dict(model.state_dict(), **options)
    return fresh


def through_safetensors(model: nn.Module) -> nn.Module:
    fresh = adapt(make("plain"), rank=4)
    with tempfile.TemporaryDirectory() as folder:
        safetensors.torch.save_model(model, f"{folder}/model.safetensors")
        safetensors.torch.load_model(fresh, f"{folder}/model.safetensors")
    return fresh


def through_state(model: nn.Module) -> nn.Module:
    fresh = adapt(make("plain"), rank=4)
    lora.load_state(fresh, lora.state(model))
    return fresh


WAYS = {
    "deepcopy": copy.deepcopy,
    "torch.save": through_a_file,
    "state_dict": through_state_dict,
    "assign": lambda model: through_state_dict(model, assign=True),
    "not strict": lambda model: through_state_dict(model, strict=False),
    "safetensors": through_safetensors,
    "lora.state": through_state,
}


@pytest.mark.parametrize("way", WAYS)
@torch.no_grad()
def test_merged_survives_every_way_of_saving(way):
    model = fill(merge(fill(adapt(make("plain"), rank=4))), seed=11)
    again = WAYS[way](model)
    assert torch.equal(again(images(model)), model(images(model)))
    for ours, theirs in zip(pairs(again), pairs(model), strict=True):
        assert torch.equal(ours.original, theirs.original)
    saved = lora.state(again)
    assert saved.keys() == lora.state(model).keys()
    assert all(torch.equal(v, saved[k]) for k, v in lora.state(model).items())
    third = WAYS[way](fill(merge(again), seed=12))  # and on from there
    assert torch.equal(pairs(third)[0].original, pairs(model)[0].original)


@pytest.mark.parametrize("way", [load for load in WAYS if load not in ("deepcopy", "torch.save")])
@torch.no_grad()
def test_a_state_from_before_the_first_merge_makes_a_merged_model_unmerged(way, monkeypatch):
    model = fill(adapt(make("plain"), rank=4))
    merged = merge(fill(adapt(make("plain"), rank=4), seed=5))
    monkeypatch.setitem(globals(), "adapt", lambda *_, **__: merged)
    again = WAYS[way](model)
    assert again is merged and all(pair.original is None for pair in pairs(again))
    assert torch.equal(again(images(model)), model(images(model)))


def test_a_copy_is_free_of_what_collects_from_the_original():
    model = adapt(make("plain"), rank=4)
    x = images(model)
    moments, taps = SecondMoments(pairs(model)), [DenseGradient(pair) for pair in pairs(model)]
    moments.active = True
    for copied in (copy.deepcopy(model), through_a_file(model)):
        copied(x).square().sum().backward()
        assert not any(moments.count.values()) and all(tap.value is None for tap in taps)
        assert all(pair.B.grad is not None for pair in pairs(copied))
        own = SecondMoments(pairs(copied))
        own.active = True
        copied(x)
        assert all(own.count.values()) and not any(moments.count.values())
    model(x).square().sum().backward()
    assert all(moments.count.values()) and all(tap.value is not None for tap in taps)


@pytest.mark.parametrize("channels", [1, 4])
def test_any_number_of_channels(channels):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2, num_classes=0, in_chans=channels)
    model = fill(adapt(model, rank=2))
    assert model(images(model)).shape == (2, 192) and images(model).shape[1] == channels
