"""Protecting one's own model: a basis from one's own data, one optimiser; ViTs of timm and PEFT, a Llama."""

from __future__ import annotations

import copy
import re
import warnings
from pathlib import Path

import pytest
import torch
from helpers.language_models import texts, tiny_llama, weights
from helpers.vits import distance, fill, make
from safetensors import safe_open
from torch import Tensor, nn

import janus
from janus import lora
from janus.errors import JanusError, UsageError
from janus.history import SecondMoments
from janus.models.vit import input_key

peft = pytest.importorskip("peft", reason="PEFT is an optional extra: pip install janus-lora[dev]")
transformers = pytest.importorskip("transformers")


class WithHead(nn.Module):
    """A backbone and a linear head: what a user trains."""

    def __init__(self, backbone: nn.Module, width: int) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.backbone, self.head = backbone, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def timm_vit() -> nn.Module:
    return WithHead(janus.adapt(make("plain"), rank=4), 48)


def peft_vit(seed: int = 0, **options) -> nn.Module:
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["qkv", "fc1"], **options)
    return WithHead(peft.get_peft_model(make("plain"), config), 48)


def llama(seed: int = 0, targets: tuple[str, ...] = ("k_proj", "v_proj", "up_proj")) -> nn.Module:
    model = tiny_llama(seed, num_key_value_heads=2)
    return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=list(targets)))


