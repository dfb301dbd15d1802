"""Write `data/ATTRIBUTION.md`, `data/LICENSES/NOTICE-<set>.txt`: who drew the icons, under which licence.

    python data/scripts/write_notices.py iconify-json-2.2.535.tgz

Reads the built parquet files for what is used, and the archive for authors and licences.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
from iconify import VERSION, archive

DATA = Path(__file__).resolve().parents[1]


def used() -> Counter[str]:
    """How many images of each icon set the data files hold."""
    count: Counter[str] = Counter()
    for file in sorted(DATA.glob("icons-*/*.parquet")):
        count.update(pq.read_table(file, columns=["style"])["style"].to_pylist())
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tgz", type=Path)
    files = archive(parser.parse_args().tgz)
    count = used()
    folder = DATA / "LICENSES"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("NOTICE-*.txt"):
        old.unlink()
    rows = []
    for style in sorted(count):
        info = files["collections"][style]
        author, licence = info["author"], info["license"]
        by = f"[{author['name']}]({author['url']})" if author.get("url") else author["name"]
        under = f"[{licence['spdx']}]({licence['url']})" if licence.get("url") else licence["spdx"]
        rows.append(f"| {info['name']} | `{style}` | {by} | {under} | {count[style]} |")
        version = f", version {info['version']}" if info.get("version") else ""
        address = f" <{author['url']}>" if author.get("url") else ""
        (folder / f"NOTICE-{style}.txt").write_text(
            f"{info['name']} (Iconify prefix: {style}{version})\n"
            f"Copyright (c) {author['name']}{address}\n"
            f"Licence: {licence.get('title', licence['spdx'])} (SPDX: {licence['spdx']})\n"
            f"Licence file: {licence.get('url', 'none named by the source')}\n"
            f"Text: {licence['spdx']}.txt in this folder\n"
            f"Changes: {count[style]} icons, rasterised to 32x32 grey-scale masks, "
            "cropped and scaled to their bounding box.\n"
        )
    (DATA / "ATTRIBUTION.md").write_text(
        "# Attribution\n\n"
        f"Every image in `icons-r/` and `icons-vocab/` is an icon of one of these {len(rows)} sets, "
        "taken from the npm\n"
        f"package [`@iconify/json`](https://www.npmjs.com/package/@iconify/json) {VERSION}. "
        "Changes made: rasterised to\n"
        "32×32 grey-scale masks, cropped and scaled to the bounding box; coloured and textured when loaded. "
        "The texts of\n"
        "the licences and one notice a set are in `LICENSES/`. "
        "In the parquet files the column `style` names the set of\n"
        "an image, `image.path` the icon.\n\n"
        "| set | prefix | author | licence | images |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )
    licences = Counter(files["collections"][s]["license"]["spdx"] for s in count)
    print(f"{len(rows)} sets, {sum(count.values())} images, licences {dict(licences)}")


if __name__ == "__main__":
    main()
