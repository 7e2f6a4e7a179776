"""Custody: what we started, and what it started, ends with us."""

from __future__ import annotations

import json
import subprocess
import sys


class TestRelease:
    def test_an_orphan_that_ignores_sigterm_is_ended_and_only_its_shared_memory_removed(self) -> None:
        run = subprocess.run(
            [sys.executable, "-m", "tests.serve_app.ops.custody_program"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        found = json.loads(run.stdout)
        assert found == {"before": 1, "after": 0, "killed": 1, "memory_left": False, "living_left": True}
