"""The complete description of a run, as pure data: what is learned, with what, how, and where it runs.

Each part is a class of documented fields; a method and a classifier bring their own. `janus.configure` makes
a `Config` of flat keys ("training.lr", or "lr" where that is unique), names all faults at once, and computes
the hash that names a run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, field_validator

from .data import registry
from .errors import unknown
from .runtime import assets
from .settings import baselines as baselines  # registers its classes
from .settings.base import Settings, broken
from .settings.methods import KINDS, JanusSettings, MethodSettings, Temperature

# ── what is learned, and with what ──────────────────────────────────────────────────────────────────────────


class DataSettings(Settings):
    """The data set and how it is cut into tasks."""

    dataset: str = Field(
        "icons-r",
        description="name of a data set (`janus datasets`), or the path of a folder or of parquet files",
    )
    options: dict[str, Any] = Field(
        {},
        description="what this data set takes besides, written data.NAME (data.strength=0.5); "
        "only what differs from the data set's own defaults",
        validate_default=True,
    )
    tasks: int = Field(10, ge=1, description="number of tasks that the classes are cut into")
    class_seed: int | None = Field(
        None, ge=0, description="seed of the order of classes; None: the same number as training.seed"
    )
    per_class: int | None = Field(None, ge=1, description="most training images of a class; None: all")
    evaluate: Literal["test", "val"] = Field(
        "test", description="split that accuracies are measured on; val while settings are chosen"
    )
    extended: tuple[str, ...] = Field(
        (), description="data sets whose classes came after the stream, one task each (`janus extend`)"
    )
    augment: Literal["auto", "icons", "photo", "none"] = Field(
        "auto",
        description="training transform: gentle for icons, crop and flip for photographs; auto: by the set",
    )

    @field_validator("options", mode="before")
    @classmethod
    def _typed(cls, value: Any, info: ValidationInfo) -> Any:
        """Options as the data set has them, without its defaults."""
        if not isinstance(value, Mapping) or "dataset" not in info.data:
            return value
        options = registry.options(info.data["dataset"]).model_validate(dict(value))
        return options.model_dump(exclude_defaults=True)


Target = Literal["q", "k", "v", "proj", "fc1", "fc2"]


def _pickled(s: Any) -> str | None:
    named = s.weights not in (None, "random")
    fault = f"weights={s.weights} {assets.PICKLED}"
    return fault if named and not s.weights.endswith(".safetensors") else None


def _narrow(s: Any) -> str | None:
    width = registry.WIDTH if s.model in registry.EMBEDDED else s.rank
    fault = f"backbone.rank={s.rank} does not fit {s.model}: choose a whole number from 1 to {width}"
    return fault if s.rank > width else None


def _one_size(s: Any) -> str | None:
    fault = f"backbone.image_size does not go with {s.model}, which has one size; leave it out"
    return fault if s.image_size is not None and s.model in registry.EMBEDDED else None


class BackboneSettings(Settings):
    """The pre-trained model, which never changes, and the adapters in it."""

    rules = (_pickled, _narrow, _one_size)
    model: str = Field("icons-vit", description="backbone (`janus models`), or hf-hub:OWNER/NAME")
    weights: str | None = Field(
        None, description="safetensors file of its weights, or `random`; None: those that come with it"
    )
    image_size: int | None = Field(
        None,
        ge=1,
        description="side of its images in pixels, if another than its own: timm resizes the positions of "
        "its ViTs; None: its own",
    )
    normalise: Literal["auto", "checkpoint", "none"] = Field(
        "auto",
        description="inputs: normalised as the checkpoint says (auto too), or plain values in 0…1 (none), "
        "which InfLoRA and the methods compared with it feed to ViT-B/16",
    )
    rank: int = Field(
        8,
        ge=1,
        description="r, rows of A and columns of B of a pair of factors; at most the width of the layer",
    )
    scale: float = Field(1.0, gt=0, description="s in W + s·BA")
    targets: tuple[Target, ...] = Field(
        ("k", "v"),
        min_length=1,
        description="matrices of each block that are adapted; K and V in the Janus-LoRA paper",
    )


def _switch(value: Any) -> Any:
    """YAML reads `off` as false."""
    meant = {"true": "auto", "false": "off"}
    return meant.get(str(value).lower(), value) if isinstance(value, (bool, str)) else value


Amp = Annotated[Literal["off", "auto", "bf16", "fp16"], BeforeValidator(_switch)]


class TrainingSettings(Settings):
    """The optimisation, the same for all methods."""

    seed: int = Field(0, ge=0, description="of initialisation, batches and augmentation")
    epochs: int = Field(3, ge=1, description="passes over the images of a task")
    batch_size: int = Field(16, ge=1, description="images a step, over all processes together")
    lr: float = Field(
        1e-3,
        gt=0,
        description="learning rate of the factors, or of what a method trains in their place; falls "
        "to 0 along a cosine within each task",
    )
    head_lr: float = Field(5e-3, gt=0, description="learning rate of a task's linear head; same schedule")
    weight_decay: float = Field(0.0, ge=0, description="of the factors, decoupled (AdamW); heads have none")
    amp: Amp = Field(
        "off",
        description="autocast of forward passes; auto (true): what is fast, which is bf16 on GPUs and on "
        "CPUs with AMX or ARM's BF16, fp16 on older GPUs, else off. A run keeps, and is hashed by, what auto "
        "meant when it began",
    )
    step_score_every: int = Field(
        20, ge=1, description="steps between two samples of violation_step; a diagnosis"
    )


class RuntimeSettings(Settings):
    """Where and how a run is executed. Not part of its hash: it may differ between two parts of one run."""

    device: str = Field("auto", description="cpu, cuda, mps; auto: the first there is of cuda, mps, cpu")
    threads: int | None = Field(
        None, ge=1, description="threads of torch on the CPU; None: torch's own choice"
    )
    micro_batch: int | None = Field(
        None,
        ge=1,
        description="most images that go through the backbone at once, for a small GPU: the step is that of "
        "the whole batch up to rounding; all slices but the last go through the backbone once more. "
        "None: the whole batch",
    )
    save_every: float = Field(30.0, ge=0, description="seconds between two checkpoints inside a task")
    root: str | None = Field(None, description="folder of the data set's local files; None: $JANUS_DATA")
    folder: str | None = Field(
        None,
        description="folder that relative paths of data and weights start from; where a path is not there, "
        "as without one, the working directory. A run with such paths keeps the folder it began in",
    )


# ── classifiers ─────────────────────────────────────────────────────────────────────────────────────────────


class ClassifierSettings(Settings):
    """How classes are scored from a method's features at test; training is the same for all."""

    name: str


