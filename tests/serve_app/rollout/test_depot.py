"""Two depots and the wire between them: who gets what, and what becomes of bytes that were meddled with."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from serve_app.errors import CheckpointRefused
from serve_app.rollout.content_store import Received
from serve_app.rollout.depot import Depot
from serve_app.rollout.depot_fetch import StreamSource
from serve_app.rollout.depot_server import MOST_OFFERS, Offer
from serve_app.rollout.ship_errors import ShipFailed
from serve_app.rollout.ship_parcel import Packed
from serve_app.rollout.ship_pump import CHUNK_BYTES
from tests.serve_app.rollout.meddling_proxy import MeddlingProxy
from tests.serve_app.rollout.parcels import depot, made

CORRUPTIONS = 1000
WITHIN_S = 20.0


@pytest.fixture
def source(tmp_path: Path) -> Iterator[Depot]:
    source = depot(tmp_path / "a", "a")
    yield source
    source.close()


@pytest.fixture
def target(tmp_path: Path) -> Depot:
    return depot(tmp_path / "b", "b")


@pytest.fixture
def packed(source: Depot, tmp_path: Path) -> Packed:
    return source.pack(made(tmp_path / "a" / "models" / "tiny", num_bytes=3 * CHUNK_BYTES + 5))


def fetch(target: Depot, packed: Packed, offer: Offer, *, within_s: float = WITHIN_S) -> Received:
    return target.fetch(packed, offer, source_node="a", within_s=within_s)


@contextmanager
def taker(answer: Callable[[socket.socket], object]) -> Iterator[tuple[str, int]]:
    """An address where somebody takes one connection and does `answer`."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def one() -> None:
            connection, _ = listener.accept()
            with connection:
                answer(connection)

        thread = threading.Thread(target=one, daemon=True)
        thread.start()
        yield listener.getsockname()[:2]
        thread.join()


class TestTheWire:
    def test_a_checkpoint_comes_whole(self, source: Depot, target: Depot, packed: Packed) -> None:
        received = fetch(target, packed, source.offer(packed))
        assert received.copied_bytes == packed.parcel.num_bytes
        assert target.verify(packed.parcel.digest).weights_version == packed.parcel.weights_version

    def test_it_goes_on_where_it_broke_off(self, source: Depot, target: Depot, packed: Packed) -> None:
        def cut(offset: int, piece: bytearray) -> bytearray | None:
            return None if offset > 2 * CHUNK_BYTES else piece

        with MeddlingProxy(cut) as proxy:
            with pytest.raises(ShipFailed, match="goes on from there"):
                fetch(target, packed, proxy.between(source.offer(packed)))
            proxy.meddle = lambda _, piece: piece
            received = fetch(target, packed, proxy.between(source.offer(packed)))
        assert received.kept_bytes > 2 * CHUNK_BYTES
        target.verify(packed.parcel.digest)

    def test_1000_single_bytes_flipped_on_the_way_are_1000_refusals(
        self, source: Depot, target: Depot, tmp_path: Path
    ) -> None:
        """Each in another place; what is kept of one try must not help the next."""
        packed = source.pack(made(tmp_path / "a" / "models" / "tiny", step=2, num_bytes=2000))
        weights = packed.parcel.files["model.safetensors"]
        chance, refused = random.Random(7), 0
        with MeddlingProxy(lambda _, piece: piece) as proxy:
            offer = proxy.between(source.offer(packed))
            for _ in range(CORRUPTIONS):
                proxy.meddle = _flip_in_the_end(packed, chance.randrange(weights.bytes), chance.randrange(1, 256))
                try:
                    fetch(target, packed, offer)
                except CheckpointRefused:
                    refused += 1
                assert target.stored() == ()
            assert refused == CORRUPTIONS
            proxy.meddle = lambda _, piece: piece
            fetch(target, packed, offer)
        target.verify(packed.parcel.digest)


def _flip_in_the_end(packed: Packed, place: int, by: int) -> Callable[[int, bytearray], bytearray]:
    """Flips a byte of the weights: of every connection whose answer is as long as theirs, `place` before its end."""
    weights = packed.parcel.files["model.safetensors"].bytes
    seen = 0

    def flip(offset: int, piece: bytearray) -> bytearray:
        nonlocal seen
        seen = seen + len(piece) if offset else len(piece)
        begin = seen - len(piece)
        head = _LINES
        where = head + weights - 1 - place
        if begin <= where < seen:
            piece[where - begin] ^= by
        return piece

    return flip


_LINES = len('{"nonce":"' + 32 * "0" + '"}\n' + '{"refused":null}\n')


