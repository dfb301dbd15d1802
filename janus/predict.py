"""A finished run, loaded: it names images, and learns new classes months later."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from . import configure
from .config import Config, RuntimeSettings
from .data import datasets
from .data.images import at_side, from_paths, square, to_rgb
from .data.stream import refuse_known
from .errors import JanusError, UsageError, unknown
from .learner import Learner
from .runtime import checkpoint, distributed
from .runtime.device import pick_device
from .runtime.progress import Progress
from .runtime.result import Result
from .train import CHECKPOINT, RESULT, execute, lock

BATCH = 64
NAMED = 10  # of many images that cannot be read, one line names so many
Answer = list[tuple[str, float]]


def load(folder: str | Path, device: str = "auto") -> Predictor:
    """The predictor of the finished run in `folder`.

    Raises:
        JanusError: no finished run there, a damaged checkpoint, or backbone weights that are not there any
            more or have changed.
    """
    state = finished(Path(folder))
    return Predictor(configure.restore(state["config"], folder), state, pick_device(device))


class Predictor:
    """A trained learner that names images.

    class_names: every class the run has met, in the order it met them. score: what the numbers of `predict`
    are, "probability" (softmax over all classes; the heads were trained task by task, so it ranks classes and
    is not calibrated), "cosine" (classifier `ncm`: similarity to the class mean, in [-1, 1]) or "regression"
    (`ranpac`: estimates of 0 and 1). learner: model, heads, prototypes and what else was learned; `model` is
    its adapted backbone. side: every image is brought to it first, as the run's own were.
    """

    def __init__(self, config: Config, state: dict[str, Any], device: torch.device) -> None:
        self.class_names: list[str] = state["stream"]["class_names"]
        self.side: int = state["stream"]["side"]
        self.learner = Learner(config, device)
        self.learner.load_state(state)
        self.learner.model.requires_grad_(False)
        self.config, self.device, self.model = config, device, self.learner.model
        self.score = self.learner.classifier.score

    def scores(self, images: Any) -> Tensor:
        """(N, classes) float32 on the CPU, see `score`; images as in `predict`.

        Raises:
            UsageError: something that is no image. JanusError: images that cannot be read; they are named.
        """
        rows, faults = self._scored(_listed(images))
        if faults:
            raise JanusError(unread(faults, len(rows) + len(faults)))
        return torch.stack(list(rows.values())) if rows else torch.zeros(0, len(self.class_names))

    def predict(self, images: Any, top: int = 5) -> list[Answer]:
        """For each image the `top` classes and their scores, best first; nothing for one that cannot be read.

        Of several images those that cannot be read (no such file, damaged) are named in a warning, and their
        answers are empty lists; one that is given alone is an error.

        Args:
            images: paths, PIL images, or a mixture of both, in a sequence (or one alone); or a uint8 tensor
                (B, 3, H, W).

        Raises:
            UsageError: something that is no image, a wrong `top`. JanusError: the one image cannot be read.
        """
        answers, faults = self.attempt(images, top)
        if faults and isinstance(images, (str, Path, Image.Image)):
            raise JanusError(faults[0])
        if faults:
            warnings.warn(unread(faults, len(answers)), stacklevel=2)
        return answers

    def attempt(self, images: Any, top: int = 5) -> tuple[list[Answer], dict[int, str]]:
        """The answers of `predict`, and, by the image's number, why there is none for an unreadable one."""
        if isinstance(top, bool) or not isinstance(top, Integral) or top < 1:
            raise UsageError(f"top must be a whole number of at least 1, not {top!r}")
        images = _listed(images)
        rows, faults = self._scored(images)
        answers: list[Answer] = [[] for _ in range(len(images))]
        for i, row in rows.items():
            values, index = row.topk(min(int(top), len(self.class_names)))
            answers[i] = [(self.class_names[c], v) for c, v in zip(index.tolist(), values.tolist())]
        return answers, faults

    @torch.no_grad()
    def _scored(self, images: Tensor | list) -> tuple[dict[int, Tensor], dict[int, str]]:
        """The scores (classes,) of each image by its number, and why an image has none."""
        rows, faults = {}, {}
        for start in range(0, len(images), BATCH):
            pixels: dict[int, Tensor] = {}
            for i, image in enumerate(images[start : start + BATCH], start):
                try:
                    pixels[i] = _pixels(image, i, self.side)
                except JanusError as error:
                    faults[i] = str(error)
            if pixels:
                batch = self.learner.plain(torch.stack(list(pixels.values())))  # (b, 3, S, S)
                features = self.learner.forward(batch.to(self.device)).float()
                scores = self.learner.method.scores(features)  # (b, classes)
                if self.score == "probability":
                    scores = scores.softmax(dim=1)
                rows.update(zip(pixels, scores.cpu()))
        return rows, faults


def unread(faults: dict[int, str], count: int) -> str:
    """One line on the images of `count` that have no answer; it names the first ten."""
    what = "the image" if count == 1 else f"{len(faults)} of {count} images"
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return f"{what} cannot be read: {'; '.join(list(faults.values())[:NAMED])}{more}"


