"""`/admin/scaling` as the command reads it; `page` writes it, and a test holds both equal."""

from __future__ import annotations

from serve_app.api.wire import WireModel


class HoldingView(WireModel):
    signal: str
    direction: str
    for_s: float


class TargetView(WireModel):
    """`signals` are as measured last; a None could not be measured."""

    target: str
    kind: str
    replicas: int
    min_replicas: int
    max_replicas: int
    schedule: str | None
    signals: dict[str, float | None]
    holding: tuple[HoldingView, ...]
    cooling_s: float
    is_changing: bool


class DecisionView(WireModel):
    target: str
    direction: str
    from_replicas: int
    to_replicas: int
    reason: str
    outcome: str
    message: str
    by_hand: bool


class RecordView(DecisionView):
    """Times in ISO 8601, UTC."""

    first_at: str
    last_at: str
    times: int


class ScalingView(WireModel):
    targets: tuple[TargetView, ...]
    decisions: tuple[RecordView, ...]