def pictures(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(4, 3 * 32 * 32, generator=generator)  # few directions, so that some stay free
    draw = [torch.randn(4, 4, generator=generator) @ basis for _ in range(count)]
    return [(x.view(4, 3, 32, 32), torch.randint(0, 3, (4,), generator=generator)) for x in draw]


def loss_of(model: nn.Module, batch) -> Tensor:
    if isinstance(batch, dict):
        return model(**batch).loss
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


MODELS = {"timm": (timm_vit, pictures), "peft": (peft_vit, pictures), "llama": (llama, texts)}
each_model = pytest.mark.parametrize("kind", MODELS)


def snippet() -> str:
    """The ten lines of the README that show it."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.S)
    return next(code for code in blocks if "create_rectified_optimizer" in code)


@each_model
def test_the_lines_of_the_readme(kind, tmp_path, monkeypatch):
    build, data = MODELS[kind]
    monkeypatch.chdir(tmp_path)
    model = build()
    before = weights(model)
    names = dict(janus=janus, model=model, old_data=data(4, 0), new_data=data(6, 1), loss_of=loss_of)
    assert len(snippet().strip().splitlines()) <= 12
    exec(snippet(), names)
    basis, moved = names["basis"], weights(model)
    for pair in lora.pairs(model):
        change = (moved[pair.name] - before[pair.name]).detach()
        assert change.norm() > 1e-4 and (change @ basis[pair.input_key]).norm() < 1e-5 * change.norm() + 1e-6
    assert janus.Basis.load("basis.safetensors").keys() == basis.keys()


@each_model
def test_old_outputs_move_less_than_new_ones(kind):
    build, data = MODELS[kind]
    moved = {}
    for gr in ("none", "exact"):
        model, old, new = build(), data(4, 0), data(6, 1)
        basis = janus.estimate_basis(model, old, energy=1 - 1e-6) if gr == "exact" else None
        optimizer = janus.create_rectified_optimizer(model, basis=basis, lr=1e-2, gr=gr, head_lr=0.0)
        model.eval()
        before = [loss_of(model, batch).item() for batch in old]
        for batch in new:
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()
        moved[gr] = max(abs(loss_of(model, batch).item() - b) for batch, b in zip(old, before))
    assert moved["exact"] < 0.2 * moved["none"]


@each_model
def test_exact_starts_off_the_basis_without_changing_the_function(kind):
    build, data = MODELS[kind]
    model = fill(build()).eval()
    old = data(3, 0)
    basis = janus.estimate_basis(model, old, energy=0.9)
    before = [loss_of(model, batch).item() for batch in old]
    janus.create_rectified_optimizer(model, basis=basis, lr=1e-3)
    assert [loss_of(model, batch).item() for batch in old] == pytest.approx(before, abs=1e-5)
    for pair in lora.pairs(model):
        assert not pair.B.any() and pair.A.norm() > 0.1
        assert (pair.A @ basis[pair.input_key]).norm() < 1e-5 * pair.A.norm()


@pytest.mark.parametrize("gr", ["none", "exact", "tangent"])
@each_model
def test_a_continued_run_equals_an_uninterrupted_one(kind, gr, tmp_path):
    build, data = MODELS[kind]
    old, new = data(3, 0), data(6, 1)

    def steps(model, optimizer, batches):
        for batch in batches:
            loss_of(model, batch).backward()
            optimizer.step()
            optimizer.zero_grad()

    whole = build()
    basis = janus.estimate_basis(whole, old, energy=0.8)
    optimizer = janus.create_rectified_optimizer(
        whole, basis=basis, lr=1e-2, gr=gr, head_lr=1e-3, weight_decay=0.1
    )
    steps(whole, optimizer, new[:3])
    basis.save(tmp_path / "basis.safetensors")
    optimizer.save(tmp_path / "optimizer.safetensors")
    torch.save(whole.state_dict(), tmp_path / "model.pt")
    steps(whole, optimizer, new[3:])

    again = build()
    again.load_state_dict(torch.load(tmp_path / "model.pt"))
    basis = janus.Basis.load(tmp_path / "basis.safetensors")
    # lr is the saved one's afterwards
    optimizer = janus.create_rectified_optimizer(again, basis=basis, lr=1e-5, gr=gr)
    optimizer.load(tmp_path / "optimizer.safetensors")
    steps(again, optimizer, new[3:])
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    with safe_open(tmp_path / "optimizer.safetensors", "pt") as file:
        assert len(list(file.keys())) > 4


def test_other_parameters_are_stepped_as_adamw_steps_them():
    model, reference = peft_vit(), peft_vit()
    data = pictures(5, 1)
    optimizer = janus.create_rectified_optimizer(
        model, basis=None, lr=1e-3, gr="none", head_lr=1e-2, weight_decay=0.1
    )
    pairs = lora.pairs(reference)
    groups = [
        {"params": [p for pair in pairs for p in (pair.A, pair.B)], "lr": 1e-3},
        {"params": reference.head.parameters(), "lr": 1e-2},
    ]
    ours = torch.optim.AdamW(groups, weight_decay=0.1)
    schedulers = [torch.optim.lr_scheduler.StepLR(o, 2) for o in (optimizer, ours)]
    for batch in data:
        for net, opt, scheduler in zip((model, reference), (optimizer, ours), schedulers):
            loss_of(net, batch).backward()
            opt.step()
            scheduler.step()
            opt.zero_grad()
    for ours_, theirs in zip(model.parameters(), reference.parameters()):
        torch.testing.assert_close(ours_, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gr", ["exact", "tangent"])
@pytest.mark.usefixtures("own_accelerate")
def test_in_a_trainer(gr, tmp_path):
    """Trainer clears gradients by model.zero_grad, accumulates, schedules, saves and resumes."""
    data = [{k: v[0] for k, v in batch.items()} for batch in texts(24, 1)]

    def trainer(model, steps):
        basis = janus.estimate_basis(model, texts(3, 0), energy=0.9)
        optimizer = janus.create_rectified_optimizer(model, basis=basis, lr=1e-2, gr=gr)
        batches = dict(per_device_train_batch_size=2, gradient_accumulation_steps=2)
        quiet = dict(report_to=[], logging_strategy="no", disable_tqdm=True)
        arguments = transformers.TrainingArguments(
            str(tmp_path / gr), max_steps=steps, save_steps=2, use_cpu=True, seed=0, **batches, **quiet
        )
        return transformers.Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None)), basis

    model = llama()
    before = weights(model)
    whole, basis = trainer(model, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole.train()
    moved = weights(model)
    for pair in lora.pairs(model):
        change = moved[pair.name] - before[pair.name]
        assert change.norm() > 0
        violation = (change @ basis[pair.input_key]).norm() / change.norm()
        assert violation < (1e-4 if gr == "exact" else 0.9)
    again = llama()
    second, _ = trainer(again, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        second.train(resume_from_checkpoint=str(tmp_path / gr / "checkpoint-2"))
    for name, value in weights(again).items():
        torch.testing.assert_close(value, moved[name], rtol=1e-4, atol=1e-6)


def test_model_zero_grad_clears_what_tangent_steps_by():
    """A loop that never calls optimizer.zero_grad (a Trainer's) takes the steps of one that does."""
    models = peft_vit(), peft_vit()
    optimizers = [janus.create_rectified_optimizer(m, basis=None, lr=1e-3, gr="tangent") for m in models]
    clears = optimizers[0].zero_grad, models[1].zero_grad
    for batch in pictures(4, 1):
        for model, optimizer, clear in zip(models, optimizers, clears):
            loss_of(model, batch).backward()
            optimizer.step()
            clear()
    assert all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters()))


