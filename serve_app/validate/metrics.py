"""Reads the cluster's own metrics page."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from serve_app.errors import BadAnswer
from serve_app.validate.asker import Asker


async def metric_values(asker: Asker, name: str) -> list[tuple[Mapping[str, str], float]]:
    """Labels and value of each series of this name. Raises: as `Asker.ask`, BadAnswer when it is no page of metrics."""
    reply = await asker.ask("GET", "/metrics")
    try:
        families = list(text_string_to_metric_families(reply.body.decode()))
    except ValueError as error:
        raise BadAnswer(f"GET /metrics is no page of metrics (status {reply.status}): {error}") from error
    return [(one.labels, one.value) for family in families for one in family.samples if one.name == name]