def _listed(images: Any) -> Tensor | list:
    """What is given as images as a list of paths and PIL images, or as one tensor.

    UsageError: it is something else.
    """
    if isinstance(images, Tensor):
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise UsageError(f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        return images
    listed = [images] if isinstance(images, (str, Path, Image.Image)) else images
    if not isinstance(listed, Iterable) or isinstance(listed, (bytes, Mapping)):
        listed = [listed]  # refused below
    listed = list(listed)
    for image in listed:
        if not isinstance(image, (str, Path, Image.Image)):
            raise UsageError(
                f"images are paths, PIL images or one uint8 tensor (B, 3, H, W), got {type(image).__name__}"
            )
    return listed


def _pixels(image: str | Path | Image.Image | Tensor, i: int, side: int) -> Tensor:
    """uint8 (3, side, side) of image number `i`, brought to the side as a data set's are.

    JanusError: it cannot be read.
    """
    if isinstance(image, Tensor):
        return at_side(image[None], side)[0]
    if isinstance(image, Image.Image):
        try:
            return torch.from_numpy(square(to_rgb(image), side)).permute(2, 0, 1)
        except Exception as error:  # PIL decodes only now, and raises many types on bad files
            raise JanusError(f"cannot decode image number {i + 1} ({error})") from error
    if not Path(image).is_file():
        raise JanusError(
            f"no image at {str(image)!r}: " + ("that is a folder" if Path(image).is_dir() else "no such file")
        )
    return from_paths([image], side=side).batch(torch.tensor([0]))[0]


def extend(
    folder: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Teach a finished run the classes of another data set, as one more task with the run's own settings.

    The run in `folder` stays as it is; no image of its old classes is needed. What they were protected by
    (bases, second moments, prototypes) is in the checkpoint. Old tasks are evaluated again if their images
    are still where they were, and if not, left out (None in `Result.accuracy`, said in
    `Result.stream["note"]`).

    Args:
        data: an image folder, or any data set of `janus.data.datasets`; a class the run knows already is
            refused.
        out: folder of the extended run, which resumes as `run` does; default: `folder` + "-extended".
        settings: those of `runtime` (`device`, `threads`, `micro_batch`, `save_every`, `root`: where the old
            data is now), and `classifier="ncm"`: from now on classes are scored by their means, which every
            run keeps. Accuracies that were measured before stay those of the old classifier, which the result
            notes. Nothing else can change.

    Raises:
        UsageError: unknown data, a class that is known already, a setting that cannot change.
        JanusError: `folder` holds no finished run, or its checkpoint is damaged.
    """
    return extend_to(folder, data, out, progress, **settings)[0]


def extend_to(
    folder: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[Result, Path]:
    """`extend`, and the folder it wrote to."""
    settings = {{"classifier": "classifier.name"}.get(key, key): value for key, value in settings.items()}
    for key in settings:
        if key != "classifier.name" and key.removeprefix("runtime.") not in RuntimeSettings.model_fields:
            known = [*RuntimeSettings.model_fields, "classifier"]
            raise unknown("setting of an extension (the others stay those of the run):", key, known)
    folder = Path(folder)
    state = finished(folder)
    before = configure.restore(state["config"], folder)
    if before.method.joint:
        raise UsageError(
            f"{folder} is a {before.method.name} run: it learns all classes at once, "
            "so none can be added later"
        )
    if settings.get("classifier.name", "ncm") not in ("ncm", before.classifier.name):
        raise UsageError(
            f"an extension keeps classifier={before.classifier.name} or takes classifier=ncm, which needs "
            f"nothing of the old images; {settings['classifier.name']} does: choose it when a run begins"
        )
    if (old := before.classifier.name) != settings.get("classifier.name", old):
        settings["classifier.replaces"] = old
        state["classifier"] = {}  # class means are the prototypes, which all runs keep
    config = configure.changed(before, {"data.extended": (*before.data.extended, _place(data)), **settings})

    def prepare() -> Path:
        target = _target(folder, config) if out is None else Path(out)
        if target.resolve() == folder.resolve():
            raise UsageError(f"--out {target} is the run that is extended; choose another folder")
        if not (target / CHECKPOINT).exists():
            # before anything is written: data may be such that it cannot be learned
            refuse_known(datasets.load(config.data.extended[-1]), state["stream"]["class_names"])
        with lock(target):
            if not (target / CHECKPOINT).exists() and not (target / RESULT).exists():
                checkpoint.save(target / CHECKPOINT, state | {"config": config.to_dict()})
        return target

    target = distributed.start(config.runtime.device).on_main(prepare)
    return execute(config, target, progress), target


def finished(folder: Path) -> dict[str, Any]:
    """The checkpoint of a finished run."""
    if not folder.is_dir():
        raise UsageError(f"no run at {str(folder)!r}: there is no such folder")
    if not (folder / RESULT).exists():
        started = (folder / CHECKPOINT).exists()
        raise JanusError(
            f"the run in {folder} is not finished; give the same `janus run` command again"
            if started
            else f"there is no run in {folder}: neither {RESULT} nor {CHECKPOINT}"
        )
    state = checkpoint.load(folder / CHECKPOINT)
    if state["stream"].get("side") is None:
        raise JanusError(
            f"the run in {folder} was made by an older janus, which did not keep the size of its images; "
            "run it again, into another folder"
        )
    return state


def _place(data: str | Path) -> str:
    """A path as an absolute one, so that the extended run can be resumed from anywhere; a name as it is."""
    return str(Path(data).expanduser().resolve()) if Path(data).expanduser().exists() else str(data)


def _target(folder: Path, config: Config) -> Path:
    """The first of FOLDER-extended, FOLDER-extended-2, … that is free or holds this very extension."""
    number = 1
    while True:
        target = folder.with_name(f"{folder.resolve().name}-extended" + (f"-{number}" if number > 1 else ""))
        if (target / CHECKPOINT).exists():
            held = checkpoint.load(target / CHECKPOINT)["config"]
            if configure.config_hash(configure.restore(held, target)) == configure.config_hash(config):
                return target
        elif not target.exists() or not any(target.iterdir()):
            return target
        number += 1
