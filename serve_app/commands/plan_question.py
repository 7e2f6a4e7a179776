"""What `headroom plan` is asked: fleet, models and headroom, with every "what if" of the options applied."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.config.problems import did_you_mean

if TYPE_CHECKING:
    from placement.demand import Demand
    from placement.inventory import DeviceKind, Inventory
    from placement.plan import Placement, Plan
    from placement.policy import Policy
    from serve_app.config.load import ClusterFile

MAX_LISTED = 12
"""Names that an error lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIf:
    """The options as they were given. `fleet` None: this machine; `demands` None: the models of cluster.yaml."""

    fleet: Path | None = None
    demands: Path | None = None
    counts: tuple[tuple[str, int], ...] = ()
    """Model and number of replicas, in place of what the file says."""
    without: tuple[str, ...] = ()
    headroom: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    inventory: Inventory
    demands: tuple[Demand, ...]
    policy: Policy


def ask(file: Path, what_if: WhatIf, *, is_file_named: bool) -> tuple[Question, ClusterFile | None]:
    """The question, and cluster.yaml where it was read.

    With demands of their own, cluster.yaml says headroom and device kind only, and may be missing unless it was named.
    Raises: ConfigError, DeviceUnreadable, click.BadParameter for a name that is not there.
    """
    from placement.policy import Policy
    from serve_app.config.load import load_cluster

    cluster = load_cluster(file) if is_file_named or what_if.demands is None or file.exists() else None
    inventory = _inventory(cluster, what_if)
    demands = _demands(cluster, what_if, kind=inventory.devices[0].kind)
    headroom = what_if.headroom
    if headroom is None:
        headroom = cluster.settings.fleet.headroom if cluster else Policy().headroom
    return (
        Question(
            inventory=_without(inventory, what_if.without),
            demands=_counted(demands, what_if.counts),
            policy=Policy(headroom=headroom),
        ),
        cluster,
    )


def question_here(cluster: ClusterFile, *, host_total_bytes: int | None = None) -> Question:
    """The question of cluster.yaml for this machine as it is now. Raises: ConfigError, DeviceUnreadable."""
    from placement.policy import Policy
    from serve_app.fleet.devices import local_inventory
    from serve_app.fleet.wanted import wanted

    fleet = cluster.settings.fleet
    inventory = local_inventory(fleet.devices, platform.node(), host_total_bytes)
    demands = wanted(cluster, kind=inventory.devices[0].kind)
    return Question(inventory=inventory, demands=demands, policy=Policy(headroom=fleet.headroom))


def answer(question: Question, *, running: Sequence[Placement] = ()) -> Plan:
    """The plan, seen by the verifier. Raises: ConfigError when the question contradicts itself."""
    from placement.check import verify
    from placement.errors import InvalidProblem
    from placement.solver import solve
    from serve_app.config.problems import ConfigError, Problem

    try:
        began_s = time.monotonic()
        plan = solve(
            question.inventory,
            question.demands,
            question.policy,
            running=running,
            elapsed_s=lambda: time.monotonic() - began_s,
        )
    except InvalidProblem as error:
        raise ConfigError("The question", [Problem(path=str(error), what="", expected="")]) from error
    violations = verify(plan, question.inventory, question.demands, question.policy)
    assert not violations, f"the solver made a plan that its verifier rejects: {violations}"
    return plan


def _inventory(cluster: ClusterFile | None, what_if: WhatIf) -> Inventory:
    from serve_app.config.fleet_file import load_fleet
    from serve_app.config.settings import DeviceChoice
    from serve_app.fleet.devices import local_inventory

    if what_if.fleet:
        return load_fleet(what_if.fleet)
    return local_inventory(cluster.settings.fleet.devices if cluster else DeviceChoice.AUTO, platform.node())


def _demands(cluster: ClusterFile | None, what_if: WhatIf, *, kind: DeviceKind) -> tuple[Demand, ...]:
    from serve_app.config.demands_file import load_demands
    from serve_app.fleet.wanted import wanted

    if what_if.demands:
        return load_demands(what_if.demands)
    assert cluster, "without a file of demands cluster.yaml was read"
    return wanted(cluster, kind=kind)


def _counted(demands: tuple[Demand, ...], counts: Sequence[tuple[str, int]]) -> tuple[Demand, ...]:
    known = [demand.model for demand in demands]
    for model, _ in counts:
        _must_be_known(model, known, option="--demand", what="model")
    wanted = dict(counts)
    return tuple(replace(demand, num_replicas=wanted.get(demand.model, demand.num_replicas)) for demand in demands)


def _without(inventory: Inventory, names: Sequence[str]) -> Inventory:
    """The inventory less the nodes and devices of these names."""
    known = [*(node.name for node in inventory.nodes), *(device.id for device in inventory.devices)]
    for name in names:
        _must_be_known(name, known, option="--without", what="node or device")
    nodes = (
        replace(node, devices=tuple(device for device in node.devices if device.id not in names))
        for node in inventory.nodes
        if node.name not in names
    )
    return replace(inventory, nodes=tuple(nodes))


def _must_be_known(name: str, known: Sequence[str], *, option: str, what: str) -> None:
    if name not in known:
        listed = ", ".join(known[:MAX_LISTED]) + (f" and {len(known) - MAX_LISTED} more" * (len(known) > MAX_LISTED))
        hint = did_you_mean(name, known) or f"Known are {listed}."
        raise click.BadParameter(f"there is no {what} '{name}'. {hint}", param_hint=option)
