"""What a finished run is for: naming images, and learning new classes months later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from . import checkpoint, configure, datasets, parallel
from .config import Config, RuntimeSettings
from .device import pick_device
from .errors import JanusError, UsageError, unknown
from .images import MARGIN, SMALL, from_paths, square, to_rgb
from .learner import Learner
from .result import Result
from .train import CHECKPOINT, RESULT, Progress, execute, lock

BATCH = 64


def load(folder: str | Path, device: str = "auto") -> Predictor:
    """The predictor of the finished run in `folder`.

    Raises:
        JanusError: no finished run there, a damaged checkpoint, or backbone weights that are not there any more or have changed.
    """
    state = finished(Path(folder))
    return Predictor(configure.restore(state["config"], folder), state, pick_device(device))


class Predictor:
    """A trained learner that names images.

    class_names: every class the run has met, in the order it met them. score: what the numbers of `predict` are,
    "probability" (softmax over all classes; the heads were trained task by task, so it ranks classes and is not calibrated),
    "cosine" (classifier `ncm`: similarity to the class mean, in [-1, 1]) or "regression" (`ranpac`: estimates of 0 and 1).
    learner: model, heads, prototypes and what else was learned; `model` is its adapted backbone.
    """

    def __init__(self, config: Config, state: dict[str, Any], device: torch.device) -> None:
        self.class_names: list[str] = state["stream"]["class_names"]
        self.learner = Learner(config, device)
        self.learner.load_state(state)
        self.learner.model.requires_grad_(False)
        self.config, self.device, self.model = config, device, self.learner.model
        self.score = self.learner.classifier.score

    @torch.no_grad()
    def scores(self, images: Any) -> Tensor:
        """(N, classes) float32 on the CPU, see `score`; images as in `predict`."""
        rows = []
        for batch in self._batches(images):  # (b, 3, S, S), ready for the backbone
            features = self.learner.forward(batch.to(self.device)).float()  # (b, d)
            scores = self.learner.method.scores(features)
            rows.append((scores.softmax(dim=1) if self.score == "probability" else scores).cpu())
        return torch.cat(rows) if rows else torch.zeros(0, len(self.class_names))

    def predict(self, images: Any, top: int = 5) -> list[list[tuple[str, float]]]:
        """For each image the `top` classes and their scores, best first.

        Args:
            images: paths, PIL images, or a mixture of both, in a sequence (or one alone); or a uint8 tensor (B, 3, H, W).

        Raises:
            UsageError: a path that does not exist, a tensor of another kind. JanusError: an image that cannot be decoded.
        """
        values, index = self.scores(images).topk(min(top, len(self.class_names)), dim=1)
        return [
            [(self.class_names[i], v) for i, v in zip(row, scores)]
            for row, scores in zip(index.tolist(), values.tolist())
        ]

    def _batches(self, images: Any) -> Iterator[Tensor]:
        if isinstance(images, Tensor):
            if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
                raise UsageError(f"images must be uint8 (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
            for part in images.split(BATCH):
                yield self.learner.plain(part)
            return
        images = [images] if isinstance(images, (str, Path, Image.Image)) else list(images)
        for start in range(0, len(images), BATCH):  # each at its own size: an answer never depends on the others
            yield torch.cat([self.learner.plain(self._pixels(image)) for image in images[start : start + BATCH]])

    def _pixels(self, image: str | Path | Image.Image) -> Tensor:
        """uint8 (1, 3, S, S), sized as the images of a data set are."""
        size = self.learner.preprocess.size
        if isinstance(image, Image.Image):
            image = to_rgb(image)
            side = min(image.size) if min(image.size) <= SMALL else round(size * MARGIN)
            return torch.from_numpy(square(image, side)).permute(2, 0, 1)[None]
        if not isinstance(image, (str, Path)):
            raise UsageError(f"images are paths, PIL images or one uint8 tensor (B, 3, H, W), got {type(image).__name__}")
        if not Path(image).is_file():
            raise UsageError(f"no image at {str(image)!r}: " + ("that is a folder" if Path(image).is_dir() else "no such file"))
        return from_paths([image], size=size).batch(torch.tensor([0]))


def extend(folder: str | Path, data: str | Path, out: str | Path | None = None, *, progress: Progress | None = None,
           **settings: Any) -> Result:
    """Teach a finished run the classes of another data set, as one more task with the run's own settings.

    The run in `folder` stays as it is; no image of its old classes is needed. What they were protected by (bases, second
    moments, prototypes) is in the checkpoint. Old tasks are evaluated again if their images are still where they were, and
    left out (None in `Result.accuracy`, said in `Result.stream["note"]`) if not.

    Args:
        data: an image folder, or any data set of `janus.datasets`; a class the run knows already is refused.
        out: folder of the extended run, which resumes as `run` does; default: `folder` + "-extended".
        settings: those of `runtime` (`device`, `threads`, `micro_batch`, `save_every`, `root`: where the old data is now), and
            `classifier="ncm"`: from now on classes are scored by their means, which every run keeps. Accuracies that were
            measured before stay those of the old classifier, which the result notes. Nothing else can change.

    Raises:
        UsageError: unknown data, a class that is known already, a setting that cannot change. JanusError: `folder` holds
        no finished run, or its checkpoint is damaged.
    """
    return extend_to(folder, data, out, progress, **settings)[0]


def extend_to(folder: str | Path, data: str | Path, out: str | Path | None = None, progress: Progress | None = None,
              **settings: Any) -> tuple[Result, Path]:
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
        raise UsageError(f"{folder} is a {before.method.name} run: it learns all classes at once, so none can be added later")
    if settings.get("classifier.name", "ncm") not in ("ncm", before.classifier.name):
        raise UsageError(f"an extension keeps classifier={before.classifier.name} or takes classifier=ncm, which needs nothing of "
                         f"the old images; {settings['classifier.name']} does: choose it when a run begins")
    if (old := before.classifier.name) != settings.get("classifier.name", old):
        settings["classifier.replaces"], state["classifier"] = old, {}  # class means are the prototypes, which all runs keep
    config = configure.changed(before, {"data.extended": (*before.data.extended, _place(data)), **settings})

    def prepare() -> Path:
        target = _target(folder, config) if out is None else Path(out)
        if target.resolve() == folder.resolve():
            raise UsageError(f"--out {target} is the run that is extended; choose another folder")
        if not (target / CHECKPOINT).exists():
            _check_new(config, state)  # nothing is written for data that cannot be learned
        with lock(target):
            if not (target / CHECKPOINT).exists() and not (target / RESULT).exists():
                checkpoint.save(target / CHECKPOINT, state | {"config": config.to_dict()})
        return target

    target = parallel.start(config.runtime.device).on_main(prepare)
    return execute(config, target, progress), target


def finished(folder: Path) -> dict[str, Any]:
    """The checkpoint of a finished run."""
    if not folder.is_dir():
        raise UsageError(f"no run at {str(folder)!r}: there is no such folder")
    if not (folder / RESULT).exists():
        started = (folder / CHECKPOINT).exists()
        raise JanusError(f"the run in {folder} is not finished; give the same `janus run` command again" if started
                         else f"there is no run in {folder}: neither {RESULT} nor {CHECKPOINT}")
    return checkpoint.load(folder / CHECKPOINT)


def _place(data: str | Path) -> str:
    """A path as an absolute one, so that the extended run can be taken up from anywhere; a name as it is."""
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


def _check_new(config: Config, state: dict[str, Any]) -> None:
    """Refuse a class that is known already."""
    new = datasets.load(config.data.extended[-1])
    for name in new.classes:
        if name in state["stream"]["class_names"]:
            raise UsageError(f"class {name!r} of {new.name} is already known to this run; rename it, or leave it out of the "
                             "new data")
