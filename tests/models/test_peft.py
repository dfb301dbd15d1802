"""Adapters in PEFT's format: PEFT's own loading gives the same features; round trips; damage is named."""

from __future__ import annotations

import copy
import io
import json

import pytest
import torch
from helpers.vits import FAMILIES, distance, fill, images, make
from safetensors.torch import load_file, save_file
from torch import nn

from janus import lora
from janus.errors import JanusError, UsageError
from janus.lora import adapt, merge, pairs, unadapt
from janus.models.peft_io import NOT_CARRIED, export_peft, import_peft, load_heads

peft = pytest.importorskip("peft", reason="PEFT is an optional extra: pip install janus-lora[dev]")


def by_peft(model: nn.Module, folder) -> nn.Module:
    if note := json.loads((folder / "janus.json").read_text())["peft_needs"]:
        assert "qkv_bias_separate = True" in note[0]
        for block in model.blocks:
            block.attn.qkv_bias_separate = True
    return peft.PeftModel.from_pretrained(model, str(folder)).eval()


@pytest.mark.parametrize("targets", [("k", "v"), lora.TARGETS], ids=["kv", "all"])
@pytest.mark.parametrize("family", [*FAMILIES, "icons-vit"])
@torch.no_grad()
def test_same_features_as_peft(family, targets, tmp_path):
    model = fill(adapt(make(family), rank=3, targets=targets, scale=0.5))
    x = images(model)
    y = model(x)
    assert distance(y, make(family)(x)) > 1e-3
    export_peft(model, tmp_path)
    assert distance(by_peft(make(family), tmp_path)(x), y) < 1e-5
    back = import_peft(make(family), tmp_path)
    assert distance(back(x), y) < 1e-6
    for ours, theirs in zip(pairs(model), pairs(back), strict=True):
        assert (ours.name, ours.rows, ours.scale) == (theirs.name, theirs.rows, pytest.approx(theirs.scale))
        assert torch.equal(ours.A, theirs.A) and torch.equal(ours.B, theirs.B)
    assert distance(unadapt(model)(x), y) < 1e-5


@pytest.mark.parametrize("family", ["plain", "beit", "eva02-separate", "dinov2-swiglu"])
@torch.no_grad()
def test_merged_stream_exports_its_displacement_at_its_exact_rank(family, tmp_path):
    model = adapt(make(family), rank=3, targets=("k", "v", "fc1"))
    x = images(model)
    generator = torch.Generator().manual_seed(1)  # not the seed that adapt drew the first A from
    for task in range(4):
        fill(model, seed=task)
        if task == 3:  # a last task that only moves K of the first block stays unmerged
            for pair in pairs(model)[1:]:
                pair.B.zero_()
            break
        merge(model)
        lora.reset(model, generator)
    y = model(x)
    export_peft(model, tmp_path, base="some/backbone")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/backbone"
    blocks = {p: m["blocks"] for p, m in json.loads((tmp_path / "janus.json").read_text())["modules"].items()}
    ranks = {(p, name): rank for p, layer in blocks.items() for name, (_, _, rank) in layer.items()}
    assert next(iter(ranks.values())) == 12 and set(list(ranks.values())[1:]) == {9}
    assert distance(by_peft(make(family), tmp_path)(x), y) < 1e-5
    back = import_peft(make(family), tmp_path)
    assert distance(back(x), y) < 1e-5
    assert [p.A.shape[0] for p in pairs(back)] == list(ranks.values())


@torch.no_grad()
def test_numerical_rank_survives_many_merges(tmp_path):
    """Fifty merges in float32 leave rounding of full rank in W − W0: the export must not call it learned."""
    model = adapt(make("plain"), rank=1)
    A = [p.A.clone() for p in pairs(model)]
    for task in range(50):
        fill(model, seed=task, std=0.01)
        merge(model)
    # the same A: rank 1 all along
    assert all(torch.equal(p.A, a) for p, a in zip(pairs(model), A, strict=True))
    export_peft(model, tmp_path)
    ranks = {p.A.shape[0] for p in pairs(import_peft(make("plain"), tmp_path))}
    assert ranks == {1}


