"""What the documents promise: their links lead somewhere, the README is short and names files that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / folder / "README.md" for folder in (".", "data", "benchmarks")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
NAMED = re.compile(r"`((?:janus|benchmarks|notebooks|data|tests)/[\w/.]+\.(?:py|md|yaml|sh|ipynb))`")


def anchors(document: Path) -> set[str]:
    """What GitHub makes of the headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_files_that_documents_name_exist() -> None:
    for document in DOCUMENTS:
        for name in NAMED.findall(document.read_text()):
            assert (ROOT / name).exists(), f"{document.relative_to(ROOT)}: {name}"
