"""`headroom gpus` and `headroom status` against a cluster, against none, and against something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main
from tests.serve_app.cli.loopback import answering, silent_address

GIB = 2**30


def fleet(*, passes: bool = True, measured: int | None = 2 * GIB) -> dict[str, Any]:
    holder = {
        "name": "mini#0",
        "kind": "replica",
        "planned_bytes": 2 * GIB,
        "measured_bytes": measured,
        "peak_bytes": 3 * GIB,
        "state": "ready",
    }
    device = {
        "id": "vm/host",
        "node": "vm",
        "kind": "host",
        "product": "host memory",
        "total_bytes": 16 * GIB,
        "used_bytes": 4 * GIB,
        "free_bytes": 12 * GIB,
        "headroom_ratio": 0.75,
        "passes": passes,
        "health": "healthy",
        "holders": [holder],
    }
    return {"headroom": 0.2, "devices": [device], "a_field_of_tomorrow": 1}


HEALTH = {"status": "ok", "models": {"mini": {"status": "ready", "num_ready": 1, "num_wanted": 1}}}
INFO = {"models": [{"id": "mini", "loaded": True, "checkpoint_step": 400, "weights_version": "0123456789ab"}]}


def headroom(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


class TestGpus:
    def test_shows_every_share_planned_and_measured(self) -> None:
        with answering({"/admin/fleet": fleet(measured=int(2.2 * GIB))}) as address:
            result = headroom("gpus", "--once", "--address", address)
        assert result.exit_code == 0
        for text in ("vm/host", "mini#0", "2.0 GiB", "2.2 GiB", "+10.0 %", "3.0 GiB", "ready", "PASS", "75.0 %"):
            assert text in result.stdout

    def test_a_share_that_could_not_be_read_says_so(self) -> None:
        with answering({"/admin/fleet": fleet(measured=None)}) as address:
            assert "unread" in headroom("gpus", "--once", "--address", address).stdout

    def test_a_device_that_fails_is_exit_code_one(self) -> None:
        with answering({"/admin/fleet": fleet(passes=False)}) as address:
            result = headroom("gpus", "--once", "--address", address)
        assert result.exit_code == 1
        assert "FAIL" in result.stdout

    def test_repeats_at_the_interval_until_the_duration_is_over(self) -> None:
        with answering({"/admin/fleet": fleet()}) as address:
            result = headroom("gpus", "--json", "--duration", "1.5", "--interval", "0.5", "--address", address)
        readings = [json.loads(line) for line in result.stdout.splitlines()]
        assert 2 <= len(readings) <= 4
        assert readings[0]["source"] == "cluster"

    def test_without_a_cluster_reads_this_machine_and_says_so(self, tmp_path: Path) -> None:
        with silent_address() as address:
            result = headroom("gpus", "--once", "--address", address, "--config", str(tmp_path / "none.yaml"))
        assert result.exit_code in {0, 1}  # the machine's own headroom is not ours to judge
        assert "system and other processes" in result.stdout or "gpu-0" in result.stdout
        assert f"Nothing answers at {address}" in result.stderr

    def test_something_else_at_the_address_is_not_taken_for_a_cluster(self) -> None:
        with answering({"/admin/fleet": {"hello": 1}}) as address:
            result = headroom("gpus", "--once", "--address", address)
        assert result.exit_code == 8
        assert "does not answer as Headroom does: headroom: Field required" in result.stderr


class TestStatus:
    def test_shows_models_and_their_weights(self) -> None:
        with answering({"/health": HEALTH, "/models/info": INFO}) as address:
            result = headroom("status", "--address", address)
        assert result.exit_code == 0
        for text in ("is ok", "mini", "ready", "1/1", "0123456789ab", "400"):
            assert text in result.stdout

    def test_anything_but_ok_is_exit_code_one_also_when_told_with_a_503(self) -> None:
        models = {"mini": {"status": "refused", "reason": "No room", "num_ready": 0, "num_wanted": 1}}
        routes = {"/health": {"status": "down", "models": models}, "/models/info": INFO}
        with answering(routes, status=503) as address:
            result = headroom("status", "--address", address)
        assert result.exit_code == 1
        assert "No room" in result.stdout

    def test_json_is_json(self) -> None:
        with answering({"/health": HEALTH, "/models/info": INFO}) as address:
            shown = json.loads(headroom("status", "--json", "--address", address).stdout)
        assert shown["health"]["status"] == "ok"
        assert shown["models"][0]["id"] == "mini"

    def test_nobody_there_is_exit_code_three(self) -> None:
        with silent_address() as address:
            result = headroom("status", "--address", address)
        assert (result.exit_code, result.stdout) == (3, "")
        assert f"Nothing answers at {address}" in result.stderr

    @pytest.mark.parametrize("routes", [{}, {"/health": b"<html>"}, {"/health": []}])
    def test_something_else_there_is_said(self, routes: dict[str, object]) -> None:
        with answering(routes) as address:
            result = headroom("status", "--address", address)
        assert result.exit_code == 8
        assert "does not answer as Headroom does" in result.stderr

    @pytest.mark.parametrize("address", ["not an address", "http://", "ftp://127.0.0.1"])
    def test_an_address_that_is_none_ends_in_one_sentence(self, address: str) -> None:
        result = headroom("status", "--address", address)
        assert result.exit_code == 3
        assert "Traceback" not in result.output


class TestModelActions:
    @pytest.mark.parametrize("action", ["load", "unload", "sleep", "wake", "pin", "unpin"])
    def test_each_posts_the_model_and_says_what_the_controller_says(self, action: str) -> None:
        with answering({f"/models/{action}": {"outcome": "done", "message": "As you wish."}}) as address:
            result = headroom("models", action, "mini", "--address", address)
        assert (result.exit_code, result.stdout) == (0, "As you wish.\n")

    def test_waits_until_it_is_through(self) -> None:
        progress = {"status": "done", "done": 1, "num_batches": 1, "doing": "", "message": ""}
        pages = {"/models/load": {"outcome": "accepted", "message": "It loads."}, "/admin/apply": progress}
        with answering(pages) as address:
            result = headroom("models", "load", "mini", "--address", address)
        assert result.exit_code == 0
        assert result.stdout.startswith("Done in")

    def test_a_change_that_failed_is_an_error(self) -> None:
        progress = {"status": "failed", "done": 0, "num_batches": 1, "doing": "", "message": "mini#0 did not start."}
        pages = {"/models/load": {"outcome": "accepted", "message": "It loads."}, "/admin/apply": progress}
        with answering(pages) as address:
            result = headroom("models", "load", "mini", "--address", address)
        assert result.exit_code == 1
        assert "mini#0 did not start." in result.stderr

    @pytest.mark.parametrize("outcome", ["refused", "unknown", "busy"])
    def test_a_no_is_an_error_with_the_controllers_sentence(self, outcome: str) -> None:
        with answering({"/models/load": {"outcome": outcome, "message": "No room."}}) as address:
            result = headroom("models", "load", "mini", "--address", address)
        assert result.exit_code == 1
        assert "No room." in result.stderr
