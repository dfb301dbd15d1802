"""Build Icons-R and its pre-training vocabulary from a pinned release of `@iconify/json`.

    npm pack @iconify/json@2.2.535                 # writes iconify-json-2.2.535.tgz
    python data/scripts/build_icons.py iconify-json-2.2.535.tgz

Needs `resvg_py`, `pillow` and `pyarrow`. The steps, in order: check the integrity of the archive, keep
monochrome icon sets under permissive licences, map icon names to concepts (`concepts.json`), rasterise to
32x32 alpha masks, drop near-duplicates within and across the three groups of icon sets, cap the images per
class, write parquet files in the Hugging Face image layout and a manifest with counts, leak numbers and a
content hash.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from drawings import (
    NEAR_ACROSS,
    NEAR_WITHIN,
    SPLITS,
    Entry,
    content_hash,
    counts,
    distances,
    gather,
    select,
    write,
)
from iconify import INTEGRITY, VERSION, archive, icons_of, usable

HERE = Path(__file__).resolve().parent
CAPS = {"icons-r": {"train": 60, "val": 12, "test": 15}, "icons-vocab": {"train": 64, "val": 10}}


def build(tgz: Path, out: Path) -> dict[str, object]:
    spec = json.loads((HERE / "concepts.json").read_text())
    groups = {style: split for split, sets in spec["groups"].items() for style in sets}
    files = archive(tgz)
    bad = [s for s in groups if not usable(files["collections"][s])]
    if bad:
        raise SystemExit(f"sets that may not be used: {', '.join(bad)}; remove them from concepts.json")
    icons = list(icons_of(files, groups))
    exclude = set(spec["exclude"])
    manifest: dict[str, object] = {
        "source": f"npm @iconify/json@{VERSION}",
        "integrity": INTEGRITY,
        "near_within": NEAR_WITHIN,
        "near_across": NEAR_ACROSS,
        "groups": {k: sorted(v) for k, v in spec["groups"].items()},
    }
    forbidden: list[Entry] = []  # the vocabulary must not hold a drawing of the stream
    for folder, key in (("icons-r", "stream"), ("icons-vocab", "vocabulary")):
        classes = sorted(spec[key])
        found = gather({c: spec[key][c] for c in classes}, exclude, icons, groups)
        chosen = select(found, CAPS[folder], forbidden)
        part: dict[str, object] = {"classes": len(classes)}
        for split, entries in chosen.items():
            write(out / folder / f"{split}.parquet", entries, classes)
            digest = content_hash(np.stack([e.image for e in entries]), np.array([e.label for e in entries]))
            part[split] = {**counts(entries, classes), "sha256": digest}
        others = {}
        for a, b in (("test", "train"), ("val", "train"), ("test", "val")):
            if {a, b} <= chosen.keys():
                others[f"{a}_to_{b}"] = distances(chosen[a], chosen[b])
        part["nearest_hash_distance"] = others
        if folder == "icons-r":
            forbidden = [e for split in SPLITS for e in chosen[split]]
        else:
            others["stream_to_vocab_train"] = distances(forbidden, chosen["train"])
            del others["stream_to_vocab_train"]["nearest_is_of_the_class"]  # other classes by construction
        manifest[folder] = part
    (out / "icons-r" / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tgz", type=Path, help=f"iconify-json-{VERSION}.tgz from `npm pack @iconify/json@{VERSION}`"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE.parent,
        help="where icons-r/ and icons-vocab/ are written (default: data/)",
    )
    args = parser.parse_args()
    done = build(args.tgz, args.out)
    for folder in ("icons-r", "icons-vocab"):
        for split in SPLITS:
            if split in done[folder]:
                print(folder, split, done[folder][split])
        print(folder, "nearest", json.dumps(done[folder]["nearest_hash_distance"]))
