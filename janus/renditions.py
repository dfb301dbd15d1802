"""Icons that are drawn anew in every epoch: the same masks of ink, in another ink on another ground."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from janus import icons
from janus.images import Images, View


class Icons:
    """The store behind `IconImages`.

    pixels: uint8 (N, 3, 32, 32), one fixed rendition each. masks: uint8 (N, 32, 32). strength: see `icons.render`. draw: what
    the seeds of fresh renditions come from; None: the fixed ones.
    """

    def __init__(self, pixels: Tensor, masks: np.ndarray, strength: float, draw: int | None = None) -> None:
        self.pixels, self.masks, self.strength, self.draw = pixels, masks, strength, draw

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: Tensor) -> Tensor:
        """uint8 (B, 3, 32, 32) of `rows` (B,)."""
        if self.draw is None:
            return self.pixels[rows]
        chosen = rows.numpy()
        return torch.from_numpy(icons.render(self.masks[chosen], icons.fresh_seeds(chosen, self.draw), self.strength))


class IconImages(View):
    """Icons with one fixed rendition each, that `epoch` draws anew."""

    store: Icons
    in_memory = True

    def __init__(self, store: Icons, labels: Tensor, styles: Tensor | None = None) -> None:
        super().__init__(store, torch.arange(len(store)), labels, styles)

    def batch(self, index: Tensor) -> Tensor:
        return self.store.read(self.rows[index.cpu()])  # (B, 3, 32, 32)

    def epoch(self, draw: int) -> IconImages:
        """The same icons in the renditions of this draw. Equal draws give equal renditions."""
        again = self.subset(torch.arange(len(self)))
        again.store = Icons(self.store.pixels, self.store.masks, self.store.strength, draw)
        return again


def in_epoch(images: Images, draw: int) -> Images:
    """A task's training images as one epoch sees them: drawn anew if they are such, else as they are."""
    return images.epoch(draw) if isinstance(images, IconImages) else images
