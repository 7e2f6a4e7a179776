"""What loading, waking and putting to sleep does and shows; an applier that carries everything out at once."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from serve_app.api.wire import ModelAction, ModelAnswer, ModelOutcome
from serve_app.config.settings import Settings
from serve_app.controller.apply import Applier
from serve_app.controller.bringup import Bringup
from serve_app.controller.change_spans import Trigger
from serve_app.controller.claims import Slot
from serve_app.controller.conditions import Conditions
from serve_app.controller.fleet_link import FleetLink
from serve_app.controller.lifecycle import Lifecycle, LifecycleState, Rest, RestKind
from serve_app.controller.model_actions import ModelActions
from serve_app.controller.proposal import Proposal
from serve_app.controller.proposing import AS_IT_IS, Wish
from serve_app.controller.store import Store
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.engines.fingerprint import Fingerprint
from tests.serve_app.controller.proposals import SETTINGS, proposal, rests
from tests.serve_app.controller.test_ledger import WEIGHTS, ledger, slot
from tests.serve_app.controller.traced import Traced, traced
from tracing import names

MINI, BASE = slot("mini#0"), slot("base#0")


class ObedientApplier(Applier):
    """Proposes what was wished, with `slots` running; carries it out by doing nothing, well or not."""

    def __init__(self, *slots: Slot, works: bool) -> None:
        self.slots = slots
        self.works = works

    @property
    def occupied(self) -> bool:
        return False

    async def propose(self, settings: Settings, wish: Wish = AS_IT_IS) -> Proposal:
        return proposal(*self.slots, **{model: rest.kind for model, rest in (wish.resting or {}).items()})

    def begin(self, proposal: Proposal) -> None:
        pass

    async def carry_out(self, proposal: Proposal) -> bool:
        return self.works


class Scene:
    """Model actions of a controller that serves `held`, with `resting` at rest."""

    def __init__(
        self, seen: Traced, directory: Path, *, held: Slot, resting: dict[str, Rest], works: bool = True
    ) -> None:
        store = Store(directory / "state.db")
        lifecycle = Lifecycle(LifecycleState(resting=resting), now_s=0.0)
        self.work: list[Coroutine[Any, Any, None]] = []
        self.actions = ModelActions(
            applier=ObedientApplier(MINI, BASE, works=works),
            bringup=self.bringup(store, lifecycle),
            ledger=ledger(held),
            lifecycle=lifecycle,
            store=store,
            publish=lambda: None,
            spawn=self.work.append,
            exporting=seen.exporting,
        )

    def bringup(self, store: Store, lifecycle: Lifecycle) -> Bringup:
        async def retired(_: tuple[Slot, ...]) -> None: ...

        made = Bringup(
            SETTINGS,
            store,
            FleetLink(headroom=0.2),
            ControllerTelemetry(SETTINGS),
            lifecycle=lifecycle,
            conditions=lambda _: Conditions(),
            retired=retired,
        )
        made.state.weights = {"mini": WEIGHTS, "base": WEIGHTS}
        return made

    def act(self, action: ModelAction, model: str, **trigger: Trigger) -> ModelAnswer:
        async def done() -> ModelAnswer:
            answer = await self.actions.act(action, model, **trigger)
            for work in self.work:
                await work
            return answer

        return asyncio.run(done())


@pytest.fixture
def seen() -> Iterator[Traced]:
    with traced() as made:
        yield made


class TestSpans:
    def test_of_a_wake_are_a_requests_doing(self, seen: Traced, tmp_path: Path) -> None:
        scene = Scene(seen, tmp_path, held=BASE, resting=rests(mini=RestKind.ASLEEP))
        assert scene.act(ModelAction.WAKE, "mini").outcome is ModelOutcome.ACCEPTED
        assert seen.names() == {"wake model mini"}
        assert seen.facts("wake model mini")[names.TRIGGER] == "request"

    @pytest.mark.parametrize(("action", "word"), [(ModelAction.SLEEP, "sleep"), (ModelAction.UNLOAD, "unload")])
    def test_of_other_actions_are_a_persons_doing(
        self, action: ModelAction, word: str, seen: Traced, tmp_path: Path
    ) -> None:
        Scene(seen, tmp_path, held=BASE, resting={}).act(action, "base")
        assert seen.names() == {f"{word} model base"}
        assert seen.facts(f"{word} model base")[names.TRIGGER] == "person"

    def test_say_room_when_told_so(self, seen: Traced, tmp_path: Path) -> None:
        Scene(seen, tmp_path, held=BASE, resting={}).act(ModelAction.SLEEP, "base", trigger=Trigger.ROOM)
        assert seen.facts("sleep model base")[names.TRIGGER] == "room"

    def test_of_what_was_put_back_say_so(self, seen: Traced, tmp_path: Path) -> None:
        scene = Scene(seen, tmp_path, held=BASE, resting=rests(mini=RestKind.UNLOADED), works=False)
        scene.act(ModelAction.LOAD, "mini")
        assert seen.facts("load model mini")[names.OUTCOME] == "put_back"

    def test_are_none_where_no_engine_comes_or_goes(self, seen: Traced, tmp_path: Path) -> None:
        scene = Scene(seen, tmp_path, held=BASE, resting=rests(mini=RestKind.ASLEEP))
        assert scene.act(ModelAction.UNLOAD, "mini").outcome is ModelOutcome.DONE
        assert scene.act(ModelAction.LOAD, "base").outcome is ModelOutcome.DONE
        assert seen.names() == set()


class TestUnloading:
    def test_by_hand_lets_the_next_start_be_believed(self, seen: Traced, tmp_path: Path) -> None:
        words = Store(tmp_path / "state.db").words
        words.committed([BASE], Fingerprint(traces=()))
        Scene(seen, tmp_path, held=BASE, resting={}).act(ModelAction.SLEEP, "base")
        assert words.of(BASE) is not None
        Scene(seen, tmp_path, held=BASE, resting={}).act(ModelAction.UNLOAD, "base")
        assert words.of(BASE) is None