def test_merged_without_learning_is_rank_one_of_zeros(tmp_path):
    export_peft(merge(adapt(make("plain"))), tmp_path)
    back = import_peft(make("plain"), tmp_path)
    assert all(p.A.shape[0] == 1 and not (p.B @ p.A).any() for p in pairs(back))
    assert distance(by_peft(make("plain"), tmp_path)(images(back)), make("plain")(images(back))) < 1e-6


def test_heads_classes_and_what_is_not_carried(tmp_path):
    model = adapt(make("plain"))
    heads = {"heads.0.weight": torch.randn(5, 48), "heads.0.bias": torch.randn(5)}
    export_peft(model, tmp_path, heads=heads, classes=["anchor", "bell"])
    loaded = load_heads(tmp_path)
    assert loaded.keys() == heads.keys() and all(torch.equal(loaded[k], heads[k]) for k in heads)
    note = json.loads((tmp_path / "janus.json").read_text())
    assert note["classes"] == ["anchor", "bell"] and note["not_carried_by_peft"] == NOT_CARRIED
    assert all(what in (tmp_path / "README.md").read_text() for what in NOT_CARRIED)
    export_peft(model, tmp_path)
    with pytest.raises(JanusError, match="heads.safetensors does not exist"):
        load_heads(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "janus.json",
    ]


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"alpha_pattern": {"blocks.1.attn.qkv": 5}}])
@torch.no_grad()
def test_an_adapter_that_peft_wrote(options, tmp_path):
    more = dict(init_lora_weights=False, rank_pattern={"fc1": 2}) | options
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["qkv", "fc1"], **more)
    theirs = peft.get_peft_model(make("plain"), config).eval()
    theirs.save_pretrained(str(tmp_path))
    ours = import_peft(make("plain"), tmp_path)
    x = images(ours)
    assert distance(ours(x), theirs(x)) < 1e-5 < distance(ours(x), make("plain")(x))
    assert [p.name for p in pairs(ours)[:2]] == ["blocks.0.attn.qkv", "blocks.0.mlp.fc1"]
    export_peft(ours, tmp_path / "again")
    assert distance(by_peft(make("plain"), tmp_path / "again")(x), theirs(x)) < 1e-5


def test_pairs_of_a_peft_model():
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["qkv", "attn.proj"], init_lora_weights=False)
    model = peft.get_peft_model(make("clip"), config, adapter_name="mine").eval()
    found = pairs(model)
    assert [p.name for p in found[:2]] == [f"base_model.model.blocks.0.attn.{n}" for n in ("qkv", "proj")]
    seen = {}
    pair = found[0]
    pair.layer.register_forward_hook(lambda _, args, y: seen.update(x=args[0], y=y))
    model(images(make("clip")))
    base = pair.layer.get_base_layer()
    expected = seen["x"] @ (base.weight[pair.rows] + pair.scale * pair.B @ pair.A).mT + base.bias[pair.rows]
    torch.testing.assert_close(seen["y"][..., pair.rows], expected, rtol=1e-4, atol=1e-5)
    factors = {id(p) for f in found for p in (f.A, f.B)}
    assert {id(p) for p in model.parameters() if p.requires_grad} == factors


def test_peft_models_that_are_refused():
    dora = peft.get_peft_model(make("plain"), peft.LoraConfig(r=2, target_modules=["qkv"], use_dora=True))
    with pytest.raises(UsageError, match="DoRA"):
        pairs(dora)
    bypassed = peft.get_peft_model(make("beit"), peft.LoraConfig(r=2, target_modules=["qkv"]))
    with pytest.raises(UsageError, match="qkv_bias_separate = True"):
        pairs(bypassed)
    config = peft.LoraConfig(r=2, target_modules=["patch_embed.proj"])
    convolution = peft.get_peft_model(make("plain"), config)
    with pytest.raises(UsageError, match="Conv2d is not supported"):
        pairs(convolution)
    plain = peft.get_peft_model(make("plain"), peft.LoraConfig(r=2, target_modules=["qkv"]))
    for call in (lambda: adapt(plain), lambda: import_peft(plain, "unused")):
        with pytest.raises((UsageError, JanusError)):
            call()


