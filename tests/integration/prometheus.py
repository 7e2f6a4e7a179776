"""`/metrics` read with Prometheus' own parser."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.parser import text_string_to_metric_families

from tests.integration.live_cluster import LiveCluster

Series = tuple[str, tuple[tuple[str, str], ...]]


def samples(cluster: LiveCluster) -> Mapping[Series, float]:
    """Every sample by its name and sorted labels."""
    text = cluster.get("/metrics").raise_for_status().text
    return {
        (one.name, tuple(sorted(one.labels.items()))): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def sample(cluster: LiveCluster, name: str, **labels: str) -> float:
    """One sample; 0 where the series does not exist yet."""
    return samples(cluster).get((name, tuple(sorted(labels.items()))), 0.0)
