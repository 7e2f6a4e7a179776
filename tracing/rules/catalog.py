"""All alert rules of one cluster, in groups."""

from __future__ import annotations

from dataclasses import dataclass

from tracing.rules.device_rules import device_rules
from tracing.rules.health_rules import DeviceRule, health_rule
from tracing.rules.job_rules import JOB_RULES
from tracing.rules.later_rules import LATER_RULES
from tracing.rules.objective_rules import objective_rules
from tracing.rules.rule import RuleGroup
from tracing.rules.service_rules import ModeLimits, ModelLimits, service_rules

_DEVICES_INTERVAL_S = 5.0
"""As often as the watch polls: hold times of 20 s and more keep their meaning."""
_SERVICE_INTERVAL_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleData:
    """What the rules are made of; all but `burn_rate` comes from cluster.yaml."""

    health: tuple[DeviceRule, ...]
    headroom: float
    modes: tuple[ModeLimits, ...]
    models: tuple[ModelLimits, ...]
    burn_rate: float
    """From where on an objective burns."""


def rule_groups(data: RuleData, *, runbooks: str) -> tuple[RuleGroup, ...]:
    """`runbooks` is the address of a page with a heading for each alert.

    Raises: ValueError for data that no rule can be made of.
    """
    groups = (
        ("headroom-health", _DEVICES_INTERVAL_S, tuple(health_rule(rule) for rule in data.health)),
        ("headroom-devices", _DEVICES_INTERVAL_S, device_rules(headroom=data.headroom)),
        ("headroom-service", _SERVICE_INTERVAL_S, service_rules(data.modes, data.models)),
        ("headroom-objectives", _SERVICE_INTERVAL_S, objective_rules(burn_rate=data.burn_rate)),
        ("headroom-work", _SERVICE_INTERVAL_S, (*JOB_RULES, *LATER_RULES)),
    )
    return tuple(
        RuleGroup(name=name, interval_s=interval_s, rules=rules).with_runbooks(runbooks)
        for name, interval_s, rules in groups
    )
