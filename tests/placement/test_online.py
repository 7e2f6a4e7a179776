"""Online placement: the laws of its choice on a handful of nodes, and its books under any stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.ask import Ask, EmptyNode, NoSeat, Seat
from placement.errors import InvalidProblem
from placement.online import FIRST_LEARNT, OnlinePlacer
from placement.plan import Cause
from placement.worth import Tuning

GIB = 1 << 30


def node(name: str, *, devices: int = 1, cores: int = 100, type_: str = "a", gib: int = 100) -> EmptyNode:
    return EmptyNode(
        name=name, device_type=type_, num_devices=devices, cpu_millis=1000 * cores, host_memory_bytes=gib * GIB
    )


def part(millis: int, *, cores: int = 1) -> Ask:
    return Ask(cpu_millis=1000 * cores, num_devices=1, device_millis=millis)


def whole(num_devices: int = 1, *, cores: int = 1, types: tuple[str, ...] = (), gib: int = 0) -> Ask:
    return Ask(
        cpu_millis=1000 * cores,
        num_devices=num_devices,
        device_millis=1000,
        device_types=types,
        host_memory_bytes=gib * GIB,
    )


def cores_only(cores: int) -> Ask:
    return Ask(cpu_millis=1000 * cores)


def seats(placer: OnlinePlacer, *asks: Ask) -> list[str]:
    """`node:devices` of each ask in turn, `-` where there was no seat."""
    found = [placer.place(ask) for ask in asks]
    return [f"{seat.node}:{''.join(map(str, seat.devices))}" if isinstance(seat, Seat) else "-" for seat in found]


class TestChoice:
    def test_a_part_goes_where_the_rest_will_be_asked_for(self) -> None:
        """100 beside 600 leaves 300, which is asked for; beside 700 it would leave 200, which is not."""
        known = [part(300)] * 300 + [part(100), part(600), part(700)]
        placer = OnlinePlacer([node("x"), node("y")], known=known)
        assert seats(placer, part(700, cores=2), part(600, cores=2)) == ["x:0", "y:0"]
        assert seats(placer, part(100)) == ["y:0"]

    def test_cores_alone_are_taken_where_no_device_needs_them(self) -> None:
        known = [whole(cores=10)] * 9 + [cores_only(20)]
        nodes = [node("short", devices=4, cores=40), node("rich", devices=1, cores=60)]
        assert seats(OnlinePlacer(nodes, known=known), cores_only(20)) == ["rich:"]

    def test_an_ask_of_many_cores_spares_the_node_that_is_short_of_them(self) -> None:
        """On the short one 4 cores would be left beside a device, and nobody asks for so few."""
        known = [whole(cores=12)] * 9 + [whole(cores=20)]
        nodes = [node("short", devices=2, cores=24), node("rich", devices=2, cores=80)]
        assert seats(OnlinePlacer(nodes, known=known), whole(cores=20)) == ["rich:0"]

    def test_an_ask_that_names_no_type_spares_the_type_that_others_name(self) -> None:
        known = [whole()] * 5 + [whole(types=("b",))] * 5
        nodes = [node("b", type_="b"), node("a", devices=3)]
        assert seats(OnlinePlacer(nodes, known=known), whole(), whole(types=("b",))) == ["a:0", "b:0"]

    def test_a_free_block_is_kept_for_asks_of_many_devices(self) -> None:
        known = [whole()] * 20 + [whole(4)] * 5
        placer = OnlinePlacer([node("x", devices=4), node("y", devices=4)], known=known)
        assert seats(placer, whole(), whole(), whole(), whole(4)) == ["x:0", "x:1", "x:2", "y:0123"]

    def test_knowing_nothing_it_takes_the_tightest_device_and_then_the_first_node(self) -> None:
        placer = OnlinePlacer([node("x", devices=2), node("y")])
        assert seats(placer, part(600)) == ["y:0"]
        assert seats(placer, part(500), part(300), part(500)) == ["x:0", "y:0", "x:0"]

    def test_the_last_hundredth_is_given_away(self) -> None:
        placer = OnlinePlacer([node("x")])
        assert seats(placer, part(900), part(90), part(10), part(1)) == ["x:0", "x:0", "x:0", "-"]

    def test_what_has_arrived_is_learnt_like_what_was_known(self) -> None:
        """The same choice as in the first law, and not that of the tightest device."""
        arrived = [part(300)] * (16 * FIRST_LEARNT - 3) + [part(100), part(600), part(700)]
        placer = OnlinePlacer([node("x"), node("y")])
        for ask in arrived:
            seat = placer.place(ask)
            assert isinstance(seat, Seat)
            placer.release(ask, seat)
        assert seats(placer, part(700, cores=2), part(600, cores=2)) == ["x:0", "y:0"]
        assert seats(placer, part(100)) == ["y:0"]


class TestRefusal:
    def test_nodes_are_counted_by_the_first_thing_they_lack(self) -> None:
        nodes = [node("other", type_="b"), node("full", devices=0), node("slow", cores=1), node("small", gib=1)]
        answer = OnlinePlacer(nodes).place(whole(cores=2, types=("a",), gib=2))
        assert answer == NoSeat(
            causes=(
                (Cause.NO_ROOM, 1),
                (Cause.WRONG_TYPE, 1),
                (Cause.NO_CPU, 1),
                (Cause.NO_HOST_MEMORY, 1),
            ),
            message=(
                "No node for an ask of 1 device(s) with 1000 thousandths each, 2 cores and 2.0 GiB: of 4 nodes, "
                "1 without room, 1 of another type, 1 on nodes without the cores, 1 on nodes without the host memory. "
                "It may fit when something else leaves."
            ),
        )

    def test_a_refused_ask_takes_nothing(self) -> None:
        placer = OnlinePlacer([node("x", cores=4)])
        assert seats(placer, whole(cores=5), whole(cores=4)) == ["-", "x:0"]

    @pytest.mark.parametrize(
        "wrong",
        [
            Ask(cpu_millis=-1),
            Ask(cpu_millis=0, host_memory_bytes=-1),
            Ask(cpu_millis=0, num_devices=-1),
            Ask(cpu_millis=0, device_millis=5),
            Ask(cpu_millis=0, num_devices=1, device_millis=0),
            Ask(cpu_millis=0, num_devices=1, device_millis=1001),
            Ask(cpu_millis=0, num_devices=2, device_millis=500),
        ],
    )
    def test_an_impossible_ask_is_a_fault_and_no_refusal(self, wrong: Ask) -> None:
        with pytest.raises(InvalidProblem):
            OnlinePlacer([node("x", devices=2)]).place(wrong)

    def test_nodes_that_contradict_themselves_are_a_fault(self) -> None:
        with pytest.raises(InvalidProblem, match="same name"):
            OnlinePlacer([node("x"), node("x")])
        with pytest.raises(InvalidProblem, match="less than nothing"):
            OnlinePlacer([node("x", cores=-1)])


class TestRelease:
    def test_what_is_given_back_can_be_taken_again(self) -> None:
        placer = OnlinePlacer([node("x", devices=2, cores=4, gib=4)])
        everything = whole(2, cores=4, gib=4)
        for _ in range(3):
            seat = placer.place(everything)
            assert seat == Seat(node="x", devices=(0, 1))
            assert placer.free_device_millis("x") == (0, 0)
            placer.release(everything, seat)
        assert placer.free_device_millis("x") == (1000, 1000)

    @pytest.mark.parametrize(
        "seat",
        [
            Seat(node="y", devices=(0,)),
            Seat(node="x", devices=(1,)),
            Seat(node="x", devices=(5,)),
            Seat(node="x", devices=(0, 1)),
        ],
    )
    def test_what_was_not_taken_cannot_be_given_back(self, seat: Seat) -> None:
        placer = OnlinePlacer([node("x", devices=2)])
        placer.place(part(600))
        with pytest.raises(InvalidProblem, match="does not lie"):
            placer.release(part(600), seat)


TYPES = ("a", "b")
NODES = st.builds(
    EmptyNode,
    name=st.just("n"),
    device_type=st.sampled_from(TYPES),
    num_devices=st.integers(0, 4),
    cpu_millis=st.integers(0, 16).map(lambda cores: 1000 * cores),
    host_memory_bytes=st.integers(0, 8),
)
CORES = st.integers(0, 6).map(lambda cores: 1000 * cores)
KINDS = st.lists(st.sampled_from(TYPES), unique=True).map(tuple)
ASKS = st.one_of(
    st.builds(Ask, cpu_millis=CORES, host_memory_bytes=st.integers(0, 3)),
    st.builds(
        Ask,
        cpu_millis=CORES,
        host_memory_bytes=st.integers(0, 3),
        num_devices=st.just(1),
        device_millis=st.integers(1, 10).map(lambda tenths: 100 * tenths),
        device_types=KINDS,
    ),
    st.builds(
        Ask,
        cpu_millis=CORES,
        num_devices=st.integers(2, 4),
        device_millis=st.just(1000),
        device_types=KINDS,
    ),
)
STREAMS = st.lists(st.tuples(ASKS, st.booleans()), max_size=70)
"""Asks, and whether one that lies somewhere leaves afterwards."""


SHORT_SIGHTED = Tuning(num_futures=3, future_length=8)


class _Books:
    """A second account of who lies where, kept without looking at the placer's own."""

    def __init__(self, nodes: Sequence[EmptyNode]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.lying: list[tuple[Ask, Seat]] = []

    def used(self, name: str) -> tuple[int, int, Counter[int]]:
        here = [(ask, seat) for ask, seat in self.lying if seat.node == name]
        devices = Counter[int]()
        for ask, seat in here:
            devices.update(dict.fromkeys(seat.devices, ask.device_millis))
        return sum(ask.cpu_millis for ask, _ in here), sum(ask.host_memory_bytes for ask, _ in here), devices

    def assert_none_is_over_full(self) -> None:
        for name, node in self.nodes.items():
            cpu_millis, memory_bytes, devices = self.used(name)
            assert cpu_millis <= node.cpu_millis
            assert memory_bytes <= node.host_memory_bytes
            assert all(index < node.num_devices and millis <= 1000 for index, millis in devices.items())

    def fits_somewhere(self, ask: Ask) -> bool:
        return any(self._fits(ask, node) for node in self.nodes.values())

    def _fits(self, ask: Ask, node: EmptyNode) -> bool:
        cpu_millis, memory_bytes, devices = self.used(node.name)
        enough = sum(1000 - devices[index] >= ask.device_millis for index in range(node.num_devices))
        return (
            cpu_millis + ask.cpu_millis <= node.cpu_millis
            and memory_bytes + ask.host_memory_bytes <= node.host_memory_bytes
            and enough >= ask.num_devices
            and (not ask.num_devices or not ask.device_types or node.device_type in ask.device_types)
        )


def numbered(nodes: Sequence[EmptyNode]) -> list[EmptyNode]:
    return [
        EmptyNode(
            name=f"n{number}",
            device_type=one.device_type,
            num_devices=one.num_devices,
            cpu_millis=one.cpu_millis,
            host_memory_bytes=one.host_memory_bytes,
        )
        for number, one in enumerate(nodes)
    ]


class TestAnyStream:
    @given(st.lists(NODES, max_size=5).map(numbered), STREAMS, st.booleans())
    @settings(max_examples=150, deadline=None)
    def test_books_types_and_refusals_are_right(
        self, nodes: list[EmptyNode], stream: list[tuple[Ask, bool]], is_known: bool
    ) -> None:
        """No node over any capacity, no wrong type, and nothing refused that fits."""
        known = [ask for ask, _ in stream] if is_known else []
        placer, books = OnlinePlacer(nodes, known=known, tuning=SHORT_SIGHTED), _Books(nodes)
        for ask, leaves in stream:
            fits, seat = books.fits_somewhere(ask), placer.place(ask)
            assert isinstance(seat, Seat) is fits
            if isinstance(seat, Seat):
                assert len(set(seat.devices)) == ask.num_devices
                assert (
                    not seat.devices or not ask.device_types or books.nodes[seat.node].device_type in ask.device_types
                )
                books.lying.append((ask, seat))
                books.assert_none_is_over_full()
            if leaves and books.lying:
                placer.release(*books.lying.pop(0))
        for name, node in books.nodes.items():
            devices = books.used(name)[2]
            assert placer.free_device_millis(name) == tuple(1000 - devices[index] for index in range(node.num_devices))

    @given(st.lists(NODES, max_size=5).map(numbered), STREAMS)
    @settings(max_examples=50, deadline=None)
    def test_the_same_stream_gets_the_same_seats(self, nodes: list[EmptyNode], stream: list[tuple[Ask, bool]]) -> None:
        asks = [ask for ask, _ in stream]
        first, second = (seats(OnlinePlacer(nodes, known=asks, tuning=SHORT_SIGHTED), *asks) for _ in range(2))
        assert first == second
