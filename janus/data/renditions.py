"""Icons-R as an image set, whose icons can be drawn anew in every epoch.

The same masks of ink, other inks and grounds.
"""

from __future__ import annotations

from copy import copy

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError
from . import icons
from .images import Images, TensorImages, at_side
from .imageset import ImageSet


class IconImages(TensorImages):
    """Icons with one fixed rendition each, which `epoch` draws anew.

    pixels: uint8 (N, 3, 32, 32), the fixed ones. masks: uint8 (N, 32, 32). strength: see `icons.render`.
    """

    draw: int | None = None  # what the seeds of fresh renditions come from; None: the fixed ones

    def __init__(
        self, pixels: Tensor, labels: Tensor, styles: Tensor | None, masks: np.ndarray, strength: float
    ) -> None:
        super().__init__(pixels, labels, styles)
        self.masks, self.strength = masks, strength

    def epoch(self, draw: int) -> IconImages:
        """The same icons in the renditions of this draw. Equal draws give equal renditions."""
        view = copy(self)
        view.draw = draw
        return view

    def batch(self, index: Tensor) -> Tensor:
        if self.draw is None:
            return super().batch(index)
        rows = self.rows[index.cpu()].numpy()
        seeds = icons.fresh_seeds(rows, self.draw)
        pixels = torch.from_numpy(icons.render(self.masks[rows], seeds, self.strength))
        return pixels if self.other is None else at_side(pixels, self.other)  # (B, 3, S, S)


def in_epoch(images: Images, draw: int) -> Images:
    """A task's training images as one epoch sees them: drawn anew if they are such, else as they are."""
    return images.epoch(draw) if isinstance(images, IconImages) else images


def icons_r(
    name: str,
    root: object,
    strength: float = icons.DEFAULT_STRENGTH,
    vocabulary: bool = False,
    renditions: str = "fixed",
    copies: int = 1,
    **common: object,
) -> ImageSet:
    """The embedded benchmark, see `registry.IconsOptions`."""
    if root is not None:
        raise UsageError("icons-r is embedded in the package and takes no root")
    classes, parts = icons.load(strength, vocabulary=vocabulary, copies=copies)
    styles = sorted({s for _, _, names_ in parts.values() for s in names_})
    number = {s: i for i, s in enumerate(styles)}
    split: dict[str, Images] = {}
    for part, (pixels, labels, style) in parts.items():
        style_of = torch.tensor([number[s] for s in style], dtype=torch.long)
        about = torch.as_tensor(pixels), torch.as_tensor(labels), style_of
        if part == "train" and renditions == "fresh":
            split[part] = IconImages(*about, icons.training_masks(vocabulary), strength)
        else:
            split[part] = TensorImages(*about)
    return ImageSet(name, list(classes), **split, styles=styles, transform="icons")
