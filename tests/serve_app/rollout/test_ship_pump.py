"""Moving bytes into a file: what is judged is what the file holds, whichever way the bytes came."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.rollout.ship_pump import AHEAD, CHUNK_BYTES, HASH_BYTES, Pump, Readable

SIZES = (0, 1, HASH_BYTES, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, (AHEAD + 3) * CHUNK_BYTES + 7)


def opened(path: Path) -> FileIO:
    path.touch()
    return FileIO(path, "r+")


@pytest.fixture(params=["file", "stream"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[FileIO]:
    with opened(tmp_path / "target") as file:
        yield file


def source(kind: str, content: bytes, folder: Path) -> Readable:
    """The kernel can copy from a file; a stream comes through a buffer."""
    if kind == "stream":
        return io.BytesIO(content)
    (folder / "source").write_bytes(content)
    return FileIO(folder / "source")


def noise(num_bytes: int) -> bytes:
    return hashlib.shake_256(b"noise").digest(num_bytes)


def unheard(_: int) -> None:
    pass


class TestPump:
    @pytest.mark.parametrize("num_bytes", SIZES)
    def test_the_file_holds_the_source_and_the_digest_is_of_what_it_holds(
        self, kind: str, num_bytes: int, target: FileIO, tmp_path: Path
    ) -> None:
        content = noise(num_bytes)
        pump = Pump(target)
        pump.fill(source(kind, content, tmp_path), num_bytes=num_bytes, copied=unheard)
        assert pump.end() == hashlib.sha256(content).hexdigest()
        assert (tmp_path / "target").read_bytes() == content

    def test_it_goes_on_at_the_end_and_counts_what_was_there(self, kind: str, target: FileIO, tmp_path: Path) -> None:
        content, half = noise(3 * CHUNK_BYTES + 5), CHUNK_BYTES + 3
        (tmp_path / "target").write_bytes(content[:half])
        moved: list[int] = []
        pump = Pump(target)
        assert pump.num_bytes == half
        pump.fill(source(kind, content[half:], tmp_path), num_bytes=len(content), copied=moved.append)
        assert pump.end() == hashlib.sha256(content).hexdigest()
        assert sum(moved) == len(content) - half

    def test_nothing_beyond_the_promised_size_is_written(self, kind: str, target: FileIO, tmp_path: Path) -> None:
        Pump(target).fill(source(kind, noise(5000), tmp_path), num_bytes=1000, copied=unheard)
        assert (tmp_path / "target").read_bytes() == noise(5000)[:1000]

    def test_a_source_that_ends_early_leaves_what_came(self, kind: str, target: FileIO, tmp_path: Path) -> None:
        pump = Pump(target)
        pump.fill(source(kind, noise(1000), tmp_path), num_bytes=5000, copied=unheard)
        assert pump.num_bytes == 1000

    def test_who_is_told_may_end_it_and_all_that_came_stays(self, kind: str, target: FileIO, tmp_path: Path) -> None:
        def enough(_: int) -> None:
            raise InterruptedError

        content = noise(3 * CHUNK_BYTES)
        with pytest.raises(InterruptedError):
            Pump(target).fill(source(kind, content, tmp_path), num_bytes=len(content), copied=enough)
        assert (tmp_path / "target").read_bytes() == content[:CHUNK_BYTES]

    def test_what_is_judged_is_what_the_disk_took_and_not_what_was_sent(self, tmp_path: Path) -> None:
        class Lying(FileIO):
            def write(self, piece: Any, /) -> int:
                return super().write(bytes(memoryview(piece).nbytes))

        (tmp_path / "target").touch()
        with Lying(tmp_path / "target", "r+") as lying:
            pump = Pump(lying)
            pump.fill(io.BytesIO(noise(1000)), num_bytes=1000, copied=unheard)
            assert pump.end() == hashlib.sha256(bytes(1000)).hexdigest()

    def test_a_file_that_shrank_is_a_fault_of_the_disk(self, target: FileIO) -> None:
        class Shrinks(FileIO):
            """Each write is lost at once."""

            def write(self, piece: Any, /) -> int:
                count = super().write(piece)
                self.truncate(0)
                return count

        with Shrinks(target.fileno(), "r+", closefd=False) as shrinks, pytest.raises(OSError, match="not there"):
            Pump(shrinks).fill(io.BytesIO(b"x"), num_bytes=1, copied=unheard)

    @given(pieces=st.lists(st.integers(1, 70_000), max_size=6))
    def test_however_often_it_broke_off(self, pieces: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("pieces")
        content = noise(sum(pieces))
        for end in (sum(pieces[: number + 1]) for number in range(len(pieces))):
            with opened(folder / "target") as file, FileIO(_written(folder, content)) as whole:
                pump = Pump(file)
                whole.seek(pump.num_bytes)
                pump.fill(whole, num_bytes=end, copied=unheard)
                assert pump.end() == hashlib.sha256(content[:end]).hexdigest()


def _written(folder: Path, content: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(content)
    return path
