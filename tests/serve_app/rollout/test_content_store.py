"""A node's store of checkpoints: whole and right, or not there; bounded; nothing lost by what goes wrong."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.errors import CheckpointRefused
from serve_app.rollout.content_store import ContentStore
from serve_app.rollout.content_store_care import Stored, to_remove
from serve_app.rollout.ship_errors import ShipFailed
from serve_app.rollout.ship_folder import FolderSource
from serve_app.rollout.ship_parcel import Packed, Parcel, pack, parcel_of
from serve_app.rollout.ship_pump import CHUNK_BYTES, Readable
from serve_app.training.manifest import MANIFEST_NAME, FileEntry
from tests.serve_app.rollout.parcels import made

WEIGHTS = "model.safetensors"


@pytest.fixture
def store(tmp_path: Path) -> ContentStore:
    return ContentStore(tmp_path / "store", keep_free_bytes=0)


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return pack(made(tmp_path / "models" / "tiny", num_bytes=3 * CHUNK_BYTES + 5))


def source(packed: Packed) -> FolderSource:
    return FolderSource(packed.path, packed.stamps)


class Disturbed:
    """The bytes of a folder, with `disturb` called before each chunk of weights; it may raise."""

    def __init__(self, packed: Packed, disturb: Callable[[int], object]) -> None:
        self._source = source(packed)
        self._disturb = disturb
        self.offsets: dict[str, int] = {}

    @contextmanager
    def read(self, name: str, offset: int) -> Iterator[Readable]:
        self.offsets[name] = offset
        with self._source.read(name, offset) as readable:
            yield _Disturbing(readable, self._disturb) if name == WEIGHTS else readable


class _Disturbing:
    def __init__(self, readable: Readable, disturb: Callable[[int], object]) -> None:
        self._readable = readable
        self._disturb = disturb
        self._chunk = 0

    def readinto(self, buffer: memoryview, /) -> int | None:
        self._disturb(self._chunk)
        self._chunk += 1
        return self._readable.readinto(buffer)


def fails_at(chunk: int, error: OSError) -> Callable[[int], None]:
    def disturb(now: int) -> None:
        if now == chunk:
            raise error

    return disturb


class TestStoring:
    def test_what_is_stored_is_the_checkpoint_byte_for_byte_and_read_only(
        self, store: ContentStore, packed: Packed
    ) -> None:
        path = store.receive(packed.parcel, source(packed)).path
        assert {file.name: file.read_bytes() for file in path.iterdir()} == {
            file.name: file.read_bytes() for file in packed.path.iterdir()
        }
        assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o444}
        assert store.verify(packed.parcel.digest).weights_version == packed.parcel.weights_version

    def test_it_shares_no_bytes_with_its_source(self, store: ContentStore, packed: Packed) -> None:
        store.receive(packed.parcel, source(packed))
        (packed.path / WEIGHTS).write_bytes(b"edited in place")
        store.verify(packed.parcel.digest)

    def test_a_second_time_moves_nothing(self, store: ContentStore, packed: Packed) -> None:
        store.receive(packed.parcel, source(packed))
        again = store.receive(packed.parcel, source(packed))
        assert (again.copied_bytes, again.kept_bytes) == (0, packed.parcel.num_bytes)

    def test_several_shards_and_their_index_are_one_checkpoint(self, store: ContentStore, tmp_path: Path) -> None:
        packed = pack(made(tmp_path / "m", shards=3))
        assert len(list(store.receive(packed.parcel, source(packed)).path.glob("*.safetensors"))) == 3

    def test_only_one_at_a_time_receives_a_checkpoint(self, store: ContentStore, packed: Packed) -> None:
        def again(_: int) -> None:
            with pytest.raises(ShipFailed, match="on its way to this node already"):
                store.receive(packed.parcel, source(packed))

        store.receive(packed.parcel, Disturbed(packed, again))


class TestBreaks:
    def test_nothing_is_seen_of_one_that_broke_off(self, store: ContentStore, packed: Packed) -> None:
        with pytest.raises(ShipFailed, match="kept"):
            store.receive(packed.parcel, Disturbed(packed, fails_at(2, OSError(errno.EIO, "disk"))))
        assert store.stored() == ()
        assert store.path_of(packed.parcel.digest) is None

    def test_the_next_try_goes_on_where_it_broke_off(self, store: ContentStore, packed: Packed) -> None:
        with pytest.raises(ShipFailed):
            store.receive(packed.parcel, Disturbed(packed, fails_at(2, OSError(errno.EIO, "disk"))))
        rest = Disturbed(packed, lambda _: None)
        received = store.receive(packed.parcel, rest)
        assert rest.offsets == {WEIGHTS: 2 * CHUNK_BYTES} | {name: 0 for name in rest.offsets if name > WEIGHTS}
        assert 0 < received.copied_bytes < packed.parcel.num_bytes - 2 * CHUNK_BYTES + 1
        store.verify(packed.parcel.digest)

    def test_what_was_kept_is_hashed_again_and_replaced_when_wrong(
        self, store: ContentStore, packed: Packed, tmp_path: Path
    ) -> None:
        with pytest.raises(ShipFailed):
            store.receive(packed.parcel, Disturbed(packed, fails_at(2, OSError(errno.EIO, "disk"))))
        kept = tmp_path / "store" / "partial" / packed.parcel.digest / WEIGHTS
        kept.write_bytes(bytes(kept.stat().st_size))
        store.receive(packed.parcel, source(packed))
        store.verify(packed.parcel.digest)

    def test_one_that_was_spoilt_on_the_disk_is_refused_and_then_replaced(
        self, store: ContentStore, packed: Packed
    ) -> None:
        path = store.receive(packed.parcel, source(packed)).path
        (path / WEIGHTS).chmod(0o600)
        spoilt = bytearray((path / WEIGHTS).read_bytes())
        spoilt[-1] ^= 1
        (path / WEIGHTS).write_bytes(spoilt)
        with pytest.raises(CheckpointRefused):
            store.verify(packed.parcel.digest)
        received = store.receive(packed.parcel, source(packed))
        assert received.copied_bytes == packed.parcel.files[WEIGHTS].bytes
        store.verify(packed.parcel.digest)


class TestFullDisk:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
    def test_in_mid_copy_leaves_the_old_and_removes_what_came(
        self, store: ContentStore, packed: Packed, tmp_path: Path, code: int
    ) -> None:
        old = pack(made(tmp_path / "models" / "tiny", step=2, seed=2))
        store.receive(old.parcel, source(old))
        with pytest.raises(ShipFailed, match="no room"):
            store.receive(packed.parcel, Disturbed(packed, fails_at(2, OSError(code, "full"))))
        store.verify(old.parcel.digest)
        assert [path.suffix for path in (tmp_path / "store" / "partial").iterdir()] == [".lock", ".lock"]

    def test_is_seen_before_a_byte_is_copied_where_it_can_be(self, packed: Packed, tmp_path: Path) -> None:
        free = shutil.disk_usage(tmp_path).free
        store = ContentStore(tmp_path / "store", keep_free_bytes=free + (1 << 40))
        with pytest.raises(ShipFailed, match="bytes are needed, 0 may be used"):
            store.receive(packed.parcel, Disturbed(packed, fails_at(0, OSError(errno.EIO, "was read"))))


class TestRefusals:
    def test_a_file_that_changes_while_it_is_copied(self, store: ContentStore, packed: Packed) -> None:
        def edit(chunk: int) -> None:
            with (packed.path / WEIGHTS).open("r+b") as file:
                file.write(b"edited" if chunk == 1 else b"")

        with pytest.raises(CheckpointRefused, match="changed while it was copied"):
            store.receive(packed.parcel, Disturbed(packed, edit))
        assert store.stored() == ()

    def test_a_file_that_is_swapped_between_its_check_and_its_use(
        self, store: ContentStore, packed: Packed, tmp_path: Path
    ) -> None:
        partial = tmp_path / "store" / "partial" / packed.parcel.digest

        def swap(_: int) -> None:  # config.json was checked by now
            (partial / "other").write_text((partial / "config.json").read_text())
            (partial / "other").replace(partial / "config.json")

        with pytest.raises(CheckpointRefused, match=r"config\.json was changed between its check and its use"):
            store.receive(packed.parcel, Disturbed(packed, swap))
        assert store.stored() == ()

    def test_a_file_that_is_laid_among_the_others(self, store: ContentStore, packed: Packed, tmp_path: Path) -> None:
        partial = tmp_path / "store" / "partial" / packed.parcel.digest
        with pytest.raises(CheckpointRefused, match="not one of them"):
            store.receive(packed.parcel, Disturbed(packed, lambda _: (partial / "x.json").write_text("{}")))

    def test_a_link_in_the_place_of_a_file_that_arrives(
        self, store: ContentStore, packed: Packed, tmp_path: Path
    ) -> None:
        victim = tmp_path / "victim"
        victim.write_text("mine")
        partial = tmp_path / "store" / "partial" / packed.parcel.digest

        def link(_: int) -> None:
            (partial / "tokenizer.json").symlink_to(victim)

        with pytest.raises(ShipFailed):
            store.receive(packed.parcel, Disturbed(packed, link))
        assert victim.read_text() == "mine"

    @pytest.mark.parametrize(
        "name",
        ["../out.json", "/etc/passwd", "a/../../b.json", "./a.json", "a//b.json", ".hidden", "", "a\\b", "a\nb",
         "x" * 300, "weights.bin", "code.py", "model.pt", "config.json/below"],
    )  # fmt: skip
    def test_a_name_that_leads_out_or_holds_code(self, packed: Packed, name: str) -> None:
        files = {**packed.parcel.files, name: FileEntry(bytes=1, sha256="0" * 64)}
        with pytest.raises(CheckpointRefused):
            parcel_of(files)

    def test_a_parcel_whose_digest_is_another_s(self, store: ContentStore, packed: Packed) -> None:
        with pytest.raises(CheckpointRefused, match="its digest is not that of its files"):
            store.receive(Parcel(digest="0" * 64, files=packed.parcel.files), source(packed))

    @pytest.mark.parametrize("digest", ["../../x", "", "A" * 64, "0" * 63])
    def test_a_digest_that_is_none(self, store: ContentStore, digest: str) -> None:
        with pytest.raises(CheckpointRefused, match="no digest"):
            store.path_of(digest)

    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            (lambda path: (path / WEIGHTS).unlink(), "is missing"),
            (lambda path: os.truncate(path / WEIGHTS, 100), "has 100 bytes, its manifest says"),
            (lambda path: (path / "extra.safetensors").write_bytes(b""), "not in its manifest"),
            (lambda path: (path / "link.json").symlink_to("config.json"), "symbolic link"),
            (lambda path: (path / "more").symlink_to("/etc"), "symbolic link"),
            (lambda path: os.mkfifo(path / "pipe"), "no regular file"),
        ],
    )
    def test_a_checkpoint_that_is_not_what_its_manifest_says(
        self, packed: Packed, spoil: Callable[[Path], object], why: str
    ) -> None:
        spoil(packed.path)
        with pytest.raises(CheckpointRefused, match=why):
            pack(packed.path)

    def test_a_pickle_under_another_name_even_when_its_digest_is_right(
        self, store: ContentStore, packed: Packed
    ) -> None:
        (packed.path / "tokenizer.json").write_bytes(b"\x80\x04K\x01.")
        (packed.path / MANIFEST_NAME).unlink()
        with pytest.raises(CheckpointRefused, match="pickle"):
            pack(packed.path)


class TestCare:
    def test_kept_are_the_named_and_the_newest(self, store: ContentStore, tmp_path: Path) -> None:
        digests = []
        for step in range(4):
            packed = pack(made(tmp_path / "m", step=step, seed=step))
            path = store.receive(packed.parcel, source(packed)).path
            os.utime(path, (step, step))
            digests.append(packed.parcel.digest)
        assert store.collect(keep={digests[0]}, newest=1) == (digests[1], digests[2])
        assert {one.digest for one in store.stored()} == {digests[0], digests[3]}

    @given(
        st.lists(st.tuples(st.integers(0, 9), st.integers(0, 99)), unique_by=lambda pair: pair[0], max_size=10),
        st.sets(st.integers(0, 9)),
        st.integers(0, 4),
    )
    def test_whatever_is_stored(self, pairs: list[tuple[int, int]], keep: set[int], newest: int) -> None:
        stored = [Stored(digest=str(digest), num_bytes=1, stored_ns=at) for digest, at in pairs]
        removed = to_remove(stored, keep={str(digest) for digest in keep}, newest=newest)
        stay = [one for one in stored if one.digest not in removed]
        assert not set(removed) & {str(digest) for digest in keep}
        assert len([one for one in stay if int(one.digest) not in keep]) <= newest
        youngest_gone = max((one.stored_ns for one in stored if one.digest in removed), default=-1)
        assert all(one.stored_ns >= youngest_gone for one in stay if int(one.digest) not in keep)
        assert len(removed) == max(0, len([one for one in stored if int(one.digest) not in keep]) - newest)


def _namespaces() -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode == 0


class TestADiskThatReallyFillsUp:
    @pytest.mark.skipif(not _namespaces(), reason="needs a mount namespace of its own")
    def test_the_old_one_serves_on_and_the_new_one_comes_when_there_is_room(self, tmp_path: Path) -> None:
        program = [sys.executable, "-m", "tests.serve_app.rollout.full_disk_program", str(tmp_path)]
        ended = subprocess.run(["unshare", "-rm", *program], capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
        told = json.loads(ended.stdout)
        assert "has no room" in told["told"]
        assert (told["left"], told["after"]) == ([], True)
