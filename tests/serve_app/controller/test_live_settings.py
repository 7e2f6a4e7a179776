"""Which settings are in force: those deployed, or those applied since; and what an apply is answered."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, cast

import pytest
import yaml

from placement.errors import InvalidProblem
from serve_app.api.wire import ApplyRequest
from serve_app.config.load import settings_from_args
from serve_app.config.settings import Settings
from serve_app.controller.apply import Applier
from serve_app.controller.live_settings import LiveSettings
from serve_app.controller.store import Store
from serve_app.errors import ApplyBusy, HeadroomError

_FILE = Path(__file__).parents[3] / "cluster.yaml"
ARGS: dict[str, Any] = yaml.safe_load(_FILE.read_text())["applications"][0]["args"]
GROWN = {**ARGS, "models": [{**ARGS["models"][0], "replicas": 2}, *ARGS["models"][1:]]}


class ScriptedApplier:
    """Refuses every proposal with `error`; never gets as far as carrying one out."""

    def __init__(self, *, error: Exception | None = None) -> None:
        self._error = error

    async def propose(self, settings: Settings) -> None:
        assert self._error is not None
        raise self._error


def asked(args: dict[str, Any], *, dry_run: bool = True) -> ApplyRequest:
    return ApplyRequest(args=args, config_dir="/etc", dry_run=dry_run)


def answer(live: LiveSettings, applier: ScriptedApplier, request: ApplyRequest) -> dict[str, Any]:
    def spawn(work: Coroutine[Any, Any, None]) -> None:
        raise AssertionError("nothing here may be carried out")

    def expect(settings: Settings) -> None:
        raise AssertionError("nothing here may be expected")

    return asyncio.run(live.apply(request, cast("Applier", applier), spawn=spawn, expect=expect))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "controller.sqlite")


def applied(base: str, args: dict[str, Any]) -> bytes:
    return json.dumps({"base": base, "args": args, "config_dir": "/etc"}).encode()


class TestInForce:
    def test_what_was_deployed_where_nothing_was_applied(self, store: Store) -> None:
        deployed = settings_from_args(ARGS)
        assert LiveSettings(ARGS, store).in_force(deployed) == deployed

    def test_what_was_applied_since_after_a_restart_too(self, store: Store) -> None:
        store.save_applied(applied(LiveSettings(ARGS, store).base, GROWN))
        after = LiveSettings(ARGS, store).in_force(settings_from_args(ARGS))
        assert [model.num_replicas for model in after.models] == [2, 1, 1]

    def test_other_arguments_deployed_since_win_and_what_was_applied_is_forgotten(self, store: Store) -> None:
        store.save_applied(applied(LiveSettings(ARGS, store).base, GROWN))
        other = {**ARGS, "models": ARGS["models"][:2]}
        assert len(LiveSettings(other, store).in_force(settings_from_args(ARGS)).models) == 3
        assert store.applied() is None


class TestAnswers:
    def test_arguments_that_are_wrong_are_invalid_and_say_where(self, store: Store) -> None:
        told = answer(LiveSettings(ARGS, store), ScriptedApplier(), asked({**ARGS, "colour": "red"}))
        assert told["outcome"] == "invalid"
        assert "args.colour" in told["message"]

    @pytest.mark.parametrize("error", [HeadroomError("No such checkpoint."), InvalidProblem("Two of one name.")])
    def test_what_cannot_be_done_is_refused_with_its_sentence(self, store: Store, error: Exception) -> None:
        told = answer(LiveSettings(ARGS, store), ScriptedApplier(error=error), asked(ARGS))
        assert told == {"outcome": "refused", "message": str(error)}

    def test_one_at_a_time(self, store: Store) -> None:
        told = answer(LiveSettings(ARGS, store), ScriptedApplier(error=ApplyBusy("Later.")), asked(ARGS))
        assert told["outcome"] == "busy"

    def test_a_refused_apply_leaves_nothing_in_the_store_and_another_may_follow(self, store: Store) -> None:
        live, refusing = LiveSettings(ARGS, store), ScriptedApplier(error=HeadroomError("No."))
        for _ in range(2):
            assert answer(live, refusing, asked(GROWN, dry_run=False))["outcome"] == "refused"
        assert store.applied() is None


class BreakingApplier(ScriptedApplier):
    """Proposes, and breaks off with a fault that is none of ours."""

    async def propose(self, settings: Settings) -> None:
        return None

    def begin(self, proposal: object) -> None:
        pass

    async def carry_out(self, proposal: object) -> bool:
        raise ConnectionError("the cluster is gone")


class TestBrokenOff:
    def test_what_was_in_force_is_so_again(self, store: Store) -> None:
        applier, works = BreakingApplier(), list[Coroutine[Any, Any, None]]()
        request = asked(GROWN, dry_run=False)
        live = LiveSettings(ARGS, store)
        told = asyncio.run(live.apply(request, cast("Applier", applier), spawn=works.append, expect=lambda _: None))
        assert told["outcome"] == "accepted"
        with pytest.raises(ConnectionError):
            asyncio.run(works[0])
        assert store.applied() is None
