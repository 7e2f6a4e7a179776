"""What a watch does with a poll: the real poller of this machine, kept between polls."""

from __future__ import annotations

from dataclasses import replace

from placement.inventory import DeviceKind
from placement.signals import DeviceSignals, Silence
from serve_app.fleet.node_watch import NodePoller, Polling

HOST = Polling(kind=DeviceKind.HOST, node="n", known={"n/host": "n/host"}, host_total_bytes=2**30)


class TestNodePoller:
    def test_reads_the_device_it_is_asked_for_again_and_again(self) -> None:
        poller = NodePoller()
        first, second = poller.poll(HOST, 20.0), poller.poll(HOST, 20.0)
        assert all(isinstance(poll, DeviceSignals) for poll in (*first, *second))
        assert [poll.device for poll in second] == ["n/host"]

    def test_begins_anew_for_another_inventory(self) -> None:
        poller = NodePoller()
        poller.poll(HOST, 20.0)
        other = replace(HOST, node="m", known={"m/host": "m/host"})
        assert [poll.device for poll in poller.poll(other, 20.0)] == ["m/host"]

    def test_no_answer_in_time_is_silence(self) -> None:
        (poll,) = NodePoller().poll(HOST, 0.0)
        assert isinstance(poll, Silence)
