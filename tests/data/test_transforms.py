"""Batched transforms against torch's own antialiased resize, image by image, and the rules they follow."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers.toys import make_tiny_vit
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from janus import configure, learner
from janus.configure import config_hash
from janus.data import transforms
from janus.data.transforms import by_matrices, random_boxes, resample, train_transform
from janus.errors import UsageError
from janus.models import backbones
from janus.models.backbones import PreprocessConfig, normalised

plain = transforms.test_transform


def config(
    size: int = 32, interpolation: str = "bilinear", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)
) -> SimpleNamespace:
    return SimpleNamespace(size=size, mean=mean, std=std, interpolation=interpolation)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=seeded(seed))


@settings(max_examples=25, deadline=None)
@given(
    st.data(),
    st.integers(2, 40),
    st.integers(2, 40),
    st.integers(1, 48),
    st.sampled_from(["bilinear", "bicubic"]),
)
def test_resample_equals_torchs_antialiased_resize_of_each_crop(data, height, width, size, interpolation):
    images = pixels(3, height, width)
    boxes = []
    for _ in range(3):
        h, w = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
        boxes.append([data.draw(st.integers(0, height - h)), data.draw(st.integers(0, width - w)), h, w])
    # what an accelerator does, and what a CPU does
    whole = by_matrices(images, torch.tensor(boxes), size, interpolation, levels=True)
    assert (resample(images, torch.tensor(boxes), size, interpolation) - whole).abs().max() <= 2
    exact = by_matrices(images, torch.tensor(boxes), size, interpolation)
    for i, (top, left, h, w) in enumerate(boxes):
        crop = images[i : i + 1, :, top : top + h, left : left + w].float()
        scaled = F.interpolate(crop, size=(size, size), mode=interpolation, antialias=True)
        reference = scaled.clamp(0, 255)[0]
        assert (exact[i] - reference).abs().max() < 0.01
        if interpolation == "bilinear":  # bicubic rings, and is cut off after each direction
            assert (whole[i] - reference).abs().max() <= 1.01


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resample_gives_the_levels_that_pillow_gives(interpolation):
    images, (top, left, h, w) = pixels(1, 60, 60), (5, 10, 40, 30)
    for size in (17, 50):
        ours = resample(images, torch.tensor([[top, left, h, w]]), size, interpolation)[0].permute(1, 2, 0)
        crop = Image.fromarray(images[0].permute(1, 2, 0).numpy()).crop((left, top, left + w, top + h))
        pillow = crop.resize((size, size), getattr(Image.Resampling, interpolation.upper()))
        error = ours.int() - torch.from_numpy(np.array(pillow)).int()
        assert ours.dtype == torch.uint8 and error.abs().max() <= 1


@pytest.mark.parametrize("resample", [resample, by_matrices])
def test_resample_mirrors_only_the_images_it_is_told_to(resample):
    images, boxes = pixels(2, 9, 9), torch.tensor([[1, 2, 5, 6], [1, 2, 5, 6]])
    straight = resample(images, boxes, 7).float()
    mixed = resample(images, boxes, 7, mirror=torch.tensor([False, True])).float()
    assert torch.equal(mixed[0], straight[0])
    assert torch.allclose(mixed[1], straight[1].flip(-1), atol=1e-3)
    assert not torch.allclose(mixed[1], straight[1], atol=1.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(0, 2**31))
def test_random_boxes_lie_inside_and_keep_area_and_ratio(height, width, seed):
    boxes = random_boxes(200, height, width, (0.2, 0.6), (3 / 4, 4 / 3), seeded(seed))
    top, left, h, w = boxes.unbind(1)
    assert (top >= 0).all() and (left >= 0).all() and (h >= 1).all() and (w >= 1).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    # whole pixels: each side is off by at most half a pixel
    assert ((w + 0.5) / (h - 0.5) >= 3 / 4).all() and ((w - 0.5) / (h + 0.5) <= 4 / 3).all()
    # no proposal can be too large: no fallback
    fits_always = 0.6 * height * width * 4 / 3 <= min(height, width) ** 2
    if fits_always:
        assert ((w + 0.5) * (h + 0.5) >= 0.2 * height * width).all()
        assert ((w - 0.5) * (h - 0.5) <= 0.6 * height * width).all()


def test_random_boxes_reach_every_corner_and_the_whole_range_of_areas():
    boxes = random_boxes(4000, 64, 64, (0.08, 1.0), (3 / 4, 4 / 3), seeded(0))
    top, left, h, w = boxes.unbind(1)
    share = (h * w).float() / 64**2
    assert share.min() < 0.1 and share.max() > 0.95
    assert (top == 0).any() and (left == 0).any() and (top + h == 64).any() and (left + w == 64).any()
    assert 0.45 < share.mean() < 0.55  # uniform in area; the largest ones that don't fit are drawn again


def test_random_boxes_fall_back_to_the_centre_when_nothing_fits():
    # the whole area at ratio 2 never fits a square
    boxes = random_boxes(5, 40, 40, (1.0, 1.0), (2.0, 2.0), seeded(0))
    assert boxes.tolist() == [[10, 0, 20, 40]] * 5
    boxes = random_boxes(2, 10, 100, (1.0, 1.0), (1.0, 1.0), seeded(0))
    assert boxes.tolist() == [[0, 45, 10, 10]] * 2


def test_icons_shift_by_whole_pixels_with_repeated_edges_and_never_flip():
    images = pixels(400, 8, 8)
    out = train_transform("icons", config(8))(images, seeded(3)) * 255
    padded = F.pad(images.float(), (2, 2, 2, 2), mode="replicate")
    shifts = set()
    for i in range(len(images)):
        windows = {
            (dy, dx): padded[i, :, 2 - dy : 10 - dy, 2 - dx : 10 - dx]
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        }
        matches = [s for s, window in windows.items() if torch.allclose(out[i], window, atol=1e-3)]
        assert len(matches) == 1  # exactly one shift explains it
        shifts.add(matches[0])
    assert len(shifts) == 25  # each of the 5 x 5 shifts happens


def test_icons_without_shift_is_the_test_transform():
    images = pixels(4, 32, 32)
    unshifted = train_transform("icons", config(), shift=0)
    assert torch.equal(unshifted(images, seeded(0)), plain("icons", config())(images))


@pytest.mark.parametrize("kind", ["icons", "photo"])
def test_only_the_generator_drives_the_augmentation(kind):
    images, transform = pixels(16, 40, 40), train_transform(kind, config())
    before = torch.get_rng_state()
    first = transform(images, seeded(5))
    assert torch.equal(torch.get_rng_state(), before)  # the global generator is not touched
    torch.manual_seed(99)
    assert torch.equal(transform(images, seeded(5)), first)
    assert not torch.equal(transform(images, seeded(6)), first)


def test_the_generator_moves_on_between_batches():
    images, transform, generator = pixels(8, 32, 32), train_transform("icons", config()), seeded(0)
    assert not torch.equal(transform(images, generator), transform(images, generator))


def test_photo_flips_about_half_and_not_at_all_when_told_so():
    images = torch.zeros(400, 3, 16, 16, dtype=torch.uint8)
    images[..., 8:] = 200  # bright right half

    def mirrored(flip):
        transform = train_transform("photo", config(16), scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=flip)
        out = transform(images, seeded(1))
        return (out[..., :8].mean((1, 2, 3)) > out[..., 8:].mean((1, 2, 3))).float().mean()

    assert mirrored(0.0) == 0 and mirrored(1.0) == 1 and 0.4 < mirrored(0.5) < 0.6


def test_normalisation_comes_last_and_per_channel():
    images = torch.full((2, 3, 32, 32), 51, dtype=torch.uint8)
    cfg = config(mean=(0.1, 0.2, 0.5), std=(0.5, 0.25, 0.1))
    wanted = torch.tensor([(0.2 - 0.1) / 0.5, 0.0, (0.2 - 0.5) / 0.1])[:, None, None].expand(2, 3, 32, 32)
    for kind in transforms.KINDS:
        assert torch.allclose(plain(kind, cfg)(images), wanted, atol=1e-5)
        assert torch.allclose(train_transform(kind, cfg)(images, seeded(0)), wanted, atol=1e-4)


@pytest.mark.parametrize("kind", ["icons", "photo", "none"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_how_pixels_lie_in_memory_changes_no_bit(kind, interpolation):
    images, cfg = pixels(4, 120, 120), config(48, interpolation)
    # colours last, as the disk cache has them
    other = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not other.is_contiguous()
    for make in (lambda x: train_transform(kind, cfg)(x, seeded(0)), plain(kind, cfg)):
        assert torch.equal(make(images), make(other)) and make(other).is_contiguous()


def test_without_normalisation_a_backbone_sees_values_from_0_to_1():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None, None].expand(3, 3, 32, 32)
    checkpoint = PreprocessConfig(32, (0.5,) * 3, (0.5,) * 3, "bilinear")
    seen = {}
    for how in ("auto", "checkpoint", "none"):
        cfg = normalised(checkpoint, how)
        for out in (plain("photo", cfg)(images), train_transform("photo", cfg)(images, seeded(0))):
            assert torch.allclose(out, out[:, :1, :1, :1].expand_as(out), atol=1e-5)
            seen.setdefault(how, out[:, 0, 0, 0])
    assert torch.allclose(seen["none"], torch.tensor([0.0, 0.2, 1.0]), atol=1e-6)
    assert torch.allclose(seen["checkpoint"], torch.tensor([-1.0, -0.6, 1.0]), atol=1e-6)
    assert torch.equal(seen["auto"], seen["checkpoint"]) and normalised(checkpoint, "auto") is checkpoint


def test_the_run_prepares_its_inputs_as_its_config_says(monkeypatch):
    checkpoint = PreprocessConfig(8, (0.5,) * 3, (0.5,) * 3, "bilinear")
    monkeypatch.setattr(backbones, "create", lambda *_: (make_tiny_vit(), checkpoint))
    found = {
        how: learner.build_model(configure.make(normalise=how), seeded(0), torch.device("cpu"))[1]
        for how in ("auto", "checkpoint", "none")
    }
    assert found["auto"] == found["checkpoint"] == checkpoint
    assert found["none"] == PreprocessConfig(8, (0.0,) * 3, (1.0,) * 3, "bilinear")


def test_where_pixels_are_kept_and_what_holds_anyway_are_not_hashed():
    usual = config_hash(configure.make())
    assert config_hash(configure.make(normalise="none")) != usual
    assert config_hash(configure.make(data={"cache": "disk"})) == usual
    assert config_hash(configure.make(data={"strength": 0.5})) != usual
    assert config_hash(configure.make(data={"strength": 1, "vocabulary": False})) == usual
    assert config_hash(configure.make(data={"vocabulary": True})) != usual
    with pytest.raises(UsageError, match="did you mean 'none'"):
        configure.make(normalise="non")


def test_photo_test_transform_is_the_central_224_of_256():
    images = pixels(2, 256, 256)
    out = plain("photo", config(224))(images) * 255
    assert torch.allclose(out, images[:, :, 16:240, 16:240].float(), atol=0.01)


def test_photo_test_transform_keeps_small_images_whole_unless_told():
    images = pixels(2, 32, 32)
    whole = F.interpolate(images.float(), size=(48, 48), mode="bilinear", antialias=True)
    assert torch.allclose(plain("photo", config(48))(images) * 255, whole, atol=0.01)
    cropped = F.interpolate(images[:, :, 8:24, 8:24].float(), size=(48, 48), mode="bilinear", antialias=True)
    assert torch.allclose(plain("photo", config(48), crop=0.5)(images) * 255, cropped, atol=0.01)


@pytest.mark.parametrize("kind", ["icons", "photo", "none"])
def test_shapes_and_types_for_a_backbone_of_another_size(kind):
    images = pixels(3, 28, 28)
    for out in (train_transform(kind, config(20))(images, seeded(0)), plain(kind, config(20))(images)):
        assert out.shape == (3, 3, 20, 20) and out.dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["icons", "photo"])
def test_a_gpu_batch_sees_the_same_augmentation(kind):
    images, transform = pixels(8, 40, 40), train_transform(kind, config())
    on_gpu = transform(images.cuda(), seeded(2))
    assert on_gpu.is_cuda
    most = 2.01 / 255 if kind == "photo" else 1e-4  # levels
    assert (on_gpu.cpu() - transform(images, seeded(2))).abs().max() < most


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: train_transform("foto", config()), "did you mean 'photo'"),
        (lambda: plain("icon", config()), "did you mean 'icons'"),
        (lambda: train_transform("photo", config(), scale=(0.0, 1.0)), "scale"),
        (lambda: train_transform("photo", config(), scale=(0.9, 0.5)), "scale"),
        (lambda: train_transform("photo", config(), ratio=(2.0, 1.0)), "ratio"),
        (lambda: train_transform("icons", config(), shift=-1), "shift"),
        (lambda: train_transform("photo", config(), flip=1.5), "flip"),
        (lambda: plain("photo", config(), crop=0.0), "crop"),
        (lambda: train_transform("none", config(interpolation="lanczos")), "interpolation 'lanczos'"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(call, said):
    with pytest.raises(UsageError) as caught:
        call()
    assert said in str(caught.value) and "\n" not in str(caught.value)
