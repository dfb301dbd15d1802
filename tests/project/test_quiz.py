"""The quiz asks twenty questions, and each answer leads back to a heading of a lesson that is there."""

from __future__ import annotations

import json
import re
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
TEXT = (NOTEBOOKS / "quiz.md").read_text()


def headings(lesson: str) -> set[str]:
    """A lesson's headings as JupyterLab links to them: words joined by hyphens."""
    cells = json.loads((NOTEBOOKS / lesson).read_text())["cells"]
    lines = "".join(
        "".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown"
    ).splitlines()
    return {line.lstrip("# ").replace(" ", "-") for line in lines if re.match(r"#+ ", line)}


def test_there_are_twenty_questions_each_with_a_folded_answer() -> None:
    assert re.findall(r"^\*\*(\d+)\.\*\*", TEXT, re.M) == [str(n) for n in range(1, 21)]
    assert TEXT.count("<details><summary>Answer</summary>") == TEXT.count("</details>") == 20


def test_every_answer_leads_back_to_a_heading() -> None:
    links = re.findall(r"\]\((\S+\.ipynb)#(\S+)\)", TEXT)
    assert len(links) == 20
    missing = [f"{lesson}#{heading}" for lesson, heading in links if heading not in headings(lesson)]
    assert not missing
