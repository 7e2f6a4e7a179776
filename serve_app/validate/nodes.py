"""What is right between nodes: reach, shipped weights, answers from afar, the watches, one trace. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from placement.inventory import DeviceHealth
from serve_app.api.wire import FleetView
from serve_app.rollout.views import RolloutView
from serve_app.validate.checks import Finding, judged, skipped, too_slow
from serve_app.validate.limits import Limits
from serve_app.validate.service import TRACE_HEADER, Reply, says_something
from tracing import names
from tracing.recent import SpanRecord

ONE_NODE: Final = "The cluster has one node."
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_HTTP_OK: Final = 200


def nodes_of(fleet: FleetView) -> tuple[str, ...]:
    return tuple(sorted({device.node for device in fleet.devices}))


def judge_reach(fleet: FleetView, *, read_s: float, limits: Limits) -> Finding:
    """Every node has a device that its watch can read, and asking for all of them is quick."""
    problems = too_slow("Reading all nodes", read_s, limits.cross_node_s)
    for node in nodes_of(fleet):
        healths = [device.health for device in fleet.devices if device.node == node]
        if all(health is DeviceHealth.LOST for health in healths):
            problems.append(f"No device of '{node}' can be reached.")
    measured = f"{len(nodes_of(fleet))} nodes in {read_s:.3f} s"
    return judged(problems, measured=measured, limit=f"{limits.cross_node_s:g} s")


def judge_ship(rollouts: Sequence[RolloutView]) -> Finding:
    """The last shipment that is on record: all its bytes lie there under the digest whose beginning names the weights.

    What lies on the nodes was hashed while it was copied and before it was used; here the record of that is read.
    """
    shipped = next((one for one in rollouts if one.digest is not None), None)
    if shipped is None or shipped.digest is None:
        return skipped("No rollout has shipped a checkpoint yet.")
    problems = []
    if not _DIGEST.fullmatch(shipped.digest):
        problems.append(f"Rollout {shipped.deployment_id} shipped under '{shipped.digest[:70]}', which is no digest.")
    elif not shipped.digest.startswith(shipped.to_weights):
        problems.append(f"Rollout {shipped.deployment_id} of {shipped.to_weights} shipped {shipped.digest[:12]}.")
    if not shipped.shipped_bytes:
        problems.append(f"Rollout {shipped.deployment_id} shipped nothing.")
    return judged(problems, measured=f"rollout {shipped.deployment_id}: {shipped.shipped_bytes} bytes")


def only_there(devices_of: Mapping[str, Sequence[str]], fleet: FleetView) -> dict[str, str]:
    """By node a model that runs on it alone, so that asking the model asks the node. `devices_of` by model."""
    node_of = {device.id: device.node for device in fleet.devices}
    found: dict[str, str] = {}
    for model, devices in sorted(devices_of.items()):
        nodes = {node_of.get(device, "") for device in devices}
        if len(nodes) == 1:
            found.setdefault(nodes.pop(), model)
    return found


def judge_remote_answer(replies: Mapping[str, Reply], limits: Limits) -> Finding:
    """`replies` by node. At least one of two nodes is remote to the gateway that was asked."""
    if len(replies) < 2:  # a pair
        return skipped("No two nodes have a model each that runs nowhere else, so no answer is surely remote.")
    problems = []
    for node, reply in replies.items():
        if reply.status != _HTTP_OK or not says_something(reply):
            problems.append(f"'{node}' did not answer: status {reply.status}, {reply.message}")
        problems += too_slow(f"An answer of '{node}'", reply.took_s, limits.request_s)
    slowest = max(reply.took_s for reply in replies.values())
    return judged(problems, measured=f"{', '.join(replies)}: slowest {slowest:.3f} s", limit=f"{limits.request_s:g} s")


def judge_takeover(last_polls: Mapping[str, float], nodes: Sequence[str], *, now_s: float, limits: Limits) -> Finding:
    """Fails where a node is not watched now. Otherwise skipped: a takeover follows the end of a process.

    `last_polls` by node, Unix time.
    """
    ages = {node: now_s - last_polls[node] if node in last_polls else float("inf") for node in nodes}
    stale = [f"'{node}' was last watched {age:.0f} s ago." for node, age in ages.items() if age > limits.watch_s]
    measured = f"oldest poll {max(ages.values(), default=0.0):.1f} s ago"
    if stale:
        return judged(stale, measured=measured, limit=f"{limits.watch_s:g} s")
    reason = "Every node is watched; a takeover needs a watch's process to be ended, which nothing does over HTTP."
    return skipped(reason, measured=measured)


def judge_trace(
    replies: Mapping[str, Reply], spans: Mapping[str, Sequence[SpanRecord]], nodes_by_device: Mapping[str, str]
) -> Finding:
    """Each answer's trace, `spans` by its id, has an engine's span and names the device of its node."""
    if len(replies) < 2:  # a pair
        return skipped("No answer is surely from another node.")
    found = {node: spans.get(reply.headers.get(TRACE_HEADER, ""), ()) for node, reply in replies.items()}
    if not all(found.values()):
        return skipped("The spans of an answer are not in this machine's files (`--home`, `tracing.keep_recent`).")
    engines = {
        node: [span for span in kept if span.kind == "server" and span.service == names.ENGINE]
        for node, kept in found.items()
    }
    if not all(engines.values()):
        return skipped("The spans of an engine are kept on its own node, or not kept: they are not in these files.")
    problems = []
    for node, kept in found.items():
        devices = {str(span.attributes[names.DEVICE]) for span in kept if names.DEVICE in span.attributes}
        if {nodes_by_device.get(device) for device in devices} != {node}:
            problems.append(f"The trace of an answer of '{node}' names {', '.join(sorted(devices)) or 'no device'}.")
        ids = {span.span_id for span in kept}
        problems += [
            f"The engine's span on '{node}' has no parent here." for one in engines[node] if one.parent_id not in ids
        ]
    return judged(problems, measured=f"{len(found)} traces, each with spans of gateway and engine")
