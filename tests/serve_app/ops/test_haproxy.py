"""HAProxy without splicing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from serve_app.ops.haproxy import write_wrapper


class TestWrapper:
    def test_becomes_the_haproxy_that_ray_brings_and_takes_its_arguments(self, tmp_path: Path) -> None:
        write_wrapper(tmp_path / "haproxy")
        said = subprocess.run([tmp_path / "haproxy", "-v"], capture_output=True, text=True, check=True, timeout=30)
        assert said.stdout.startswith("HAProxy version")

    def test_turns_splicing_off_also_for_a_haproxy_that_an_operator_names(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RAY_SERVE_HAPROXY_BINARY_PATH", "/bin/echo")
        write_wrapper(tmp_path / "haproxy")
        said = subprocess.run([tmp_path / "haproxy", "-c"], capture_output=True, text=True, check=True, timeout=30)
        assert said.stdout == "-dS -c\n"
