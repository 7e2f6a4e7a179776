"""Which id a listed GPU has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from serve_app.fleet.device_ids import device_ids

IDS = st.sampled_from([f"n/gpu-{number}" for number in range(6)])
UUIDS = st.sampled_from("ABCDEFGH")


@st.composite
def known_devices(draw: st.DrawFn) -> dict[str, str | None]:
    ids = draw(st.lists(IDS, unique=True))
    uuids = draw(st.permutations("ABCDEF"))
    return {device: draw(st.sampled_from([uuid, None])) for device, uuid in zip(ids, uuids, strict=False)}


@st.composite
def listings(draw: st.DrawFn) -> list[str | None]:
    """UUIDs in NVML's order; None for a device that does not tell it."""
    return [draw(st.sampled_from([uuid, None])) for uuid in draw(st.lists(UUIDS, unique=True))]


class TestDeviceIds:
    def test_of_new_devices_are_their_indices(self) -> None:
        assert device_ids("n", ["A", None, "C"], {}) == ("n/gpu-0", "n/gpu-1", "n/gpu-2")

    def test_of_one_that_does_not_tell_its_uuid_is_that_of_the_known_one_nobody_else_is(self) -> None:
        assert device_ids("n", ["B", None], {"n/gpu-0": "A", "n/gpu-1": "B"}) == ("n/gpu-1", "n/gpu-0")

    @given(listings(), known_devices())
    def test_are_never_given_twice(self, uuids: list[str | None], known: dict[str, str | None]) -> None:
        ids = device_ids("n", uuids, known)
        assert len(set(ids)) == len(ids) == len(uuids)

    @given(listings(), known_devices())
    def test_follow_the_uuid_and_not_the_index(self, uuids: list[str | None], known: dict[str, str | None]) -> None:
        """Fails when the index decides for a known device."""
        given_to = {uuid: device for device, uuid in zip(device_ids("n", uuids, known), uuids, strict=True) if uuid}
        assert all(given_to[uuid] == device for device, uuid in known.items() if uuid in given_to)

    @given(listings(), known_devices())
    def test_of_a_known_uuid_never_go_to_a_stranger(
        self, uuids: list[str | None], known: dict[str, str | None]
    ) -> None:
        """Fails when a stranger takes the id of its index."""
        for device, uuid in zip(device_ids("n", uuids, known), uuids, strict=True):
            assert uuid is None or known.get(device) in (None, uuid)