def test_a_basis_is_that_of_the_inputs_and_padding_does_not_count():
    model, old = llama(), texts(3, 0)
    caught = {}
    for pair in lora.pairs(model):

        def keep(_: object, inputs: tuple, key: str = pair.input_key) -> None:
            caught.setdefault(key, []).append(inputs[0].detach().flatten(0, -2))

        pair.layer.register_forward_pre_hook(keep)
    padded = [
        {
            "input_ids": torch.cat([torch.full((2, 3), 39), b["input_ids"]], 1),
            "attention_mask": torch.cat([torch.zeros(2, 3, dtype=torch.long), b["attention_mask"]], 1),
        }
        for b in old
    ]
    for batch in padded:
        batch["position_ids"] = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    training = model.train().training
    basis = janus.estimate_basis(model, old, energy=0.9)
    assert training and model.training and isinstance(basis, janus.Basis)
    for key, V in basis.items():
        x = torch.cat(caught[key]).double()
        assert 0 < V.shape[1] < V.shape[0]
        torch.testing.assert_close(V.mT @ V, torch.eye(V.shape[1]), rtol=0, atol=1e-5)
        assert (x @ V.double()).square().sum() >= 0.9 * x.square().sum()
        assert (x @ V.double()[:, :-1]).square().sum() < 0.9 * x.square().sum()
    masked = janus.estimate_basis(model, padded, energy=0.9)
    for key, V in basis.items():
        W = masked[key]
        assert V.shape == W.shape and distance(W @ W.mT, V @ V.mT) < 1e-3
    more = janus.estimate_basis(model, texts(3, 2), energy=0.9, past=basis)
    assert all(
        torch.equal(more[key][:, : V.shape[1]], V) and more[key].shape[1] > V.shape[1]
        for key, V in basis.items()
    )


def test_a_forward_pass_of_ones_own_gets_the_batch_as_it_is():
    model, old = llama(), texts(2, 0)
    pairs = [(batch["input_ids"], batch["attention_mask"]) for batch in old]
    basis = janus.estimate_basis(
        model, pairs, forward=lambda m, batch: m(input_ids=batch[0], attention_mask=batch[1])
    )
    expected = janus.estimate_basis(model, old)
    assert basis.keys() == expected.keys() and all(torch.equal(V, expected[key]) for key, V in basis.items())


