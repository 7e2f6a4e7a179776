"""`GET /admin/scaling` and `POST /admin/scaling {"target", "count"}` as pure functions. No transport."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from serve_app.api.errors import ApiError, Origin, Outcome, invalid
from serve_app.scaling.decision import Decision, Record
from serve_app.scaling.policy import Standing
from serve_app.scaling.rules import MAX_REPLICAS, Target, target_named

PATH: Final = "/admin/scaling"


class ScaleRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    target: str = Field(min_length=1, max_length=128)
    count: int = Field(ge=0, le=MAX_REPLICAS)


def scaling_page(standings: Iterable[Standing], history: Iterable[Record]) -> dict[str, Any]:
    """Newest decisions first."""
    return {"targets": [_standing(one) for one in standings], "decisions": [_record(one) for one in history]}


def asked_scale(body: bytes) -> tuple[Target, int] | ApiError:
    try:
        asked = ScaleRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "body"
        expected = f"Expected `target` (gateway, trainers or a model) and `count`, 0 to {MAX_REPLICAS}."
        return invalid(f"{place}: {first['msg']}. {expected}", param=place)
    return target_named(asked.target), asked.count


def scale_answer(result: Decision | str) -> Mapping[str, Any] | ApiError:
    """What became of a wish, also when headroom blocked it; 409 when it was not even tried."""
    if not isinstance(result, str):
        return decision_fields(result)
    return ApiError(
        status=HTTPStatus.CONFLICT,
        message=result,
        type="invalid_request_error",
        code="not_scaled",
        origin=Origin.CONTROLLER,
        outcome=Outcome.REJECTED,
    )


def decision_fields(decision: Decision) -> dict[str, Any]:
    assert decision.outcome is not None
    return {
        "target": decision.target.name,
        "direction": decision.direction.value,
        "from_replicas": decision.from_replicas,
        "to_replicas": decision.to_replicas,
        "reason": decision.reason,
        "outcome": decision.outcome.value,
        "message": decision.message,
        "by_hand": decision.by_hand,
    }


def _standing(standing: Standing) -> dict[str, Any]:
    sample, limits = standing.sample, standing.limits
    return {
        "target": sample.target.name,
        "kind": sample.target.kind.value,
        "replicas": sample.num_replicas,
        "min_replicas": limits.min_replicas,
        "max_replicas": limits.max_replicas,
        "schedule": limits.schedule or None,
        "signals": {signal.value: value for signal, value in sample.values.items()},
        "holding": [
            {"signal": signal.value, "direction": direction.value, "for_s": for_s}
            for signal, direction, for_s in standing.holding
        ],
        "cooling_s": standing.cooling_s,
        "is_changing": standing.is_changing,
    }


def _record(record: Record) -> dict[str, Any]:
    times = {"first_at": _iso(record.first_at_s), "last_at": _iso(record.last_at_s), "times": record.times}
    return decision_fields(record.decision) | times


def _iso(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")