class TestWhoMayAsk:
    def test_only_who_knows_the_secret(self, source: Depot, target: Depot, packed: Packed) -> None:
        with pytest.raises(CheckpointRefused, match="not its secret"):
            fetch(target, packed, replace(source.offer(packed), secret="guessed"))

    def test_only_until_it_is_withdrawn(self, source: Depot, target: Depot, packed: Packed) -> None:
        offer = source.offer(packed)
        source.withdraw(offer.offer)
        with pytest.raises(CheckpointRefused, match="no such offer"):
            fetch(target, packed, offer)

    def test_only_for_files_of_the_offer(self, source: Depot, packed: Packed) -> None:
        (packed.path / "late.json").write_text("{}")
        stream = StreamSource(replace(_offer(source, packed)), node="a", deadline_s=time.monotonic() + WITHIN_S)
        for name in ("late.json", "../checkpoint-1/config.json", "/etc/passwd"):
            with pytest.raises(CheckpointRefused, match="not part of the offer"), stream.read(name, 0):
                pass

    def test_the_secret_crosses_no_wire_and_shows_in_no_text(self, source: Depot, packed: Packed) -> None:
        offer = source.offer(packed)
        heard = bytearray()

        def listen(connection: socket.socket) -> None:
            connection.sendall(b'{"nonce":"n"}\n')
            heard.extend(connection.recv(4096))

        with taker(listen) as address:
            stream = StreamSource(replace(offer, address=address), node="a", deadline_s=time.monotonic() + WITHIN_S)
            with pytest.raises(ShipFailed), stream.read("config.json", 0):
                pass
        assert b"config.json" in heard
        assert offer.secret.encode() not in heard
        assert offer.secret not in repr(offer)

    def test_offers_are_bounded(self, source: Depot, target: Depot, packed: Packed) -> None:
        first = source.offer(packed)
        for _ in range(MOST_OFFERS):
            source.offer(packed)
        with pytest.raises(CheckpointRefused, match="no such offer"):
            fetch(target, packed, first)

    def test_nothing_outside_the_roots_is_packed(self, source: Depot, tmp_path: Path) -> None:
        outside = made(tmp_path / "elsewhere")
        with pytest.raises(CheckpointRefused, match="outside the allowed roots"):
            source.pack(outside)
        link = tmp_path / "a" / "models" / "link"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(outside)
        with pytest.raises(CheckpointRefused, match="outside the allowed roots"):
            source.pack(link)

    def test_what_was_packed_elsewhere_is_judged_again_before_it_is_offered(
        self, source: Depot, packed: Packed, tmp_path: Path
    ) -> None:
        with pytest.raises(CheckpointRefused, match="outside the allowed roots"):
            source.offer(replace(packed, path=made(tmp_path / "elsewhere")))

    def test_a_file_that_changed_since_it_was_offered_is_not_given(
        self, source: Depot, target: Depot, packed: Packed
    ) -> None:
        offer = source.offer(packed)
        (packed.path / "model.safetensors").write_bytes(b"x")
        with pytest.raises(CheckpointRefused, match="changed since it was offered"):
            fetch(target, packed, offer)


def _offer(source: Depot, packed: Packed) -> Offer:
    """Of what was packed, although a file came since."""
    late = packed.path / "late.json"
    text = late.read_text()
    late.unlink()
    offer = source.offer(packed)
    late.write_text(text)
    return offer


class TestUnreachable:
    def test_a_node_where_nobody_listens_is_named(self, source: Depot, target: Depot, packed: Packed) -> None:
        offer = source.offer(packed)
        source.close()
        with pytest.raises(ShipFailed, match="Node 'a' at "):
            fetch(target, packed, offer)

    def test_one_that_says_nothing_has_a_deadline(self, source: Depot, target: Depot, packed: Packed) -> None:
        ended = threading.Event()
        with taker(lambda _: ended.wait(WITHIN_S)) as address:
            with pytest.raises(ShipFailed, match="timed out"):
                fetch(target, packed, replace(source.offer(packed), address=address), within_s=0.2)
            ended.set()

    def test_one_that_talks_nonsense_is_a_failure_of_the_node(
        self, source: Depot, target: Depot, packed: Packed
    ) -> None:
        with (
            taker(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH\n")) as address,
            pytest.raises(ShipFailed, match="Node 'a'"),
        ):
            fetch(target, packed, replace(source.offer(packed), address=address))


class TestWays:
    def test_the_same_files_are_seen_and_copied(self, source: Depot, target: Depot, packed: Packed) -> None:
        assert target.sees(packed)
        assert target.copy(packed).copied_bytes == packed.parcel.num_bytes

    def test_other_files_at_the_same_path_are_not_taken_for_them(
        self, target: Depot, packed: Packed, tmp_path: Path
    ) -> None:
        assert not target.sees(replace(packed, path=made(tmp_path / "same", num_bytes=3 * CHUNK_BYTES + 5)))
        assert not target.sees(replace(packed, path=tmp_path / "nowhere"))