class LinearSettings(ClassifierSettings):
    """The tasks' own linear heads side by side."""

    name: Literal["linear"] = "linear"


class ClassMeansSettings(ClassifierSettings):
    """Cosine to the mean of each class (Mensink et al., TPAMI 2013)."""

    name: Literal["ncm"] = "ncm"
    replaces: Literal["linear", "ranpac", "aligned"] | None = Field(
        None, description="classifier of the run that an extension gave this one (`janus extend`); None: none"
    )


class RandomFeaturesSettings(ClassifierSettings):
    """Ridge regression on random features (McDonnell et al., RanPAC, NeurIPS 2023)."""

    name: Literal["ranpac"] = "ranpac"
    dim: int = Field(2000, ge=1, description="M, random features; the paper has 10,000")


class AlignedSettings(ClassifierSettings):
    """All heads trained again after each task, on Gaussians (Zhang et al., SLCA, ICCV 2023).

    Defaults: ours.
    """

    name: Literal["aligned"] = "aligned"
    covariance: Literal["class", "shared"] = Field(
        "class", description="of the Gaussians: one for each class, as the paper has it, or one for all"
    )
    samples: int = Field(256, ge=1, description="samples of a class's Gaussian in an epoch of alignment")
    epochs: int = Field(5, ge=1, description="epochs of alignment after each task but the first")
    lr: float = Field(
        0.003,
        gt=0,
        description="learning rate of the alignment (SGD, momentum 0.9, cosine to 0); the best of three on "
        "Icons-R 2's validation",
    )
    temperature: Temperature = Field(0.1, description="τ of the alignment's logits")


CLASSIFIERS: dict[str, type[ClassifierSettings]] = {
    "linear": LinearSettings,
    "ncm": ClassMeansSettings,
    "ranpac": RandomFeaturesSettings,
    "aligned": AlignedSettings,
}


# ── the whole ───────────────────────────────────────────────────────────────────────────────────────────────


def _by_name(what: str, kinds: Mapping[str, type[Settings]]) -> BeforeValidator:
    """Settings given as a mapping become those of the kind they name."""

    def pick(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if value.get("name") not in kinds:
            raise ValueError(str(unknown(what, value.get("name"), kinds)))
        return kinds[value["name"]].model_validate(value)

    return BeforeValidator(pick)


def _fixed(c: Any) -> str | None:
    """The only settings that methods fix are classifiers."""
    name = c.method.fixed.get("classifier.name", c.classifier.name)
    if c.classifier.name == name:
        return None
    both = f"classifier={c.classifier.name} does not go with method={c.method.name}"
    return f"{both}, which has classifier={name}; leave it out"


def _tasks(c: Any) -> str | None:
    entry, tasks = registry.DATASETS.get(c.data.dataset), c.data.tasks
    if not entry or not entry.classes or tasks <= entry.classes or c.method.joint:
        return None
    if c.data.options.get("vocabulary"):  # adds classes to those of Icons-R
        return None
    return f"data.tasks={tasks} is more than {c.data.dataset} has classes; choose {entry.classes} at most"


def _replaced(c: Any) -> str | None:
    old = c.classifier.replaces if c.classifier.name == "ncm" else None
    fault = (
        f"classifier.replaces={old} is set by `janus extend`, when it changes a run's classifier; "
        "leave it out"
    )
    return fault if old and not c.data.extended else None


def _own(c: Any) -> str | None:
    return "; ".join(broken(c.method.config_rules, c)) or None


class Config(Settings):
    """Everything that decides the numbers of a run, and where it runs (`runtime`, which does not).

    Its flat keys are those of `janus.run(...)`, `janus run --set` and grid files, see `janus.configure.make`.
    """

    rules = (_fixed, _tasks, _replaced, _own)
    data: DataSettings = DataSettings()
    backbone: BackboneSettings = BackboneSettings()
    training: TrainingSettings = TrainingSettings()
    method: Annotated[SerializeAsAny[MethodSettings], _by_name("method", KINDS)] = JanusSettings()
    classifier: Annotated[SerializeAsAny[ClassifierSettings], _by_name("classifier", CLASSIFIERS)] = (
        LinearSettings()
    )
    runtime: RuntimeSettings = RuntimeSettings()

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: {"data": {"dataset": …}, "method": {"name": …}, …}."""
        return self.model_dump(mode="json", by_alias=True)