def test_damaged_and_foreign_adapters_are_named(tmp_path):
    folder = export_peft(fill(adapt(make("plain"))), tmp_path / "adapter")
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    good, good_config = weights.read_bytes(), config.read_text()

    def message(kind=JanusError, family="plain"):
        with pytest.raises(kind) as error:
            import_peft(make(family), folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "another backbone" in message(family="icons-vit")
    weights.write_bytes(good[:-100])
    assert "adapter_model.safetensors is truncated" in message()
    weights.unlink()
    assert "does not exist" in message()
    weights.write_bytes(good)
    config.write_text(good_config[:40])
    assert "not valid JSON" in message()
    config.write_text(json.dumps(json.loads(good_config) | {"use_dora": True}))
    assert "use_dora" in message(UsageError)
    config.write_text(good_config)
    tensors = load_file(weights)
    key = next(k for k in tensors if "lora_B" in k)
    save_file(tensors | {key: torch.ones_like(tensors[key])}, weights)
    assert "janus.json and adapter_model.safetensors disagree" in message()
    save_file(tensors | {"base_model.model.head.weight": torch.zeros(2)}, weights)
    assert "base_model.model.head.weight" in message(UsageError)
    weights.write_bytes(good)
    with pytest.raises(UsageError, match="adapted already"):
        import_peft(adapt(make("plain")), folder)
    with pytest.raises(UsageError, match="not adapted by janus"):
        export_peft(make("plain"), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(JanusError, match="cannot write the adapter"):
        export_peft(adapt(make("plain")), tmp_path / "file" / "below")


# ── a PEFT model in the functions that take a model ─────────────────────────────────────────────────────────


def wrapped(seed: int = 0, family: str = "plain", **options) -> nn.Module:
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=6, **{"target_modules": ["qkv", "fc1"]} | options)
    return fill(peft.get_peft_model(make(family), config).eval())


@torch.no_grad()
def test_merge_of_a_peft_model_keeps_its_function():
    model = wrapped()
    x = images(make("plain"))
    y, plain = model(x), make("plain")(x)
    assert distance(y, plain) > 1e-2
    merge(model)
    assert all(not pair.B.any() and pair.original is not None for pair in pairs(model))
    lora.reset(model, torch.Generator().manual_seed(4))
    assert distance(model(x), y) < 1e-6
    fill(model, seed=8)
    merge(model)
    z = model(x)
    assert distance(model.merge_and_unload()(x), z) < 1e-6 and distance(z, y) > 1e-2


@torch.no_grad()
def test_what_is_merged_into_a_peft_model_cannot_be_lost(tmp_path):
    """PEFT's own ways of saving keep the factors only; the others keep all."""
    model = merge(wrapped())
    fill(model, seed=8, std=0.05)
    x = images(make("plain"))
    y = model(x)
    for save in (
        lambda: model.save_pretrained(str(tmp_path / "peft")),
        lambda: peft.get_peft_model_state_dict(model),
    ):
        with pytest.raises(UsageError, match="export_peft"):
            save()
    export_peft(model, tmp_path / "ours")
    assert distance(by_peft(make("plain"), tmp_path / "ours")(x), y) < 1e-5
    assert distance(import_peft(make("plain"), tmp_path / "ours")(x), y) < 1e-5

    fresh = wrapped(seed=1)
    # a model that does not know of merging does not take it in silence
    with pytest.raises(RuntimeError, match="W0_default"):
        fresh.load_state_dict(model.state_dict())
    lora.load_state(fresh, lora.state(model))
    assert torch.equal(fresh(x), y)
    with pytest.raises(UsageError, match="export_peft"):
        fresh.save_pretrained(str(tmp_path / "peft"))
    for copied in (copy.deepcopy(model), through_a_file(model)):
        assert torch.equal(copied(x), y)
        with pytest.raises(UsageError, match="export_peft"):
            copied.save_pretrained(str(tmp_path / "peft"))


def through_a_file(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    return torch.load(io.BytesIO(file.getvalue()), weights_only=False)


@torch.no_grad()
def test_nothing_to_merge_leaves_an_adapter_that_peft_can_save(tmp_path):
    model = wrapped()
    for pair in pairs(model):
        pair.B.zero_()
    merge(model).save_pretrained(str(tmp_path))
    assert all(pair.original is None for pair in pairs(model))


@torch.no_grad()
def test_half_precision_weights_are_merged_as_well_as_they_can_be():
    model = wrapped()
    x = images(make("plain"))
    for pair in pairs(model):
        pair.layer.get_base_layer().to(torch.bfloat16)
    expected = [(pair.weight.float() + pair.scale * pair.B @ pair.A).bfloat16() for pair in pairs(model)]
    for pair, W in zip(pairs(merge(model)), expected):
        torch.testing.assert_close(pair.weight, W, rtol=2**-7, atol=1e-7)  # one rounding to bfloat16
    assert model.to(torch.bfloat16)(x.bfloat16()).isfinite().all()


def test_peft_models_that_cannot_be_merged_are_refused():
    two = wrapped()
    two.add_adapter("more", peft.LoraConfig(r=2, target_modules=["qkv"]))
    two.base_model.set_adapter(["default", "more"])
    with pytest.raises(UsageError, match="one adapter a layer.*default, more"):
        merge(two)
    packed = wrapped()
    weight = pairs(packed)[0].layer.get_base_layer().weight
    weight.data = torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8)  # as a 4-bit layer holds it
    weight.requires_grad_(False)
    with pytest.raises(UsageError, match="quantised"):
        merge(packed)
    with pytest.raises(UsageError, match="merge_and_unload"):
        unadapt(wrapped())
    for call in (lambda: merge(make("plain")), lambda: lora.reset(make("plain"), torch.Generator())):
        with pytest.raises(UsageError, match="no LoRA factors"):
            call()


def test_peft_layers_that_are_more_than_lora_are_refused():
    for options, message in (
        ({"lora_bias": True}, "lora_bias"),
        ({"target_modules": ["patch_embed.proj"]}, "linear layers only"),
    ):
        config = peft.LoraConfig(**{"r": 2, "target_modules": ["qkv"]} | options)
        model = peft.get_peft_model(make("plain"), config)
        with pytest.raises(UsageError, match=message):
            pairs(model)


@torch.no_grad()
def test_export_of_a_peft_model_that_was_not_merged(tmp_path):
    model = wrapped()
    export_peft(model, tmp_path)
    x = images(make("plain"))
    assert distance(by_peft(make("plain"), tmp_path)(x), model(x)) < 1e-6
    ours = import_peft(make("plain"), tmp_path)
    assert distance(ours(x), model(x)) < 1e-6 and pairs(ours)[0].name == "blocks.0.attn.qkv"


def test_adapters_in_forms_that_are_not_read_are_named(tmp_path):
    folder = export_peft(fill(adapt(make("plain"))), tmp_path / "adapter")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UsageError, match="adapter_model.bin, a pickle"):
        import_peft(make("plain"), folder)
    config = peft.LoraConfig(r=2, target_modules=["patch_embed.proj", "qkv"])
    model = peft.get_peft_model(make("plain"), config)
    model.save_pretrained(str(tmp_path / "convolution"))
    with pytest.raises(UsageError, match="patch_embed.proj, a Conv2d, is not supported"):
        import_peft(make("plain"), tmp_path / "convolution")
