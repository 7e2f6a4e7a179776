"""The settings in force: the arguments the controller was deployed with, or those applied since it was.

Whoever deploys other arguments means them: what was applied on top of the earlier ones is forgotten then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from placement.codec import to_json_value
from placement.errors import PlacementError
from serve_app.api.wire import ApplyOutcome, ApplyRequest
from serve_app.config.load import settings_from_args
from serve_app.config.problems import ConfigError
from serve_app.config.settings import Settings
from serve_app.controller.apply import Applier
from serve_app.controller.proposal import Proposal
from serve_app.controller.store import Store
from serve_app.errors import ApplyBusy, HeadroomError
from serve_app.logs import logger


class _Applied(BaseModel):
    """`base` is the digest of the arguments that these replaced."""

    model_config = ConfigDict(extra="forbid")

    base: str
    args: dict[str, Any]
    config_dir: str


class LiveSettings:
    """`base` is the digest of the arguments the controller was deployed with."""

    def __init__(
        self,
        args: Mapping[str, Any],
        store: Store,
        *,
        counted: Callable[[Settings], Settings] = lambda settings: settings,
    ) -> None:
        """`counted` gives settings with the numbers of replicas that scaling has put in force."""
        self.base = hashlib.sha256(json.dumps(args, sort_keys=True).encode()).hexdigest()
        self._store = store
        self._counted = counted
        self._deployed = args

    def in_force(self, deployed: Settings) -> Settings:
        """`deployed` are the settings of the arguments the controller was started with."""
        blob = self._store.applied()
        applied = _Applied.model_validate_json(blob) if blob is not None else None
        if applied is None or applied.base != self.base:
            self._store.save_applied(None)
            return self._counted(deployed)
        return self._counted(settings_from_args(applied.args, base_dir=Path(applied.config_dir)))

    def arguments(self) -> dict[str, Any]:
        """As they are in force, with the directory where relative paths start; empty where the deployment says that."""
        blob = self._store.applied()
        applied = _Applied.model_validate_json(blob) if blob is not None else None
        if applied is None:
            return {"args": dict(self._deployed), "config_dir": ""}
        return {"args": applied.args, "config_dir": applied.config_dir}

    async def apply(
        self,
        asked: ApplyRequest,
        applier: Applier,
        *,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        expect: Callable[[Settings], None],
    ) -> dict[str, Any]:
        """Outcome, message and, where there is one, the proposal; `spawn` carries it out when this has returned."""
        try:
            settings = self._counted(settings_from_args(asked.args, base_dir=Path(asked.config_dir)))
            proposal = await applier.propose(settings)
        except ConfigError as error:
            return _answer(ApplyOutcome.INVALID, str(error))
        except ApplyBusy as error:
            return _answer(ApplyOutcome.BUSY, str(error))
        except (HeadroomError, PlacementError) as error:
            return _answer(ApplyOutcome.REFUSED, str(error))
        if asked.dry_run:
            return _answer(ApplyOutcome.PROPOSED, "", proposal)
        applier.begin(proposal)
        applied = _Applied(base=self.base, args=asked.args, config_dir=asked.config_dir)
        expect(settings)
        spawn(self._carry_out(applied, applier, proposal))
        return _answer(ApplyOutcome.ACCEPTED, "", proposal)

    async def _carry_out(self, applied: _Applied, applier: Applier, proposal: Proposal) -> None:
        before, is_done = self._store.applied(), False
        self._store.save_applied(applied.model_dump_json().encode())
        try:
            is_done = await applier.carry_out(proposal)
        finally:
            if not is_done:
                self._store.save_applied(before)
        if is_done:
            _log.info("applied", plan=proposal.inventory.version)


def _answer(outcome: ApplyOutcome, message: str, proposal: Proposal | None = None) -> dict[str, Any]:
    told = {"outcome": outcome.value, "message": message}
    if proposal is None:
        return told
    shown = {"plan": proposal.plan, "inventory": proposal.inventory, "steps": proposal.steps}
    resting = {model: rest.reason for model, rest in proposal.resting.items()}
    others = {"resting": resting, "giving_way": dict(proposal.giving_way)}
    return told | {name: to_json_value(value) for name, value in shown.items()} | others


_log = logger("headroom.controller")
