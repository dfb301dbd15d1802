"""The config: names, types, ranges, switches; its hash."""

from __future__ import annotations

import dataclasses
import json

import pytest

from janus import methods
from janus.config import FREE, Config, faults, from_text
from janus.errors import UsageError

create = Config.create


def refused(match: str, **values) -> str:
    with pytest.raises(UsageError, match=match) as error:
        create(**values)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    return str(error.value)


def test_unknown_names_get_the_nearest_known():
    refused("did you mean 'epochs'", epoch=3)
    refused("did you mean 'energy'", enrgy=0.9)
    refused("did you mean 'finetune'", method="fine-tune")
    assert "known: " in refused("unknown method 'xyzzy'", method="xyzzy")


@pytest.mark.parametrize(("key", "value", "what"), [
    ("tasks", "ten", "a whole number"), ("tasks", 2.5, "a whole number"), ("tasks", "2.5", "a whole number"),
    ("tasks", True, "a whole number"), ("tasks", None, "a whole number"), ("lr", "fast", "a number"), ("lr", True, "a number"),
    ("lr", [1], "a number"), ("oe", "yes", "true or false"), ("oe", 1, "true or false"), ("dataset", 3, "a text"),
    ("data", "0.5", "options by name"), ("targets", 3, "names"), ("class_seed", "x", "a whole number"),
    ("method", None, "text"),
])
def test_wrong_types(key, value, what):
    assert key in refused(what, **{key: value})


@pytest.mark.parametrize(("key", "value"), [
    ("tasks", 0), ("epochs", 0), ("batch_size", -1), ("rank", 0), ("step_score_every", 0), ("threads", 0), ("per_class", 0),
    ("lr", 0.0), ("lr", -1e-3), ("lr", "nan"), ("lr", "inf"), ("head_lr", 0.0), ("scale", 0.0), ("cap", 0.0),
    ("dml_temperature", 0.0), ("weight_decay", -0.1), ("ridge", -1.0), ("ridge", float("nan")), ("energy", 1.1),
    ("energy", -0.1), ("energy", float("nan")), ("energy_end", 2.0), ("seed", -1), ("class_seed", -5), ("save_every", -1.0),
    ("save_every", float("inf")),
])
def test_values_out_of_range(key, value):
    assert key in refused(key, **{key: value})


@pytest.mark.parametrize(("key", "value", "near"), [("gr", "exat", "exact"), ("adapter", "merge", "merged"),
                                                    ("init", "null", "nullspace"), ("evaluate", "tests", "test"),
                                                    ("dml_form", "hinges", "hinge"), ("oe_epochs", "lst", "last")])
def test_values_from_a_list(key, value, near):
    assert key in refused(f"did you mean '{near}'", **{key: value})


def test_text_becomes_what_the_field_is():
    c = create(**from_text(["lr=1e-3", "oe=TRUE", "dml=false", "tasks=5", "class_seed=none", "weights=None", "energy=1",
                            "targets=q, v", "data.strength=0.5", "data.mode=soft", "data.on=true", "per_class=20"]))
    assert (c.lr, c.oe, c.dml, c.tasks, c.class_seed, c.weights, c.energy) == (1e-3, True, False, 5, None, None, 1.0)
    assert type(c.energy) is float and c.targets == ("q", "v") and c.per_class == 20
    assert c.data == {"strength": 0.5, "mode": "soft", "on": True}
    assert create(lr=1, targets=["k"]).lr == 1.0 and create(targets=["k"]).targets == ("k",)
    assert from_text(["weights=a=b.safetensors"]) == {"weights": "a=b.safetensors"}
    with pytest.raises(UsageError, match="key=value"):
        from_text(["lr"])


LEGAL = [{"gr": gr, "adapter": adapter, "init": init, "oe": oe, "dml": dml}
         for gr in ("none", "tangent", "exact") for adapter in ("shared", "merged") for init in ("free", "nullspace")
         for oe in (True, False) for dml in (True, False)
         if (gr != "exact" or (adapter, init, oe) == ("merged", "nullspace", True))
         and (init == "free" or (adapter == "merged" and oe))]


def test_legal_combinations_stand_and_all_others_are_refused():
    legal = 0
    for gr in ("none", "tangent", "exact"):
        for adapter in ("shared", "merged"):
            for init in ("free", "nullspace"):
                for oe in (True, False):
                    for dml in (True, False):
                        switches = {"gr": gr, "adapter": adapter, "init": init, "oe": oe, "dml": dml}
                        if switches in LEGAL:
                            assert create(**switches).gr == gr
                            legal += 1
                        else:
                            refused("requires", **switches)
    assert legal == len(LEGAL) == 22


