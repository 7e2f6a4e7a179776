"""Health, maintenance and objectives from the checked schema to frozen settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from placement.health_rules import (
    DEFAULT_RULES,
    REFERENCE_POWER_LIMIT_W,
    REFERENCE_SLOWDOWN_C,
    Action,
    HealthRule,
    Severity,
    Signal,
)
from placement.objectives import ALERT_RESPONSE_TIME, AVAILABILITY, JOB_COMPLETION_TIME, Objective
from serve_app.config.health_schema import (
    DAY_S,
    HealthSection,
    MaintenanceSection,
    ObjectivesSection,
    RuleSection,
    ShareSection,
    WebhookSection,
    WindowSection,
)
from serve_app.config.settings import (
    HealthSettings,
    MaintenanceSettings,
    ObjectivesSettings,
    WebhookSettings,
    WindowSettings,
)

_REFERENCES = {Signal.TEMPERATURE_C: REFERENCE_SLOWDOWN_C, Signal.POWER_W: REFERENCE_POWER_LIMIT_W}


def health_settings(section: HealthSection, absolute: Callable[[str], Path]) -> HealthSettings:
    """`absolute` is where a relative path starts."""
    sections = {str(name): rule for name, rule in section.rules.items()}
    return HealthSettings(
        rules=tuple(_rule(rule, sections.get(rule.name, RuleSection())) for rule in DEFAULT_RULES),
        stale_s=section.stale_s,
        rest_s=section.rest_s,
        lost_rest_s=section.lost_rest_s,
        max_rest_s=section.max_rest_s,
        probe_timeout_s=section.probe_timeout_s,
        forgive_s=section.forgive_s,
        preempt_at_risk=section.preempt_at_risk,
        max_quarantined=section.max_quarantined,
        throttle_fraction=section.throttle_fraction,
        dry_run=section.dry_run,
        webhooks=tuple(_webhook(webhook, absolute) for webhook in section.webhooks),
        history=section.history,
    )


def maintenance_settings(section: MaintenanceSection) -> MaintenanceSettings:
    return MaintenanceSettings(windows=tuple(_window(window) for window in section.windows))


def objectives_settings(section: ObjectivesSection) -> ObjectivesSettings:
    return ObjectivesSettings(
        availability=_objective(AVAILABILITY, section.availability, within_s=None),
        job_completion_time=_objective(
            JOB_COMPLETION_TIME, section.job_completion_time, within_s=section.job_completion_time.within_s
        ),
        alert_response_time=_objective(
            ALERT_RESPONSE_TIME, section.alert_response_time, within_s=section.alert_response_time.within_s
        ),
    )


def _objective(default: Objective, section: ShareSection, *, within_s: float | None) -> Objective:
    return replace(default, target=section.target, window_s=section.window_days * DAY_S, within_s=within_s)


def _window(section: WindowSection) -> WindowSettings:
    return WindowSettings(
        name=section.name,
        cron=section.cron,
        duration_s=section.duration_s,
        timezone=section.timezone,
        devices=frozenset(section.devices),
        nodes=frozenset(section.nodes),
        drains=section.action == "drain",
    )


def _rule(rule: HealthRule, section: RuleSection) -> HealthRule:
    threshold = rule.threshold if section.threshold is None else section.threshold
    return replace(
        rule,
        enabled=section.enabled,
        threshold=threshold,
        ratio=section.ratio if section.ratio is not None else _ratio(rule.signal, threshold),
        hold_s=rule.hold_s if section.hold_s is None else section.hold_s,
        window_s=rule.window_s if section.window_s is None else section.window_s,
        severity=rule.severity if section.severity is None else Severity(section.severity),
        action=rule.action if section.action is None else Action(section.action),
    )


def _ratio(signal: Signal, threshold: float) -> float | None:
    """The limit of other devices follows that of the A100, whoever set it."""
    return threshold / _REFERENCES[signal] if signal in _REFERENCES else None


def _webhook(section: WebhookSection, absolute: Callable[[str], Path]) -> WebhookSettings:
    return WebhookSettings(
        url=section.url,
        secret_file=None if section.secret_file is None else absolute(section.secret_file),
        secret_env=section.secret_env,
        min_severity=Severity(section.min_severity),
        timeout_s=section.timeout_s,
    )
