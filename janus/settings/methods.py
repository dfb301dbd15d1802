"""The settings of the methods, and of the loss that one of them has: each class names the paper.

A method of your own brings a class of its own, beside it: a subclass of `MethodSettings`, or of
`PlainSettings` (which has no switches), with a `name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from .base import Rule, Settings

# by method.name; a subclass of MethodSettings with a name registers itself
KINDS: dict[str, type[MethodSettings]] = {}

Share = Annotated[float, Field(ge=0, le=1)]
_ENERGY = "ε: share of the energy of past inputs that is protected (GPM, ICLR 2021)"
_ENERGY_END = "ε of the last task; it grows linearly from method.energy. None: constant"
Energy = Annotated[Share, Field(description=_ENERGY)]
EnergyEnd = Annotated[Share | None, Field(description=_ENERGY_END)]
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
