"""The image sets by name: embedded, local files, folders, parquet, the hub, all as one `ImageSet`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import JanusError, UsageError, unknown
from ..runtime.assets import home, photographs
from . import folders, idx, loaders, registry, renditions, sources, splits
from .images import TensorImages
from .imageset import ImageSet, carve, checked_fraction, complete, share_note
from .sources import Source

CACHES = ("auto", "disk", "none")
ACCEPTED = (
    "a folder with one folder of images per class, .parquet files (one, a folder or a pattern), "
    "or hf:OWNER/NAME"
)
COMMON = ("root", "size", "skip_corrupt", "cache")  # what every loader takes


def load(
    name: str | Path,
    root: str | Path | None = None,
    size: int | None = None,
    skip_corrupt: bool = False,
    cache: str = "auto",
    **options: object,
) -> ImageSet:
    """The image set called `name` (see `registry.names`), or the one at a path.

    At a path are an image folder or parquet files; it may be a pattern. `root` says where local files are;
    without it they are looked for in $JANUS_DATA. `size` is the input side of the backbone (photographs are
    stored a little larger, see `janus.data.images.Encoded`). With `skip_corrupt` every image is decoded once
    at load time and those that cannot be are left out, counted and named. `cache` says where decoded images
    are kept, see `janus.data.images.Encoded`; progress is logged while they are made. Sets without splits are
    split here, always in the same way, class by class. UsageError: unknown set or option, a path that does
    not exist, a class without images in train or test; JanusError: unreadable data.
    """
    name = str(name)
    if cache not in CACHES:
        raise unknown("cache", cache, CACHES)
    common = {"root": root, "size": size, "skip_corrupt": skip_corrupt, "cache": cache}
    if name.startswith("hf:"):
        return _call("hf:", loaders.hub, name[3:], common, options)
    if name in LOADERS and name != "hf:":
        return _call(name, LOADERS[name], name, common, options)
    return _read(_at, name, common, {"given": options})


def _at(name: str, root: str | Path | None, given: dict, **common: object) -> ImageSet:
    """What is at a path or pattern."""
    path = _find(name, root)
    if path is None or not name:
        if any(c in name for c in "/\\*?~") or name.endswith(".parquet") or name.startswith("."):
            raise UsageError(f"no data at {name!r}: the path does not exist{photographs(name)}")
        raise unknown("dataset", name, LOADERS)
    if path.is_file() and not sources.parquet_files(path):
        raise UsageError(f"{path} is one file and no data set: give {ACCEPTED}; unpack an archive first")
    kind = folders.kind(path, given)
    return _call(kind, LOADERS[kind], Path(name).name or name, common | {"root": path}, given)


def _call(kind: str, loader: Callable[..., ImageSet], name: str, common: dict, options: dict) -> ImageSet:
    """Call a loader with options of its kind of data set, which are checked."""
    return _read(loader, name, common, registry.options_of(kind, options))


def _read(loader: Callable[..., ImageSet], name: str, common: dict, options: dict) -> ImageSet:
    try:
        return loader(name, **common, **options)
    except OSError as error:  # no rights, a disk that fails: say which file
        raise JanusError(f"cannot read {error.filename or name} ({error.strerror or error})") from error


# ---- where local files are ---------------------------------------------------------------------------------


def _find(name: str, root: str | Path | None) -> Path | None:
    """`name` as a path or pattern: as it stands, below `root`, below $JANUS_DATA; None: nothing is there."""
    bases = [Path(root).expanduser()] if root is not None else [Path(), *([home()] if home() else [])]
    for base in bases:
        path = base / Path(name).expanduser()
        if path.exists() or sources.parquet_files(path):
            return path
    return None


# ---- the sets ----------------------------------------------------------------------------------------------


FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")


def _fashion(
    name: str, root: str | Path | None, val_fraction: float | None = None, **common: object
) -> ImageSet:
    """Fashion-MNIST from its four IDX files, gzipped or not, or from parquet or class folders.

    Grey becomes RGB.
    """
    bases = [Path(root).expanduser()] if root is not None else [home()] if home() else []
    places = [b / sub for b in bases for sub in ("", "fashion-mnist", "FashionMNIST/raw", "FashionMNIST")]
    own = places[:1] if root is not None else places[1:2]
    other = next((p for p in own if p.is_dir() and not idx.present(places)), None)
    if other is not None and (sources.parquet_files(other) or folders.has_class_folders(other)):
        kind = folders.kind(other, {})
        built = LOADERS[kind](name, root=other, val_fraction=val_fraction, **common)
        built.transform = "icons"
        return built
    parts, instead = {}, _download("fashion-mnist")
    for part, stem in (("train", "train"), ("test", "t10k")):
        pixels = idx.read(idx.find(places, f"{stem}-images", "idx3", instead), dims=3)  # (N, 28, 28)
        file = idx.find(places, f"{stem}-labels", "idx1", instead)
        labels = idx.read(file, dims=1)
        if len(labels) != len(pixels):
            raise JanusError(
                f"{file} has {len(labels)} labels for {len(pixels)} images; download the set again"
            )
        if len(labels) and int(labels.max()) >= len(FASHION):
            raise JanusError(
                f"{file} has a label {int(labels.max())} of {len(FASHION)} classes; is it Fashion-MNIST?"
            )
        planes = pixels[:, None].expand(-1, 3, -1, -1)  # one grey plane seen three times
        parts[part] = TensorImages(planes, labels)
    notes: list[str] = []
    train, val, labels = torch.arange(len(parts["train"])), None, parts["train"].labels
    if val_fraction:
        train, val = carve(train, labels, checked_fraction("val_fraction", val_fraction), FASHION)
        notes.append(share_note(val_fraction))
    val_images = None if val is None else parts["train"].subset(val)
    kept, test = parts["train"].subset(train), parts["test"]
    return complete(ImageSet(name, list(FASHION), kept, val_images, test, transform="icons", notes=notes))


# ---- the benchmarks ----------------------------------------------------------------------------------------


HUB = {  # where each benchmark can be fetched from
    "cifar-100": "uoft-cs/cifar100",
    "imagenet-r": "axiong/imagenet-r",
    "imagenet-100": "clane9/imagenet-100",
    "tiny-imagenet": "zh-plus/tiny-imagenet",
    "domainnet": "wltjr1007/DomainNet",
    "fashion-mnist": "zalando-datasets/fashion_mnist",
}


def _published(name: str, own: Callable[..., Source | None] | None = None) -> Callable[..., ImageSet]:
    """A benchmark of the paper: local files if `root` or $JANUS_DATA/<name> has them, else the hub.

    `own(place)` reads the layout in which the set's authors publish it, None where `place` holds something
    else. It takes the options that no other data set has.
    """
    fields, usual = registry.DATASETS[name].options.model_fields, registry.HubOptions.model_fields
    extra = [option for option in fields if option not in usual]
    defaults = {option: fields[option].default for option in usual}
    defaults = {option: value for option, value in defaults.items() if value != usual[option].default}

    def loader(name: str, root: str | Path | None, **options: object) -> ImageSet:
        mine = {k: options.pop(k) for k in extra if k in options}
        common = {k: options.pop(k) for k in COMMON if k in options}
        place = Path(root).expanduser() if root is not None else home() / name if home() else None
        if root is not None and not place.is_dir():
            state = "is a file: unpack an archive first" if place.exists() else "does not exist"
            raise UsageError(f"{name}: the folder {place} given as root {state}; {_download(name)}")
        if place is None or not place.is_dir():
            if mine:
                raise UsageError(
                    f"{name}: {', '.join(mine)} needs the image files in a folder: root=FOLDER or "
                    f"$JANUS_DATA/{name}; unpack the authors' archive there"
                )
            try:
                built = loaders.hub(HUB[name], None, **(defaults | options), **common)
            except UsageError:
                raise
            except JanusError as error:
                raise JanusError(f"{error}; {_download(name)}") from error
            built.name = name
            return built
        common |= {"root": place}
        source = own(place, **mine) if own else None
        if source is not None:
            usable = {k: v for k, v in defaults.items() if k in registry.FolderOptions.model_fields}
            what = f"{name} in its authors' layout"
            checked = registry.options_of("imagefolder", usable | options, what)
            return _read(loaders.of_source(source, place), name, common, checked)
        kind = folders.kind(place, options, defaults)
        usable = {k: v for k, v in defaults.items() if k in registry.DATASETS[kind].options.model_fields}
        return _call(kind, LOADERS[kind], name, common, usable | options)

    return loader


def _cifar_100(place: Path) -> None:
    """CIFAR-100 as its authors publish it is pickled and is not read."""
    if (place / "cifar-100-python").is_dir() or (place / "meta").is_file():
        raise UsageError(
            f"{place} holds CIFAR-100's pickled files, which can run code; "
            f"{_download('cifar-100')} as parquet"
        )


def _imagenet_r(place: Path, split_files: object = None) -> Source | None:
    """ImageNet-R by the lists that circulate with CODA-Prompt's code; without them the set is cut here."""
    return None if split_files is None else splits.listed(splits.yaml_lists(split_files, place), place)


