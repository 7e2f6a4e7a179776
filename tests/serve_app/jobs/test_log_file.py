"""A bounded log that is read by offset, and the lines of a pipe."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serve_app.jobs.lines import Lines
from serve_app.jobs.log_file import LogFile, read_log

WRITES = st.lists(st.binary(max_size=50), max_size=30)


class TestTheLog:
    @given(writes=WRITES, max_bytes=st.integers(4, 200), offset=st.integers(0, 2000))
    def test_holds_the_end_of_all_that_was_written_and_counts_what_is_gone(
        self, writes: list[bytes], max_bytes: int, offset: int
    ) -> None:
        with tempfile.TemporaryDirectory() as folder:
            log = LogFile(Path(folder), max_bytes=max_bytes)
            for one in writes:
                log.write(one)
            whole = b"".join(writes)
            kept = sum(path.stat().st_size for path in Path(folder).iterdir())
            assert kept <= max_bytes
            assert kept >= min(len(whole), max_bytes // 4 * 3)
            part = read_log(Path(folder), offset=offset, max_bytes=10_000)
            first = len(whole) - kept
            wanted = min(offset, len(whole))
            assert part.num_dropped == max(0, first - wanted)
            assert part.offset == max(first, wanted)
            assert part.text == whole[part.offset : part.next_offset].decode("utf-8", "replace")

    @given(text=st.text(max_size=60), step=st.integers(4, 20))
    def test_followed_in_steps_is_the_text_whatever_its_characters(self, text: str, step: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            data = text.encode("utf-8", "replace")
            LogFile(Path(folder), max_bytes=1000).write(data)
            found, offset = "", 0
            while (part := read_log(Path(folder), offset=offset, max_bytes=step)).text:
                found, offset = found + part.text, part.next_offset
            assert found == data.decode("utf-8", "replace")

    def test_goes_on_where_the_attempt_before_ended(self, tmp_path: Path) -> None:
        LogFile(tmp_path, max_bytes=1000).write(b"one\n")
        LogFile(tmp_path, max_bytes=1000).write(b"two\n")
        assert read_log(tmp_path, offset=4, max_bytes=100).text == "two\n"

    def test_is_read_from_its_end_by_a_negative_offset(self, tmp_path: Path) -> None:
        LogFile(tmp_path, max_bytes=1000).write(b"one\ntwo\n")
        assert read_log(tmp_path, offset=-4, max_bytes=100).text == "two\n"

    def test_that_does_not_exist_yet_is_empty(self, tmp_path: Path) -> None:
        assert read_log(tmp_path / "none", offset=7, max_bytes=100).text == ""

    def test_that_the_disk_does_not_take_is_counted_and_fails_nobody(self, tmp_path: Path) -> None:
        log = LogFile(tmp_path / "folder", max_bytes=1000)
        (tmp_path / "folder").rmdir()
        log.write(b"12345")
        assert log.num_lost == 5


class TestLines:
    @given(chunks=st.lists(st.binary(min_size=1, max_size=20), max_size=20))
    def test_are_all_bytes_in_order_however_they_come(self, chunks: list[bytes]) -> None:
        lines = Lines()
        found = [line for chunk in (*chunks, b"") for line in lines.split(chunk)]
        assert b"".join(found) == b"".join(chunks)

    @given(text=st.lists(st.sampled_from([b"a", b"bc", b""]), max_size=9), cut=st.integers(1, 5))
    def test_are_never_cut_where_there_is_no_end(self, text: list[bytes], cut: int) -> None:
        data = b"".join(line + b"\n" for line in text)
        lines = Lines()
        chunks = [data[at : at + cut] for at in range(0, len(data), cut)]
        assert [line for chunk in (*chunks, b"") for line in lines.split(chunk)] == [line + b"\n" for line in text]

    def test_of_endless_length_come_in_pieces(self) -> None:
        lines = Lines()
        assert sum(len(line) for _ in range(40) for line in lines.split(b"x" * 65_536)) >= 1 << 20
