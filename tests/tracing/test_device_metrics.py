"""What a poll of the fleet saw, as Prometheus' own parser reads it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tracing.test_metrics import samples as page_of
from tracing import names
from tracing.collector import Collector, fleet_families
from tracing.device_metrics import DeviceMetrics, DeviceSample
from tracing.fleet_metrics import AlertMetrics, LeaseMetrics, WatchMetrics
from tracing.metrics import Recorder

GIB = 1024**3


def sample(device: str = "a/gpu-0", **changes: Any) -> DeviceSample:
    """A healthy 80 GiB device of node `a` with 20 GiB used, that offers nothing else."""
    plain = DeviceSample(
        node="a",
        device=device,
        uuid=f"GPU-{device}",
        is_up=True,
        health="healthy",
        product="NVIDIA H100",
        driver="570.1",
        total_bytes=80 * GIB,
        used_bytes=20 * GIB,
    )
    return dataclasses.replace(plain, **changes)


class Fleet:
    """A recorder of devices and the page it ends on."""

    def __init__(self) -> None:
        self.recorder = Recorder("watch")
        self.devices = DeviceMetrics(self.recorder)
        self.collector = Collector(version="1")

    def after(self, *polls: Sequence[DeviceSample]) -> dict[str, float]:
        for poll in polls:
            self.devices.polled(poll)
        return self.page()

    def page(self) -> dict[str, float]:
        self.collector.merge(self.recorder.drain(), now_s=0.0)
        return page_of(self.collector)


def of_device(page: dict[str, float], device: str) -> dict[str, float]:
    return {name: value for name, value in page.items() if f"device={device}" in name}


class TestGauges:
    def test_show_what_was_read(self) -> None:
        page = Fleet().after(
            [sample(temperature_c=71.0, planned_bytes=GIB, throttle_reasons=frozenset({"hw_thermal"}))]
        )
        assert page["headroom_device_up{device=a/gpu-0,node=a,uuid=GPU-a/gpu-0}"] == 1
        assert page["headroom_device_temperature_celsius{device=a/gpu-0,node=a}"] == 71
        assert page["headroom_device_memory_bytes{device=a/gpu-0,node=a,state=planned}"] == GIB
        assert page["headroom_device_headroom_ratio{device=a/gpu-0,node=a}"] == 0.75
        assert page["headroom_device_throttle_active{device=a/gpu-0,node=a,reason=hw_thermal}"] == 1
        assert page["headroom_device_throttle_active{device=a/gpu-0,node=a,reason=power_cap}"] == 0

    def test_what_a_device_does_not_offer_has_no_series_rather_than_a_zero(self) -> None:
        page = Fleet().after([sample()])
        for name in ("temperature_celsius", "power_watts", "throttle_active", "row_remap_pending", "ecc_errors_total"):
            assert not [series for series in page if name in series]

    def test_a_device_that_falls_silent_is_down_and_keeps_no_stale_reading(self) -> None:
        page = Fleet().after([sample(temperature_c=71.0)], [sample(is_up=False, health="lost", used_bytes=None)])
        assert page["headroom_device_up{device=a/gpu-0,node=a,uuid=GPU-a/gpu-0}"] == 0
        assert page["headroom_device_health_state{device=a/gpu-0,node=a,state=lost}"] == 1
        assert "headroom_device_temperature_celsius{device=a/gpu-0,node=a}" not in page
        assert "headroom_device_headroom_ratio{device=a/gpu-0,node=a}" not in page

    def test_exactly_one_state_is_one(self) -> None:
        for state in names.HEALTH_STATES:
            page = Fleet().after([sample(health="healthy")], [sample(health=state)])
            states = {name: value for name, value in page.items() if "health_state" in name}
            assert len(states) == len(names.HEALTH_STATES)
            assert [name for name, value in states.items() if value] == [
                f"headroom_device_health_state{{device=a/gpu-0,node=a,state={state}}}"
            ]

    def test_a_device_that_left_leaves_no_series_counters_included(self) -> None:
        both = [sample("a/gpu-0", ecc_corrected=1), sample("a/gpu-1", ecc_corrected=1)]
        fleet = Fleet()
        assert of_device(fleet.after(both), "a/gpu-1")
        page = fleet.after(both[:1])
        assert not of_device(page, "a/gpu-1")
        assert of_device(page, "a/gpu-0")

    def test_devices_of_the_cluster_are_each_in_one_state(self) -> None:
        page = Fleet().after(
            [
                sample("a/gpu-0"),
                sample("a/gpu-1", planned_bytes=GIB),
                sample("a/gpu-2", leased_bytes=GIB, is_cordoned=True),
                sample("a/gpu-3", planned_bytes=GIB, health="quarantined"),
                sample("a/gpu-4", is_up=False),
                sample("a/gpu-5", is_cordoned=True),
            ]
        )
        states = {name: value for name, value in page.items() if name.startswith("headroom_cluster_devices")}
        assert states == {
            "headroom_cluster_devices{state=total}": 6,
            "headroom_cluster_devices{state=available}": 1,
            "headroom_cluster_devices{state=allocated}": 2,
            "headroom_cluster_devices{state=unhealthy}": 2,
            "headroom_cluster_devices{state=cordoned}": 1,
        }

    def test_a_thousand_devices_lose_no_series_to_a_bound(self) -> None:
        page = Fleet().after([sample(f"a/gpu-{number}", xids=(13,)) for number in range(1024)])
        assert len([name for name in page if "health_state" in name]) == 1024 * len(names.HEALTH_STATES)
        assert len([name for name in page if "xid_errors_total" in name]) == 1024 * len(names.XIDS)
        assert not [name for name in page if "device=other" in name]


class TestCounters:
    def test_begin_at_zero_whatever_the_driver_says_at_first_sight(self) -> None:
        page = Fleet().after([sample(energy_j=5e9, ecc_corrected=12, ecc_uncorrected=0)])
        assert page["headroom_device_energy_joules_total{device=a/gpu-0,node=a}"] == 0
        assert page["headroom_device_ecc_errors_total{device=a/gpu-0,node=a,type=corrected}"] == 0
        for xid in names.XIDS:
            assert page[f"headroom_device_xid_errors_total{{device=a/gpu-0,node=a,xid={xid}}}"] == 0

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 50)), max_size=20))
    def test_count_every_error_once_also_where_the_driver_began_anew(self, steps: list[tuple[bool, int]]) -> None:
        """A step is a restart of the driver or none, then errors. Fails where a total that falls adds nothing.

        A restart after which the driver already counts as much as before cannot be seen, so there is none here.
        """
        total = 0
        polls = [[sample(ecc_corrected=0)]]
        for restarts, num_errors in steps:
            total = num_errors if restarts and num_errors < total else total + num_errors
            polls.append([sample(ecc_corrected=total)])
        truth = sum(num_errors for _, num_errors in steps)
        page = Fleet().after(*polls)
        assert page["headroom_device_ecc_errors_total{device=a/gpu-0,node=a,type=corrected}"] == truth

    def test_a_poll_without_an_answer_changes_no_total(self) -> None:
        silent = sample(is_up=False, used_bytes=None)
        page = Fleet().after([sample(ecc_corrected=1)], [silent], [sample(ecc_corrected=4)])
        assert page["headroom_device_ecc_errors_total{device=a/gpu-0,node=a,type=corrected}"] == 3

    def test_another_device_in_the_same_place_is_no_error(self) -> None:
        page = Fleet().after([sample(ecc_corrected=1)], [sample(uuid="GPU-new", ecc_corrected=90)])
        assert page["headroom_device_ecc_errors_total{device=a/gpu-0,node=a,type=corrected}"] == 0

    def test_xids_without_a_meaning_are_other(self) -> None:
        page = Fleet().after([sample(xids=(79, 79, 13))], [sample(xids=(999, 1000))])
        assert page["headroom_device_xid_errors_total{device=a/gpu-0,node=a,xid=79}"] == 2
        assert page["headroom_device_xid_errors_total{device=a/gpu-0,node=a,xid=13}"] == 1
        assert page["headroom_device_xid_errors_total{device=a/gpu-0,node=a,xid=other}"] == 2

    def test_a_device_that_comes_back_goes_on_where_it_was(self) -> None:
        fleet = Fleet()
        page = fleet.after([sample(xids=(79,))], [], [sample(xids=(79,))])
        assert page["headroom_device_xid_errors_total{device=a/gpu-0,node=a,xid=79}"] == 2


class TestTheWatch:
    def test_the_last_poll_of_a_node_goes_when_it_is_watched_no_more(self) -> None:
        fleet = Fleet()
        watch = WatchMetrics(fleet.recorder)
        for node in ("a", "b"):
            watch.polled(node, duration_s=0.01, num_failed=2, at_s=50.0)
        watch.keep(["a"])
        page = fleet.page()
        assert page["headroom_watch_last_poll_timestamp_seconds{node=a}"] == 50
        assert "headroom_watch_last_poll_timestamp_seconds{node=b}" not in page
        assert page["headroom_watch_poll_errors_total{node=a}"] == 2


class TestAlerts:
    def test_every_rule_is_counted_from_zero_and_shown_while_it_is_silent(self) -> None:
        fleet = Fleet()
        alerts = AlertMetrics(fleet.recorder, [("THROTTLING", "info"), ("ECC_UNCORRECTABLE", "critical")])
        page = fleet.page()
        assert page["headroom_alerts_triggered_total{rule=THROTTLING,severity=info}"] == 0
        assert page["headroom_alerts_active{rule=THROTTLING,severity=info}"] == 0
        alerts.triggered("THROTTLING", "info")
        alerts.show({("THROTTLING", "info"): 1})
        page = fleet.page()
        assert page["headroom_alerts_triggered_total{rule=THROTTLING,severity=info}"] == 1
        assert page["headroom_alerts_active{rule=THROTTLING,severity=info}"] == 1
        assert page["headroom_alerts_active{rule=ECC_UNCORRECTABLE,severity=critical}"] == 0


class TestLeases:
    def test_are_counted_by_answer_and_shown_by_state(self) -> None:
        fleet = Fleet()
        fleet.collector.declare(modes=(), models=())
        leases = LeaseMetrics(fleet.recorder)
        leases.answered("granted", duration_s=0.0007)
        leases.show({"held": 3})
        page = fleet.page()
        assert page["headroom_lease_requests_total{result=granted}"] == 1
        assert page["headroom_lease_requests_total{result=refused}"] == 0
        assert page["headroom_lease_handshake_seconds_bucket{le=0.001,result=granted}"] == 1
        assert page["headroom_leases{state=held}"] == 3


class TestThePageOfTheFleet:
    def test_has_whole_families_of_devices_models_and_infrastructure_and_no_other(self) -> None:
        fleet = Fleet()
        fleet.collector.declare(modes=["fast"], models=["mini"])
        fleet.after([sample()])
        whole = fleet.collector.render()
        page = fleet_families(whole)
        assert page in whole or set(page.splitlines()) <= set(whole.splitlines())
        found = {line.split()[2] for line in page.decode().splitlines() if line.startswith("# TYPE")}
        assert {"headroom_device_up", "headroom_model_load_seconds", "headroom_cluster_devices"} <= found
        assert not [name for name in found if name.startswith(("headroom_http", "headroom_inference", "cache_"))]
        for name in found:
            ours = [line for line in page.splitlines() if name.encode() in line]
            assert ours == [line for line in whole.splitlines() if name.encode() in line]

    @pytest.mark.parametrize("page", [b"", b"\n"])
    def test_of_an_empty_page_is_empty(self, page: bytes) -> None:
        assert fleet_families(page) == b""
