"""What the controller shows of models: on its page, by Prometheus' own parser."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from serve_app.controller.bringup_state import BringupState
from serve_app.controller.claims import Slot
from serve_app.controller.ledger import Ledger
from serve_app.controller.lifecycle import Lifecycle, LifecycleState, Rest, RestKind
from serve_app.controller.telemetry import ControllerTelemetry
from serve_app.gateway.standalone import standalone_settings
from tests.serve_app.controller.test_ledger import REPORT, claimed, ledger, slot
from tracing import names

SETTINGS = standalone_settings(["mini", "base"])


def replicas(of: Ledger, model: str, **resting: RestKind) -> dict[str, float]:
    """Replicas of `model` by state, without those of which there are none."""
    rests = {name: Rest(kind=kind, reason="test") for name, kind in resting.items()}
    telemetry = ControllerTelemetry(SETTINGS)
    telemetry.show(BringupState(), of, Lifecycle(LifecycleState(resting=rests), now_s=0.0), SETTINGS)
    (family,) = (
        one
        for one in text_string_to_metric_families(telemetry.render().decode())
        if one.name == names.MODEL_REPLICAS.name
    )
    shown = {one.labels["state"]: one.value for one in family.samples if one.labels["model"] == model}
    assert set(shown) == {"desired", "ready", "starting", "sleeping", "draining"}
    return {state: value for state, value in shown.items() if value}


def serving(*slots: Slot) -> Ledger:
    of = ledger(*slots)
    for one in slots:
        tenure = claimed(of, one.model, f"replica of {one.name}")
        of.start(slot=tenure.slot, epoch=tenure.epoch)
        of.ready(slot=tenure.slot, epoch=tenure.epoch, report=REPORT)
    return of


class TestReplicas:
    def test_that_serve_are_wanted_and_ready(self) -> None:
        assert replicas(serving(slot("mini#0")), "mini") == {"desired": 1, "ready": 1}

    def test_that_are_missing_are_wanted(self) -> None:
        assert replicas(ledger(), "mini") == {"desired": 1}

    def test_of_a_sleeping_model_are_wanted_and_asleep(self) -> None:
        assert replicas(ledger(), "mini", mini=RestKind.ASLEEP) == {"desired": 1, "sleeping": 1}

    def test_of_an_unloaded_model_are_not_wanted(self) -> None:
        assert replicas(ledger(), "mini", mini=RestKind.UNLOADED) == {}

    def test_that_still_drain_are_shown_beside_their_sleep(self) -> None:
        of = serving(slot("mini#0"))
        of.retire("mini#0")
        assert replicas(of, "mini", mini=RestKind.ASLEEP) == {"desired": 1, "sleeping": 1, "draining": 1}

    def test_of_other_models_do_not_sleep_with_it(self) -> None:
        assert replicas(serving(slot("base#0")), "base", mini=RestKind.ASLEEP) == {"desired": 1, "ready": 1}