def test_k_and_v_of_a_peft_model_share_one_basis():
    model = llama(targets=("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "o_proj"))
    prefix = "base_model.model.model.layers."
    keys = {pair.name.removeprefix(prefix): pair.input_key for pair in lora.pairs(model)}
    assert keys["0.self_attn.q_proj"] == keys["0.self_attn.k_proj"] == keys["0.self_attn.v_proj"]
    assert keys["0.mlp.gate_proj"] == keys["0.mlp.up_proj"] != keys["0.self_attn.q_proj"]
    assert keys["0.self_attn.o_proj"] not in (keys["0.self_attn.q_proj"], keys["1.self_attn.o_proj"])
    assert len(set(keys.values())) == 6
    assert len(janus.estimate_basis(model, texts(2, 0))) == 6


def test_layers_that_do_not_share_an_input_in_spite_of_their_names_are_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.k_proj, self.v_proj = nn.Linear(6, 6), nn.Linear(6, 6)

        def forward(self, x):
            return self.k_proj(x) + self.v_proj(x.flip(0))

    model = peft.get_peft_model(Odd(), peft.LoraConfig(r=1, target_modules=["k_proj", "v_proj"]))
    with pytest.raises(JanusError, match="fed by different tensors"):
        janus.estimate_basis(model, [torch.randn(4, 6)])
    query, key, value = (input_key(f"decoder.cross_attn.{name}_proj") for name in "qkv")
    assert query != key == value


def test_mistakes_are_named():
    model, data = peft_vit(), pictures(2, 0)
    create, fixed = janus.create_rectified_optimizer, copy.deepcopy(model).requires_grad_(False)
    cases = [
        (lambda: janus.estimate_basis(make("plain"), data), "no LoRA factors"),
        (lambda: janus.estimate_basis(model, data, energy=1.5), "energy is a share"),
        (lambda: janus.estimate_basis(model, []), "saw no input"),
        (lambda: janus.estimate_basis(model, data, past={"x": torch.zeros(2, 1)}), "past has 'x'"),
        (lambda: create(model, basis={"x": torch.zeros(2, 1)}, lr=1e-3), "belongs to no adapted layer"),
        (lambda: create(model, basis=None, lr=1e-3, gr="exakt"), "did you mean 'exact'"),
        (lambda: create(fixed, basis=None, lr=1e-3), "is_trainable"),
    ]
    for call, message in cases:
        with pytest.raises(UsageError, match=message):
            call()
    with pytest.raises(JanusError, match="not finite"):
        janus.estimate_basis(model, [torch.full((2, 3, 32, 32), float("nan"))])


def test_a_saved_state_of_something_else_is_refused(tmp_path):
    model, other = peft_vit(), timm_vit()
    optimizer = janus.create_rectified_optimizer(model, basis=None, lr=1e-3, gr="none")
    optimizer.save(tmp_path / "optimizer.safetensors")
    with pytest.raises(JanusError, match="holds no basis"):
        janus.Basis.load(tmp_path / "optimizer.safetensors")
    unlike = janus.create_rectified_optimizer(other, basis=None, lr=1e-3, gr="none")
    with pytest.raises(JanusError, match="another optimiser"):
        unlike.load(tmp_path / "optimizer.safetensors")
    with pytest.raises(JanusError, match="no checkpoint there"):
        optimizer.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize("gr", ["none", "exact", "tangent"])
def test_training_what_peft_has_merged_or_disabled_is_refused(gr):
    model = peft_vit()
    optimizer = janus.create_rectified_optimizer(model, basis=None, lr=1e-3, gr=gr)
    inner = model.backbone
    inner.merge_adapter()
    with pytest.raises(UsageError, match="unmerge_adapter"):
        janus.create_rectified_optimizer(model, basis=None, lr=1e-3, gr=gr)
    loss_of(model, pictures(1, 1)[0]).backward()  # the head alone
    with pytest.raises(UsageError, match="unmerge_adapter"):
        optimizer.step()
    inner.unmerge_adapter()
    with inner.disable_adapter():
        with pytest.raises(UsageError, match="disabled"):
            SecondMoments(lora.pairs(model))
    loss_of(model, pictures(1, 1)[0]).backward()
    optimizer.step()
