"""The routes beside inference: lists, health, information, metrics, and what is said to wrong methods and paths."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from serve_app.api.wire import ApplyOutcome, ApplyRequest
from tests.serve_app.gateway.builders import chat, settings
from tests.serve_app.gateway.serving import METRICS_PAGE, stage
from tracing import names

GETS = [
    *("/v1/models", "/v1/models/fast", "/health", "/models/info", "/admin/fleet", "/admin/cache/stats"),
    *("/metrics", "/metrics/mma"),
]


class TestEveryRoute:
    @pytest.mark.parametrize("path", GETS)
    async def test_answers_with_a_trace_id(self, path: str) -> None:
        async with stage("mini") as on:
            answer = await on.http.get(path)
            assert answer.status_code == 200
            assert len(answer.headers["x-trace-id"]) == 32

    @pytest.mark.parametrize("path", GETS)
    async def test_refuses_other_methods_naming_the_right_one(self, path: str) -> None:
        async with stage("mini") as on:
            answer = await on.http.post(path, json={})
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET")

    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
    @pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
    async def test_of_inference_takes_post_only(self, path: str, method: str) -> None:
        async with stage("mini") as on:
            answer = await on.http.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            assert answer.json()["error"]["code"] == "method_not_allowed"

    @pytest.mark.parametrize("path", ["/", "/v1", "/v1/models/", "/v1/chat/completions/", "/docs", "/../etc/passwd"])
    async def test_that_does_not_exist_is_404_in_json(self, path: str) -> None:
        async with stage("mini") as on:
            answer = await on.http.get(path)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_path")

    async def test_is_counted_under_its_template_never_its_path(self) -> None:
        async with stage("mini") as on:
            for path in ("/v1/models/fast", "/v1/models/x1", "/v1/models/x2", "/nowhere/1", "/nowhere/2"):
                await on.http.get(path)
            assert on.counted("headroom_http_requests_total", "/v1/models/{id}", "GET", "404") == 2
            assert on.counted("headroom_http_requests_total", "other", "GET", "404") == 2


class TestTheModelList:
    async def test_tells_models_from_modes_and_what_each_does(self) -> None:
        async with stage("mini") as on:
            listed = {item["id"]: item for item in (await on.http.get("/v1/models")).json()["data"]}
            assert listed["mini"]["ready"]
            assert not listed["small"]["ready"]
            assert listed["mini"]["checkpoint_step"] == 400
            assert (listed["creative"]["kind"], listed["creative"]["cache_ttl_s"]) == ("mode", 1800.0)
            assert listed["fast"]["candidates"] == ["mini", "small", "base"]


class TestHealth:
    async def test_is_ok_when_every_model_answers(self) -> None:
        async with stage("mini", "small", "base") as on:
            answer = await on.http.get("/health")
            assert (answer.status_code, answer.json()["status"]) == (200, "ok")

    async def test_is_degraded_but_200_while_one_model_answers_and_says_why_others_do_not(self) -> None:
        async with stage("mini") as on:
            told = {"small": {"status": "refused", "reason": "No room for 'small'."}}
            on.control.health_page["models"] = told
            answer = await on.http.get("/health")
            page = answer.json()
            assert (answer.status_code, page["status"]) == (200, "degraded")
            assert page["models"]["mini"]["status"] == "ready"
            assert page["models"]["small"]["reason"] == "No room for 'small'."
            assert page["models"]["base"]["status"] == "starting"

    async def test_is_503_while_no_model_answers(self) -> None:
        async with stage() as on:
            answer = await on.http.get("/health")
            assert (answer.status_code, answer.json()["status"]) == (503, "starting")

    async def test_goes_by_the_gateways_own_table_when_the_controller_is_away(self) -> None:
        async with stage("mini", "small", "base") as on:
            on.control.away = True
            answer = await on.http.get("/health")
            page = answer.json()
            assert (answer.status_code, page["status"], page["controller"]) == (200, "degraded", "unreachable")
            assert (await on.chat(chat())).status_code == 200


class TestPagesOfTheController:
    @pytest.mark.parametrize("path", ["/models/info", "/admin/fleet", "/metrics", "/metrics/mma"])
    async def test_are_503_with_its_origin_while_it_is_away(self, path: str) -> None:
        async with stage("mini") as on:
            on.control.away = True
            answer = await on.http.get(path)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert answer.json()["error"]["origin"] == "controller"

    async def test_pass_metrics_on_in_prometheus_text(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.get("/metrics")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert answer.text == METRICS_PAGE

    async def test_pass_on_of_the_metrics_those_of_the_fleet_alone(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.get("/metrics/mma")
            assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
            assert "headroom_device_up" in answer.text
            assert "headroom_http" not in answer.text


class TestCacheStats:
    async def test_name_every_mode_with_its_time_to_live(self) -> None:
        async with stage("mini", of=settings(ttl_s={"fast": 42.0})) as on:
            page = (await on.http.get("/admin/cache/stats")).json()
            assert {mode: row["ttl_s"] for mode, row in page["modes"].items()} == {
                "fast": 42.0,
                "balanced": 600.0,
                "creative": 1800.0,
                "none": 0.0,
            }
            assert page["modes"]["fast"]["hit_rate"] is None


class TestWhatIsCounted:
    async def test_tokens_outcomes_and_runs_in_flight(self) -> None:
        async with stage("mini") as on:
            await on.chat(chat("fast"))
            await on.chat(chat("fast", stream=True))
            await on.chat(chat("gpt-9"))
            assert on.counted("headroom_tokens_total", "mini", "output") == 18
            assert on.counted("headroom_inference_requests_total", "fast", "mini", "success") == 2
            assert on.counted("headroom_inference_requests_total", "none", "none", "rejected") == 1
            (delta,) = on.recorder.drain()
            assert delta.gauges["headroom_requests_in_flight", ("mini",)] == 0
            assert sum(delta.histograms["headroom_time_to_first_token_seconds", ("mini",)].counts) == 1


ASKED: dict[str, Any] = {"args": {"models": []}, "config_dir": "/etc", "dry_run": True}


class TestApply:
    async def test_is_passed_on_and_its_outcome_is_the_status(self) -> None:
        async with stage("mini") as on:
            for outcome, status in zip(ApplyOutcome, (200, 202, 422, 400, 409), strict=True):
                on.control.outcome = outcome
                answer = await on.http.post("/admin/apply", json=ASKED)
                assert (answer.status_code, answer.json()["outcome"]) == (status, outcome.value)
            assert on.control.applied[0] == ApplyRequest(**ASKED)

    async def test_progress_is_a_get(self) -> None:
        async with stage("mini") as on:
            assert (await on.http.get("/admin/apply")).json()["status"] == "none"

    @pytest.mark.parametrize("body", [{}, {**ASKED, "more": 1}, {**ASKED, "args": 3}, []])
    async def test_a_malformed_request_is_a_400_and_reaches_nobody(self, body: object) -> None:
        async with stage("mini") as on:
            answer = await on.http.post("/admin/apply", json=body)
            assert answer.status_code == 400
            assert not on.control.applied

    async def test_what_a_page_of_another_site_could_post_by_itself_is_refused(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.post("/admin/apply", content=b"{}", headers={"content-type": "text/plain"})
            assert answer.status_code == 400
            assert not on.control.applied

    async def test_without_the_controller_it_is_a_503(self) -> None:
        async with stage("mini") as on:
            on.control.away = True
            assert (await on.http.post("/admin/apply", json=ASKED)).status_code == 503
            assert (await on.http.delete("/admin/apply")).headers["allow"] == "GET, POST"


class TestControlRoutes:
    async def test_are_passed_on_with_query_and_body_and_answered_as_the_controller_says(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.get("/v1/alerts", params={"device": "head/host", "active": "true"})
            assert (answer.status_code, answer.json()) == (201, {"path": "/v1/alerts"})
            await on.http.post("/v1/leases", json={"client": "me"})
            first, second = on.control.asked
            assert first.query == {"device": "head/host", "active": "true"}
            assert (second.method, orjson.loads(second.body)) == ("POST", {"client": "me"})

    async def test_a_part_of_the_path_is_named_by_its_template_in_metrics(self) -> None:
        async with stage("mini") as on:
            await on.http.post("/v1/leases/lease-7/renew", json={})
            assert on.counted(names.HTTP_REQUESTS.name, "/v1/leases/{id}/renew", "POST", "201") == 1

    async def test_other_methods_are_refused_and_reach_nobody(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.post("/v1/alerts", json={})
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET")
            assert not on.control.asked

    async def test_an_act_without_json_is_refused(self) -> None:
        async with stage("mini") as on:
            answer = await on.http.post("/admin/cordon", content=b"{}", headers={"content-type": "text/plain"})
            assert answer.status_code == 400
            assert not on.control.asked

    async def test_without_the_controller_they_are_a_503(self) -> None:
        async with stage("mini") as on:
            on.control.away = True
            assert (await on.http.get("/v1/fleet")).status_code == 503
