"""One cluster for the whole session: three models, three modes, traced into a receiver of ours.

It starts with the first test that asks for it. Tests that break things run after those that only ask, and
whoever comes last finds it stopped by Ctrl-C.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.integration.default_models import ROOT, copy_models
from tests.integration.live_cluster import LiveCluster, short_home
from tests.tracing.otlp_receiver import Receiver, http_receiver

_HERE = Path(__file__).parent
_BEFORE = ("test_refusals", "test_starts", "test_fleet_groups", "test_fleet", "test_device_rules", "test_road")
"""Those that need no cluster or start one of their own, which ends with them: the shared one does not run yet."""
_ORDER = (*_BEFORE, "", "test_lifecycle", "test_apply", "test_faults", "test_end")
"""Modules in this order; those not named come where the empty name stands."""


if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job ignores Ctrl-C, and so would everything started from it; in a terminal it is not so.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All of ours after the quick tests, and what destroys after what asks."""
    items.sort(key=lambda item: _rank(item.path))


def _rank(path: Path) -> int:
    if path.parent != _HERE:
        return -1
    return _ORDER.index(path.stem) if path.stem in _ORDER else _ORDER.index("")


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    with http_receiver() as receiving:
        yield receiving


@pytest.fixture(scope="session")
def running(receiver: Receiver) -> Iterator[LiveCluster]:
    """`headroom up` of the shipped cluster.yaml, every model ready."""
    home = short_home()
    copy_models(home)
    traced = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}
    cluster = LiveCluster((ROOT / "cluster.yaml").read_text(), home=home, environment=traced)
    try:
        cluster.wait_for_health("ok")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(running: LiveCluster) -> LiveCluster:
    """The running cluster with every model ready, also after a test that broke one."""
    running.wait_for_health("ok", deadline_s=90)
    return running


@pytest.fixture
def client(cluster: LiveCluster) -> Iterator[openai.OpenAI]:
    """The official client, without its own retries: what fails is seen."""
    with openai.DefaultHttpxClient(trust_env=False) as transport:
        yield openai.OpenAI(
            base_url=f"{cluster.url}/v1", api_key="none", max_retries=0, timeout=60, http_client=transport
        )


@pytest.fixture
def http(cluster: LiveCluster) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=cluster.url, trust_env=False, timeout=60) as plain:
        yield plain
