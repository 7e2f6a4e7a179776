"""Commands and clients at an https address: whom they trust, and what they say when they do not."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from serve_app.access.tls import TlsFiles, trusting
from serve_app.cli import main
from serve_app.client import AsyncClient, BadRequest, Client, Terms, Unreachable, get_client
from serve_app.errors import HeadroomError
from serve_app.training.live import ask_all
from serve_app.validate.asker import asking
from tests.serve_app.access.certificates import self_signed
from tests.serve_app.cli.loopback import answering

HEALTH = {"status": "ok", "models": {"mini": {"status": "ready", "num_ready": 1, "num_wanted": 1}}}
ROUTES = {
    "/health": HEALTH,
    "/models/info": {"models": [{"id": "mini", "loaded": True}]},
    "/v1/jobs": {"jobs": [], "next": None},
    "/v1/models": {"object": "list", "data": []},
    "/v1/chat/completions": {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "mini",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "2"}}],
    },
}


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    return self_signed(tmp_path)


def headroom(address: str, *arguments: str, ca_file: Path | str | None = None) -> Result:
    known = {"HEADROOM_ADDRESS": address, "HEADROOM_CA_FILE": None if ca_file is None else str(ca_file)}
    return CliRunner().invoke(main, arguments, env=known)


class TestACommand:
    def test_trusts_the_certificate_it_is_named(self, tls: TlsFiles) -> None:
        with answering(ROUTES, tls=tls) as address:
            told = headroom(address, "status", ca_file=tls.certificate)
        assert (told.exit_code, f"{address} is ok" in told.stdout) == (0, True)

    @pytest.mark.parametrize("arguments", [["status"], ["jobs", "list"]])
    def test_trusts_no_other_and_says_how_to(self, tls: TlsFiles, arguments: list[str]) -> None:
        with answering(ROUTES, tls=tls) as address:
            told = headroom(address, *arguments)
        assert told.exit_code == 1
        assert "its certificate is not trusted" in told.stderr
        assert "HEADROOM_CA_FILE" in told.stderr

    def test_says_when_the_named_file_is_none(self, tmp_path: Path) -> None:
        told = headroom("https://127.0.0.1:1", "status", ca_file=tmp_path / "none.pem")
        assert (told.exit_code, "none.pem' is no PEM file of certificates" in told.stderr) == (1, True)

    def test_at_a_plain_address_of_an_encrypted_cluster_is_told_to_say_https(self, tls: TlsFiles) -> None:
        with answering(ROUTES, tls=tls) as address:
            told = headroom(address.replace("https", "http"), "status")
        assert (told.exit_code, "https://" in told.stderr) == (3, True)

    @pytest.mark.parametrize("arguments", [["status"], ["jobs", "list"]])
    def test_sends_the_key(self, arguments: list[str]) -> None:
        heard: list[str] = []
        with answering(ROUTES, heard=heard) as address:
            CliRunner().invoke(main, arguments, env={"HEADROOM_ADDRESS": address, "HEADROOM_KEY": "hr_1_2"})
        assert set(heard) == {"Bearer hr_1_2"}


class TestAClient:
    def test_trusts_the_file_of_its_terms_for_chat_and_for_pages(self, tls: TlsFiles) -> None:
        with answering(ROUTES, tls=tls) as address, get_client(address=address, ca_file=tls.certificate) as client:
            assert (client.chat("1+1").text, client.health_check()["status"]) == ("2", "ok")

    async def test_does_so_in_an_event_loop_too(self, tls: TlsFiles) -> None:
        with answering(ROUTES, tls=tls) as address:
            async with AsyncClient(Terms(address=address, ca_file=tls.certificate)) as client:
                assert (await client.chat("1+1")).text == "2"
                assert (await client.health_check())["status"] == "ok"

    def test_trusts_no_other(self, tls: TlsFiles) -> None:
        with answering(ROUTES, tls=tls) as address, Client(Terms(address=address, num_retries=0)) as client:
            for ask in (lambda: client.chat("1+1"), client.health_check):
                with pytest.raises(Unreachable):
                    ask()

    def test_with_a_file_that_is_none_says_so(self, tmp_path: Path) -> None:
        with Client(Terms(ca_file=tmp_path / "none.pem")) as client:
            for ask in (lambda: client.chat("1+1"), client.health_check):
                with pytest.raises(BadRequest, match=r"none\.pem"):
                    ask()

    def test_takes_the_file_from_the_environment(self, tls: TlsFiles, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HEADROOM_CA_FILE", str(tls.certificate))
        with answering(ROUTES, tls=tls) as address, get_client(address=address) as client:
            assert client.health_check()["status"] == "ok"


class TestEvaluationAndValidation:
    def test_trust_what_they_are_given(self, tls: TlsFiles) -> None:
        async def checked(address: str, trust: ssl.SSLContext) -> int:
            async with asking(address, trust=trust) as asker:
                return (await asker.ask("GET", "/health")).status

        async def evaluated(address: str, trust: ssl.SSLContext | bool) -> list[str]:
            return await ask_all(
                [],
                model="mini",
                base_url=f"{address}/v1",
                api_key="x",
                concurrency=1,
                on_answer=lambda: None,
                trust=trust,
            )

        trust = trusting(tls.certificate)
        with answering(ROUTES, tls=tls) as address:
            assert asyncio.run(checked(address, trust)) == 200
            assert asyncio.run(evaluated(address, trust)) == []
            with pytest.raises(HeadroomError):
                asyncio.run(evaluated(address, trust=True))
