"""Errors are one line, in a notebook as well."""

from __future__ import annotations

import pytest

from janus import errors

shell = pytest.importorskip("IPython.core.interactiveshell")


def test_a_notebook_shows_the_line_alone(capsys: pytest.CaptureFixture[str]) -> None:
    ip = shell.InteractiveShell()
    ip.run_cell("from janus import errors\nraise errors.unknown('method', 'janos', ['janus', 'gpm'])")
    shown = capsys.readouterr().out.strip()
    assert shown == "UsageError: unknown method 'janos': did you mean 'janus'?"
    assert errors.JanusError("lost")._render_traceback_() == ["JanusError: lost"]
