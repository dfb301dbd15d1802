"""L2P, DualPrompt, CODA-Prompt: prefix attention, an image's prompts, what moves, and what runs survive."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers.processes import two_processes
from helpers.runs import broken_run, numbers, same_run, same_state
from helpers.toys import make_tiny_vit, toy_backbone
from helpers.vits import make
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor, nn

import janus
from janus import configure, lora, predict, train
from janus.errors import UsageError
from janus.methods.codaprompt import orthonormal, overlap
from janus.models import backbones
from janus.models.peft_io import export_peft
from janus.models.prefix import PrefixAttention, prefixed
from janus.runtime import checkpoint
from janus.train import CHECKPOINT, Run

pytestmark = pytest.mark.usefixtures("with_toy_backbone")

METHODS: dict[str, dict[str, Any]] = {
    "l2p": {"method": "l2p", "pool": 12, "length": 4, "top": 3},
    "dualprompt": {"method": "dualprompt", "general": 2, "expert": 4},
    "coda": {"method": "coda", "components": 12, "length": 4},
}


def after(tasks: int, config: dict[str, Any]) -> Run:
    """A run that has learned its first tasks."""
    run = Run(configure.make(config), None)
    for task in run.stream.tasks[:tasks]:
        run.learn(task)
    return run


def mixed(run: Run) -> Tensor:
    """Test images of all tasks, in turn, ready for the backbone."""
    parts = [run.learner.plain(task.evaluation.batch(torch.arange(10))) for task in run.stream.tasks]
    return torch.stack(parts, dim=1).flatten(0, 1)


def rows(run: Run) -> dict[str, Tensor]:
    """All prompts and keys there are, copied."""
    return {name: run.learner.method.rows(name).detach().clone() for name in run.learner.method.trained}


# ── attention with prefixes ─────────────────────────────────────────────────────────────────────────────────


def dense(attention: nn.Module, weight: Tensor, x: Tensor, p_K: Tensor, p_V: Tensor) -> Tensor:
    """One image x (N, n), one head after another: softmax over prefix and tokens, written out."""
    n, heads = x.shape[1], attention.num_heads
    parts = zip(weight.chunk(3), attention.qkv.bias.chunk(3))
    q, k, v = ((x @ part.T + bias).split(n // heads, dim=1) for part, bias in parts)
    found = []
    for h, (K, V) in enumerate(zip(p_K.split(n // heads, dim=1), p_V.split(n // heads, dim=1))):
        keys, values = torch.cat([K, attention.k_norm(k[h])]), torch.cat([V, v[h]])
        scores = (attention.q_norm(q[h]) @ keys.T / math.sqrt(n // heads)).exp()
        found.append(scores @ values / scores.sum(dim=1, keepdim=True))
    return attention.proj(attention.norm(torch.cat(found, dim=1)))


@pytest.mark.parametrize("norms", [False, True])
def test_prefix_attention_is_dense_softmax_attention_over_prefix_and_tokens(norms):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = dict(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=3, num_classes=0)
        model = VisionTransformer(**sizes, qk_norm=norms, scale_attn_norm=norms)
        for p in model.parameters():
            nn.init.normal_(p, std=0.5)
        model = lora.adapt(model, rank=2).double()
        for pair in lora.pairs(model):
            nn.init.normal_(pair.B)
        x, p_K, p_V, g = (torch.randn(4, tokens, 12, dtype=torch.float64) for tokens in (5, 3, 3, 5))
    plain = copy.deepcopy(model.blocks[1].attn)
    assert len(prefixed(model, 5)) == 2
    attention, weight = model.blocks[1].attn, plain.qkv.effective_weight()
    assert torch.equal(attention(x), plain(x)) and attention.state_dict().keys() == plain.state_dict().keys()
    p_K.requires_grad_(), p_V.requires_grad_()
    attention.prefix = p_K, p_V
    found = attention(x)
    by_hand = torch.stack([dense(plain, weight, *image) for image in zip(x, p_K, p_V)])
    assert found.shape == x.shape and torch.allclose(found, by_hand, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(found, plain(x), atol=1e-2)
    for one, other in zip(*(torch.autograd.grad((y * g).sum(), (p_K, p_V)) for y in (found, by_hand))):
        assert one.abs().min() > 0 and torch.allclose(one, other, rtol=1e-10, atol=1e-12)


def test_what_has_another_attention_is_refused_in_one_line(settings, monkeypatch):
    beit = r"timm\.models\.beit\.\w+ at blocks\.0: prompts need the plain attention of timm's ViT; choose"
    for family, said in (("beit", beit), ("eva02-fused", r"EvaAttention at blocks\.0: prompts need")):
        monkeypatch.setattr(backbones, "create", lambda *_, family=family: (make(family), toy_backbone()[1]))
        for method in METHODS.values():
            with pytest.raises(UsageError, match=said) as error:
                Run(configure.make(settings("finetune", **method)), None)
            assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="Linear has no blocks: prompts need"):
        prefixed(nn.Linear(2, 2), 5)
    model = make_tiny_vit()
    model.blocks[1].attn = nn.Identity()
    with pytest.raises(UsageError, match=r"Identity at blocks\.1: prompts need"):
        prefixed(model, 2)
    # what is refused is left as it was
    assert type(model.blocks[0].attn) is Attention and len(prefixed(model, 1)) == 1


# ── the prompts of an image ─────────────────────────────────────────────────────────────────────────────────


def cosine(a: Tensor, b: Tensor) -> float:
    return (torch.dot(a, b) / (a.norm() * b.norm())).item()


def expected_prompts(run: Run, query: Tensor) -> list[list[Tensor]]:
    """By the papers' equations, for one image, its query (d,): for each block a list of prompts (l, d)."""
    kept = rows(run)
    if run.config.method.name == "l2p":
        nearest = sorted(range(12), key=lambda m: -cosine(query, kept["keys"][m]))[:3]
        return [[kept["prompts"][m] for m in nearest]]
    if run.config.method.name == "dualprompt":
        own = max(range(len(kept["keys"])), key=lambda t: cosine(query, kept["keys"][t]))
        return [[p] for p in kept["general"]] + [[p] for p in kept["experts"][own]]
    A, K, P = kept["A"], kept["K"], kept["P"]

    def weighted(j: int) -> Tensor:
        return sum(cosine(query * A[m, j], K[m, j]) * P[m, j] for m in range(len(P)))

    return [[weighted(j)] for j in range(2)]


