"""Lease requests that are wrong whatever room there is: names, sizes, priorities, times to live."""

from __future__ import annotations

import math

from placement.lease import MB, LeasePolicy, LeaseRefusal, LeaseRefusalReason, LeaseRequest

MAX_NAME_CHARS = 128
MAX_PRIORITY = 1_000_000
"""Either side of 0."""


def fault_of(request: LeaseRequest, policy: LeasePolicy) -> LeaseRefusal | None:
    """The first fault of the request itself, or None."""
    return _name_fault(request) or _size_fault(request) or _priority_fault(request) or _ttl_fault(request, policy)


def _name_fault(request: LeaseRequest) -> LeaseRefusal | None:
    names = {"client": request.client, "model_name": request.model_name}
    if request.key is not None:
        names["idempotency_key"] = request.key
    for field, name in names.items():
        if not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
            message = f"`{field}` must have 1 to {MAX_NAME_CHARS} printable characters."
            return LeaseRefusal(reason=LeaseRefusalReason.BAD_NAME, message=message, field=field)
    return None


def _size_fault(request: LeaseRequest) -> LeaseRefusal | None:
    if request.num_bytes > 0:
        return None
    message = (
        f"`vram_estimate_mb` is {request.num_bytes // MB}. Expected the megabytes the program needs on one device, "
        "at least 1."
    )
    return LeaseRefusal(reason=LeaseRefusalReason.BAD_SIZE, message=message, field="vram_estimate_mb")


def _priority_fault(request: LeaseRequest) -> LeaseRefusal | None:
    if abs(request.priority) <= MAX_PRIORITY:
        return None
    message = f"`priority` is {request.priority}. Expected −{MAX_PRIORITY} to {MAX_PRIORITY}; the larger wins."
    return LeaseRefusal(reason=LeaseRefusalReason.BAD_PRIORITY, message=message, field="priority")


def _ttl_fault(request: LeaseRequest, policy: LeasePolicy) -> LeaseRefusal | None:
    if math.isfinite(request.ttl_s) and 0 < request.ttl_s <= policy.max_ttl_s:
        return None
    message = (
        f"`ttl_seconds` is {request.ttl_s:g}. Expected more than 0 and at most {policy.max_ttl_s:g}; "
        "a lease that is needed for longer is renewed."
    )
    return LeaseRefusal(reason=LeaseRefusalReason.BAD_TTL, message=message, field="ttl_seconds")
