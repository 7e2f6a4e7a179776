"""What the pure parts make of plain values that no scripted cluster shows."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.inventory import DeviceHealth, DeviceKind
from serve_app.api.wire import DeviceView, FleetView, HolderKind, HolderView, ModelInfo
from serve_app.validate.checks import Status
from serve_app.validate.devices import judge_as_planned
from serve_app.validate.limits import Limits
from serve_app.validate.models import victim
from serve_app.validate.nodes import judge_trace, only_there
from serve_app.validate.service import Reply, judge_cache, judge_errors
from tracing import names
from tracing.recent import SpanRecord

TOTAL = 40 * 10**9
PLANNED = 10**9


def holder(name: str, *, measured: int = 0, state: str = "ready", peak: int = PLANNED) -> HolderView:
    return HolderView(
        name=name,
        kind=HolderKind.REPLICA,
        planned_bytes=PLANNED,
        measured_bytes=measured,
        peak_bytes=peak,
        state=state,
    )


def fleet(*holders: HolderView, used: int = 0, kind: DeviceKind = DeviceKind.CUDA, node: str = "n1") -> FleetView:
    device = DeviceView(
        id=f"{node}/gpu-0",
        node=node,
        kind=kind,
        product="",
        total_bytes=TOTAL,
        used_bytes=used,
        free_bytes=TOTAL - used,
        headroom_ratio=1 - used / TOTAL,
        passes=True,
        health=DeviceHealth.HEALTHY,
        holders=holders,
    )
    return FleetView(headroom=0.2, devices=(device,))


class TestMemoryAsPlanned:
    @given(st.one_of(st.integers(0, 2 * PLANNED), st.integers(int(1.05 * PLANNED) - 2, int(1.05 * PLANNED) + 2)))
    def test_fails_exactly_above_the_plan_and_its_margin(self, measured: int) -> None:
        told = judge_as_planned(fleet(holder("a#0", measured=measured)), Limits())
        assert (told.status is Status.FAIL) == (measured > PLANNED * 1.05)

    def test_is_the_peak_while_a_replica_starts(self) -> None:
        starting = holder("a#0", measured=2 * PLANNED, peak=2 * PLANNED, state="starting")
        assert judge_as_planned(fleet(starting), Limits()).status is Status.PASS

    @pytest.mark.parametrize(
        ("models", "most"), [((), 0.15), (("a#0",), 0.5), (("a#0", "a#1"), 0.5), (("a#0", "b#0"), 0.8)]
    )
    def test_on_the_40_gb_class_depends_on_how_many_models_there_are(
        self, models: tuple[str, ...], most: float
    ) -> None:
        held = [holder(model) for model in models]
        for used, status in ((int(most * TOTAL) - 1, Status.PASS), (int(most * TOTAL), Status.FAIL)):
            assert judge_as_planned(fleet(*held, used=used), Limits()).status is status
        assert judge_as_planned(fleet(*held, used=TOTAL, kind=DeviceKind.HOST), Limits()).status is Status.PASS


class TestTheModelThatIsTaken:
    def test_is_loaded_not_pinned_and_longest_idle(self) -> None:
        models = [
            ModelInfo(id="pinned", loaded=True, pinned=True, idle_s=9),
            ModelInfo(id="away", loaded=False, idle_s=8),
            ModelInfo(id="idle", loaded=True, idle_s=7),
            ModelInfo(id="busy", loaded=True, idle_s=0),
        ]
        chosen = victim(models, asked=None)
        assert isinstance(chosen, ModelInfo)
        assert chosen.id == "idle"
        assert victim(models, asked="pinned") == "Every loaded model is pinned."
        assert victim(models, asked="away") == "No model that may be taken is loaded."


class TestTheRemoteModel:
    def test_runs_on_one_node_alone(self) -> None:
        both = FleetView(headroom=0.2, devices=fleet(node="n1").devices + fleet(node="n2").devices)
        found = only_there({"everywhere": ["n1/gpu-0", "n2/gpu-0"], "far": ["n2/gpu-0"]}, both)
        assert found == {"n2": "far"}


def reply(trace_id: str = "", *, status: int = 200, body: bytes = b"", cache: str = "") -> Reply:
    headers = {"x-trace-id": trace_id, "x-headroom-cache": cache}
    return Reply(status=status, headers=headers, body=body, first_s=0, took_s=0)


def refusal(status: int, param: str) -> Reply:
    error = {"message": "No.", "type": "invalid_request_error", "param": param, "code": None}
    return reply(status=status, body=orjson.dumps({"error": error}))


class TestErrors:
    def test_pass_in_openai_form_with_the_field_at_fault(self) -> None:
        told = judge_errors(refusal(404, "model"), refusal(400, "max_tokens"), Limits())
        assert told.status is Status.PASS

    @pytest.mark.parametrize(
        "unknown",
        [refusal(200, "model"), refusal(500, "model"), refusal(404, "prompt"), reply(status=404, body=b"not found")],
    )
    def test_fail_in_any_other_form(self, unknown: Reply) -> None:
        assert judge_errors(unknown, refusal(400, "max_tokens"), Limits()).status is Status.FAIL
        assert judge_errors(refusal(404, "model"), unknown, Limits()).status is Status.FAIL


class TestTheCache:
    @pytest.mark.parametrize("states", ["miss hit bypass", "miss miss bypass", "hit hit bypass", "miss hit hit"])
    def test_passes_only_as_miss_hit_and_bypass(self, states: str) -> None:
        first, second, fresh = (reply(cache=state) for state in states.split())
        told = judge_cache(first, second, fresh, has_cache=True, limits=Limits())
        assert (told.status is Status.PASS) == (states == "miss hit bypass")

    def test_fails_when_the_stored_answer_is_another(self) -> None:
        first, second, fresh = reply(cache="miss", body=b"1"), reply(cache="hit", body=b"2"), reply(cache="bypass")
        assert judge_cache(first, second, fresh, has_cache=True, limits=Limits()).status is Status.FAIL


def span(trace_id: str, span_id: str, *, service: str, parent: str | None, device: str | None = None) -> SpanRecord:
    return SpanRecord(
        trace_id=trace_id,
        span_id=span_id,
        parent_id=parent,
        name="one",
        kind="server" if service == names.ENGINE else "client",
        service=service,
        start_ns=0,
        end_ns=1,
        status="unset",
        attributes={} if device is None else {names.DEVICE: device},
    )


def judged_trace(*, device: str = "n2/gpu-0", parent: str = "call-2") -> Status:
    spans = {
        "t1": (
            span("t1", "call-1", service=names.GATEWAY, parent=None, device="n1/gpu-0"),
            span("t1", "engine-1", service=names.ENGINE, parent="call-1"),
        ),
        "t2": (
            span("t2", "call-2", service=names.GATEWAY, parent=None, device=device),
            span("t2", "engine-2", service=names.ENGINE, parent=parent),
        ),
    }
    nodes = {"n1/gpu-0": "n1", "n2/gpu-0": "n2"}
    return judge_trace({"n1": reply("t1"), "n2": reply("t2")}, spans, nodes).status


class TestATraceOverNodes:
    def test_passes_when_the_engine_goes_on_with_the_gateways(self) -> None:
        assert judged_trace() is Status.PASS

    def test_fails_when_it_is_broken_off_or_names_another_node(self) -> None:
        assert judged_trace(parent="somebody else") is Status.FAIL
        assert judged_trace(device="n1/gpu-0") is Status.FAIL

    def test_is_skipped_without_the_engines_spans(self) -> None:
        told = judge_trace({"n1": reply("t1"), "n2": reply("t2")}, {}, {})
        assert told.status is Status.SKIP
