"""`janus report`: a folder of results as a page, a file of numbers, a manuscript's tables."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path

import pytest

from janus.cli.commands import main
from janus.report import document


def test_markdown_has_a_table_a_group_and_says_where_the_numbers_come_from(
    results_folder: Path, capsys
) -> None:
    assert main(["report", str(results_folder)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("## ") == 3 and "## rows" in printed and "| OE+GR | 3 |" in printed
    assert "| frozen → OE+GR | +3.3, +10.0 |" in printed and "Abacus, 3 thread(s)" in printed
    assert "| OE+GR, lr=0.001 | 1 |" in printed  # a search's runs are not averaged


def test_csv_has_a_line_a_run(results_folder: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(document.write([results_folder], "csv"))))
    assert len(lines) == 9 and {line["table"] for line in lines} == {"rows", "tune"}
    (line,) = [line for line in lines if line["row"] == "OE+GR" and line["seed"] == "1"]
    assert float(line["acc"]) == pytest.approx(100 / 3) and float(line["seconds"]) == 12.0


def test_html_shows_tables_and_figures_without_a_network(results_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert main(["report", str(results_folder), "--to", "html", "--out", str(out)]) == 0
    page = out.read_text()
    assert page.count("<figure>") == page.count("<figcaption>") > 4 and "<b>26.7" in page
    assert 'src="http' not in page and page.count("plotly.js v") == 1


def test_tex_is_in_the_style_of_booktabs(results_folder: Path) -> None:
    text = document.write([results_folder / "rows"], "tex")
    assert text.count("toprule") == text.count("bottomrule") == 3 and "OE+GR & 3 &" in text


def test_folders_of_one_name_are_told_apart(results_folder: Path, tmp_path: Path) -> None:
    places = [tmp_path / place / "mine" for place in ("here", "there")]
    twice = [shutil.copytree(results_folder / "rows", place) for place in places]
    lines = list(csv.DictReader(io.StringIO(document.write(twice, "csv"))))
    assert {line["table"] for line in lines} == {f"mine ({folder})" for folder in twice}
    assert len(document.sections([twice[0], twice[0], twice[1] / ".." / ".." / "here" / "mine"])) == 1
    shutil.copytree(twice[0], twice[1] / "mine")  # a folder in one of its own name
    titles = [section.title for section in document.sections([twice[1]])]
    assert titles == [f"mine ({twice[1]})", f"mine ({twice[1] / 'mine'})"]


def test_what_cannot_be_reported_is_said_in_a_line(results_folder: Path, tmp_path: Path, capsys) -> None:
    assert main(["report", str(tmp_path / "nothing")]) == 2
    assert main(["report", str(results_folder), "--to", "pdf"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "no results in" in lines[0] and "md, html, csv, tex" in lines[1]
