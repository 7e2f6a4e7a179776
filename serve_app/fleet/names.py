"""Names under which the fleet is found in Ray: node labels, placement groups, actors. Nothing else builds them."""

from __future__ import annotations

from collections.abc import Mapping

from serve_app.errors import FleetUnready

NAMESPACE = "headroom"
NODE_LABEL = "headroom.node"
"""Label of ours on every node: a restarted raylet gets a new `ray.io/node-id`, but keeps this."""
RAY_NODE_LABEL = "ray.io/node-id"
ROLE_LABEL = "headroom.role"
"""Label of ours: `inference`, `training` or `both`, which is what a node without it is."""
INFERENCE = "inference"
TRAINING = "training"


def node_selector(labels: Mapping[str, str]) -> dict[str, str]:
    """Label selector that pins to the node with these labels."""
    if NODE_LABEL in labels:
        return {NODE_LABEL: labels[NODE_LABEL]}
    return {RAY_NODE_LABEL: labels[RAY_NODE_LABEL]}


def node_name(labels: Mapping[str, str]) -> str:
    """Our name of a node: its `headroom.node` label, else the first 8 digits of Ray's id."""
    return labels.get(NODE_LABEL) or labels[RAY_NODE_LABEL][:8]


def node_roles(labels: Mapping[str, str]) -> frozenset[str]:
    """What may run there. Raises: FleetUnready for a role that we do not know."""
    role = labels.get(ROLE_LABEL, "both")
    if role not in (INFERENCE, TRAINING, "both"):
        raise FleetUnready(
            f"The node {node_name(labels)!r} has the label {ROLE_LABEL}={role}.",
            expected=f"Expected {INFERENCE}, {TRAINING} or both.",
            advice=f"Start it again with `ray start --labels={ROLE_LABEL}=...` as one of these, or without.",
        )
    return frozenset({INFERENCE, TRAINING}) if role == "both" else frozenset({role})


def fleet_group_name(node: str) -> str:
    return f"headroom-fleet-{node}"


def warden_name(device_id: str) -> str:
    return f"headroom-warden-{device_id}"


def watch_name(node: str) -> str:
    return f"headroom-watch-{node}"


def share_name(replica: str, epoch: int) -> str:
    return f"headroom-share-{replica}-{epoch}"


def job_name(job: str, attempt: int) -> str:
    return f"headroom-job-{job}-{attempt}"


def depot_name(node: str) -> str:
    return f"headroom-depot-{node}"


def deployment_name(model: str, node: str) -> str:
    """Serve application and deployment of one model on one node."""
    return f"{model}@{node}"
