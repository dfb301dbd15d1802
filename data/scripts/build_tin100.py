"""Cut the photographs' benchmark out of Tiny-ImageNet: 100 classes for a stream.

    wget http://cs231n.stanford.edu/tiny-imagenet-200.zip && unzip -q tiny-imagenet-200.zip
    python data/scripts/build_tin100.py tiny-imagenet-200 --out photographs

Writes tin100-{train,test}.parquet (120 and 50 images a class) in the Hugging Face image layout, the JPEG
bytes as they are. Which classes, `tin100.json` says; test images are Tiny-ImageNet's validation images, whose
labels are public.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from janus.data import splits
from janus.errors import UsageError

CLASSES = json.loads(Path(__file__).with_name("tin100.json").read_text())  # wnid → name
# numbers of the stream's training images: the first 120 names below 200
KEPT = {*range(3), *range(10, 27), *range(100, 200)}


def write(path: Path, files: Sequence[Path], labels: Sequence[int]) -> None:
    """One parquet file of encoded images, by class and name."""
    rows = sorted(zip(labels, files), key=lambda row: (row[0], row[1].name))
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    label = {"names": list(CLASSES.values()), "_type": "ClassLabel"}
    info = {"features": {"image": {"_type": "Image"}, "label": label}}
    metadata = {"huggingface": json.dumps({"info": info, "wnids": list(CLASSES)})}
    schema = pa.schema([("image", kind), ("label", pa.int64())], metadata=metadata)
    images = [{"bytes": file.read_bytes(), "path": file.name} for _, file in rows]
    columns = [pa.array(images, kind), pa.array([number for number, _ in rows])]
    pq.write_table(pa.Table.from_arrays(columns, schema=schema), path)
    print(f"{path}: {len(rows)} images of {len(CLASSES)} classes")


def build(root: Path, out: Path) -> None:
    """Both files. UsageError: `root` is not Tiny-ImageNet, or not all of it."""
    if not (root / "val" / "val_annotations.txt").is_file():
        raise UsageError(
            f"{root} has no val/val_annotations.txt; unpack tiny-imagenet-200.zip and name its folder"
        )
    source = splits.tiny_imagenet(root)
    out.mkdir(parents=True, exist_ok=True)
    if missing := [wnid for wnid in CLASSES if wnid not in source.classes]:
        raise UsageError(
            f"{root} has no class {missing[0]} ({CLASSES[missing[0]]}); unpack tiny-imagenet-200.zip again"
        )
    number = {wnid: i for i, wnid in enumerate(CLASSES)}
    for split in ("train", "test"):
        rows = [
            (source.fetch(i), number[wnid])
            for i, label in enumerate(source.labels)
            if source.splits[i] == split and (wnid := source.classes[label]) in number
        ]
        if split == "train":
            rows = [(file, label) for file, label in rows if int(file.stem.rpartition("_")[2]) in KEPT]
        write(out / f"tin100-{split}.parquet", *zip(*rows))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="the folder that tiny-imagenet-200.zip unpacks to")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    try:
        build(args.root, args.out)
    except UsageError as error:
        parser.exit(2, f"build_tin100: {error}\n")


if __name__ == "__main__":
    main()
