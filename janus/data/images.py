"""Labelled images: in memory, or decoded from files and encoded bytes when they are asked for.

Every image of a set has one canonical square size, so a batch is one uint8 tensor (B, 3, S, S); whatever a
backbone needs beyond that (its input size, its normalisation, augmentation) happens later, batched, in
`janus.data.transforms`.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from copy import copy
from functools import cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import JanusError
from . import cache as disk

# a shorter side up to this is kept whole (CIFAR 32, Tiny-ImageNet 64, STL-10 96); larger ones are photographs
SMALL = 96
PHOTO_SIDE = 224  # the backbone input size photographs are prepared for when none is given
MARGIN = 256 / 224  # photographs keep the usual border around the centre crop: 256 for a 224-pixel input
CACHE_BYTES = 2 * 1024**3  # decoded images are kept in memory when the whole set fits below this
STRIP = 16  # of an image longer than so many short sides, only the centre is resized: no more is kept
WORKERS = min(16, os.cpu_count() or 1)


class Images(Protocol):
    """N labelled images, held at `side` S.

    `labels` (N,) int64; `styles` (N,) int64 or None, into `ImageSet.styles`. `in_memory`: a batch is there as
    soon as it is asked for.
    """

    labels: Tensor
    styles: Tensor | None
    side: int
    in_memory: bool

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Tensor:
        """uint8 (B, 3, S, S) of the images at `index` (B,) int64; JanusError: one cannot be decoded."""
        ...

    def subset(self, index: Tensor, labels: Tensor | None = None) -> Images:
        """The images at `index` (M,), optionally under new `labels` (M,); pixels are shared, not copied."""
        ...

    def at(self, side: int) -> Images:
        """The same images, held at another side."""
        ...


class View:
    """`rows` (N,) of a shared pixel store with the labels this view gives them; a subset copies no pixels."""

    in_memory = False

    def __init__(self, store, rows: Tensor, labels: Tensor, styles: Tensor | None) -> None:
        if len(rows) != len(labels) or (styles is not None and len(styles) != len(rows)):
            raise ValueError(f"{len(rows)} images but {len(labels)} labels, or styles of another length")
        self.store, self.rows, self.labels, self.styles = store, rows, labels.long(), styles

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, index: Tensor, labels: Tensor | None = None):
        styles = None if self.styles is None else self.styles[index]
        labels = self.labels[index] if labels is None else labels
        view = copy(self)
        View.__init__(view, self.store, self.rows[index], labels, styles)
        return view


class TensorImages(View):
    """Images in memory, at their own or another side: `pixels` uint8 (N, 3, H, W), `labels` (N,)."""

    other: int | None = None

    in_memory = True

    def __init__(self, pixels: Tensor, labels: Tensor, styles: Tensor | None = None) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"pixels must be uint8 (N, 3, H, W), not {pixels.dtype} {tuple(pixels.shape)}")
        super().__init__(pixels, torch.arange(len(pixels)), labels, styles)

    @property
    def side(self) -> int:
        return self.other or self.store.shape[-1]

    def batch(self, index: Tensor) -> Tensor:
        pixels = self.store[self.rows[index.cpu()]]  # (B, 3, H, W)
        return pixels if self.other is None else at_side(pixels, self.other)

    def at(self, side: int) -> TensorImages:
        view = copy(self)
        view.other = side
        return view


class FileImages(View):
    """Images decoded on demand from paths or encoded bytes (see `Encoded`)."""

    def __init__(self, store: Encoded, labels: Tensor, styles: Tensor | None = None) -> None:
        super().__init__(store, torch.arange(len(store)), labels, styles)

    @property
    def side(self) -> int:
        return self.store.side

    def batch(self, index: Tensor) -> Tensor:
        return self.store.read(self.rows[index.cpu()].tolist())  # (B, 3, S, S)

    def at(self, side: int) -> FileImages:
        view = copy(self)
        view.store = self.store.at(side)
        return view


class Encoded:
    """A store of encoded images: `fetch(i)` gives a path or the bytes of image i.

    `name(i)` says what to call it in an error, `hint` what else to do about it. `size` is the input side of
    the backbone the images are meant for (default 224). Where no `side` is given, it follows from that and
    from the images, and is one for all of them: small ones (most have a shorter side <= 96 pixels) take their
    usual size, photographs a shorter side of `size` * 256/224; both are cropped to the central square of that
    side. Decoding runs in a thread pool; decoded images stay in memory when all of them fit in `cache_bytes`,
    and else on disk (`janus.data.cache`) where `identity()` says which images they are. `cache` is "auto",
    "disk" (on disk even if they fit) or "none" (decode at every use what does not fit). Progress is logged
    while the disk cache is made, at the first read.
    """

    def __init__(
        self,
        count: int,
        fetch: Callable[[int], Path | bytes],
        name: Callable[[int], str],
        size: int | None = None,
        cache_bytes: int = CACHE_BYTES,
        hint: str = "",
        identity: Callable[[], str] | None = None,
        cache: str = "auto",
        label: str = "images",
        side: int | None = None,
    ) -> None:
        self.count, self.fetch, self.name, self.hint = count, fetch, name, hint
        self.again = partial(Encoded, count, fetch, name, size, cache_bytes, hint, identity, cache, label)
        self.others: dict[int, Encoded] = {}
        if side is None:
            native = self._typical_side()
            side = native if native <= SMALL else round((size or PHOTO_SIDE) * MARGIN)
        self.side = side
        place = disk.folder() if identity is not None and cache != "none" else None
        fits = count * 3 * self.side**2 <= cache_bytes and not (place and cache == "disk")
        self.disk = None if fits or not place else disk.DiskCache(place, label, identity(), count, self.side)
        self.lock = threading.Lock()
        self.pixels = torch.empty((count, 3, self.side, self.side), dtype=torch.uint8) if fits else None
        self.decoded = torch.zeros(count, dtype=torch.bool)

    def __len__(self) -> int:
        return self.count

    def at(self, side: int) -> Encoded:
        """The store of the same images at another side: one, whoever asks."""
        if side == self.side:
            return self
        if side not in self.others:
            self.others[side] = self.again(side=side)
        return self.others[side]

    def _typical_side(self, probes: int = 15) -> int:
        """Median shorter side of a few readable images spread over the set, from their headers."""
        sides = []
        spread = {round(k * (self.count - 1) / (probes - 1)) for k in range(probes)} if self.count else ()
        for i in sorted(spread):
            with suppress(JanusError), self._opened(i) as image:
                sides.append(min(image.size))
        return sorted(sides)[len(sides) // 2] if sides else PHOTO_SIDE

    @contextmanager
    def _opened(self, i: int) -> Iterator[Image.Image]:
        """Image i, opened; whatever goes wrong while it is open becomes one JanusError with its name."""
        try:
            source = self.fetch(i)
            with Image.open(source if isinstance(source, Path) else io.BytesIO(source)) as image:
                yield image
        except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error … on bad files
            raise JanusError(
                f"cannot decode image {self.name(i)} ({error}); repair or remove it{self.hint}"
            ) from error

    def decode(self, i: int) -> Tensor:
        """uint8 (3, S, S) of image i; JanusError names it if it cannot be decoded."""
        with self._opened(i) as image:
            return torch.from_numpy(square(to_rgb(image), self.side)).permute(2, 0, 1)

    def _on_disk(self) -> disk.DiskCache:
        """The disk cache, ready to read: made now if it is not there."""
        with self.lock:
            self.disk.open(self.decode, _pool())
        return self.disk

    def read(self, rows: Sequence[int]) -> Tensor:
        """uint8 (B, 3, S, S) of the images `rows`, decoded in parallel or taken from memory or disk."""
        if self.disk is not None:
            good = self._on_disk().good(rows)
            images = self.disk.read(rows, _pool(), WORKERS)
            for k, there in enumerate(good):
                if not there:
                    images[k] = self.decode(rows[k])  # names it, unless it is well by now
            return images
        if self.pixels is None:
            decoded = list(_pool().map(self.decode, rows))
            none = torch.empty((0, 3, self.side, self.side), dtype=torch.uint8)
            return torch.stack(decoded) if decoded else none
        missing = [i for i in dict.fromkeys(rows) if not self.decoded[i]]
        for i, image in zip(missing, _pool().map(self.decode, missing)):
            self.pixels[i] = image
            self.decoded[i] = True
        return self.pixels[torch.tensor(rows, dtype=torch.long)]

    def readable(self) -> tuple[Tensor, list[str]]:
        """Decode everything once (and keep it): the rows (M,) that can be decoded, the names of the rest."""

        def works(i: int) -> bool:
            try:
                image = self.decode(i)
            except JanusError:
                return False
            if self.pixels is not None:
                self.pixels[i] = image
                self.decoded[i] = True
            return True

        if self.disk is not None:
            there = self._on_disk().good(range(self.count))
            found = [there[i] or works(i) for i in range(self.count)]  # some may be well by now
            good = torch.tensor(found, dtype=torch.bool)
        else:
            good = torch.tensor(list(_pool().map(works, range(self.count))), dtype=torch.bool)
        return good.nonzero().flatten(), [self.name(i) for i in (~good).nonzero().flatten().tolist()]


def from_paths(
    paths: Sequence[str | Path],
    labels: Tensor | None = None,
    size: int | None = None,
    cache_bytes: int = CACHE_BYTES,
    side: int | None = None,
) -> FileImages:
    """Images from files, see `Encoded`; without `labels` every label is 0 (images to predict)."""
    paths = [Path(p) for p in paths]
    store = Encoded(len(paths), paths.__getitem__, lambda i: str(paths[i]), size, cache_bytes, side=side)
    return FileImages(store, torch.zeros(len(paths), dtype=torch.long) if labels is None else labels)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(WORKERS, thread_name_prefix="decode")


# a forked process (a notebook's launcher makes them) has none of its parent's threads
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright RGB: EXIF orientation applied, transparency laid over white.

    16-bit and float grey is scaled to 8 bits.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        grey = np.asarray(image, dtype=np.float64)
        if image.mode == "F":
            white = 1.0 if grey.max(initial=0.0) <= 1 else 255.0
        else:  # "I;16…" is 16-bit by name; Pillow also opens 16-bit files as 32-bit "I"
            white = 65535.0 if ";16" in image.mode or grey.max(initial=0.0) > 255 else 255.0
        return Image.fromarray(np.clip(np.rint(grey * (255 / white)), 0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, side: int) -> np.ndarray:
    """(side, side, 3): shorter side resized to `side` (antialiased), then the centre."""
    image = _middle(image)
    width, height = image.size
    scale = side / min(width, height)
    width, height = max(side, round(width * scale)), max(side, round(height * scale))
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    return np.array(image.crop((left, top, left + side, top + side)))


def _middle(image: Image.Image) -> Image.Image:
    """The image, or of a strip its middle: 2 x 6000 pixels, all resized to 256, would be 768 000 wide."""
    short, long = sorted(image.size)
    cut = (long - STRIP * short) // 2
    if cut <= 0:
        return image
    width, height = image.size
    return image.crop((cut, 0, width - cut, height) if width == long else (0, cut, width, height - cut))


def at_side(images: Tensor, side: int) -> Tensor:
    """Images uint8 (B, 3, H, W) as a data set holds them: (B, 3, side, side).

    The same ones if they have that size.
    """
    if images.shape[-2:] == (side, side) or not len(images):
        return images.new_empty((0, 3, side, side)) if not len(images) else images
    pictures = (Image.fromarray(image.permute(1, 2, 0).cpu().numpy()) for image in images)
    resized = [torch.from_numpy(square(picture, side)).permute(2, 0, 1) for picture in pictures]
    return torch.stack(resized).to(images.device)
