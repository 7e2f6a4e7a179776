"""What `headroom up` refuses before anything starts: the sentence, the exit code, and that nothing was begun."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.default_models import ROOT
from tests.integration.live_cluster import Finished, free_ports, headroom, short_home

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

CONFIG_ERROR, ALREADY_RUNNING = 2, 4


@pytest.fixture
def home() -> Iterator[Path]:
    path = short_home()
    yield path
    shutil.rmtree(path)


@pytest.fixture
def taken() -> Iterator[int]:
    """A port somebody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def up(home: Path, config: str, *, http: int | None = None, ray: int | None = None) -> Finished:
    free = free_ports(3)
    file = home / "cluster.yaml"
    file.write_text(config.replace("port: 8000", f"port: {http or free[0]}"))
    ports = ("--ray-port", str(ray or free[1]), "--dashboard-port", str(free[2]))
    return headroom("up", str(file), *ports, home=home)


def shipped() -> str:
    return (ROOT / "cluster.yaml").read_text()


def assert_nothing_began(home: Path, done: Finished) -> None:
    assert {path.name for path in home.iterdir()} == {"cluster.yaml"}
    assert "ray start" not in done.out


class TestPorts:
    def test_a_taken_http_port_is_named_with_who_has_it(self, home: Path, taken: int) -> None:
        done = up(home, shipped(), http=taken)
        assert done.code == ALREADY_RUNNING
        assert f"Port {taken} on 127.0.0.1, wanted for HTTP (`http_options.port`), is taken by" in done.err
        assert "headroom down" in done.err
        assert_nothing_began(home, done)

    def test_a_taken_ray_port_asks_whether_ray_runs(self, home: Path, taken: int) -> None:
        done = up(home, shipped(), ray=taken)
        assert done.code == ALREADY_RUNNING
        assert f"Port {taken} on 127.0.0.1, wanted for Ray's control store, is taken" in done.err
        assert "Is Ray running already?" in done.err
        assert_nothing_began(home, done)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("right", "wrong", "sentence"),
        [
            ("headroom: 0.20", "headroom: 1.5", "fleet.headroom"),
            ("devices: auto", "devices: tpu", "fleet.devices"),
            ("headroom: 0.20", "headroom: 0.20\n        colour: red", "fleet.colour"),
            ("candidates: [mini, small]", "candidates: [mini, large]", "modes.fast.candidates"),
            ("source: default:mini", "source: default:huge", "models[0].source"),
            ("source: default:mini", "source: /etc", "lies outside the allowed roots"),
            ("source: default:mini", "source: /nowhere/at-all", "does not exist"),
            ("proxy_location: HeadOnly", "proxy_location: [", "line 8: the file is not valid YAML"),
        ],
    )
    def test_what_is_wrong_is_found_before_anything_starts(
        self, home: Path, right: str, wrong: str, sentence: str
    ) -> None:
        assert right in shipped()
        done = up(home, shipped().replace(right, wrong, 1))
        assert done.code == CONFIG_ERROR
        assert sentence in done.err
        assert_nothing_began(home, done)

    def test_a_file_that_is_not_there_is_named(self, home: Path) -> None:
        done = headroom("up", str(home / "none.yaml"), home=home)
        assert done.code == CONFIG_ERROR
        assert "none.yaml" in done.err


class TestDown:
    def test_without_a_run_it_says_so(self, home: Path) -> None:
        done = headroom("down", home=home)
        assert done.code == 3
        assert "Nothing to stop" in done.err