def test_illegal_combinations_are_refused_by_name():
    refused("gr=exact requires adapter=merged and init=nullspace", gr="exact", adapter="shared", init="free")
    refused("gr=exact requires", gr="exact", init="free")
    refused("init=nullspace requires adapter=merged", gr="none", adapter="shared")
    refused("requires oe=true", oe=False, gr="none")
    refused("gr=exact requires", method="gpm", gr="exact")  # gpm's own defaults are shared and free
    assert create(method="gpm", gr="exact", adapter="merged", init="nullspace").gr == "exact"


@pytest.mark.parametrize(("method", "switch"), [("finetune", {"oe": True}), ("finetune", {"gr": "tangent"}),
                                                ("frozen", {"dml": True}), ("ncm", {"adapter": "merged"}),
                                                ("gpm", {"dml": True}), ("gpm", {"oe": False}),
                                                ("joint", {"init": "nullspace"})])
def test_switches_of_other_methods_are_refused(method, switch):
    assert next(iter(switch)) in refused(f"method={method}", method=method, **switch)


def test_all_that_is_wrong_is_said_at_once():
    said = refused("^7 faults: ", epoch=3, lr="fast", rank=0, energy=2, method="janus", gr="exact", adapter="shared", oe=False,
                   ewc_lambda=5.0)
    for part in ("'epochs'", "lr takes a number, got 'fast'", "rank must be at least 1, got 0", "energy is a share in [0, 1]",
                 "gr=exact requires adapter=merged", "init=nullspace requires oe=true", "ewc_lambda is a setting of method=ewc"):
        assert said.count(part) == 1, part
    assert "faults" not in refused("gr=exact does not go with method=finetune", method="finetune", gr="exact")  # nor what follows
    assert "faults" not in refused("init=nullspace requires oe=true", gr="none", oe=False)
    assert "faults" not in refused("unknown method 'finetun'", method="finetun", gr="exact", init="nullspace")
    assert refused("^2 faults: .*unknown value for gr: 'exat'.*epochs must", gr="exat", init="free", adapter="shared", epochs=0)


def test_of_a_setting_that_is_wrong_nothing_follows():
    assert not list(faults({"gr": "exact"}, {"method"})) and len(list(faults({"gr": "exact", "init": "free"}, {"method"}))) == 1
    assert not list(faults({"gr": "exact"}, {"init", "adapter", "oe"})) and not list(faults({"oe": False, "gr": "none"}, {"init"}))
    assert not list(faults({"ranpac_dim": 7}, {"head"})) and len(list(faults({"ranpac_dim": 7}))) == 1


def test_every_method_makes_a_config_and_says_what_it_is():
    assert {"finetune", "gpm", "janus", "frozen", "ncm", "joint"} <= set(methods.all_methods())
    for name, method in methods.all_methods().items():
        c = create(method=name)
        assert c.method == name and method.summary
        for key, value in method.fixed.items():
            assert getattr(c, key) == value and create(**{"method": name, key: value}) == c  # what is fixed may be said
    assert (create(method="gpm").gr, create(method="gpm").adapter, create(method="gpm").oe) == ("none", "shared", True)
    c = create()
    assert (c.gr, c.adapter, c.init, c.oe, c.dml) == ("exact", "merged", "nullspace", True, True)


def test_hash_is_about_the_numbers():
    c = create()
    assert len(c.hash()) == 12 and int(c.hash(), 16) >= 0 and c.hash() == create().hash()
    for key, value in {"device": "cpu", "threads": 3, "save_every": 1.0, "root": "/somewhere"}.items():
        assert key in FREE and create(**{key: value}).hash() == c.hash()
    others = {"seed": 1, "class_seed": 1, "lr": 2e-3, "tasks": 5, "gr": "tangent", "targets": ("q",), "data": {"strength": 0.5},
              "energy": 0.9, "dml": False, "evaluate": "val", "amp": "bf16", "weights": "random", "per_class": 7}
    hashes = {create(**{key: value}).hash() for key, value in others.items()}
    assert len(hashes) == len(others) and c.hash() not in hashes
    assert create(seed=4).hash() == create(seed=4, class_seed=4).hash() != create(seed=4, class_seed=0).hash()
    assert create(dml_push=0.3).hash() != c.hash()
    assert create(dml=False, dml_push=0.3).hash() == create(dml=False).hash()  # a loss that is off has no settings


def test_a_config_survives_its_own_json():
    c = create(**from_text(["targets=q,v", "data.strength=0.25", "lr=3e-4", "class_seed=5", "threads=2"]))
    text = json.dumps(c.to_dict(), allow_nan=False)
    again = create(**json.loads(text))
    assert again == c and again.hash() == c.hash()
    assert set(c.to_dict()) == {f.name for f in dataclasses.fields(Config)}
