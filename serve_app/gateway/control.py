"""What the gateway asks of the control plane. It answers requests without it; only the admin pages need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from serve_app.api.control_routes import ControlAnswer, ControlAsked
from serve_app.api.wire import ApplyRequest, ModelAction


class ControlPlane(Protocol):
    """Each call gives JSON-ready values, or raises when the controller cannot be reached."""

    async def health(self) -> Mapping[str, Any]:
        """`models`: by model id, each with status, reason, num_ready, num_wanted; beside it status and reason."""

    async def models_info(self) -> Mapping[str, Any]:
        """Row B9: for each model loaded, id, checkpoint step, weights version and bytes in use."""

    async def fleet(self) -> Mapping[str, Any]:
        """`serve_app.api.wire.FleetView` as JSON values."""

    async def metrics(self) -> bytes:
        """The whole product's metrics in Prometheus' text format."""

    async def apply(self, asked: ApplyRequest) -> Mapping[str, Any]:
        """`serve_app.api.wire.ApplyAnswer` as JSON values; may take as long as reading every checkpoint."""

    async def applying(self) -> Mapping[str, Any]:
        """`serve_app.api.wire.ApplyProgress` as JSON values."""

    async def ask(self, asked: ControlAsked) -> ControlAnswer:
        """Whatever stands at a route of `serve_app.api.control_routes`."""

    async def act(self, action: ModelAction, model: str) -> Mapping[str, Any]:
        """`serve_app.api.wire.ModelAnswer` as JSON values; what was accepted goes on afterwards."""
