"""The rules of the shipped cluster.yaml, as data."""

from __future__ import annotations

from placement.health_state import HealthPolicy
from serve_app.ops.alert_rules import told_rules
from tracing.rules.catalog import RuleData, rule_groups
from tracing.rules.service_rules import ModeLimits, ModelLimits

D1_RULES = told_rules(HealthPolicy())
"""As the watch has them where cluster.yaml changes nothing."""

DATA = RuleData(
    health=D1_RULES,
    headroom=0.2,
    modes=(
        ModeLimits(mode="fast", latency_target_s=2.5, hit_target=0.6),
        ModeLimits(mode="balanced", latency_target_s=3.2, hit_target=0.6),
        ModeLimits(mode="creative", latency_target_s=4.5, hit_target=None),
    ),
    models=tuple(ModelLimits(model=model, load_s=2.2) for model in ("mini", "small", "base")),
    burn_rate=14.4,
)
SHIPPED = rule_groups(DATA, runbooks="runbooks.md")
RULES = tuple(rule for group in SHIPPED for rule in group.rules)
