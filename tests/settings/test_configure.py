"""Flat keys → Config: names, text, faults together; the hash."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from janus.configure import as_text, config_hash, deciding, from_text, layered, make, non_default
from janus.data import registry
from janus.errors import UsageError
from janus.learner import build_model
from janus.settings import reading
from janus.settings.methods import KINDS


def refused(match: str, **values) -> str:
    with pytest.raises(UsageError, match=match) as error:
        make(values)
    assert "\n" not in str(error.value) and error.value.exit_code == 2
    return str(error.value)


def test_a_name_is_the_full_path_or_its_last_part():
    assert (
        make(lr=0.5).training.lr
        == make({"training.lr": 0.5}).training.lr
        == make(training={"lr": 0.5}).training.lr
        == 0.5
    )
    assert (
        make(push=0.1)
        == make({"loss.push": 0.1})
        == make({"method.loss.push": 0.1})
        == make(method={"name": "janus", "loss": {"push": 0.1}})
    )
    assert make(strength=0.5) == make(data={"strength": 0.5}) == make({"data.options.strength": 0.5})
    assert make(method="gpm") == make({"method.name": "gpm"}) == make(method={"name": "gpm"})
    slca = make(method="slca", lr=0.5, epochs=7)  # a run's, whatever the method calls its own
    assert (slca.training.lr, slca.training.epochs) == (0.5, 7)
    assert (slca.classifier.lr, slca.classifier.epochs) == (0.003, 5)
    assert make({"method": "slca", "classifier.lr": 0.5}).classifier.lr == 0.5
    assert make(method="ewc", lambda_=3).method.lambda_ == 3
    assert make({"method": "ewc", "method.lambda": 3}).method.lambda_ == 3
    refused("name can mean method.name or classifier.name: give the whole name", name="gpm")


def test_unknown_names_get_the_nearest_known():
    refused("unknown setting 'epoch': did you mean 'epochs'", epoch=3)
    refused("did you mean 'energy'", enrgy=0.9)
    refused("unknown setting 'method.margn': did you mean 'method.margin'", **{"method.margn": 2})
    refused("unknown setting 'methd': did you mean 'method'", methd="janus")
    refused("did you mean 'finetune'", method="fine-tune")
    refused("unknown classifier 'npm': did you mean 'ncm'", classifier="npm")
    refused("unknown dataset 'icons-q': did you mean 'icons-r'", dataset="icons-q")
    refused("unknown model 'icon-vit': did you mean 'icons-vit'", model="icon-vit")
    refused(
        "unknown model 'vit_tinny_patch16_224': did you mean 'vit_tiny_patch16_224'",
        model="vit_tinny_patch16_224",
    )
    refused("unknown setting 'strenth': did you mean 'strength'", strenth=0.5)
    assert "known: " in refused("unknown method 'xyzzy'", method="xyzzy")


def test_a_model_of_timm_takes_images_of_another_size():
    small = make(model="vit_tiny_patch16_224", weights="random", image_size=48)
    assert build_model(small, torch.Generator(), torch.device("cpu"))[1].size == 48
    usual = make(model="vit_tiny_patch16_224", weights="random")
    assert config_hash(small) != config_hash(usual) and "backbone.image_size" not in deciding(usual)
    refused("backbone.image_size does not go with icons-vit, which has one size; leave it out", image_size=48)


def test_settings_of_another_say_whose_they_are():
    refused(
        "^margin is a setting of method=drs and does nothing with method=janus; leave it out, or set method=",
        margin=2,
    )
    refused("method.margin is a setting of method=drs", **{"method.margin": 2})
    refused("of method=lwf and of classifier=aligned", method="frozen", temperature=0.1)
    refused("dim is a setting of classifier=ranpac and does nothing with classifier=linear", dim=5)
    refused("data.strength is a setting of dataset=icons-r", dataset="fashion-mnist", data={"strength": 0.5})
    assert make(method="drs", margin=2).method.margin == 2
    assert make(classifier="ranpac", dim=5).classifier.dim == 5


@pytest.mark.parametrize(
    ("method", "switch"),
    [
        ("finetune", {"oe": True}),
        ("finetune", {"gr": "tangent"}),
        ("frozen", {"dml": True}),
        ("ncm", {"adapter": "merged"}),
        ("gpm", {"dml": True}),
        ("gpm", {"oe": "false"}),
        ("drs", {"adapter": "shared"}),
        ("joint", {"init": "nullspace"}),
        ("inflora", {"gr": "exact"}),
    ],
)
def test_what_a_method_implies_may_be_said_and_not_changed(method, switch):
    name = next(iter(switch))
    assert f"{name}=" in refused(
        f"does not go with method={method}, which has {name}=", method=method, **switch
    )
    assert make({"method": method, name: getattr(KINDS[method], name)}) == make(method=method)
    refused(
        "classifier=linear does not go with method=ncm, which has classifier=ncm",
        method="ncm",
        classifier="linear",
    )


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("tasks", "ten", "a whole number"),
        ("tasks", 2.5, "a whole number"),
        ("tasks", "2.5", "a whole number"),
        ("tasks", 2.0, "a whole number"),
        ("tasks", True, "a whole number"),
        ("tasks", None, "a whole number"),
        ("lr", "fast", "a number"),
        ("lr", True, "a number"),
        ("lr", [1], "a number"),
        ("lr", "nan", "a finite number"),
        ("ridge", float("nan"), "a finite number"),
        ("save_every", float("inf"), "a finite number"),
        ("oe", "yes", "true or false"),
        ("oe", 1, "true or false"),
        ("dataset", 3, "a text"),
        ("data", "0.5", "settings by name"),
        ("loss", 3, "settings by name"),
        ("targets", 3, "names"),
        ("class_seed", "x", "a whole number"),
        ("method", None, "text"),
        ("classifier", 3, "text"),
        ("weights", 3, "text"),
    ],
)
def test_wrong_types(key, value, what):
    assert key in refused(what, **{key: value})


def test_text_numpy_and_paths_become_what_the_setting_is():
    texts = "lr=1e-3 oe=TRUE dml=false tasks=5 class_seed=none weights=None energy=1 energy_end=null"
    more = ["targets=q, v", "data.strength=0.5", "vocabulary=true", "per_class=20", "data.size=32"]
    c = make(from_text([*texts.split(), *more]))
    assert (c.training.lr, c.method.oe, c.method.dml, c.data.tasks) == (1e-3, True, False, 5)
    assert (c.data.class_seed, c.backbone.weights) == (None, None)
    assert (c.method.energy, c.method.energy_end) == (1.0, None)
    assert type(c.method.energy) is float and c.backbone.targets == ("q", "v") and c.data.per_class == 20
    assert c.data.options == {"strength": 0.5, "vocabulary": True, "size": 32}
    numbers = {"lr": np.float32(0.5), "tasks": np.int64(5), "oe": np.bool_(True)}
    n = make(**numbers, root=Path("/data"), dataset=Path("a/b"), targets=["k"])
    assert (n.training.lr, n.data.tasks, n.method.oe) == (0.5, 5, True)
    assert (n.runtime.root, n.data.dataset) == ("/data", "a/b")
    assert type(n.data.tasks) is int and n.backbone.targets == ("k",)
    lists = make(dataset="imagenet-r", split_files="a.yaml, b.yaml")
    assert lists.data.options == {"split_files": ("a.yaml", "b.yaml")}
    # a file's name may be a number
    assert make(dataset="cifar-100", class_list="5").data.options == {"class_list": "5"}
    with pytest.raises(UsageError, match="key=value"):
        from_text(["lr"])
    assert from_text(["weights=a=b.safetensors"]) == {"weights": "a=b.safetensors"}


def test_a_setting_is_given_once():
    refused("training.lr is given twice: 0.1 and 0.2; leave one out", lr=0.1, **{"training.lr": 0.2})
    assert make({"lr": "1e-1", "training.lr": 0.1}).training.lr == 0.1
    with pytest.raises(UsageError, match="lr is given twice: 1 and 2"):
        from_text(["lr=1", "lr=2"])


def test_all_that_is_wrong_is_said_at_once():
    said = refused(
        "^8 faults: ",
        epoch=3,
        lr="fast",
        rank=0,
        energy=2,
        method="janus",
        gr="exact",
        adapter="shared",
        oe=False,
        margin=5.0,
        dataset="icons-q",
    )
    for part in (
        "'epochs'",
        "training.lr takes a number, got 'fast'",
        "backbone.rank must be at least 1, got 0",
        "method.energy must be at most 1, got 2",
        "gr=exact requires adapter=merged",
        "init=nullspace requires oe=true",
        "margin is a setting of method=drs",
        "unknown dataset 'icons-q'",
    ):
        assert said.count(part) == 1, part
    assert "faults" not in refused("gr=exact does not go with method=finetune", method="finetune", gr="exact")
    assert "faults" not in refused(
        "unknown method 'finetun'", method="finetun", gr="exact", init="nullspace", margin=2
    )
    assert "faults" not in refused("unknown dataset 'icons-q'", dataset="icons-q", strength=0.5, tasks=300)
    assert refused(
        "^2 faults: .*epochs must.*unknown value for method.gr: 'exat'",
        gr="exat",
        init="free",
        adapter="shared",
        epochs=0,
    )


def test_what_a_method_changes_elsewhere():
    assert make(method="slca").training.lr == 1e-4 < make(method="finetune").training.lr
    assert make(method="bilora").backbone.scale == 300 and make(method="bilora", scale=2).backbone.scale == 2
    assert make(method="ncm").classifier.name == "ncm" and make(method="ranpac", dim=7).classifier.dim == 7
    for name in KINDS:
        assert make(method=name).method.name == name and non_default(make(method=name)) == (
            {} if name == "janus" else {"method.name": name}
        )


def test_paths_and_names_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photographs").mkdir()
    assert make(dataset="photographs").data.dataset == "photographs"
    assert make(dataset="not/there/yet").data.dataset == "not/there/yet"  # it may be where the run is
    assert make(dataset="hf:owner/name", revision="main").data.options == {"revision": "main"}
    refused("unknown dataset 'photos'", dataset="photos")
    monkeypatch.setenv("JANUS_DATA", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere" / "photos").mkdir(parents=True)
    assert make(dataset="photos") and make(dataset="photos", root=tmp_path / "elsewhere")
    refused("unknown dataset 'photos'", dataset="photos", root=tmp_path)


def test_options_for_a_loader():
    assert registry.options_of("icons-r", {"strength": "0.5", "vocabulary": False}) == {"strength": 0.5}
    with pytest.raises(
        UsageError, match="option 'strength' belongs to dataset icons-r, not to parquet; parquet takes size"
    ):
        registry.options_of("parquet", {"strength": 0.5})
    with pytest.raises(
        UsageError, match="^2 faults: .*did you mean 'image_column'.*data.val_fraction must be less than 1"
    ):
        registry.options_of("parquet", {"imag_column": "x", "val_fraction": 2})


@pytest.mark.parametrize(
    "values",
    [["dataset=icons-q"], ["methd=janus"], ["method=janos"], ["method.margn=2"], ["model=vit_tinny"]],
)
def test_a_typing_error_costs_little(values):
    code = f"from janus import configure; configure.make(configure.from_text({values!r}))"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True)
    assert done.returncode == 1 and "UsageError: unknown" in done.stderr
    assert not {" torch", " timm", " numpy"} & {
        line.rpartition("|")[2].rstrip() for line in done.stderr.splitlines()
    }
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_methods_change_only_settings_that_there_are():
    known = reading._owners()
    for kind in KINDS.values():
        assert {*kind.defaults, *kind.fixed} <= known.keys()
    assert set(reading.SHORT.values()) <= known.keys()


def test_layers_stand_over_each_other_whatever_names_they_use():
    config = layered(
        {"lr": 0.1, "method.energy": 0.5}, {"training.lr": 0.2}, {"energy": 0.6, "method": "gpm"}
    )
    assert config == make(method="gpm", lr=0.2, energy=0.6)
    common = {"lr": 0.1, "method.loss.push": 0.1, "classifier.dim": 5, "data.strength": 0.5, "gr": "tangent"}
    assert layered({"method": "frozen"}, common=common) == make(method="frozen", lr=0.1, strength=0.5)
    assert layered({"method": "gpm"}, common=common).method.gr == "tangent"
    assert layered({"push": 0.2}, common=common | {"gr": "exact"}) == make(lr=0.1, strength=0.5, push=0.2)
    with pytest.raises(UsageError, match="unknown setting 'pushh'.*epochs must be at least 1"):
        layered({"method": "frozen"}, common={"pushh": 1, "epochs": 0})
    with pytest.raises(UsageError, match="push is a setting of method=janus"):
        layered({"push": 1}, {"method": "frozen"})


@pytest.mark.parametrize(
    ("key", "value", "read", "fault"),
    [
        ("lr", "1e-3", 1e-3, None),
        ("data.strength", "5e-1", 0.5, None),
        ("margin", 2, 2, None),
        ("method", "mine", "mine", None),
        ("temperature", "0.2", 0.2, None),
        ("top", 100, 100, None),
        ("lr", "fast", "fast", "training.lr takes a number, got 'fast'"),
        ("epoch", 3, 3, "unknown setting 'epoch': did you mean 'epochs'?"),
        ("method.loss", 3, 3, "method.loss takes settings by name, e.g. method.loss.form=…, got 3"),
        ("oe_epochs", "lst", "lst", "unknown value for method.oe_epochs: 'lst': did you mean 'last'?"),
        ("method", 3, 3, "method takes a text, got 3"),
    ],
)
def test_a_setting_is_judged_by_itself(key, value, read, fault):
    assert reading.setting(key, value) == (read, fault)


def test_settings_can_be_written_as_text():
    for config in (
        make(),
        make(method="ewc", targets=["q", "v"], lambda_=3, strength=0.5, lr=1e-5, energy_end=0.99),
    ):
        assert make(from_text(as_text(config))) == config
    assert as_text({"data": {"strength": 0.5}, "targets": ("q", "v"), "weights": None}) == [
        "data.strength=0.5",
        "targets=q,v",
        "weights=None",
    ]
