"""What there is, by name, without torch: the data sets with their options, and the backbones.

A name or an option that does not exist is refused from here, before anything is imported that takes seconds.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from ..errors import UsageError, join_messages, unknown
from ..runtime import assets
from ..settings.base import Settings, judge

# ── options of the data sets ────────────────────────────────────────────────────────────────────────────────

ValFraction = Annotated[
    float | None,
    Field(
        ge=0,
        lt=1,
        description="share of the training images, class by class, that becomes the validation split where "
        "the data have none; 0: none; None: a tenth where the set has no splits at all, else none",
    ),
]
TestFraction = Annotated[
    float | None,
    Field(
        gt=0,
        lt=1,
        description="share of the images, class by class, that is tested on where the data have no splits; "
        "None: a fifth",
    ),
]
ClassList = Annotated[
    str | None,
    Field(description="file with one class name or wnid a line: only these classes are taken; None: all"),
]
Column = Annotated[
    str | None, Field(description="name of a column of the tables; None: found by its type or usual name")
]
SplitFiles = Annotated[
    tuple[str, ...] | None,
    Field(
        description="files that list the images of the splits, as they stand, or below the data's folder or "
        "its folder `splits`"
    ),
]


class Options(Settings):
    """What every data set takes."""

    size: int | None = Field(
        None, ge=1, description="side in pixels that photographs are prepared for; None: the backbone's"
    )
    skip_corrupt: bool = Field(
        False, description="decode every image at load time, leave out and name those that cannot be"
    )
    cache: Literal["auto", "disk", "none"] = Field(
        "auto",
        description="where decoded photographs are kept: auto is memory up to 2 GiB, then a file in the "
        "user's cache folder; does not change a number",
    )


class IconsOptions(Options):
    """Icons-R."""

    strength: float = Field(
        1.0,
        ge=0,
        le=1,
        description="how far the renditions move from plain icons: 0 is black on white, "
        "1 full colours and textures; chosen with the backbone on validation, see data/README.md",
    )
    vocabulary: bool = Field(
        False, description="add the concepts that the embedded backbone was pre-trained on"
    )
    renditions: Literal["fixed", "fresh"] = Field(
        "fixed",
        description="what training sees: one rendition of each icon, or another one in every epoch. What is "
        "computed after a task (class means, the classifier's statistics, a pass of the method's own) sees "
        "the fixed one in both cases, and Online Estimation what training sees",
    )
    copies: int = Field(
        1, ge=1, le=64, description="fixed renditions of each icon that validation and test are judged on"
    )


class FashionOptions(Options):
    """Fashion-MNIST."""

    val_fraction: ValFraction = None


class FolderOptions(Options):
    """One folder a class."""

    val_fraction: ValFraction = None
    test_fraction: TestFraction = None
    class_list: ClassList = None


class ParquetOptions(FolderOptions):
    """Tables in the Hugging Face image layout."""

    image_column: Column = None
    label_column: Column = None
    style_column: Column = None


class HubOptions(ParquetOptions):
    """A data set of the Hugging Face hub, and the benchmarks that are there."""

    config: str | None = Field(None, description="configuration of a hub data set that has several")
    revision: str | None = Field(
        None, description="commit, tag or branch of a hub data set; None: the newest"
    )


class Cifar100Options(HubOptions):
    """CIFAR-100."""

    label_column: Column = "fine_label"


class ImageNetROptions(HubOptions):
    """ImageNet-R."""

    label_column: Column = "wnid"
    val_fraction: ValFraction = 0.0
    split_files: SplitFiles = None


class DomainNetOptions(HubOptions):
    """DomainNet."""

    split_files: SplitFiles = None


IMAGENET_100 = (
    "imagenet-100 is not one set: three lists of 100 classes circulate (CMC's imagenet100.txt, train_100.txt "
    "of PODNet's and DER's code, the first 100 wnids) and none is meant by default; give "
    "data.class_list=FILE with one wnid or class name a line, or data.class_list=own for data that holds "
    "exactly 100 classes"
)


class ImageNet100Options(HubOptions):
    """100 classes of ImageNet, which a list must name."""

    rules = (lambda options: IMAGENET_100 if options.class_list is None else None,)


@dataclass(frozen=True)
class DataSet:
    """summary: what it holds. options: its settings below `data`. classes: at most; None: its files say."""

    summary: str
    options: type[Options]
    classes: int | None = None


DATASETS: dict[str, DataSet] = {
    "icons-r": DataSet(
        "100 icon concepts in artistic renditions, 32 px; embedded, works offline", IconsOptions, 100
    ),
    "fashion-mnist": DataSet(
        "10 kinds of clothing, 28 px grey; from local IDX files (root or $JANUS_DATA)", FashionOptions, 10
    ),
    "cifar-100": DataSet("100 classes, 32 px; local or hf:uoft-cs/cifar100", Cifar100Options, 100),
    "imagenet-r": DataSet(
        "200 classes in renditions, cut 80/20 or by data.split_files; local or hf:axiong/imagenet-r",
        ImageNetROptions,
        200,
    ),
    "imagenet-100": DataSet(
        "100 classes of ImageNet, those of data.class_list; local or hf:clane9/imagenet-100",
        ImageNet100Options,
        100,
    ),
    "tiny-imagenet": DataSet("200 classes, 64 px; local or hf:zh-plus/tiny-imagenet", HubOptions, 200),
    "domainnet": DataSet(
        "345 classes in 6 domains; local with its lists, or hf:wltjr1007/DomainNet", DomainNetOptions, 345
    ),
    "imagefolder": DataSet(
        "any folder with one folder per class (root=FOLDER, or its path as the name)", FolderOptions
    ),
    "parquet": DataSet(
        "parquet in the Hugging Face image layout (root=FOLDER, or a path or pattern as the name)",
        ParquetOptions,
    ),
    "hf:": DataSet("hf:<owner>/<name>: any labelled image dataset of the Hugging Face hub", HubOptions),
}


def names() -> dict[str, str]:
    """Every data set there is and what it holds."""
    return {name: entry.summary for name, entry in DATASETS.items()}


def options(name: str) -> type[Options]:
    """The options that the data set `name` may have; of a path, those of folders and of parquet files."""
    if name.startswith("hf:"):
        return HubOptions
    return DATASETS[name].options if name in DATASETS else ParquetOptions


def owners(option: str) -> list[str]:
    """The data sets that have an option."""
    return [name for name, entry in DATASETS.items() if option in entry.options.model_fields]


def options_of(kind: str, given: Mapping[str, Any], label: str = "") -> dict[str, Any]:
    """Options as the loader of a kind of data set takes them, without those that say what holds anyway.

    label: what messages call the kind.

    Raises:
        UsageError: an option that the kind does not have, with the sets that have it; a wrong value.
    """
    known, label = DATASETS[kind].options, label or kind
    texts = []
    for option in given:
        if option not in known.model_fields and (others := owners(option)):
            texts.append(f"option {option!r} belongs to dataset {', '.join(others)}, not to {label}")
            texts[-1] += f"; {label} takes {', '.join(known.model_fields)}"
        elif option not in known.model_fields:
            texts.append(str(unknown(f"option of dataset {label}", option, known.model_fields)))
    mine = {option: value for option, value in given.items() if option in known.model_fields}
    found, faults = judge(known, mine, "data.")
    if texts + faults:
        raise UsageError(join_messages(texts + faults))
    return found.model_dump(exclude_defaults=True)


def dataset_fault(name: str, root: str | None = None, folder: str | None = None) -> str | None:
    """What is wrong with the name of a data set, if it is no path: a path may exist where the run will be.

    folder: where relative paths start from, besides the working directory.
    """
    if name.startswith("hf:") or name in DATASETS or re.search(r"[/\\*?~]|^\.|\.parquet$", name):
        return None
    places = [Path(root).expanduser()] if root else [Path(), *([home] if (home := assets.home()) else [])]
    places += [Path(folder)] if folder else []
    if name and any((place / name).exists() for place in places):
        return None
    return str(unknown("dataset", name, DATASETS))


# ── backbones ───────────────────────────────────────────────────────────────────────────────────────────────

# the project's own backbones and their weights, in data/
EMBEDDED = {name: f"backbone/{name}.safetensors" for name in ("icons-vit", "icons-vit-wide")}
WIDTH = 192  # of their features
HUB = ("hf-hub:", "hf_hub:", "local-dir:")  # timm's prefixes for models that only a network or a folder knows


@cache
def model_fault(name: str) -> str | None:
    """What is wrong with the name of a backbone, its tag aside. timm is asked through its source text: to
    import it takes seconds."""
    (text, names), model = _timm(), name.partition(".")[0]
    if name in EMBEDDED or name.startswith(HUB):
        return None
    if not names or model in names:  # none: a timm that is written otherwise, so nothing is known
        return None
    if model and re.search(rf"['\"]{re.escape(model)}['\"]", text):  # in quotes: an old name among others
        return None
    near = difflib.get_close_matches(name, names | EMBEDDED.keys(), n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "`janus models` lists them"
    return f"unknown model {name!r}: {hint}"


@cache
def _timm() -> tuple[str, set[str]]:
    """The source text of timm's models, and the names of those it registers there: a tenth of a second."""
    spec = find_spec("timm")
    folders = [Path(place) / "models" for place in (spec and spec.submodule_search_locations) or ()]
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return text, set(re.findall(r"^@register_model\s+def (\w+)\(", text, re.MULTILINE))