def _domainnet(place: Path, split_files: object = None) -> Source | None:
    """DomainNet by its official lists: <domain>_train.txt, <domain>_test.txt beside the domains' folders."""
    if split_files is not None:
        files = [splits.locate(f, place) for f in splits.named_files(split_files)]
    else:
        lists = [f for folder in (place, place / "splits") for f in sorted(folder.glob("*.txt"))]
        files = [f for f in lists if f.stem.endswith(("_train", "_test"))]
    return splits.listed(splits.text_lists(files), place, styled=True) if files else None


def _tiny_imagenet(place: Path) -> Source | None:
    """Tiny-ImageNet as its zip unpacks, with or without the folder tiny-imagenet-200 around it."""
    for root in (place, place / "tiny-imagenet-200"):
        if (root / "val" / "val_annotations.txt").is_file():
            return splits.tiny_imagenet(root)
    return None


def _imagenet_100(name: str, root: str | Path | None, class_list: str, **options: object) -> ImageSet:
    """100 classes of ImageNet: which, a list must say, or the data that holds no others."""
    own = class_list == "own"
    if not own:
        options["class_list"] = class_list
    built = _imagenet_100_files(name, root, **options)
    if len(built.classes) != 100:
        what = "the data holds" if own else f"the class list {class_list} leads to"
        raise UsageError(f"imagenet-100: {what} {len(built.classes)} classes, not 100; check data.class_list")
    if own:
        built.notes.append(
            "the 100 classes are those the data holds, chosen by whoever made it (class_list=own)"
        )
    return built


_imagenet_100_files = _published("imagenet-100")


def _download(name: str) -> str:
    """The command that provides a benchmark, and where it puts it."""
    place = home() / name if home() else Path("data") / name
    then = "" if home() else f", then root={place}"
    command = f"`hf download {HUB[name]} --repo-type dataset --local-dir {place}`"
    return f"{command} (pip install huggingface_hub) fetches it{then}"


LOADERS: dict[str, Callable[..., ImageSet]] = {
    "icons-r": renditions.icons_r,
    "fashion-mnist": _fashion,
    "cifar-100": _published("cifar-100", _cifar_100),
    "imagenet-r": _published("imagenet-r", _imagenet_r),
    "imagenet-100": _imagenet_100,
    "tiny-imagenet": _published("tiny-imagenet", _tiny_imagenet),
    "domainnet": _published("domainnet", _domainnet),
    "imagefolder": loaders.folder,
    "parquet": loaders.parquet,
    "hf:": loaders.hub,
}
