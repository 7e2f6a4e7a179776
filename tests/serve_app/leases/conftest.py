"""One ledger per test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.serve_app.leases.serving import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(ledger=tmp_path / "leases.db")
