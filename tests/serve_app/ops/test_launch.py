"""How `headroom up` looks at the cluster it started."""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from serve_app.ops.launch import Running, watch
from serve_app.ops.local_cluster import environment
from tests.serve_app.access.certificates import self_signed
from tests.serve_app.cli.loopback import answering
from tests.serve_app.ops.test_local_cluster import CLUSTER

HEALTH = {"/health": {"status": "ok", "models": {}}}


class Seen(Exception):
    """Ends the watch, which never ends by itself."""


def seen(health: Mapping[str, Any]) -> None:
    raise Seen(health["status"])


@contextlib.contextmanager
def programs() -> Iterator[Running]:
    """Two that run."""
    processes = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    try:
        yield Running(*processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


class TestTheWatch:
    def test_of_an_encrypted_cluster_trusts_its_own_certificate(self, tmp_path: Path) -> None:
        tls = self_signed(tmp_path)
        encrypted = dataclasses.replace(CLUSTER, certificate=tls.certificate)
        with answering(HEALTH, tls=tls) as address, programs() as both, pytest.raises(Seen, match="ok"):
            watch(encrypted, both, address, seen)

    def test_of_a_plain_cluster_asks_in_plain(self) -> None:
        with answering(HEALTH) as address, programs() as both, pytest.raises(Seen, match="ok"):
            watch(CLUSTER, both, address, seen)


class TestTheEnvironment:
    def test_tells_every_process_whether_http_is_encrypted(self) -> None:
        assert environment(CLUSTER)["HEADROOM_HTTPS"] == "0"
        assert environment(dataclasses.replace(CLUSTER, certificate=Path("c.pem")))["HEADROOM_HTTPS"] == "1"
