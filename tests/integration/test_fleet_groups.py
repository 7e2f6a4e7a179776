"""Fleet groups and shares in a real Ray with two logical GPUs: Ray itself refuses what the plan does not allow."""

from __future__ import annotations

import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray

from placement.inventory import Device, DeviceKind, Node
from serve_app.fleet.groups import Seat, ensure_fleet_group, ensure_warden, hold_share, seats
from serve_app.fleet.names import RAY_NODE_LABEL

pytestmark = pytest.mark.integration

GIB = 2**30
HEADROOM = 0.2
_NAMESPACE = "fleet-test"
"""Placement groups are found by name inside one namespace only; under Serve that is Serve's own."""
_PING_S = 30.0
_REFUSED_S = 3.0

_OWNER = """
import sys, pickle, ray, time
from serve_app.fleet.groups import hold_share
ray.init(address=sys.argv[1], namespace=sys.argv[4], log_to_driver=False)
share = hold_share(pickle.loads(bytes.fromhex(sys.argv[2])), num_bytes=int(sys.argv[3]), name="orphan-to-be")
print(ray.get(share.ping.remote()), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    """A private Ray of this process, with a fleet group over two simulated devices of 10 GiB."""
    with tempfile.TemporaryDirectory(prefix="hr-") as short:
        context = ray.init(
            num_cpus=2, num_gpus=2, include_dashboard=False, _temp_dir=short, log_to_driver=False, namespace=_NAMESPACE
        )
        devices = tuple(
            Device(
                id=f"here/gpu-{index}",
                uuid=f"simulated-{index}",
                node="here",
                index=index,
                kind=DeviceKind.SIMULATED,
                product="simulated",
                total_bytes=10 * GIB,
            )
            for index in range(2)
        )
        made = Node(name="here", num_cpus=2, host_memory_bytes=GIB, devices=devices)
        selector = {RAY_NODE_LABEL: context.address_info["node_id"]}
        assert ensure_fleet_group(made, selector=selector)
        assert not ensure_fleet_group(made, selector=selector)
        for seat in seats(made):
            ray.get(ensure_warden(seat, headroom=HEADROOM).uuid.remote(), timeout=_PING_S)
        yield made
        ray.shutdown()


def is_given(share: object, *, timeout_s: float) -> bool:
    """Whether Ray starts the share in time."""
    ready, _ = ray.wait([share.ping.remote()], timeout=timeout_s)  # type: ignore[attr-defined]
    return bool(ready)


def seat(node: Node, index: int) -> Seat:
    return seats(node)[index]


class TestShares:
    def test_the_headroom_is_nobodys(self, node: Node) -> None:
        most = hold_share(seat(node, 0), num_bytes=8 * GIB, name="all-but-headroom")
        assert is_given(most, timeout_s=_PING_S)
        one_more = hold_share(seat(node, 0), num_bytes=GIB // 10, name="too-much")
        assert not is_given(one_more, timeout_s=_REFUSED_S)
        ray.kill(one_more)
        ray.kill(most)

    def test_a_share_lands_on_its_own_device(self, node: Node) -> None:
        first = hold_share(seat(node, 0), num_bytes=8 * GIB, name="fills-0")
        assert is_given(first, timeout_s=_PING_S)
        second = hold_share(seat(node, 1), num_bytes=8 * GIB, name="fills-1")
        assert is_given(second, timeout_s=_PING_S)
        ray.kill(first)
        ray.kill(second)

    def test_a_share_dies_with_its_owner_and_frees_its_bytes(self, node: Node) -> None:
        place = seat(node, 0)
        owner = subprocess.Popen(
            [sys.executable, "-c", _OWNER, _address(), pickle.dumps(place).hex(), str(8 * GIB), _NAMESPACE],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path.cwd(),
        )
        assert owner.stdout is not None
        share_pid = int(owner.stdout.readline())
        owner.kill()
        owner.wait()
        next_one = hold_share(place, num_bytes=8 * GIB, name="next")
        assert is_given(next_one, timeout_s=_PING_S)
        assert not psutil.pid_exists(share_pid)
        ray.kill(next_one)


def _address() -> str:
    return str(ray.get_runtime_context().gcs_address)
