"""What every method has: hooks around a task, a loss, an optimiser for the factors, and scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import classifiers
from ..history import History, SecondMoments
from ..lora import Pair
from ..runtime.distributed import Processes

if TYPE_CHECKING:
    from ..config import Config
    from ..data.images import Images
    from ..data.stream import Task


BASIS = "basis, at most"


@dataclass(frozen=True)
class Sizes:
    """What the size of a method's state follows from, whatever the numbers in it.

    matrices: (input_key, m, n) of each adapted matrix. attentions: how many the backbone has. width: d of a
    feature. classes: of all `tasks` together, of which the last has `classes // tasks`.
    """

    config: Config
    matrices: tuple[tuple[str, int, int], ...]
    attentions: int
    width: int
    tasks: int
    classes: int

    @property
    def factors(self) -> int:
        """Numbers in A (r, n) and B (m, r) of all matrices."""
        return sum(self.config.backbone.rank * (m + n) for _, m, n in self.matrices)

    @property
    def dense(self) -> int:
        """Numbers in the adapted matrices themselves."""
        return sum(m * n for _, m, n in self.matrices)

    @property
    def basis(self) -> int:
        """The most that the bases V (n, k) of all layer inputs can hold: 2r directions are left free."""
        widths = {key: n for key, _, n in self.matrices}
        return sum(n * max(0, n - 2 * self.config.backbone.rank) for n in widths.values())


class LearnerProtocol(classifiers.LearnerProtocol, Protocol):
    """What a method sees of the learner (`janus.learner.Learner`) it is a part of."""

    pairs: list[Pair]
    history: History
    processes: Processes
    start_factors: list[tuple[Tensor, Tensor]]
    classifier: classifiers.Linear

    def generator(self, *purpose: Any) -> torch.Generator: ...
    def energy(self, t: int) -> float: ...
    def plain(self, images: Tensor) -> Tensor: ...
    def forward(self, x: Tensor) -> Tensor: ...
    def features(self, images: Images) -> Tensor: ...
    def factors(self) -> list[tuple[Tensor, Tensor]]: ...


class Method:
    """Heads only: the hooks a method may override. `learner` gives it the model, heads, history and config.

    name: how it is called, also by its settings, a subclass of `janus.settings.methods.MethodSettings` of the
    same name; an instance has them as `settings`. paper: where it comes from.
    local_heads: whether a head is trained on the classes of its own task alone.
    trains_features: whether an image's features ever change; where they do not, a test image goes through the
    backbone once.

    What `janus methods` tells of it: family: janus, lora, classic, prototype, prompt or bound. passes: when
    it takes the task's images through the backbone besides training and evaluation ("before", "with each
    training pass", "with each pass" or "after", also with ", from task 2") → how often, or the setting that
    says for how many images. inference: what a prediction costs beyond the plain backbone and linear heads.
    `stored` and `trainable`: its sizes.
    """

    name: ClassVar[str] = ""
    summary: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    trains_factors: ClassVar[bool] = False
    trains_heads: ClassVar[bool] = True
    local_heads: ClassVar[bool] = True
    trains_features: ClassVar[bool] = True
    family: ClassVar[str] = ""
    passes: ClassVar[dict[str, int | str]] = {}
    inference: ClassVar[str] = "nothing"

    def __init__(self, learner: LearnerProtocol) -> None:
        self.learner = learner
        self.settings: Any = learner.config.method

    def begin_task(self, task: Task) -> None:
        """Before the first batch of a task (not repeated on resume); the task's head is not there yet."""

    def factor_optimizer(self, task: Task) -> torch.optim.Optimizer | None:
        """The optimiser of the LoRA factors for this task; fresh each task."""
        return None

    def begin_step(self, images: Tensor) -> None:
        """Before the forward pass of a training step.

        images: this process's part of the batch, augmented, (b, 3, S, S); b may be 0.
        """

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Around a second forward pass of a slice of the batch, in the backward pass (`runtime.micro_batch`).

        A method whose forward pass is another one between `begin_step` and `loss` makes it that one again.
        """
        yield

    def loss(self, features: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        """Local cross-entropy: logits over the current task's classes (b, c), labels (b,) in 0…c−1.

        features: (b, d). A mean over the batch. With several processes, over this one's part of it (b may be
        0); what a method sums over images besides is summed by `learner.processes.sum`.
        """
        return F.cross_entropy(logits.float(), labels)

    def end_task(self, task: Task) -> None:
        """After the last batch of a task; the history and the prototypes of the task are not yet updated."""

    def basis(self) -> dict[str, Tensor]:
        """The input subspaces (input_key → V) this method protects; the violation is measured on them."""
        return {}

    @contextmanager
    def extra_pass(self, images: Images) -> Iterator[SecondMoments]:
        """The layer inputs' second moments over `images` (test transform), from their own forward pass."""
        moments = SecondMoments(self.learner.pairs)
        moments.active = True
        try:
            self.learner.features(images)
        finally:
            moments.remove()
        with moments.over(self.learner.processes):
            yield moments

    def state_dict(self) -> dict[str, Any]:
        """What the method itself keeps between tasks (tensors and JSON values)."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    def scores(self, features: Tensor) -> Tensor:
        """(N, d) → (N, classes seen): higher is likelier. No task identity; by default the classifier's."""
        return self.learner.classifier.scores(features)

    @classmethod
    def keeps_basis(cls, config: Config) -> bool:
        """Whether a basis of the past's inputs is kept for more than diagnosis."""
        return False

    @classmethod
    def keeps_prototypes(cls, config: Config) -> bool:
        """Whether the loss or the classifier needs the class means of old tasks (`learner.prototypes`)."""
        return config.classifier.name == "ncm"

    @classmethod
    def stored(cls, s: Sizes) -> dict[str, int]:
        """Part → bytes of its tensors in a checkpoint after all tasks, beside the pre-trained backbone.

        They are what the method needs to go on and to classify. "At most" is in the name of a part whose size
        depends on the data, of which this is the bound.

        Not in it: what every run keeps for diagnosis (the estimated past of methods that protect nothing,
        test features for drift, prototypes where only `danger` looks at them), and what lives during a task
        only (second moments, the optimiser's).
        """
        parts = {}
        if cls.trains_factors:
            parts["factors"] = 4 * s.factors
            if s.config.method.adapter == "merged" and s.tasks > 1:
                parts["merged weights"] = 4 * s.dense
        if cls.trains_heads:
            parts["heads"] = 4 * s.classes * (s.width + 1)
        if cls.keeps_prototypes(s.config):
            parts["class means"] = 4 * s.classes * s.width
        if cls.keeps_basis(s.config):
            parts[BASIS] = 4 * s.basis
        return parts | classifiers.KINDS[s.config.classifier.name].stored(s.config, s.width, s.classes)

    @classmethod
    def trainable(cls, s: Sizes) -> dict[str, int]:
        """What → how many numbers are trained in the last task."""
        factors = {"factors": s.factors} if cls.trains_factors else {}
        if s.config.classifier.name == "aligned" and s.tasks > 1:
            return factors | {"all heads": s.classes * (s.width + 1)}
        return factors | ({"head": s.classes // s.tasks * (s.width + 1)} if cls.trains_heads else {})
