"""Which replicas take requests, and how many at a time."""

from __future__ import annotations

from serve_app.controller import views
from serve_app.controller.ledger import Ledger
from tests.serve_app.controller.test_ledger import REPORT, claimed, ledger, slot

GOOD, BAD = "head/gpu-0", "head/gpu-1"


def serving(*places: tuple[str, str]) -> Ledger:
    """A ledger with a ready replica of each (slot, device)."""
    of = ledger(*(slot(name, device=device) for name, device in places))
    for number, (name, _) in enumerate(places):
        tenure = claimed(of, name.partition("#")[0], f"replica-{number}")
        of.start(slot=tenure.slot, epoch=tenure.epoch)
        of.ready(slot=tenure.slot, epoch=tenure.epoch, report=REPORT)
    return of


def devices(of: Ledger, *, unusable: frozenset[str] = frozenset({BAD})) -> list[str]:
    return sorted(backend.device for backend in views.backends(of, {}, unusable))


class TestUnusableDevices:
    def test_are_not_asked_while_the_model_runs_elsewhere_too(self) -> None:
        assert devices(serving(("m#0", GOOD), ("m#1", BAD))) == [GOOD]

    def test_are_asked_while_it_runs_nowhere_else(self) -> None:
        assert devices(serving(("m#0", BAD), ("n#0", GOOD))) == [GOOD, BAD]

    def test_are_asked_again_when_they_are_usable(self) -> None:
        assert devices(serving(("m#0", GOOD), ("m#1", BAD)), unusable=frozenset()) == [GOOD, BAD]


class TestThrottledDevices:
    def test_may_have_a_part_of_their_requests_and_one_at_least(self) -> None:
        of = serving(("m#0", GOOD), ("n#0", BAD))
        limits = {one.model: one.max_in_flight for one in views.backends(of, {BAD: 0.5}, frozenset())}
        assert limits == {"m": None, "n": 1}
        assert {one.max_in_flight for one in views.backends(of, {BAD: 0.01}, frozenset())} == {None, 1}
