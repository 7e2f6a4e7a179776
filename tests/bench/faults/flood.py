"""Rows 12, 13 and the second half of 14, with scripted engines: more load than can be taken, and a replica that is bad.

Our side is the gateway without Ray and without HAProxy before it; the base has its proxy, for it has no other way in.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.bench.faults.clients import Clients
from tests.bench.faults.outcome import Outcome, counted
from tests.bench.faults.sides import plain_serve
from tests.bench.overload import TARGET_S, TOKEN_S, WORDS, Asked, Connections, load
from tests.bench.server_process import python_server
from tests.integration.waiting import eventually

TIMES = 5
_NUM_SEQS = 8
"""So few that a busy machine can make five times that load."""
_PER_S = _NUM_SEQS / (WORDS * TOKEN_S)
_SECONDS = 8.0
_SECRET = "local-secret"
_NUM_WITH_BAD = 100
_ENGINE = f"scripted, {_PER_S:.0f} requests/s"
_ENGINE_SAYS = ("--words", str(WORDS), "--token-s", str(TOKEN_S), "--secret", _SECRET)
_GATEWAY_SAYS = ("--num-seqs", str(_NUM_SEQS))
_SCRIPTED = {"kind": "scripted", "answer_s": WORDS * TOKEN_S, "num_words": WORDS}


def base_overloaded() -> Outcome:
    with plain_serve(_SCRIPTED, num_replicas=1, num_seqs=_NUM_SEQS) as side:
        return _overloaded(side.url, needs_retry_after=False)


def product_overloaded() -> Outcome:
    with (
        python_server("serve_app.engines.scripted", *_ENGINE_SAYS) as engine,
        python_server("serve_app.gateway.standalone", *_GATEWAY_SAYS, "--backend", f"mini={engine.url}") as gateway,
    ):
        return _overloaded(gateway.url, needs_retry_after=True)


def _overloaded(url: str, *, needs_retry_after: bool) -> Outcome:
    """The capacity, then five times that; failed is what was neither a whole answer nor a refusal in good form."""
    once = asyncio.run(load(Connections(url), per_s=_PER_S, duration_s=_SECONDS, first=0))
    asked = asyncio.run(load(Connections(url), per_s=TIMES * _PER_S, duration_s=_SECONDS, first=1_000_000))
    late = sum(one.status == 200 and one.took_s > TARGET_S for one in asked)
    refused = [one for one in asked if one.is_openai_error and one.has_retry_after]
    failed = sum(one.status != 200 for one in asked) - len(refused)
    slowest_s = max((one.took_s for one in asked if one.status == 200), default=0.0)
    return Outcome(
        asked=len(asked),
        failed=failed,
        saw=(
            f"good answers/s: {_good(once):.0f} at 1x, {_good(asked):.0f} at {TIMES}x; then {late} answers later "
            f"than {TARGET_S} s, the slowest after {slowest_s:.0f} s; {len(refused)} refused with Retry-After"
        ),
        engine=_ENGINE + (", no ingress before our gateway" if needs_retry_after else ""),
    )


def _good(asked: Sequence[Asked]) -> float:
    """Per second: whole, within the target."""
    return sum(one.status == 200 and one.took_s <= TARGET_S for one in asked) / _SECONDS


def product_downshifted() -> Outcome:
    """Three times the capacity of the first of two models of a mode: who answers, and does he say so?"""
    small = ("--model", "small", *_ENGINE_SAYS)
    with (
        python_server("serve_app.engines.scripted", *_ENGINE_SAYS) as mini,
        python_server("serve_app.engines.scripted", *small) as other,
        python_server(
            "serve_app.gateway.standalone",
            *_GATEWAY_SAYS,
            *("--backend", f"mini={mini.url}", "--backend", f"small={other.url}"),
        ) as gateway,
    ):
        asked = asyncio.run(load(Connections(gateway.url), per_s=3 * _PER_S, duration_s=_SECONDS, first=0))
    models = Counter(one.model for one in asked if one.status == 200)
    honest = sum(one.is_honest for one in asked)
    answered = ", ".join(f"{count} by {model}" for model, count in models.most_common())
    refused = sum(one.has_retry_after for one in asked)
    return Outcome(
        asked=len(asked),
        failed=len(asked) - sum(models.values()) - refused,
        saw=f"answered {answered}; {refused} refused with Retry-After; {honest}/{len(asked)} labelled as what they are",
        engine=f"{_ENGINE} each, no ingress before our gateway",
    )


def base_with_a_bad_replica() -> Outcome:
    with tempfile.TemporaryDirectory(prefix="bad-") as folder:
        engine = {**_SCRIPTED, "first_is_bad": str(Path(folder) / "taken")}
        with plain_serve(engine) as side:
            eventually(side.is_serving, deadline_s=60, what="both replicas")
            return _with_a_bad_replica(side.url)


def product_with_a_bad_replica() -> Outcome:
    with _two_engines() as backends, python_server("serve_app.gateway.standalone", *backends) as gateway:
        return _with_a_bad_replica(gateway.url)


@contextlib.contextmanager
def _two_engines() -> Iterator[list[str]]:
    with (
        python_server("serve_app.engines.scripted", *_ENGINE_SAYS, "--behaviour", "error_500") as bad,
        python_server("serve_app.engines.scripted", *_ENGINE_SAYS) as good,
    ):
        yield ["--backend", f"mini={bad.url}", "--backend", f"mini={good.url}"]


def _with_a_bad_replica(url: str) -> Outcome:
    with Clients(url, stream=False) as clients:
        eventually(lambda: len(clients.answers) >= _NUM_WITH_BAD, deadline_s=120, what="enough answers")
    one = counted(clients.answers, fault_s=0.0)
    return Outcome(asked=one.asked, failed=one.failed, saw=one.saw, engine="scripted")
