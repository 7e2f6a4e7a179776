"""Requests and answers as they stand on the wire: the fields of modelops.proto, as JSON or as messages.

Types are checked here, once; what a value may be is the rules' affair, so that all transports refuse alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr, ValidationError

from placement.lease import (
    DEFAULT_TTL_S,
    MB,
    Hold,
    Lease,
    LeaseRefusal,
    LeaseRequest,
    LeaseState,
)
from placement.lease_faults import MAX_NAME_CHARS
from serve_app.leases.keyring import Asker

DEFAULT_PAGE: Final = 100
MAX_PAGE: Final = 1000


class WireRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AcquireRequest(WireRequest):
    client: StrictStr
    model_name: StrictStr
    vram_estimate_mb: StrictInt
    priority: StrictInt = 0
    ttl_seconds: float | None = Field(default=None, strict=True)
    idempotency_key: StrictStr | None = None

    def inside(self, asker: Asker) -> LeaseRequest:
        return LeaseRequest(
            client=self.client,
            model_name=self.model_name,
            num_bytes=self.vram_estimate_mb * MB,
            priority=self.priority,
            ttl_s=DEFAULT_TTL_S if self.ttl_seconds is None else self.ttl_seconds,
            key=self.idempotency_key,
            tenant=asker.tenant,
        )


class HoldRequest(WireRequest):
    """A renewal or a giving back. Only renewals can acknowledge a notice."""

    client: StrictStr
    lease_id: StrictStr
    epoch: StrictInt
    acknowledges_notice: StrictBool = False

    def inside(self, asker: Asker) -> Hold:
        return Hold(
            client=self.client,
            lease_id=self.lease_id,
            epoch=self.epoch,
            acknowledges_notice=self.acknowledges_notice,
            tenant=asker.within,
        )


class ListRequest(WireRequest):
    """Empty fields filter nothing. `page_token` is the `next_page_token` of the page before."""

    client: StrictStr = ""
    device: StrictStr = ""
    state: LeaseState | None = None
    page_size: int = Field(default=DEFAULT_PAGE, ge=1, le=MAX_PAGE)
    page_token: str = Field(default="", pattern=r"^\d{0,18}$", max_length=MAX_NAME_CHARS)


R = TypeVar("R", bound=WireRequest)


def parsed(model: type[R], body: bytes | str | dict[str, Any]) -> R | str:
    """The request, or a sentence about the first thing that is wrong with it; never one of its values."""
    try:
        return model.model_validate(body) if isinstance(body, dict) else model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(step) for step in first["loc"]) or "body"
        names = ", ".join(f"`{name}`" for name in model.model_fields)
        return f"{place[:64]}: {first['msg']}. Expected a JSON object with {names}."


def acquired(answer: Lease | LeaseRefusal, *, now_s: float) -> dict[str, Any]:
    """The answer to an acquisition."""
    if isinstance(answer, LeaseRefusal):
        return {"granted": False, **refused(answer)}
    return {
        "granted": True,
        "lease_id": answer.lease_id,
        "vram_reserved_mb": answer.num_bytes // MB,
        "device": answer.device,
        "node": answer.node,
        "epoch": answer.epoch,
        **_dates(answer, now_s=now_s),
    }


def refused(refusal: LeaseRefusal) -> dict[str, Any]:
    """`retry_after_ms` is 0 where asking again does not help."""
    return {
        "reason": refusal.reason.value,
        "message": refusal.message,
        "retry_after_ms": refusal.retry_after_ms or 0,
    }


def shown(lease: Lease, *, now_s: float) -> dict[str, Any]:
    """One lease; a deadline only where one threatens."""
    view = {
        "lease_id": lease.lease_id,
        "epoch": lease.epoch,
        "client": lease.client,
        "model_name": lease.model_name,
        "vram_reserved_mb": lease.num_bytes // MB,
        "priority": lease.priority,
        "ttl_seconds": lease.ttl_s,
        "device": lease.device,
        "node": lease.node,
        **_dates(lease, now_s=now_s),
        "state": lease.state.value,
        "reason": lease.reason,
        "tenant": lease.tenant,
    }
    if lease.deadline_s is not None:
        view["deadline_in_ms"] = max(0, math.floor(1000 * (lease.deadline_s - now_s)))
    return view


def page(leases: Sequence[Lease], request: ListRequest, asker: Asker, *, now_s: float) -> dict[str, Any]:
    """One page in the order of epochs; `total` counts all that pass the filter and that the asker may see."""
    found = [lease for lease in leases if asker.within in (None, lease.tenant) and _passes(lease, request)]
    after = int(request.page_token or 0)
    rest = [lease for lease in found if lease.epoch > after]
    chosen = rest[: request.page_size]
    return {
        "leases": [shown(lease, now_s=now_s) for lease in chosen],
        "next_page_token": str(chosen[-1].epoch) if len(rest) > len(chosen) else "",
        "total": len(found),
    }


def _passes(lease: Lease, request: ListRequest) -> bool:
    return (
        request.client in ("", lease.client)
        and request.device in ("", lease.device)
        and request.state in (None, lease.state)
    )


def _dates(lease: Lease, *, now_s: float) -> dict[str, Any]:
    """`expires_in_ms` is 0 once nobody may rely on the lease. Rounded down: a holder never believes too long."""
    in_force = lease.ended_s is None and lease.state is not LeaseState.REVOKED
    left_s = max(0.0, lease.expires_s - now_s) if in_force else 0.0
    now_unix_s = lease.acquired_unix_s + now_s - lease.acquired_s
    return {
        "acquired": _wall(lease.acquired_unix_s),
        "expires": _wall(now_unix_s + left_s),
        "expires_in_ms": math.floor(1000 * left_s),
    }


def _wall(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="milliseconds")
