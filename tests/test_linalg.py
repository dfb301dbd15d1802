"""What a guarantee rests on is computed in full float32, whatever the rest of a program is allowed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from helpers.toys import make_tiny_vit

from janus import lora
from janus.linalg import full_float32
from janus.rectify import RectifiedAdam, nullspace_start

CPU = torch.device("cpu")
NEWER = hasattr(torch.backends.cuda.matmul, "fp32_precision")


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("allowed", ["highest", "high", "medium"])
def test_inside_nothing_is_shortened_and_afterwards_all_is_as_it_was(allowed: str) -> None:
    torch.set_float32_matmul_precision(allowed)
    tf32 = torch.backends.cuda.matmul.allow_tf32
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(64, 768, generator=generator), torch.randn(768, 32, generator=generator)
    exact = a.double() @ b.double()
    with pytest.raises(KeyError), torch.autocast("cpu", torch.bfloat16), full_float32(CPU):
        matmul = torch.backends.cuda.matmul
        assert matmul.fp32_precision == "ieee" if NEWER else not matmul.allow_tf32
        assert torch.linalg.norm((a @ b).double() - exact) <= 1e-6 * torch.linalg.norm(exact)
        raise KeyError("an error inside")
    assert torch.get_float32_matmul_precision() == allowed and torch.backends.cuda.matmul.allow_tf32 is tf32


@pytest.mark.skipif(not NEWER, reason="torch ≥ 2.9 has the newer setting")
def test_the_newer_setting_of_torch_is_known_too() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"  # the older one cannot be asked any more
    try:
        with full_float32(CPU):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"


@pytest.mark.parametrize("gr", ["none", "exact", "tangent"])
def test_a_step_and_a_merge_are_the_same_under_autocast_and_where_short_products_are_allowed(gr: str) -> None:
    """On a CPU, `medium` computes float32 products in bf16 if the processor has it; autocast does on all."""

    def learned(allowed: str, autocast: bool) -> list[torch.Tensor]:
        model = lora.adapt(make_tiny_vit(), 3, generator=torch.Generator().manual_seed(0))
        pairs, generator = lora.pairs(model), torch.Generator().manual_seed(1)
        V = torch.linalg.qr(torch.randn(16, 6, generator=generator))[0]
        with torch.no_grad():
            for pair in pairs:
                pair.A.copy_(nullspace_start(pair.A, V))
        optimizer = RectifiedAdam(pairs, 1e-2, gr=gr, basis={pair.input_key: V for pair in pairs})
        images = torch.randn(8, 3, 8, 8, generator=generator)
        for _ in range(3):
            optimizer.zero_grad()
            model(images).square().sum().backward()  # in float32
            torch.set_float32_matmul_precision(allowed)
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                optimizer.step()
            torch.set_float32_matmul_precision("highest")
        if gr != "tangent":
            assert max(torch.linalg.norm(pair.A @ V) / torch.linalg.norm(pair.A) for pair in pairs) < 1e-6
        torch.set_float32_matmul_precision(allowed)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            lora.merge(model)
        torch.set_float32_matmul_precision("highest")
        return [pair.A.detach() for pair in pairs] + [pair.layer.weight for pair in pairs]

    plain = learned("highest", autocast=False)
    for allowed, autocast in (("medium", False), ("highest", True)):
        for mine, others in zip(plain, learned(allowed, autocast), strict=True):
            assert torch.equal(mine, others)
