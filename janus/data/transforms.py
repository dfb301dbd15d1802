"""From uint8 batches to a backbone's input: resize, augment, normalise.

Batched, on any device, driven by a generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError, unknown
from .images import MARGIN, SMALL

KINDS = {
    "icons": "random shift by up to 2 pixels, edges repeated; no flips (arrow-left is not arrow-right)",
    "photo": "RandomResizedCrop and horizontal flip; test: resize and centre crop",
    "none": "resize only",
}


def _cubic(d: Tensor) -> Tensor:
    """Keys' cubic with a = -1/2 at distance d >= 0."""
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return torch.where(d < 1, near, torch.where(d < 2, far, torch.zeros_like(d)))


# weight at a distance in pixels, as in Pillow
KERNELS = {"bilinear": lambda d: (1 - d).clamp(min=0), "bicubic": _cubic}
Transform = Callable[..., Tensor]
ALL = slice(None)


def train_transform(
    kind: str,
    cfg,
    shift: int = 2,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
) -> Transform:
    """`transform(images uint8 (B, 3, H, W), generator) -> float32 (B, 3, S, S)`, normalised by `cfg` last.

    `cfg` has `size` S, `mean`, `std` and `interpolation` (see `janus.models.backbones.PreprocessConfig`).
    `shift` (pixels of the input) belongs to "icons"; `scale` (share of the area), `ratio` (width over height)
    and `flip` (probability) to "photo". Random numbers come from `generator` alone, on the generator's
    device; the same seed gives the same batch. `transform(images, generator, count, part)`: the images are
    `part` of a batch of `count`, and are augmented as they would be in it. UsageError: unknown kind or
    interpolation, an impossible range.
    """
    if kind not in KINDS:
        raise unknown("transform", kind, KINDS)
    if not 0 < scale[0] <= scale[1] <= 1:
        raise UsageError(f"scale must satisfy 0 < low <= high <= 1, not {tuple(scale)}")
    if not 0 < ratio[0] <= ratio[1]:
        raise UsageError(f"ratio must satisfy 0 < low <= high, not {tuple(ratio)}")
    if shift < 0 or not 0 <= flip <= 1:
        raise UsageError(f"shift must be at least 0 and flip a probability, not {shift} and {flip}")
    size, finish = _size(cfg), _finish(cfg)

    def icons(
        images: Tensor, generator: torch.Generator, count: int | None = None, part: slice = ALL
    ) -> Tensor:
        offsets = _draw_integers(len(images) if count is None else count, shift, generator)[part]  # (B, 2)
        return finish(_resize(_shift(images, offsets), size, cfg.interpolation))

    def photo(
        images: Tensor, generator: torch.Generator, count: int | None = None, part: slice = ALL
    ) -> Tensor:
        count = len(images) if count is None else count
        drawn = random_boxes(count, images.shape[-2], images.shape[-1], scale, ratio, generator)
        boxes = drawn[part]  # (B, 4)
        mirror = (torch.rand(count, generator=generator, device=generator.device) < flip)[part]  # (B,)
        return finish(resample(images, boxes, size, cfg.interpolation, mirror))

    def none(
        images: Tensor, generator: torch.Generator | None = None, count: int | None = None, part: slice = ALL
    ) -> Tensor:
        return finish(_resize(images, size, cfg.interpolation))

    return {"icons": icons, "photo": photo, "none": none}[kind]


