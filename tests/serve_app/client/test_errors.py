"""Every error of the libraries below is one of ours, none is forgotten, and trying again is safe."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from types import ModuleType

import httpx
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.client.errors import (
    BY_STATUS,
    FOREIGN,
    BadRequest,
    BrokenAnswer,
    ClientError,
    NotAllowed,
    Overloaded,
    ServerFault,
    TimedOut,
    Unreachable,
    kind_of,
    mapped,
    of_status,
)
from serve_app.client.terms import Terms, again_in_s, body_of, terms_of


def below(root: type[BaseException]) -> Iterator[type[BaseException]]:
    for kind in root.__subclasses__():
        yield kind
        yield from below(kind)


def foreign() -> list[type[BaseException]]:
    """Every error that openai and both httpx can raise."""
    sdk = [kind for kind in below(openai.OpenAIError) if kind.__module__.startswith("openai")]
    return sdk + [kind for module in (httpx, httpx2) for kind in exported(module)]


def exported(module: ModuleType) -> list[type[BaseException]]:
    kinds = [getattr(module, name) for name in dir(module)]
    abstract = (module.HTTPError, module.RequestError)  # never raised themselves
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Exception) and kind not in abstract]


class TestForeignErrors:
    def test_are_many(self) -> None:
        assert len(foreign()) > 40

    @pytest.mark.parametrize("kind", foreign(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
    def test_are_all_mapped(self, kind: type[BaseException]) -> None:
        by_status = any(base.__name__ in BY_STATUS for base in kind.__mro__)
        assert by_status or kind_of(kind) is not None

    def test_have_no_mapping_that_names_nobody(self) -> None:
        known = {base.__name__ for kind in foreign() for base in kind.__mro__}
        assert set(FOREIGN) | BY_STATUS <= known

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (httpx.ConnectError("no"), Unreachable),
            (httpx.ReadTimeout("slow"), TimedOut),
            (httpx2.RemoteProtocolError("cut"), Unreachable),
            (httpx.InvalidURL("bad"), BadRequest),
            (openai.APITimeoutError(httpx2.Request("GET", "http://x")), TimedOut),
            (openai.APIConnectionError(request=httpx2.Request("GET", "http://x")), Unreachable),
        ],
    )
    def test_become_the_nearest_of_ours(self, error: Exception, kind: type[ClientError]) -> None:
        assert type(mapped(error)) is kind

    def test_that_are_bugs_stay_what_they_are(self) -> None:
        assert mapped(ZeroDivisionError()) is None


class TestStatuses:
    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            *((400, BadRequest), (404, BadRequest), (405, BadRequest), (409, BadRequest), (413, BadRequest)),
            *((401, NotAllowed), (403, NotAllowed), (429, Overloaded), (503, Overloaded)),
            *((500, ServerFault), (502, ServerFault), (504, ServerFault)),
        ],
    )
    def test_become_ours_with_the_servers_sentence(self, status: int, kind: type[ClientError]) -> None:
        error = of_status(status, {"error": {"message": "because"}}, {})
        assert (type(error), str(error), error.status) == (kind, "because", status)

    def test_of_an_sdks_error_are_read_with_its_wait(self) -> None:
        response = httpx2.Response(429, headers={"retry-after": "7"}, request=httpx2.Request("POST", "http://x"))
        error = mapped(openai.RateLimitError("no", response=response, body={"message": "slow down"}))
        assert isinstance(error, Overloaded)
        assert (str(error), error.retry_after_s) == ("slow down", 7)

    @pytest.mark.parametrize("body", [None, [], "x", {"error": "x"}, {"error": {}}])
    def test_of_a_stranger_say_the_status(self, body: object) -> None:
        assert "502" in str(of_status(502, body, {}))

    def test_200_that_is_no_object_is_a_broken_answer(self) -> None:
        for content in (b"", b"<html>", b"[]"):
            with pytest.raises(BrokenAnswer):
                body_of(httpx.Response(200, content=content))


class TestTryingAgain:
    def test_is_only_for_what_was_refused_or_can_be_said_twice(self) -> None:
        for error in (BadRequest("x"), NotAllowed("x"), TimedOut("x"), ServerFault("x"), BrokenAnswer("x")):
            assert again_in_s(error, attempt=0, idempotent=True, jitter=0) is None
        assert again_in_s(Unreachable("x"), attempt=0, idempotent=False, jitter=0) is None
        assert again_in_s(Unreachable("x"), attempt=0, idempotent=True, jitter=0) == 0.25
        assert again_in_s(Overloaded("x"), attempt=0, idempotent=False, jitter=0) == 0.25

    @given(st.floats(0, 1))
    def test_waits_longer_each_time_up_to_a_bound(self, jitter: float) -> None:
        waits_s = [again_in_s(Overloaded("x"), attempt=turn, idempotent=True, jitter=jitter) for turn in range(12)]
        known_s = [wait_s for wait_s in waits_s if wait_s is not None]
        assert len(known_s) == 12
        assert all(sooner <= later for sooner, later in pairwise(known_s))
        assert known_s[-1] <= 8.0

    def test_obeys_the_server_but_not_for_ever(self) -> None:
        assert again_in_s(Overloaded("x", retry_after_s=3), attempt=0, idempotent=True, jitter=1) == 3
        assert again_in_s(Overloaded("x", retry_after_s=60), attempt=0, idempotent=True, jitter=1) is None


class TestTerms:
    def test_come_from_what_is_given_then_the_environment_then_this_machine(self) -> None:
        named = {"HEADROOM_ADDRESS": "http://a:1", "HEADROOM_KEY": "hr_secret"}
        assert terms_of(named) == Terms(address="http://a:1", key="hr_secret")
        assert terms_of(named, address="http://b:2").address == "http://b:2"
        assert terms_of({"HEADROOM_KEY": ""}) == Terms()

    @pytest.mark.parametrize("wrong", [{"timeout_s": 0}, {"timeout_s": float("nan")}, {"num_retries": -1}])
    def test_that_cannot_be_are_refused(self, wrong: dict[str, float]) -> None:
        with pytest.raises(ValueError, match="expected"):
            terms_of({}, **wrong)

    def test_never_show_the_key(self) -> None:
        assert "hr_secret" not in repr(Terms(key="hr_secret"))


class TestImporting:
    def test_loads_neither_the_sdk_nor_httpx(self) -> None:
        code = "import sys, serve_app.client; print({'openai', 'httpx', 'httpx2'} & set(sys.modules))"
        told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert told.stdout.strip() == "set()"
