"""Settings by full path: those that a config's method and classifier have, and the config of them."""

from __future__ import annotations

from typing import Any

import pytest

from janus import flat
from janus.config import Config


def test_settings_are_those_that_the_method_and_the_classifier_have() -> None:
    lora = flat.settings(Config.create(method="finetune", data={"strength": 0.5}, targets="k,v,q", seed=3).to_dict())
    assert lora.items() >= {"method.name": "finetune", "data.strength": 0.5, "backbone.targets": "k,v,q", "method.energy": 0.95,
                            "training.lr": 1e-3, "classifier.name": "linear", "data.class_seed": 3}.items()
    assert not {"method.gr", "method.oe", "method.cap", "classifier.dim", "data.per_class", "data.root"} & lora.keys()
    ewc = flat.settings(Config.create(method="ewc", ewc_lambda=7.0, head="ranpac").to_dict())
    assert ewc.items() >= {"method.lambda": 7.0, "classifier.name": "ranpac", "classifier.dim": 2000}.items()
    assert "method.samples" in ewc and "method.weight" not in ewc
    on, off = (flat.settings(Config.create(dml=dml).to_dict()) for dml in (True, False))
    assert on["method.loss.push"] == 0.5 and not [key for key in off if key.startswith("method.loss.")]


def test_settings_of_a_nested_config_have_the_same_paths() -> None:
    nested = {"data": {"dataset": "icons-r", "options": {"strength": 0.5}, "tasks": 5, "class_seed": None, "per_class": None},
              "backbone": {"targets": ["k", "v"]}, "training": {"seed": 1, "lr": 0.1}, "runtime": {"threads": 2},
              "method": {"name": "janus", "dml": True, "loss": {"push": 0.5}}, "classifier": {"name": "linear"}}
    assert flat.settings(nested) == {
        "data.dataset": "icons-r", "data.tasks": 5, "data.strength": 0.5, "data.class_seed": 1, "backbone.targets": "k,v",
        "training.seed": 1, "training.lr": 0.1, "method.name": "janus", "method.dml": True, "method.loss.push": 0.5,
        "classifier.name": "linear"}


@pytest.mark.parametrize("config", [{}, {"method": "slca", "slca_lr": 0.2}, {"dml": False, "targets": ["v"]}, {"method": "ncm"},
                                    {"method": "inflora", "energy_end": None}, {"data": {"strength": 0.5}, "per_class": 9}])
def test_a_config_comes_back_from_its_settings(config: dict[str, Any]) -> None:
    whole = Config.create(**config)
    assert flat.create(flat.settings(whole.to_dict())).hash() == whole.hash()
