"""Moves: when they are made, what they win, and that they are counted."""

from __future__ import annotations

import pytest

from placement.ask import Ask, EmptyNode, NoSeat, Seat
from placement.errors import InvalidProblem
from placement.online import OnlinePlacer
from placement.online_moves import Move, MovingPlacer, Placed

AT_X, AT_Y = Seat(node="x", devices=(0,)), Seat(node="y", devices=(0,))


def node(name: str) -> EmptyNode:
    return EmptyNode(name=name, device_type="a", num_devices=1, cpu_millis=100_000, host_memory_bytes=0)


def part(millis: int, *, cores: int = 1) -> Ask:
    return Ask(cpu_millis=1000 * cores, num_devices=1, device_millis=millis)


def split(*, max_moved: float = 1.0) -> MovingPlacer:
    """500 and 300 lie on x, 600 on y: room for 200 and for 400."""
    placer = MovingPlacer(OnlinePlacer([node("x"), node("y")]), max_moved=max_moved)
    for ask, seat in ((part(500), AT_X), (part(600), AT_Y), (part(400), AT_Y), (part(300, cores=3), AT_X)):
        assert placer.place(ask) == Placed(seat=seat)
    placer.release(part(400), AT_Y)
    return placer


class TestMoves:
    def test_an_ask_that_fits_nowhere_takes_the_place_of_one_that_moves(self) -> None:
        placer = split()
        move = Move(ask=part(300, cores=3), before=AT_X, after=AT_Y)
        assert placer.place(part(450)) == Placed(seat=AT_X, move=move)
        assert placer.num_moved == 1

    def test_nothing_moves_for_an_ask_that_fits(self) -> None:
        placer = split()
        assert placer.place(part(400)) == Placed(seat=AT_Y)
        assert placer.num_moved == 0

    def test_it_is_refused_where_no_single_move_helps(self) -> None:
        placer = split()
        assert isinstance(placer.place(part(700)), NoSeat)
        assert placer.num_moved == 0

    def test_one_that_has_no_room_elsewhere_stays(self) -> None:
        placer = split()
        assert placer.place(Ask(cpu_millis=97_000)) == Placed(seat=Seat(node="y", devices=()))
        assert isinstance(placer.place(part(450)), NoSeat)
        assert placer.num_moved == 0

    def test_no_more_than_the_given_part_of_all_that_was_placed_moves(self) -> None:
        placer = split(max_moved=0.2)
        assert isinstance(placer.place(part(450)), NoSeat)
        assert placer.place(part(200)) == Placed(seat=AT_X)
        placer.release(part(200), AT_X)
        assert isinstance(placer.place(part(450)), Placed)

    def test_who_moved_is_released_where_it_lies_now(self) -> None:
        placer = split()
        placer.place(part(450))
        placer.release(part(300, cores=3), AT_Y)
        with pytest.raises(InvalidProblem):
            placer.release(part(300, cores=3), AT_Y)
