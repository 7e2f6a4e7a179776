"""The road of scheduled tests through a real gateway: in with the cluster's own secret, past the cache, of no mode."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serve_app.compare.live_api import LiveApi
from serve_app.errors import HeadroomError
from serve_app.training.self_correction import Message
from tests.serve_app.gateway.builders import SECRET
from tests.serve_app.gateway.serving import Stage, stage
from tests.serve_app.gateway.test_access import closed

QUESTION: Sequence[Message] = ({"role": "user", "content": "What is 1 + 1?"},)


def api(one: Stage, *, secret: str = SECRET) -> LiveApi:
    return LiveApi(address=lambda: one.url, secret=secret, first_wait_s=0.0)


class TestScheduledTests:
    async def test_need_no_key_and_get_words_their_likelihood_and_whose_they_are(self) -> None:
        async with closed("mini") as (one, _):
            answer = await api(one).ask("mini", QUESTION, max_tokens=8)
            info = one.gateway._table
        assert info is not None
        assert answer.text
        assert answer.logprobs == (-0.5,)
        assert answer.weights_version == info.backends[0].weights_version

    async def test_with_another_secret_are_refused(self) -> None:
        async with closed("mini") as (one, _):
            with pytest.raises(HeadroomError, match="403"):
                await api(one, secret="guessed").ask("mini", QUESTION, max_tokens=8)

    async def test_run_the_engine_each_time_and_change_no_mode_s_hit_rate(self) -> None:
        async with stage("mini") as one:
            before = await one.cache_row("fast")
            for _ in range(2):
                await api(one).ask("mini", QUESTION, max_tokens=8)
            assert await one.cache_row("fast") == before
            assert one.engine.counts.num_started == 2
