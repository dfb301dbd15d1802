"""A config as flat keys and as JSON, changed, restored, and hashed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from janus.config import Config
from janus.configure import changed, config_hash, deciding, flat, from_text, make, non_default, restore
from janus.errors import JanusError, UsageError
from janus.settings.methods import KINDS


def test_a_config_is_flat_and_nested_and_again_itself():
    c = make(
        from_text(
            ["targets=q,v", "data.strength=0.25", "lr=3e-4", "class_seed=5", "threads=2", "loss.form=softmax"]
        )
    )
    text = json.dumps(c.to_dict(), allow_nan=False)
    again = make(json.loads(text))
    assert again == c == make(flat(c)) == restore(json.loads(text), "x")
    assert config_hash(again) == config_hash(c)
    assert flat(json.loads(text)) == flat(c) and set(c.to_dict()) == set(Config.model_fields)
    assert flat(c)["data.strength"] == 0.25 and "data.options" not in flat(c)
    assert flat(c)["method.loss.form"] == "softmax"
    expected = {
        "data.strength": 0.25,
        "data.class_seed": 5,
        "backbone.targets": ["q", "v"],
        "training.lr": 3e-4,
        "method.loss.form": "softmax",
        "runtime.threads": 2,
    }
    assert non_default(c) == non_default(json.loads(text)) == expected


METHODS = st.sampled_from(sorted(KINDS))


@given(METHODS, st.integers(0, 9), st.floats(1e-6, 1), st.sampled_from(["linear", "ncm", "ranpac"]))
def test_any_config_survives_json(method, seed, lr, classifier):
    values = {"method": method, "seed": seed, "lr": lr}
    if not KINDS[method].fixed:
        values["classifier"] = classifier
    config = make(values)
    assert restore(json.loads(json.dumps(config.to_dict())), "x") == config == make(flat(config))


def test_a_changed_config_is_checked_anew():
    c = make(method="drs", margin=2, lr=0.5, strength=0.5)
    assert changed(c, seed=3) == make(method="drs", margin=2, lr=0.5, strength=0.5, seed=3)
    # what was the other method's is gone
    assert changed(c, method="gpm") == make(method="gpm", lr=0.5, strength=0.5)
    assert changed(make(method="slca"), method="finetune") == make(method="finetune")
    assert changed(make(method="ncm"), method="janus") == make()
    assert changed(make(), method="ranpac") == make(method="ranpac")
    with pytest.raises(UsageError, match="epochs must be at least 1"):
        changed(c, epochs=0)
    with pytest.raises(UsageError, match="dim is a setting of classifier=ranpac"):
        changed(c, dim=5)
    gone = make(dataset="./gone")
    assert changed(gone, seed=1).data.dataset == "./gone"


def test_what_an_older_janus_wrote_is_refused_by_name():
    said = "runs/x: made by an older janus, whose settings had other names; run it again"
    with pytest.raises(JanusError, match=said):
        restore({"dataset": "icons-r", "method": "janus", "lr": 1e-3, "data": {}}, "runs/x")
    with pytest.raises(JanusError, match="its settings do not fit this janus .unknown method 'mine'"):
        restore(make().to_dict() | {"method": {"name": "mine"}}, "runs/x")
    stored = make().to_dict() | {"data": {"dataset": "photographs"}}  # a folder that is not there any more
    assert restore(stored, "x").data.dataset == "photographs"


def test_hash_is_about_the_numbers():
    c = make()
    assert len(config_hash(c)) == 12 and int(config_hash(c), 16) >= 0
    assert config_hash(c) == config_hash(make())
    for key, value in {"device": "cpu", "threads": 3, "save_every": 1.0, "root": "/somewhere"}.items():
        assert f"runtime.{key}" in flat(c) and config_hash(make({key: value})) == config_hash(c)
    others = {"seed": 1, "class_seed": 1, "lr": 2e-3, "tasks": 5, "gr": "tangent", "targets": ("q",)}
    others |= {"data": {"strength": 0.5}, "energy": 0.9, "dml": False, "evaluate": "val", "amp": "bf16"}
    others |= {"weights": "random", "per_class": 7, "push": 0.3, "normalise": "none"}
    others |= {"classifier": "ncm", "method": "ewc", "vocabulary": True}
    hashes = {config_hash(make({key: value})) for key, value in others.items()}
    assert len(hashes) == len(others) and config_hash(c) not in hashes
    same, another = (config_hash(make(seed=4, class_seed=seed)) for seed in (4, 0))
    assert config_hash(make(seed=4)) == same != another
    # a loss that is off has no settings
    assert config_hash(make(dml=False, push=0.3)) == config_hash(make(dml=False))
    assert config_hash(make(data={"strength": 1, "vocabulary": False, "cache": "disk"})) == config_hash(c)
    assert config_hash(c.to_dict()) == config_hash(c) and deciding(c.to_dict()) == deciding(c)
    assert len({config_hash(make(method=name)) for name in KINDS}) == len(KINDS)