@torch.no_grad()
def expected_feature(image: Tensor, prompts: list[list[Tensor]]) -> Tensor:
    """The frozen backbone on one image (3, S, S), block by block, with these prompts."""
    model, _ = toy_backbone()
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image[None]))))
    for i, block in enumerate(model.blocks):
        own = prompts[i] if i < len(prompts) else []
        K, V = (torch.cat([p.chunk(2)[half] for p in own]) if own else x.new_zeros(0, 32) for half in (0, 1))
        x = x + dense(block.attn, block.attn.qkv.weight, block.norm1(x)[0], K, V)
        x = x + block.mlp(block.norm2(x))
    return model.norm(x)[0, 0]


@pytest.mark.parametrize("name", METHODS)
def test_features_follow_from_the_equations_and_not_from_other_images(name, settings):
    run = after(3, settings("finetune", **METHODS[name], lr=2e-2))
    images = mixed(run)
    with torch.no_grad():
        queries = toy_backbone()[0](images)
        # as keys, since the toy's features all point in much the same direction
        spread = queries[::3] - queries.mean(0)
        if name == "l2p":
            run.learner.method.trained["keys"].copy_(torch.cat([spread, spread[:2].neg()]))
        if name == "dualprompt":
            run.learner.method.frozen["keys"] = spread[:2]
            run.learner.method.trained["keys"].data = spread[2:3]
        found = run.learner.forward(images)
        chosen = [expected_prompts(run, query) for query in queries]
        for i in range(0, len(images), 4):
            assert torch.allclose(found[i], expected_feature(images[i], chosen[i]), rtol=1e-4, atol=1e-5)
            assert not torch.allclose(found[i], queries[i], atol=1e-2)
        assert torch.allclose(run.learner.forward(images.flip(0)).flip(0), found, rtol=1e-4, atol=1e-5)
        parts = [run.learner.forward(part) for part in (images[:1], images[1:5], images[5:])]
        assert torch.allclose(torch.cat(parts), found, rtol=1e-4, atol=1e-5)
    kinds = {tuple(p.sum().item() for block in prompts for p in block) for prompts in chosen}
    # images differ in what they get
    assert len(kinds) == {"l2p": len(kinds), "dualprompt": 3, "coda": 30}[name] > 2
    attentions = [block.attn for block in run.learner.model.blocks]
    assert all(attn.prefix is None for attn in attentions if isinstance(attn, PrefixAttention))


