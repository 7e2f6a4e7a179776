"""Each reason of a refusal as a gRPC status and an HTTP status, in one table."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import grpc

from placement.lease import LeaseRefusalReason as Reason

CODES: Final[dict[Reason, tuple[grpc.StatusCode, HTTPStatus]]] = {
    Reason.BAD_NAME: (grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST),
    Reason.BAD_SIZE: (grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST),
    Reason.BAD_PRIORITY: (grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST),
    Reason.BAD_TTL: (grpc.StatusCode.INVALID_ARGUMENT, HTTPStatus.BAD_REQUEST),
    Reason.TOO_LARGE: (grpc.StatusCode.OUT_OF_RANGE, HTTPStatus.UNPROCESSABLE_ENTITY),
    Reason.NO_ROOM: (grpc.StatusCode.OK, HTTPStatus.SERVICE_UNAVAILABLE),
    Reason.PREEMPTING: (grpc.StatusCode.OK, HTTPStatus.SERVICE_UNAVAILABLE),
    Reason.TOO_MANY_LEASES: (grpc.StatusCode.OK, HTTPStatus.TOO_MANY_REQUESTS),
    Reason.SHARE_UNAVAILABLE: (grpc.StatusCode.OK, HTTPStatus.SERVICE_UNAVAILABLE),
    Reason.LEDGER_UNAVAILABLE: (grpc.StatusCode.UNAVAILABLE, HTTPStatus.SERVICE_UNAVAILABLE),
    Reason.KEY_REUSED: (grpc.StatusCode.ALREADY_EXISTS, HTTPStatus.CONFLICT),
    Reason.UNKNOWN_LEASE: (grpc.StatusCode.NOT_FOUND, HTTPStatus.NOT_FOUND),
    Reason.NOT_YOURS: (grpc.StatusCode.PERMISSION_DENIED, HTTPStatus.FORBIDDEN),
    Reason.STALE_EPOCH: (grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT),
    Reason.REVOKED: (grpc.StatusCode.FAILED_PRECONDITION, HTTPStatus.CONFLICT),
}
"""OK: no error but an answer, `granted: false` with a retry hint. It happens to acquisitions only."""
