"""HTTPS at the public address: the real HAProxy, on the configuration that Ray itself writes for it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray.serve._private.haproxy import HAProxyApi, HAProxyConfig
from ray.serve.config import HTTPOptions

from serve_app.access.tls import TlsFiles, pinned, trusting
from serve_app.errors import HeadroomError
from serve_app.ops.haproxy import write_wrapper
from serve_app.ops.ports import any_port
from tests.serve_app.access.certificates import self_signed

_STARTED_S = 30.0
_POLL_S = 0.02


class TestThePublicAddress:
    def test_speaks_tls_to_whoever_trusts_the_certificate(self, short: Path) -> None:
        tls = self_signed(short)
        with serving(short, tls) as port, httpx.Client(verify=trusting(tls.certificate), trust_env=False) as client:
            answer = client.get(f"https://127.0.0.1:{port}/nowhere")
            assert (answer.status_code, "not found" in answer.text) == (404, True)
            assert client.get(f"https://localhost:{port}/nowhere").http_version == "HTTP/1.1"

    def test_speaks_nothing_else(self, short: Path) -> None:
        with serving(short, self_signed(short)) as port, httpx.Client(trust_env=False) as client:
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                client.get(f"https://127.0.0.1:{port}/nowhere")
            with pytest.raises(httpx.HTTPError):
                client.get(f"http://127.0.0.1:{port}/nowhere")

    def test_is_encrypted_again_after_ray_wrote_its_configuration_anew(self, short: Path) -> None:
        tls = self_signed(short)
        for _ in range(2):
            with serving(short, tls) as port, httpx.Client(verify=pinned(tls.certificate), trust_env=False) as client:
                assert client.get(f"https://127.0.0.1:{port}/nowhere").status_code == 404

    @pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::1"])
    def test_is_found_in_rays_configuration_whatever_the_host(self, short: Path, host: str) -> None:
        config = rays_configuration(short, host=host, port=any_port("127.0.0.1"))
        before = config.read_text().splitlines()
        assert checked(short, config, self_signed(short)).returncode == 0
        changed = [new for old, new in zip(before, config.read_text().splitlines(), strict=True) if old != new]
        assert [line.split(" ssl ")[0].strip().startswith("bind ") for line in changed] == [True]


class TestHaproxy:
    def test_does_not_start_where_the_public_address_is_not_found(self, short: Path) -> None:
        config = rays_configuration(short, host="127.0.0.1", port=any_port("127.0.0.1"))
        config.write_text(config.read_text().replace("frontend http_frontend", "frontend of_another_ray"))
        ended = checked(short, config, self_signed(short))
        assert (ended.returncode, "cannot be given its certificate" in ended.stderr) == (1, True)

    def test_does_not_start_with_the_key_of_another_certificate(self, short: Path) -> None:
        config = rays_configuration(short, host="127.0.0.1", port=any_port("127.0.0.1"))
        mine, other = self_signed(short), self_signed(short, name="other")
        assert checked(short, config, TlsFiles(certificate=mine.certificate, key=other.key)).returncode != 0

    def test_is_not_wrapped_where_a_shell_would_misread_the_path(self, short: Path) -> None:
        odd = short / "a$(b)"
        odd.mkdir()
        with pytest.raises(HeadroomError, match=r"storage\.home"):
            write_wrapper(odd / "haproxy", tls=self_signed(short))


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a short name: HAProxy's sockets may have 97 characters."""
    with tempfile.TemporaryDirectory(prefix="hr-") as folder:
        yield Path(folder)


@contextlib.contextmanager
def serving(folder: Path, tls: TlsFiles) -> Iterator[int]:
    """The port of a HAProxy started as Ray starts it, through our wrapper."""
    port = any_port("127.0.0.1")
    command = [str(wrapper(folder, tls)), "-db", "-f", str(rays_configuration(folder, host="127.0.0.1", port=port))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline_s = time.monotonic() + _STARTED_S
        while not listens(port):
            assert process.poll() is None, "HAProxy ended"
            assert time.monotonic() < deadline_s, "HAProxy does not listen"
            time.sleep(_POLL_S)
        yield port
    finally:
        process.kill()
        process.wait()


def checked(folder: Path, config: Path, tls: TlsFiles) -> subprocess.CompletedProcess[str]:
    """HAProxy's own check of the configuration after our change."""
    command = [str(wrapper(folder, tls)), "-c", "-f", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def wrapper(folder: Path, tls: TlsFiles) -> Path:
    run = folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    write_wrapper(run / "haproxy", tls=tls)
    return run / "haproxy"


def rays_configuration(folder: Path, *, host: str, port: int) -> Path:
    """Written by Ray's own code."""
    config = HAProxyConfig(
        http_options=HTTPOptions(host=host, port=port),
        socket_path=str(folder / "admin.sock"),
        server_state_base=str(folder),
        server_state_file=str(folder / "state"),
        stats_port=any_port("127.0.0.1"),
        metrics_port=any_port("127.0.0.1"),
        metrics_socket_path=str(folder / "metrics.sock"),
    )
    path = folder / "haproxy.cfg"
    HAProxyApi(config, config_file_path=str(path))._generate_config_file_internal()  # what Ray's `start` calls
    return path


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0
