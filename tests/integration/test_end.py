"""The end of the session's cluster: Ctrl-C leaves nothing. Runs last."""

from __future__ import annotations

import pytest

from tests.integration.live_cluster import LiveCluster

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


class TestCtrlC:
    def test_leaves_no_process_and_no_shared_memory(self, running: LiveCluster) -> None:
        running.stop()  # asserts it
