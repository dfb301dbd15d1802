"""The settings: documented fields, types and ranges, rules over several fields, and a method of one's own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from janus.config import CLASSIFIERS, BackboneSettings, Config, DataSettings, Target, TrainingSettings
from janus.data import registry
from janus.models import vit
from janus.settings.base import Settings, is_settings, judge
from janus.settings.baselines import L2PSettings
from janus.settings.methods import KINDS, GPMSettings, JanusSettings, MethodSettings, PlainSettings


def every_class() -> list[type[Settings]]:
    found, todo = [], [Settings]
    while todo:
        todo += (kind := todo.pop()).__subclasses__()
        if kind.__module__.startswith("janus."):
            found.append(kind)
    return found


def test_every_setting_is_documented():
    assert len(every_class()) > 30
    for kind in every_class():
        assert kind.__doc__, kind.__name__
        for name, field in kind.model_fields.items():
            if name == "name" or is_settings(field.annotation):
                continue
            assert len(field.description or "") > 10, (kind.__name__, name)
            assert not field.is_required(), (kind.__name__, name)


def test_the_methods_of_the_paper_and_the_field_are_there_each_with_what_it_implies():
    published = (
        "finetune gpm janus frozen ncm joint probe lorafa drs inflora olora bilora sdlora ewc lwf slca l2p "
        "dualprompt coda ranpac"
    )
    assert set(published.split()) <= set(KINDS)
    for name, kind in KINDS.items():
        settings = kind()
        assert settings.name == name
        for switch in ("oe", "gr", "dml", "adapter", "init", "cap", "ridge"):
            getattr(settings, switch)
    janus, gpm = JanusSettings(), GPMSettings()
    assert (janus.gr, janus.adapter, janus.init) == ("exact", "merged", "nullspace")
    assert (janus.oe, janus.dml) == (True, True)
    assert (gpm.gr, gpm.adapter, gpm.init, gpm.oe, gpm.dml) == ("none", "shared", "free", True, False)
    merged = ("olora", "bilora", "sdlora", "drs", "inflora")
    assert [KINDS[name]().adapter for name in merged] == ["merged"] * 5
    assert [name for name, kind in KINDS.items() if kind.joint] == ["joint", "probe"]


def test_targets_are_those_that_the_models_have():
    assert Target.__args__ == vit.TARGETS


def test_settings_are_frozen_and_take_no_other_names():
    with pytest.raises(ValidationError):
        Config().training.lr = 3.0
    with pytest.raises(ValidationError):
        TrainingSettings(learning_rate=3.0)


def test_a_config_is_made_of_its_json_and_picks_the_kinds_by_name():
    config = Config(
        method={"name": "ewc", "lambda": 3.0}, classifier={"name": "ranpac", "dim": 7}, training={"lr": 2}
    )
    assert config.method.lambda_ == 3.0 and config.classifier.dim == 7 and type(config.training.lr) is float
    assert Config.model_validate_json(config.model_dump_json(by_alias=True)) == config
    assert config.to_dict()["method"]["lambda"] == 3.0
    with pytest.raises(ValidationError, match="did you mean 'ewc'"):
        Config(method={"name": "ewcc"})
    with pytest.raises(ValidationError, match="margin"):
        Config(method={"name": "ewc", "margin": 3.0})
    with pytest.raises(ValidationError, match="does not go with method=ncm"):
        Config(method={"name": "ncm"})


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (TrainingSettings, {"lr": 0.0}, "t.lr must be positive, got 0.0"),
        (TrainingSettings, {"weight_decay": -1}, "t.weight_decay must not be negative, got -1"),
        (TrainingSettings, {"epochs": 0}, "t.epochs must be at least 1, got 0"),
        (TrainingSettings, {"epochs": 2.0}, "t.epochs takes a whole number, got 2.0"),
        (TrainingSettings, {"lr": float("inf")}, "t.lr takes a finite number, got inf"),
        (TrainingSettings, {"amp": 1}, "unknown value for t.amp: 1: known: auto, bf16, fp16, off"),
        (JanusSettings, {"oe": 1}, "t.oe takes true or false, got 1"),
        (BackboneSettings, {"model": 3}, "t.model takes a text, got 3"),
        (BackboneSettings, {"targets": 3}, "t.targets takes names, separated by commas, got 3"),
        (
            BackboneSettings,
            {"targets": "k,w"},
            "unknown value for t.targets: 'w': known: fc1, fc2, k, proj, q, v",
        ),
        (BackboneSettings, {"targets": ""}, "t.targets needs at least 1, got none"),
        (JanusSettings, {"energy": 1.5}, "t.energy must be at most 1, got 1.5"),
        (
            JanusSettings,
            {"loss": {"form": "hing"}},
            "unknown value for t.loss.form: 'hing': did you mean 'hinge'?",
        ),
        (JanusSettings, {"loss": 3}, "t.loss takes settings by name, got 3"),
        (L2PSettings, {"length": 7}, "t.length must be even and at least 2 (half keys, half values), got 7"),
        (L2PSettings, {"length": 0}, "t.length must be even and at least 2 (half keys, half values), got 0"),
        (L2PSettings, {"top": 31}, "method.top=31 prompts cannot be chosen from method.pool=30"),
        (DataSettings, {"options": {"strength": 1.5}}, "t.options.strength must be at most 1, got 1.5"),
        (DataSettings, {"options": 3}, "t.options takes options by name, got 3"),
        (DataSettings, {"option": 3}, "unknown setting 't.option': did you mean 't.options'?"),
        (registry.FolderOptions, {"val_fraction": 1}, "t.val_fraction must be less than 1, got 1"),
        (registry.FolderOptions, {"test_fraction": 0}, "t.test_fraction must be positive, got 0"),
        (registry.FolderOptions, {"class_list": 5}, "t.class_list takes a text, got 5"),
    ],
)
def test_each_fault_is_one_clear_line(kind, values, said):
    settings, faults = judge(kind, values, "t.")
    assert faults == [said] and not isinstance(settings, kind)


def test_rules_judge_what_is_known_and_nothing_else():
    wrong, faults = judge(JanusSettings, {"gr": "exact", "adapter": "shared", "energy": 2}, "method.")
    assert len(faults) == 2 and "gr=exact requires adapter=merged" in faults[1] and wrong.adapter == "shared"
    assert len(judge(JanusSettings, {"gr": "exat", "adapter": "shared", "init": "free"}, "method.")[1]) == 1
    assert len(judge(JanusSettings, {"gr": "none", "oe": "perhaps"}, "method.")[1]) == 1
    assert judge(JanusSettings, {"gr": "none", "oe": False}, "method.")[1] == [
        "init=nullspace requires oe=true (without it there is no estimated past to start off from)"
    ]


def test_legal_combinations_of_switches_stand_and_all_others_are_refused():
    legal = 0
    for gr in ("none", "tangent", "exact"):
        for adapter in ("shared", "merged"):
            for init in ("free", "nullspace"):
                for oe in (True, False):
                    switches: dict[str, Any] = {"gr": gr, "adapter": adapter, "init": init, "oe": oe}
                    stands = (gr != "exact" or (adapter, init, oe) == ("merged", "nullspace", True)) and (
                        init == "free" or (adapter == "merged" and oe)
                    )
                    legal += stands
                    assert (not judge(JanusSettings, switches)[1]) == stands, switches
    assert legal == 11


@given(st.floats(), st.integers(), st.text(), st.booleans())
def test_a_number_is_taken_if_and_only_if_it_is_in_range(share, whole, text, flag):
    for value in (share, whole, flag, text):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        try:
            number, seen = (True, float(value)) if isinstance(value, str) else (number, value)
        except ValueError:
            number = False
        settings, faults = judge(GPMSettings, {"energy": value}, "method.")
        if number and 0 <= seen <= 1:
            assert settings.energy == seen and type(settings.energy) is float
        else:
            assert len(faults) == 1 and "method.energy" in faults[0]


def test_what_data_and_model_cannot_take_is_known_beforehand():
    for values, said in [
        ({"data": {"tasks": 101}}, "data.tasks=101 is more than icons-r has classes; choose 100 at most"),
        ({"method": {"name": "coda", "components": 9}}, "method.components=9 are too few for data.tasks=10"),
        ({"backbone": {"rank": 193}}, "backbone.rank=193 does not fit icons-vit"),
        ({"backbone": {"weights": "a.pt"}}, "weights=a.pt is not a .safetensors file"),
        ({"data": {"dataset": "imagenet-100"}}, "imagenet-100 is not one set"),
    ]:
        with pytest.raises(ValidationError, match=said):
            Config(**values)
    Config(data={"tasks": 101, "options": {"vocabulary": True}})
    Config(data={"tasks": 101}, method={"name": "joint"})
    Config(data={"dataset": "imagenet-100", "options": {"class_list": "own"}})


def test_options_are_typed_by_the_data_set_and_its_defaults_dropped():
    assert DataSettings(options={"strength": 1, "vocabulary": False}).options == {}
    assert DataSettings(options={"strength": 0, "size": 64}).options == {"strength": 0.0, "size": 64}
    taken = DataSettings(dataset="imagenet-r", options={"val_fraction": None, "label_column": "wnid"})
    assert taken.options == {"val_fraction": None}  # not the set's own default, which is 0
    with pytest.raises(ValidationError, match="strength"):
        DataSettings(dataset="cifar-100", options={"strength": 0.5})
    assert DataSettings(dataset="photographs/x", options={"image_column": "pixels"}).options


def test_a_method_of_ones_own_brings_its_settings():
    class Mine(PlainSettings):
        """Ours."""

        adapter: ClassVar[str] = "merged"
        defaults: ClassVar[dict[str, Any]] = {"training.lr": 0.5}
        name: Literal["mine"] = "mine"
        warmth: float = Field(0.25, ge=0, description="of the loss")

    try:
        config = Config(method={"name": "mine", "warmth": 2.0})
        assert (config.method.warmth, config.method.adapter, config.method.energy) == (2.0, "merged", 0.95)
        assert config.to_dict()["method"]["warmth"] == 2.0
        assert Config(**config.model_dump(by_alias=True)) == config
        with pytest.raises(ValidationError, match="warmth"):
            Config(method={"name": "mine", "warmth": -2.0})
        with pytest.raises(TypeError, match="rename one"):
            type(
                "Theirs",
                (MethodSettings,),
                {"__annotations__": {"name": Literal["mine"]}, "name": "mine", "__module__": __name__},
            )
    finally:
        del KINDS["mine"]


def test_the_settings_need_no_torch():
    code = (
        "import sys; from janus import configure; "
        "configure.make(model='vit_tiny_patch16_224', dataset='imagenet-r'); "
        "sys.exit(bool({'torch', 'timm', 'numpy', 'pyarrow'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_classifiers_have_their_own_settings():
    assert CLASSIFIERS["ranpac"]().dim == 2000 and set(CLASSIFIERS) == {"linear", "ncm", "ranpac", "aligned"}
    assert judge(CLASSIFIERS["ranpac"], {"dim": 0}, "classifier.")[1] == [
        "classifier.dim must be at least 1, got 0"
    ]
