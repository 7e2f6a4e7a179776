"""Streams are passed on in whole events, and only whole good streams count as answers."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.protocol import Endpoint
from serve_app.engines.scripted_answers import stream_events
from serve_app.gateway.sse import DONE, EventSplitter, is_whole, take_usage

_WORDS = ["[scripted]", ' "finish_reason":"stop"', ' "choices":[]', "\n\ndata: [DONE]\n\n", '{"error"', "ü"]


def _stream(*, num_choices: int = 1, usage: bool = False) -> bytes:
    body = {"n": num_choices, "stream_options": {"include_usage": usage}}
    return b"".join(stream_events(Endpoint.CHAT, "mini", body, _WORDS))


class TestSplitting:
    @given(st.lists(st.integers(min_value=1, max_value=200), min_size=1, max_size=40))
    def test_gives_the_same_bytes_in_whole_events_however_they_were_cut(self, sizes: list[int]) -> None:
        stream = _stream()
        splitter, pieces, start = EventSplitter(), [], 0
        for size in sizes:
            pieces.append(splitter.feed(stream[start : start + size]))
            start += size
        pieces.append(splitter.feed(stream[start:]))
        assert b"".join(pieces) == stream
        assert all(not piece or piece.endswith(b"\n\n") for piece in pieces)
        assert splitter.held_bytes == 0

    def test_holds_back_an_event_that_has_not_ended(self) -> None:
        splitter = EventSplitter()
        assert splitter.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
        assert splitter.held_bytes == 7


class TestUsage:
    def test_is_taken_out_and_nothing_else_is(self) -> None:
        rest, usage = take_usage(_stream(usage=True))
        assert rest == _stream()
        assert usage is not None
        assert usage["completion_tokens"] == len(_WORDS)

    def test_words_of_the_answer_are_never_taken_for_it(self) -> None:
        assert take_usage(_stream()) == (_stream(), None)


class TestWholeness:
    def test_needs_every_choice_to_end_well_and_the_end_mark(self) -> None:
        assert is_whole(_stream(), num_choices=1)
        assert is_whole(_stream(num_choices=3), num_choices=3)
        assert not is_whole(_stream(num_choices=2), num_choices=3)

    @given(st.integers(min_value=0, max_value=len(_stream()) - 1))
    def test_is_lost_by_every_cut(self, end: int) -> None:
        assert not is_whole(_stream()[:end], num_choices=1)

    @pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
    def test_is_lost_when_a_choice_ended_otherwise(self, reason: str) -> None:
        stream = _stream().replace(b'"finish_reason":"stop"', b'"finish_reason":"%s"' % reason.encode())
        assert not is_whole(stream, num_choices=1)

    def test_is_lost_by_an_error_event(self) -> None:
        error = b"data: " + orjson.dumps({"error": {"message": "x"}}) + b"\n\n"
        assert not is_whole(error + _stream(), num_choices=1)
        assert not is_whole(_stream().removesuffix(DONE) + error + DONE, num_choices=1)
