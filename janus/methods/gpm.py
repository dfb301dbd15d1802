"""LoRA-GPM: A's factor gradient is projected off a basis that a separate pass over each task's data finds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..data.stream import Task
from ..history import History
from .base import LearnerProtocol
from .lora import LoRAMethod

if TYPE_CHECKING:
    from ..config import Config


class GPM(LoRAMethod):
    """Gradient Projection Memory on LoRA: `ΔA ← ΔA (I − VVᵀ)`; B is not protected.

    `gr` may be put on top (plug-in). No public code of "LoRA-GPM" exists; this is its natural specification.
    After each task one extra forward pass over the task's training images (test transform) gives the second
    moment from which V grows.
    """

    name = "gpm"
    summary = "LoRA-GPM: project A's update off a basis from an extra pass"
    paper = "Saha et al., Gradient Projection Memory, ICLR 2021"
    family = "lora"
    passes = {"after": 1}
    power: ClassVar[int] = 1  # of λ in the energy rule

    def __init__(self, learner: LearnerProtocol) -> None:
        super().__init__(learner)
        self.memory = History(learner.pairs, learner.config.backbone.rank, self.power)

    @classmethod
    def keeps_basis(cls, config: Config) -> bool:
        return True

    def basis(self) -> dict[str, Any]:
        return self.memory.basis

    def end_task(self, task: Task) -> None:
        with self.extra_pass(task.train) as moments:
            self.memory.end_task(moments, self.learner.energy(task.index))

    def state_dict(self) -> dict[str, Any]:
        """The basis; the mean second moment is for diagnosis, and the run has its own."""
        return {key: value for key, value in self.memory.state_dict().items() if key != "mean"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.memory.load_state_dict({"mean": self.memory.mean} | state)
