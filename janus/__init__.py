"""janus: Janus-LoRA, continual learning by LoRA that protects what old tasks use, to run and understand."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config as Config
    from .errors import JanusError as JanusError
    from .errors import UsageError as UsageError
    from .lora import adapt as adapt
    from .lora import merge as merge
    from .lora import unadapt as unadapt
    from .models.peft_io import export_peft as export_peft
    from .models.peft_io import import_peft as import_peft
    from .models.timm_export import export as export
    from .predict import Predictor as Predictor
    from .predict import extend as extend
    from .predict import load as load
    from .protect import Basis as Basis
    from .protect import create_rectified_optimizer as create_rectified_optimizer
    from .protect import estimate_basis as estimate_basis
    from .report.confusion import evaluate as evaluate
    from .runtime.result import Result as Result
    from .train import run as run

__version__ = "0.1.0"

_HOME = {  # name → module; imported when first used, so that `janus --help` does not wait for torch
    "Config": "config",
    "JanusError": "errors",
    "UsageError": "errors",
    "adapt": "lora",
    "merge": "lora",
    "unadapt": "lora",
    "export_peft": "models.peft_io",
    "import_peft": "models.peft_io",
    "export": "models.timm_export",
    "Predictor": "predict",
    "extend": "predict",
    "load": "predict",
    "evaluate": "report.confusion",
    "Basis": "protect",
    "create_rectified_optimizer": "protect",
    "estimate_basis": "protect",
    "Result": "runtime.result",
    "run": "train",
}
_MODULES = "config configure history lessons lora metrics plots protect rectify separation train".split()
__all__ = sorted([*_HOME, *_MODULES])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
