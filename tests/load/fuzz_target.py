"""The HTTP address without Ray, to be attacked: a real gateway before a scripted engine, and the controller's pages.

Keys, leases, jobs, goals, rollouts, scaling and cache times are answered by the product's own code over stores in a
folder; what these would do to a cluster is simulated by the tests' own builders. Fleet, plan, alerts and cordons need a
cluster: they are answered with 404.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from serve_app.access.keys import KeySnapshot
from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.config.settings import AccessSettings
from serve_app.controller.access_desk import AccessDesk
from serve_app.controller.cache_desk import CacheDesk
from serve_app.gateway.standalone import NoController, standalone_settings
from serve_app.jobs.rest import JobCalls
from serve_app.leases.calls import LeaseCalls
from serve_app.leases.keyring import ANYBODY
from serve_app.leases.rest import answer_rest
from serve_app.leases.service import LeaseService
from serve_app.rollout.rest import answer_rollouts
from tests.serve_app.controller.scaling_world import World as ScalingWorld
from tests.serve_app.goals.test_goals import World as GoalWorld
from tests.serve_app.jobs.world import World as JobWorld
from tests.serve_app.leases.serving import Bench
from tests.serve_app.rollout.controllers import controller, store
from tests.serve_app.rollout.fake_world import Cluster
from tracing import names
from tracing.metrics import Labels

MODEL = "mini"
Answering = Callable[[ControlAsked], Awaitable[ControlAnswer]]


class _NothingSeen:
    """`Totals` of a cluster without traffic."""

    def counters(self, metric: names.Counter) -> Mapping[Labels, float]:
        return {}


class PartsOfAController(NoController):
    """`ControlPlane` on the parts of the controller that run without Ray. `changed` takes every new set of keys."""

    def __init__(self, folder: Path, *, changed: Callable[[KeySnapshot], None]) -> None:
        super().__init__([MODEL])
        self.access = AccessDesk(
            sqlite3.connect(":memory:", isolation_level=None),
            settings=AccessSettings(),
            has_ray_token=True,
            changed=changed,
        )
        self._cache = CacheDesk(
            sqlite3.connect(":memory:", isolation_level=None),
            modes=lambda: standalone_settings([MODEL]).modes,
            totals=_NothingSeen(),
            changed=lambda: None,
        )
        self._leases: LeaseService = Bench(folder / "leases.db").service()
        self._rollouts = controller(Cluster(), store())
        self._pages: Mapping[str, Answering] = {
            "/admin/keys": self._answer_keys,
            "/admin/cache/ttl": self._answer_ttl,
            "/admin/scaling": ScalingWorld(folder).desk.answer,
            "/v1/leases": self._answer_leases,
            "/v1/jobs": JobCalls(JobWorld(folder / "jobs.sqlite").service, roots=(folder / "models",)).answer,
            "/v1/goals": GoalWorld().pages.answer,
            "/v1/rollouts": self._answer_rollouts,
            "/models/reload": self._answer_rollouts,
        }

    async def start(self) -> None:
        await self._leases.start()

    async def metrics(self) -> bytes:
        return b"# HELP headroom_build_info Build.\n# TYPE headroom_build_info gauge\n"

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        page = next((page for path, page in self._pages.items() if asked.path.startswith(path)), super().ask)
        return await page(asked)

    async def _answer_keys(self, asked: ControlAsked) -> ControlAnswer:
        return self.access.answer(asked)

    async def _answer_ttl(self, asked: ControlAsked) -> ControlAnswer:
        return self._cache.answer(asked)

    async def _answer_rollouts(self, asked: ControlAsked) -> ControlAnswer:
        return await answer_rollouts(self._rollouts.service, asked)

    async def _answer_leases(self, asked: ControlAsked) -> ControlAnswer:
        answer: Any = await answer_rest(
            LeaseCalls(self._leases), ANYBODY, method=asked.method, path=asked.path, query=asked.query, body=asked.body
        )
        return ControlAnswer(status=answer.status, body=answer.body, headers=answer.headers)
