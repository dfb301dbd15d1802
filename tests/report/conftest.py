"""The committed results, read once for all tests of the documents."""

from __future__ import annotations

import pytest
from helpers.scripts import load_script


@pytest.fixture(scope="session")
def report():
    pytest.importorskip("sklearn", reason="the report needs the bench extra")
    return load_script("benchmarks/report.py")


@pytest.fixture(scope="session")
def groups(report):
    return report.groups()
