"""The settings of the published baselines and of the reference rows: each class names the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from .methods import GR, Energy, EnergyEnd, Init, PlainSettings, RectifiedSettings, Share, Temperature


class DRSSettings(RectifiedSettings):
    """Liu & Chang, LoRA Subtraction for Drift-Resistant Space, CVPR 2025. Defaults: those of CIFAR-100."""

    oe: ClassVar[bool] = True
    dml: ClassVar[bool] = False
    adapter: ClassVar[str] = "merged"
    name: Literal["drs"] = "drs"
    energy: Energy = 0.99
    gr: GR = "none"
    init: Init = "free"
    penalty: float = Field(
        0.05, ge=0, description="weight of the augmented triplet loss; the paper has 0.2 for ImageNet-R"
    )
    margin: float = Field(
        1.0, ge=0, description="margin of the triplets, a distance; the paper has 2.0 for ImageNet-R"
    )


class InfLoRASettings(PlainSettings):
    """Liang & Li, InfLoRA, CVPR 2024. Defaults: the authors' ε for ImageNet-R in ten tasks."""

    oe: ClassVar[bool] = True
    adapter: ClassVar[str] = "merged"
    init: ClassVar[str] = "nullspace"
    name: Literal["inflora"] = "inflora"
    energy: Energy = 0.98
    energy_end: EnergyEnd = 0.998


class OLoRASettings(PlainSettings):
    """Wang et al., Orthogonal Subspace Learning (O-LoRA), EMNLP Findings 2023."""

    adapter: ClassVar[str] = "merged"
    name: Literal["olora"] = "olora"
    penalty: float = Field(
        0.5, ge=0, description="weight of the overlap Σ|A_i A_tᵀ| with each old A; the authors'"
    )


class BiLoRASettings(PlainSettings):
    """Zhu et al., BiLoRA: Almost-Orthogonal Parameter Spaces, CVPR 2025."""

    adapter: ClassVar[str] = "merged"
    defaults: ClassVar[Mapping[str, Any]] = {"backbone.scale": 300.0}  # the paper's α
    name: Literal["bilora"] = "bilora"
    coefficients: int = Field(
        3000, ge=1, description="trained Fourier coefficients a matrix and task; at most its entries"
    )


class SDLoRASettings(PlainSettings):
    """Wu et al., SD-LoRA: Scalable Decoupled Low-Rank Adaptation, ICLR 2025."""

    adapter: ClassVar[str] = "merged"  # every task has a pair of its own; nothing is merged
    name: Literal["sdlora"] = "sdlora"


class FinetuneSettings(PlainSettings):
    """Sequential LoRA (Hu et al., ICLR 2022): nothing is protected."""

    name: Literal["finetune"] = "finetune"


class LoRAFASettings(PlainSettings):
    """LoRA with a frozen random A (Zhang et al., LoRA-FA, 2023), merged at each task boundary."""

    adapter: ClassVar[str] = "merged"
    name: Literal["lorafa"] = "lorafa"


class JointSettings(PlainSettings):
    """LoRA and one head on all classes at once: the upper bound of the stream."""

    joint: ClassVar[bool] = True
    name: Literal["joint"] = "joint"


class EWCSettings(PlainSettings):
    """Kirkpatrick et al., PNAS 2017, in the online form of Schwarz et al., ICML 2018."""

    name: Literal["ewc"] = "ewc"
    lambda_: float = Field(
        1e3, ge=0, alias="lambda", description="λ, weight of the quadratic penalty λ/2 Σ F (θ − θ*)²"
    )
    decay: Share = Field(1.0, description="γ of old tasks' Fisher information at each new task; 1: a sum")
    samples: int = Field(200, ge=1, description="images a task that the Fisher information is taken from")


class LwFSettings(PlainSettings):
    """Li & Hoiem, Learning without Forgetting, ECCV 2016. Defaults: the paper's."""

    name: Literal["lwf"] = "lwf"
    weight: float = Field(1.0, ge=0, description="λ, weight of the distillation of old heads' answers")
    temperature: Temperature = Field(2.0, description="T of the distillation")


class SLCASettings(PlainSettings):
    """Zhang et al., SLCA: Slow Learner with Classifier Alignment, ICCV 2023."""

    defaults: ClassVar[Mapping[str, Any]] = {"training.lr": 1e-4}  # the slow learner
    fixed: ClassVar[Mapping[str, Any]] = {"classifier.name": "aligned"}
    name: Literal["slca"] = "slca"


def _even(value: int) -> int:
    if value < 2 or value % 2:
        raise ValueError("must be even and at least 2 (half keys, half values)")
    return value


Length = Annotated[int, AfterValidator(_even)]


def _top(s: Any) -> str | None:
    too_many = f"method.top={s.top} prompts cannot be chosen from method.pool={s.pool}"
    return too_many if s.top > s.pool else None


class L2PSettings(PlainSettings):
    """Wang et al., Learning to Prompt for Continual Learning, CVPR 2022. Defaults: CODA-Prompt's of L2P++."""

    rules = (_top,)
    name: Literal["l2p"] = "l2p"
    pool: int = Field(30, ge=1, description="M, prompts with a key each")
    length: Length = Field(20, description="vectors of a prompt, an even number: half keys, half values")
    top: int = Field(
        5, ge=1, description="prompts an image takes, those of the nearest keys; at most the pool"
    )
    pull: float = Field(0.5, ge=0, description="λ, weight of the pull of chosen keys to the query")


class DualPromptSettings(PlainSettings):
    """Wang et al., DualPrompt, ECCV 2022."""

    name: Literal["dualprompt"] = "dualprompt"
    general: Length = Field(
        6, description="vectors of the general prompt, an even number; the paper's 5 has no halves"
    )
    expert: Length = Field(20, description="vectors of a task's expert prompt, an even number; the paper's")
    match: float = Field(
        1.0, ge=0, description="λ, weight of the match of query and the task's key; the paper's"
    )


def _components(c: Any) -> str | None:
    count, tasks = c.method.components, c.data.tasks
    too_few = f"method.components={count} are too few for data.tasks={tasks}: each needs one at least"
    return too_few if count < tasks else None


class CODAPromptSettings(PlainSettings):
    """Smith et al., CODA-Prompt, CVPR 2023. Defaults: the paper's."""

    config_rules = (_components,)
    name: Literal["coda"] = "coda"
    components: int = Field(
        100, ge=1, description="of the whole stream, one a task at least; a task has a T-th, rounded down"
    )
    length: Length = Field(8, description="vectors of a component, an even number: half keys, half values")
    penalty: float = Field(
        0.1, ge=0, description="λ, weight of the orthogonality of components, keys and attentions"
    )


class FrozenSettings(PlainSettings):
    """Linear heads on the frozen backbone."""

    name: Literal["frozen"] = "frozen"


class ProbeSettings(PlainSettings):
    """A linear probe: one head on the frozen backbone, trained on all classes at once."""

    joint: ClassVar[bool] = True
    name: Literal["probe"] = "probe"


class NCMSettings(PlainSettings):
    """Nearest class mean on the frozen backbone (Mensink et al., TPAMI 2013)."""

    fixed: ClassVar[Mapping[str, Any]] = {"classifier.name": "ncm"}
    name: Literal["ncm"] = "ncm"


class RanPACSettings(PlainSettings):
    """RanPAC on the frozen backbone (McDonnell et al., NeurIPS 2023), without its first phase."""

    fixed: ClassVar[Mapping[str, Any]] = {"classifier.name": "ranpac"}
    name: Literal["ranpac"] = "ranpac"