def test_transform(kind: str, cfg, crop: float | None = None) -> Transform:
    """`transform(images uint8 (B, 3, H, W), generator=None) -> float32 (B, 3, S, S)`: nothing random.

    "photo" keeps the central `crop` of each side before resizing; default 224/256 for photographs
    (Resize(256) + CenterCrop(224)) and 1 for small images (CIFAR's Resize(224)).
    """
    if kind not in KINDS:
        raise unknown("transform", kind, KINDS)
    if crop is not None and not 0 < crop <= 1:
        raise UsageError(f"crop must lie in (0, 1], not {crop}")
    size, finish = _size(cfg), _finish(cfg)

    def transform(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        height, width = images.shape[-2:]
        if kind != "photo" or (crop is None and min(height, width) <= SMALL):
            return finish(_resize(images, size, cfg.interpolation))
        side = round(min(height, width) * (crop or 1 / MARGIN))
        top, left = (height - side) // 2, (width - side) // 2
        return finish(_resize(images[..., top : top + side, left : left + side], size, cfg.interpolation))

    return transform


test_transform.__test__ = False  # its name is the contract's; it is not a test for pytest to collect


def random_boxes(
    count: int,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
    attempts: int = 10,
) -> Tensor:
    """RandomResizedCrop's boxes (count, 4) int64 as top, left, height, width, on the generator's device.

    Area uniform in `scale`, log aspect ratio uniform in `ratio`; the first of ten proposals that fits counts,
    else the largest central box of the nearest allowed ratio (torchvision's rule).
    """
    draw = torch.rand((4, count, attempts), generator=generator, device=generator.device, dtype=torch.float64)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draw[0])  # (count, attempts)
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draw[1])
    w, h = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)
    first = fits.int().argmax(dim=1, keepdim=True)  # (count, 1): the first that fits, 0 if none does
    w, h, y, x = (t.gather(1, first).squeeze(1) for t in (w, h, draw[2], draw[3]))
    top = (y * (height - h + 1)).floor().long()
    left = (x * (width - w + 1)).floor().long()
    fallback_w = min(width, max(1, round(height * ratio[1])))
    fallback_h = min(height, max(1, round(width / ratio[0])))
    fallback = torch.tensor([(height - fallback_h) // 2, (width - fallback_w) // 2, fallback_h, fallback_w])
    boxes = torch.stack([top, left, h, w], dim=1)
    return torch.where(fits.any(dim=1, keepdim=True), boxes, fallback.to(boxes.device))


def resample(
    images: Tensor, boxes: Tensor, size: int, interpolation: str = "bilinear", mirror: Tensor | None = None
) -> Tensor:
    """Each image's own box, resized with antialiasing to size x size.

    uint8 (B, 3, S, S), whole levels as Pillow gives. images uint8 (B, 3, H, W); boxes (B, 4) int64 as top,
    left, height, width; mirror (B,) bool flips left and right. On a CPU one
    `F.interpolate(crop, antialias=True)` an image, whose integer arithmetic (Pillow's: across, then down,
    rounded after each) takes a third of the time of float; on an accelerator the same sums as two batched
    products (`by_matrices`), because a launch an image would cost more than the arithmetic.
    """
    if images.device.type != "cpu":
        return by_matrices(images, boxes, size, interpolation, mirror, levels=True).to(torch.uint8)
    out = torch.empty(len(images), images.shape[1], size, size, dtype=torch.uint8)
    flips = [False] * len(images) if mirror is None else mirror.tolist()
    for i, ((top, left, height, width), flip) in enumerate(zip(boxes.tolist(), flips)):
        # torch's integer kernel cannot tell the memory layout of a crop without extent
        if min(size, height, width) < 2:
            out[i] = by_matrices(images[i : i + 1], boxes[i : i + 1], size, interpolation, levels=True)[0]
        else:
            crop = images[i : i + 1, :, top : top + height, left : left + width]
            out[i] = F.interpolate(crop, size=(size, size), mode=interpolation, antialias=True)[0]
        if flip:
            out[i] = out[i].flip(-1)
    return out


def by_matrices(
    images: Tensor,
    boxes: Tensor,
    size: int,
    interpolation: str = "bilinear",
    mirror: Tensor | None = None,
    levels: bool = False,
) -> Tensor:
    """float32 (B, 3, S, S) in 0…255 for a batch of different crops at once.

    A separable resize is R_y X R_xᵀ, one matrix a direction. With `levels` rounded to whole levels after each
    direction, as in `resample`.
    """
    boxes = boxes.to(images.device)
    rows = resize_matrix(boxes[:, 0], boxes[:, 2], images.shape[-2], size, interpolation)  # (B, S, H)
    columns = resize_matrix(boxes[:, 1], boxes[:, 3], images.shape[-1], size, interpolation)  # (B, S, W)
    if mirror is not None:
        columns = torch.where(mirror.to(images.device)[:, None, None], columns.flip(1), columns)
    if levels:
        across = (images.float() @ columns.transpose(1, 2)[:, None]).round_().clamp_(0, 255)  # (B, 3, H, S)
        return (rows[:, None] @ across).round_().clamp_(0, 255)
    # (B, 1, S, H) (B, 3, H, W) (B, 1, W, S)
    out = rows[:, None] @ images.float() @ columns.transpose(1, 2)[:, None]
    return out.clamp(0, 255)


def resize_matrix(
    start: Tensor, length: Tensor, total: int, size: int, interpolation: str = "bilinear"
) -> Tensor:
    """(B, size, total): row i holds output pixel i's weights of input pixels start … start + length - 1."""
    if interpolation not in KERNELS:
        raise unknown("interpolation", interpolation, KERNELS)
    start, length = start.float()[:, None, None], length.float()[:, None, None]  # (B, 1, 1)
    floats = {"device": start.device, "dtype": torch.float32}
    pixel = torch.arange(total, **floats) + 0.5  # (total,): centres of the input pixels
    step = length / size  # input pixels per output pixel
    centre = start + (torch.arange(size, **floats)[:, None] + 0.5) * step  # (B, size, 1)
    # wider than a pixel only when shrinking: antialiasing
    weight = KERNELS[interpolation]((pixel - centre).abs() / step.clamp(min=1))
    weight = weight * ((pixel > start) & (pixel < start + length))  # nothing from outside the crop
    return weight / weight.sum(dim=2, keepdim=True)


def _resize(images: Tensor, size: int, interpolation: str) -> Tensor:
    """Whole images to size x size (untouched if they have that size), float32 in 0…255."""
    height, width = images.shape[-2:]
    # contiguous: whichever way they lie, the same numbers
    images = images.to(torch.float32, memory_format=torch.contiguous_format)
    if height == width == size:
        return images
    if images.device.type == "cpu":
        return F.interpolate(images, size=(size, size), mode=interpolation, antialias=True).clamp_(0, 255)
    whole = torch.tensor([[0, 0, height, width]])  # one pair of matrices for all
    return by_matrices(images, whole, size, interpolation)


def _draw_integers(count: int, limit: int, generator: torch.Generator) -> Tensor:
    return torch.randint(-limit, limit + 1, (count, 2), generator=generator, device=generator.device)


def _shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Move each image down and right by its own offsets (B, 2) in pixels; the border is repeated."""
    batch, channels, height, width = images.shape
    dy, dx = offsets.to(images.device).unbind(1)
    down, right = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    y = (down - dy[:, None]).clamp(0, height - 1)  # (B, H): where each row comes from
    x = (right - dx[:, None]).clamp(0, width - 1)  # (B, W)
    rows = images.gather(2, y[:, None, :, None].expand(batch, channels, height, width))
    return rows.gather(3, x[:, None, None, :].expand(batch, channels, height, width))


def _size(cfg) -> int:
    if cfg.interpolation not in KERNELS:
        raise unknown("interpolation", cfg.interpolation, KERNELS)
    return int(cfg.size)


def _finish(cfg) -> Callable[[Tensor], Tensor]:
    """0…255 -> (x / 255 - mean) / std, per channel."""
    mean = torch.tensor(cfg.mean, dtype=torch.float32)[:, None, None] * 255  # (3, 1, 1)
    std = torch.tensor(cfg.std, dtype=torch.float32)[:, None, None] * 255

    def finish(images: Tensor) -> Tensor:  # of uint8, or of a float tensor that nobody else holds
        if images.device.type != "cpu":
            return images.float().sub_(mean.to(images.device)).div_(std.to(images.device))
        out = torch.empty(images.shape)
        for source, target in zip(images, out):  # an image at a time: it stays in the processor's cache
            target.copy_(source).sub_(mean).div_(std)
        return out

    return finish
