"""The resolver of packaged files."""

from __future__ import annotations

import pytest

from janus.errors import JanusError
from janus.runtime import assets


def test_finds_what_is_there() -> None:
    assert assets.path("icons-r/test.parquet").is_file()
    assert assets.path("icons-r").is_dir()


def test_names_what_is_missing() -> None:
    with pytest.raises(JanusError, match="icons-r/nothing.parquet"):
        assets.path("icons-r/nothing.parquet")


def test_the_installed_package_comes_first(tmp_path, monkeypatch) -> None:
    (tmp_path / "installed").mkdir()
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout" / "a").write_text("checkout")
    monkeypatch.setattr(assets, "ROOTS", (tmp_path / "installed", tmp_path / "checkout"))
    assert assets.path("a").read_text() == "checkout"
    (tmp_path / "installed" / "a").write_text("installed")
    assert assets.path("a").read_text() == "installed"


def test_finished_runs_are_found_or_their_absence_is_said(tmp_path, monkeypatch) -> None:
    assert (assets.results() / "runs.parquet").is_file() and assets.measurement("memory")["counted"]
    monkeypatch.setattr(assets, "RESULTS", (tmp_path / "nowhere",))
    with pytest.raises(JanusError, match="results are missing: reinstall"):
        assets.results()
