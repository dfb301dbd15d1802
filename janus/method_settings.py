"""The settings of the methods, and of the loss that one of them has: each class names the paper.

A method of your own brings a class of its own, beside it: a subclass of `MethodSettings`, or of
`PlainSettings` (which has no switches), with a `name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from .settings import Rule, Settings

KINDS: dict[
    str, type[MethodSettings]
] = {}  # by method.name; a subclass of MethodSettings with a name registers itself

Share = Annotated[float, Field(ge=0, le=1)]
Energy = Annotated[
    Share, Field(description="ε: share of the energy of past inputs that is protected (GPM, ICLR 2021)")
]
EnergyEnd = Annotated[
    Share | None,
    Field(description="ε of the last task; it grows linearly from method.energy. None: constant"),
]
Temperature = Annotated[float, Field(gt=0)]


class MethodSettings(Settings):
    """What every method has. Each estimates the subspace V of past inputs, if only to measure its violation.

    A method's own settings are fields of a subclass, with its `name` as a Literal and as default. What it
    implies is a class variable, so that `settings.adapter` reads alike whether it can be chosen or not.

    defaults: other defaults of settings elsewhere. fixed: settings elsewhere that cannot be chosen.
    joint: it trains on all classes at once. config_rules: what it asks of the whole config.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    fixed: ClassVar[Mapping[str, Any]] = {}
    joint: ClassVar[bool] = False
    config_rules: ClassVar[tuple[Rule, ...]] = ()
    name: str
    energy: Energy = 0.95
    energy_end: EnergyEnd = None
    oe_epochs: Literal["last", "all"] = Field(
        "last", description="epochs of a task whose inputs its second moments are taken from"
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        name = cls.model_fields["name"].default
        known = KINDS.get(name)
        if not isinstance(name, str) or known in cls.__mro__:
            return  # a part of other methods' settings, or a variant under the same name
        if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            both = f"{cls.__qualname__} and {known.__qualname__}"
            raise TypeError(f"{both} are both the settings of method={name}; rename one")
        KINDS[name] = cls


class PlainSettings(MethodSettings):
    """A method with none of Janus-LoRA's switches: one pair of factors for the stream, updated freely."""

    oe: ClassVar[bool] = False
    dml: ClassVar[bool] = False
    gr: ClassVar[str] = "none"
    adapter: ClassVar[str] = "shared"
    init: ClassVar[str] = "free"
    cap: ClassVar[float] = 0.1
    ridge: ClassVar[float] = 0.0


def _exact(s: Any) -> str | None:
    if s.gr == "exact" and (s.adapter, s.init) != ("merged", "nullspace"):
        return (
            "gr=exact requires adapter=merged and init=nullspace (its guarantee starts from A V = 0, B = 0)"
        )
    return None


def _fresh(s: Any) -> str | None:
    if s.init == "nullspace" and s.adapter != "merged" and s.gr != "exact":  # of exact, the first rule speaks
        return "init=nullspace requires adapter=merged (a shared adapter never starts again)"
    return None


def _past(s: Any) -> str | None:
    if s.init == "nullspace" and not s.oe:
        return "init=nullspace requires oe=true (without it there is no estimated past to start off from)"
    return None


GR = Annotated[
    Literal["none", "tangent", "exact"],
    Field(
        description="how updates of the factors are made safe: none; tangent: the paper's closed form; "
        "exact: no update moves what a layer answers to span(V)"
    ),
]
Init = Annotated[
    Literal["free", "nullspace"],
    Field(description="where A starts after a merge: a Kaiming draw, or that draw projected off span(V)"),
]
Adapter = Annotated[
    Literal["shared", "merged"],
    Field(
        description="one pair of factors for the whole stream (the paper), or merge at each task boundary "
        "and start afresh"
    ),
]


class RectifiedSettings(MethodSettings):
    """Gradient Rectification: a part of Janus-LoRA, a plug-in on top of LoRA-GPM and LoRA-DRS."""

    rules = (_exact, _fresh, _past)
    gr: GR = "exact"
    init: Init = "nullspace"
    cap: float = Field(0.1, gt=0, description="with gr=tangent, the largest ‖ΔA‖/‖A‖ of one step; ours")
    ridge: float = Field(
        0.0, ge=0, description="relative Tikhonov term in the pseudo-inverses of gr=tangent; 0: none"
    )


class DecoupledMarginSettings(Settings):
    """The Decoupled Margin Loss (Janus-LoRA, ICML 2026; the formula is our reading of it), on cosines."""

    form: Literal["hinge", "squared", "logsumexp", "softmax"] = Field(
        "hinge", description="shape of the push, see `janus.separation`"
    )
    nearest: bool = Field(
        True, description="hinge and squared: over the nearest old prototype; false: the mean over all"
    )
    push: float = Field(0.5, description="weight of the push off old prototypes")
    pull: float = Field(0.5, description="weight of the pull to the own class's centre")
    push_margin: float = Field(0.3, description="cosine to an old prototype above which features are pushed")
    pull_margin: float = Field(0.7, description="cosine to the own centre below which features are pulled")
    temperature: Temperature = Field(0.1, description="τ of logsumexp and softmax")


class JanusSettings(RectifiedSettings):
    """Chen et al., Janus-LoRA: A Balanced Low-Rank Adaptation for Continual Learning, ICML 2026."""

    name: Literal["janus"] = "janus"
    oe: bool = Field(True, description="Online Estimation: protect the input subspace of past tasks")
    dml: bool = Field(
        True, description="Decoupled Margin Loss: push features off old prototypes, pull them to their own"
    )
    adapter: Adapter = "merged"
    loss: DecoupledMarginSettings = Field(
        DecoupledMarginSettings(),
        description="settings of the margin loss; without dml they do nothing and are not hashed",
    )


class GPMSettings(RectifiedSettings):
    """LoRA-GPM, after Saha et al., Gradient Projection Memory, ICLR 2021."""

    oe: ClassVar[bool] = True
    dml: ClassVar[bool] = False
    name: Literal["gpm"] = "gpm"
    gr: GR = "none"
    init: Init = "free"
    adapter: Adapter = "shared"


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