@pytest.mark.parametrize(
    ("name", "blocks", "lengths"),
    [
        ("l2p", 6, [6, 0, 0, 0, 0, 0]),
        ("dualprompt", 6, [1, 1, 2, 2, 2, 0]),
        ("dualprompt", 3, [1, 1, 2]),
        ("dualprompt", 1, [2]),
        ("coda", 6, [2, 2, 2, 2, 2, 0]),
        ("coda", 1, [2]),
    ],
)
def test_which_blocks_have_how_many_keys_besides(name, blocks, lengths, settings, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        model = VisionTransformer(
            img_size=32, patch_size=16, embed_dim=32, depth=blocks, num_heads=2, mlp_ratio=1, num_classes=0
        )
    monkeypatch.setattr(backbones, "create", lambda *_: (model, toy_backbone()[1]))
    run, seen = Run(configure.make(settings("finetune", **METHODS[name])), None), {}
    run.learner.method.begin_task(run.stream.tasks[0])
    for i, block in enumerate(model.blocks):
        block.attn.register_forward_pre_hook(
            lambda attention, _, i=i: seen.setdefault(i, []).append(getattr(attention, "prefix", None))
        )
    run.learner.forward(torch.rand(3, 3, 32, 32))
    assert all(len(passes) == 2 and passes[0] is None for passes in seen.values())  # the query sees no prompt
    assert [0 if passes[1] is None else passes[1][0].shape[1] for passes in seen.values()] == lengths
    assert all(
        p.shape == (3, n, 32) for n, passes in zip(lengths, seen.values()) if passes[1] for p in passes[1]
    )


def test_bf16_passes_choose_by_float32_cosines(settings, monkeypatch):
    run = after(1, settings("finetune", **METHODS["l2p"], amp="bf16"))
    queries: list[Tensor] = []
    prompts = run.learner.method.prompts
    monkeypatch.setattr(run.learner.method, "prompts", lambda q: queries.append(q) or prompts(q))
    with torch.no_grad():
        found = run.learner.forward(images := mixed(run))
    assert queries[0].dtype == torch.float32 and run.learner.method.distance.dtype == torch.float32
    keys = run.learner.method.trained["keys"]
    nearest = [torch.tensor(sorted(cosine(q, k) for k in keys)[-3:]) for q in queries[0]]
    by_hand = torch.stack(nearest)
    assert torch.allclose(run.learner.method.distance, (1 - by_hand).sum(1), atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(run.learner.model(images)[::7], found[::7].float(), rtol=0.1, atol=0.1)


# ── what is trained ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", METHODS)
def test_the_backbone_and_the_factors_stay_and_the_run_learns(name, settings):
    config = settings("finetune", **METHODS[name], tasks=2, epochs=8, lr=1e-2, head_lr=0.03)
    run = Run(configure.make(config), None)
    before = {key: t.clone() for key, t in run.learner.model.state_dict().items()}
    result = run.finish()
    assert all(torch.equal(t, before[key]) for key, t in run.learner.model.state_dict().items())
    assert all(torch.count_nonzero(pair.B) == 0 for pair in run.learner.pairs)
    assert result.acc > 1.5 * 100 / 7 and math.isfinite(result.bwt) and result.drift > 0
    assert result.violation["mean"]["all"] == 0 and result.violation_step["mean"] == 0


def steps(run: Run, monkeypatch) -> list[dict[str, Any]]:
    """What happens in training steps: the query, the loss, and what the loss has beyond the cross-entropy."""
    seen: list[dict[str, Any]] = []
    prompts, loss = run.learner.method.prompts, run.learner.method.loss

    def watched(query: Tensor) -> list[Tensor]:
        given = prompts(query)
        if run.learner.method.training:
            given_then = [p.detach().clone() for p in given]
            seen.append({"task": run.task, "query": query, "given": given_then, "rows": rows(run)})
        return given

    def with_loss(features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        value, local = loss(features, logits, labels), F.cross_entropy(logits, labels)
        seen[-1] |= {"local": local.item(), "beyond": (value - local).item()}
        return value

    monkeypatch.setattr(run.learner.method, "prompts", watched)
    monkeypatch.setattr(run.learner.method, "loss", with_loss)
    return seen


def test_l2p_moves_the_prompts_and_keys_that_were_chosen_and_no_others(settings, monkeypatch):
    run = after(1, settings("finetune", **METHODS["l2p"], pull=0.7))
    before, seen = rows(run), steps(run, monkeypatch)
    run.learn(run.stream.tasks[1])
    chosen = set()
    for step in seen:
        similarity = torch.tensor([[cosine(q, k) for k in step["rows"]["keys"]] for q in step["query"]])
        order = similarity.sort(dim=1, descending=True)
        chosen |= set(order.indices[:, :3].flatten().tolist())
        assert step["beyond"] == pytest.approx(0.7 * (1 - order.values[:, :3]).sum(1).mean().item(), rel=1e-3)
    assert len(seen) == 6 and 3 <= len(chosen) < 12
    for name, now in rows(run).items():
        for m in range(12):
            assert torch.equal(now[m], before[name][m]) == (m not in chosen), (name, m)


@pytest.mark.parametrize("name", METHODS)
def test_gradients_are_those_of_the_loss_through_the_second_pass(name, settings):
    """Along each parameter's gradient the loss rises by the gradient's norm; old rows are constants.

    The rise is found here by differences of the loss.
    """
    weight = {"l2p": "pull", "dualprompt": "match", "coda": "penalty"}[name]
    run = after(2, settings("finetune", **METHODS[name], **{weight: 3.0}))
    images, labels = mixed(run)[:12], torch.arange(12) % 2

    def loss() -> Tensor:
        run.learner.method.begin_step(images)
        features = run.learner.forward(images)
        return run.learner.method.loss(features, run.learner.heads[1](features), labels)

    for key, value in run.learner.method.trained.items():
        (gradient,) = torch.autograd.grad(loss(), value)
        norm, sides = gradient.norm(), []
        for sign in (1, -2, 1):  # there, back, and where it was
            value.data += sign * 0.02 * gradient / norm
            sides.append(loss().item())
        assert norm.item() == pytest.approx((sides[0] - sides[1]) / 0.04, rel=2e-2) and norm > 1e-3, key
    assert not any(t.requires_grad for t in run.learner.method.frozen.values())


def test_l2ps_keys_come_to_the_queries(settings, monkeypatch):
    run = Run(configure.make(settings("finetune", **METHODS["l2p"], lr=1e-2, epochs=6)), None)
    seen = steps(run, monkeypatch)
    run.learn(run.stream.tasks[0])
    assert seen[-1]["beyond"] < 0.8 * seen[0]["beyond"]


def test_dualprompt_trains_the_tasks_own_expert_and_leaves_the_old(settings, monkeypatch):
    run = Run(configure.make(settings("finetune", **METHODS["dualprompt"], match=0.7)), None)
    seen, ended = steps(run, monkeypatch), []
    for task in run.stream.tasks:
        run.learn(task)
        ended.append(rows(run))
    for step in seen:
        general, expert = step["given"]
        assert torch.equal(expert, step["rows"]["experts"][step["task"]].expand(len(expert), -1, -1, -1))
        assert torch.equal(general, step["rows"]["general"][None].expand(len(expert), -1, -1, -1))
        distance = 1 - sum(cosine(q, step["rows"]["keys"][step["task"]]) for q in step["query"]) / len(expert)
        assert step["beyond"] == pytest.approx(0.7 * distance, rel=1e-3)
    for t in (0, 1):
        for later in ended[t + 1 :]:
            assert all(torch.equal(later[key][: t + 1], ended[t][key]) for key in ("experts", "keys"))
        assert not torch.equal(ended[t + 1]["general"], ended[t]["general"])
    first = [next(step for step in seen if step["task"] == t)["rows"] for t in range(3)]
    for t in range(3):
        for key in ("experts", "keys"):
            assert not torch.equal(ended[t][key][t], first[t][key][t])


def test_coda_trains_new_components_that_begin_orthogonal_to_the_old_ones(settings, monkeypatch):
    run = Run(configure.make(settings("finetune", **METHODS["coda"], lr=2e-2, penalty=0.3)), None)
    seen, ended = steps(run, monkeypatch), []
    for t, task in enumerate(run.stream.tasks):
        run.learn(task)
        ended.append(rows(run))
        mine = [step for step in seen if step["task"] == t]
        for name in "PKA":
            start, end = mine[0]["rows"][name], ended[t][name]
            assert len(start) == len(end) == 4 * (t + 1) and torch.equal(start[: 4 * t], end[: 4 * t])
            assert all(not torch.equal(start[m], end[m]) for m in range(4 * t, 4 * t + 4))
            for j in range(2):
                old, new = start[:, j].flatten(1).double().split([4 * t, 4])
                assert torch.allclose(new @ new.T, torch.eye(4).double(), atol=1e-6)
                assert torch.allclose(new @ old.T, torch.zeros(()).double(), atol=1e-6)
        for step in (mine[0], mine[-1]):
            by_hand = 0.0
            for B in (step["rows"][name][:, j].flatten(1) for name in "PKA" for j in range(2)):
                squares = [
                    (torch.dot(a, b).item() - (m == n)) ** 2 for m, a in enumerate(B) for n, b in enumerate(B)
                ]
                by_hand += sum(squares) / len(squares)
            assert step["beyond"] == pytest.approx(0.3 * by_hand, rel=1e-3, abs=1e-5)
        assert mine[-1]["beyond"] > 1e-4
    assert all(torch.equal(ended[2][name][:4], ended[0][name]) for name in "PKA")


def test_gram_schmidt_and_the_penalty_by_hand():
    old = torch.tensor([[[3.0, 0.0, 0.0]], [[1.0, 2.0, 0.0]]])  # two rows in one layer, not orthogonal
    new = orthonormal(torch.tensor([[[5.0, -7.0, 2.0]]]), old)
    assert torch.allclose(new.abs(), torch.tensor([[[0.0, 0.0, 1.0]]]), atol=1e-7)
    # BBᵀ = [[9, 3], [3, 5]]
    assert overlap(old).item() == pytest.approx((8**2 + 2 * 3**2 + 4**2) / 4)
    B = torch.randn(3, 2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layers = [b.flatten(1) for b in B.transpose(0, 1)]
    by_hand = sum(((b @ b.T - torch.eye(3)) ** 2).sum().item() / 9 for b in layers)
    assert overlap(B.float()).item() == pytest.approx(by_hand, rel=1e-5)


def test_gram_schmidt_goes_on_where_there_are_more_rows_than_directions():
    """Old and new rows, two each, need four directions of three: the new are orthogonal to the newest old."""
    old, generator = torch.tensor([[[1.0, 0.0, 0.0]], [[0.0, 2.0, 0.0]]]), torch.Generator().manual_seed(0)
    new = orthonormal(torch.randn(2, 1, 3, generator=generator), old)[:, 0]
    assert torch.allclose(new @ new.T, torch.eye(2), atol=1e-6)
    assert torch.allclose(new @ old[1, 0], torch.zeros(2), atol=1e-6)
    full = orthonormal(torch.randn(3, 1, 3, generator=generator), old)[:, 0]  # no room for any
    assert torch.allclose(full @ full.T, torch.eye(3), atol=1e-6)


# ── runs ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", METHODS)
def test_a_broken_run_ends_with_the_numbers_of_an_uninterrupted_one(name, settings, tmp_path, monkeypatch):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    torch.manual_seed(1)
    state = torch.get_rng_state()
    expected = numbers(train.run(whole, **settings("finetune", **METHODS[name])))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    config = settings("finetune", **METHODS[name], save_every=0)
    for where in [(0, 3), (1, 0), (1, 4), (2, 6)]:
        broken_run(parts, where, config, monkeypatch)
    assert numbers(train.run(parts, **config)) == expected and same_state(whole, parts)


@pytest.mark.parametrize("name", METHODS)
def test_what_a_run_has_learned_can_be_used_and_extended_but_not_exported(
    name, settings, image_folder, tmp_path
):
    result = train.run(tmp_path / "run", **settings("finetune", **METHODS[name]))
    labels = result.stream["class_names"]
    paths = [p for label in labels for p in sorted((image_folder / "test" / label).iterdir())]
    predictor = predict.load(tmp_path / "run", "cpu")
    answers = predictor.predict(paths, top=1)
    right = [answer[0][0] == path.parent.name for path, answer in zip(paths, answers)]
    assert 100 * sum(right) / len(right) == pytest.approx(result.acc, abs=1e-4)
    with pytest.raises(UsageError, match="has prompts, which a LoRA adapter cannot hold"):
        export_peft(predictor.model, tmp_path / "adapter")
    for split in ("train", "test"):
        shutil.copytree(image_folder / split / "class0", tmp_path / "new" / split / "another")
    extended = janus.extend(tmp_path / "run", tmp_path / "new", tmp_path / "extended")
    assert len(extended.accuracy) == 4 and extended.accuracy[:3] == result.accuracy
    before, now = (checkpoint.load(tmp_path / run / CHECKPOINT)["method"] for run in ("run", "extended"))
    if name == "coda":
        assert len(now["trained"]["P"]) == 4 and torch.equal(now["frozen"]["P"][8:], before["trained"]["P"])
    if name == "dualprompt":
        assert len(now["trained"]["experts"]) == 1
        assert torch.equal(now["frozen"]["experts"][2:], before["trained"]["experts"])


def test_coda_is_extended_again_and_again(settings, image_folder, tmp_path):
    """The toy has 32 directions: two tasks with 12 components each leave too few for the first extension."""
    more = {"components": 24, "tasks": 2, "dataset": str(image_folder)}
    config = settings("finetune", **METHODS["coda"] | more)
    train.run(folder := tmp_path / "run0", **config)
    for n in (1, 2):
        for split in ("train", "test"):
            shutil.copytree(image_folder / split / f"class{n}", tmp_path / f"new{n}" / split / f"another{n}")
            shutil.copytree(image_folder / split / f"class{n + 2}", tmp_path / f"new{n}" / split / f"more{n}")
        said = (
            f"12 new components of task {n + 2} begin orthogonal to the newest 20 of the "
            f"{12 * (n + 1)} old ones only: features have 32 directions"
        )
        with pytest.warns(UserWarning, match=said):
            result = janus.extend(folder, tmp_path / f"new{n}", folder := tmp_path / f"run{n}")
    assert len(result.accuracy) == 4 and result.learning_acc > 0
    P = checkpoint.load(folder / CHECKPOINT)["method"]
    assert len(P["frozen"]["P"]) == 36 and len(P["trained"]["P"]) == 12


def toy_run(out: Path, config: dict[str, Any]) -> None:
    backbones.create = toy_backbone
    train.run(out, **config)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_find_what_one_finds(name, settings, tmp_path):
    """13 images a batch; of the last batch's single image the main process has none."""
    pytest.importorskip("accelerate")
    config = settings("finetune", **METHODS[name], batch_size=13, lr=1e-3, energy=0.99, epochs=1)
    toy_run(tmp_path / "one", config)
    assert two_processes(toy_run, tmp_path / "two", config) == [0, 0]
    same_run(tmp_path / "one", tmp_path / "two")
    one, two = (checkpoint.load(tmp_path / count / CHECKPOINT)["method"] for count in ("one", "two"))
    for part in ("trained", "frozen"):
        assert one[part].keys() == two[part].keys()
        assert all(torch.allclose(t, two[part][key], rtol=0, atol=1e-4) for key, t in one[part].items())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"pool": 5}, "pool is a setting of method=l2p and does nothing with method=janus"),
        ({"method": "coda", "expert": 8}, "expert is a setting of method=dualprompt"),
        ({"method": "l2p", "components": 4}, "components is a setting of method=coda"),
        ({"method": "l2p", "length": 5}, "method.length must be even and at least 2"),
        ({"method": "dualprompt", "general": 0}, "method.general must be even and at least 2"),
        ({"method": "coda", "length": -2}, "method.length must be even"),
        ({"method": "l2p", "top": 0}, "at least 1"),
        ({"method": "coda", "penalty": -1.0}, "method.penalty must not be negative"),
        ({"method": "coda", "gr": "tangent"}, "gr=tangent does not go with method=coda"),
    ],
)
def test_settings_of_another_method_and_values_out_of_range_are_refused_by_name(values, said):
    with pytest.raises(UsageError, match=said):
        configure.make(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "l2p", "pool": 4}, "method.top=5 prompts cannot be chosen from method.pool=4"),
        ({"method": "coda", "components": 2}, "method.components=2 are too few for data.tasks=3"),
        (
            {"method": "coda", "components": 33},
            "method.components=33 gives each of 3 tasks 11: only 32, the width",
        ),
    ],
)
def test_settings_that_do_not_fit_one_another_are_refused_before_training(values, said, settings):
    with pytest.raises(UsageError, match=said):
        Run(configure.make(settings("finetune", **values)), None)
