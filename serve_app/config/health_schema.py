"""What cluster.yaml may say of health, maintenance and objectives. Defaults are those of `placement.health_state`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from pydantic import AfterValidator, Field

from placement.health_state import HealthPolicy
from placement.objectives import ALERT_RESPONSE_TIME, AVAILABILITY, JOB_COMPLETION_TIME, Objective
from serve_app.config.schema_types import EXPECTED, FilePath, Name
from serve_app.config.section import Section

MAX_WEBHOOKS = 16
MAX_WINDOWS = 100
_POLICY = HealthPolicy()
DAY_S = 86_400.0

RuleKey = Literal[
    "THERMAL_WARNING",
    "THERMAL_CRITICAL",
    "POWER_SPIKE",
    "POWER_CRITICAL",
    "ECC_ERRORS_SPIKE",
    "ECC_UNCORRECTABLE",
    "THROTTLING",
    "MEMORY_PRESSURE",
]
SeverityKey = Literal["info", "warning", "critical"]


def _cron(text: str) -> str:
    try:
        next(CronSim(text, datetime(2026, 1, 1, tzinfo=UTC)))
    except (CronSimError, StopIteration):
        raise ValueError("no schedule") from None
    return text


def _timezone(text: str) -> str:
    if text != "UTC":  # which needs no data of the system's
        try:
            ZoneInfo(text)
        except (KeyError, OSError, ValueError):
            raise ValueError("no time zone") from None
    return text


Cron = Annotated[
    str,
    Field(max_length=200, json_schema_extra={EXPECTED: "a cron schedule of five fields, such as '0 2 * * SUN'"}),
    AfterValidator(_cron),
]
TimeZone = Annotated[
    str,
    Field(max_length=100, json_schema_extra={EXPECTED: "a time zone such as UTC or Europe/Berlin"}),
    AfterValidator(_timezone),
]
HttpUrl = Annotated[
    str,
    Field(
        pattern=r"^https?://[^\s/@]+(/\S*)?$",
        max_length=2000,
        json_schema_extra={EXPECTED: "an http:// or https:// address without name and password"},
    ),
]
DeviceId = Annotated[
    str,
    Field(
        pattern=r"^[^/\s]{1,253}/(gpu-\d{1,4}|host)$",
        json_schema_extra={EXPECTED: "a device such as node-1/gpu-0 or node-1/host"},
    ),
]
NodeName = Annotated[
    str, Field(pattern=r"^[^/\s]{1,253}$", json_schema_extra={EXPECTED: "the name of a node, such as node-1"})
]
EnvironmentName = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$", json_schema_extra={EXPECTED: "the name of a variable, or null"}),
]


class RuleSection(Section):
    """What differs from the rule's default; null keeps it."""

    enabled: bool = Field(True, description="Whether the rule is judged at all.")
    threshold: float | None = Field(
        None,
        gt=0.0,
        le=1e9,
        description="Limit on an A100 of 400 W; on other devices in proportion to their own power or slow-down limit.",
    )
    ratio: float | None = Field(
        None, gt=0.0, le=2.0, description="Limit on other devices, as part of their own; power and temperature only."
    )
    hold_s: float | None = Field(
        None, ge=0.0, le=DAY_S, description="How long it must be held before the rule fires, in seconds."
    )
    window_s: float | None = Field(
        None, gt=0.0, le=DAY_S, description="Time in which errors are counted, in seconds; ECC rules only."
    )
    severity: SeverityKey | None = Field(None, description="How the alert is marked.")
    action: Literal["notify", "throttle", "preempt", "quarantine"] | None = Field(
        None, description="What follows beside the alert."
    )


class WebhookSection(Section):
    url: HttpUrl = Field(description="Where alerts are posted as JSON.")
    secret_file: FilePath | None = Field(None, description="File with the key that signs them.")
    secret_env: EnvironmentName | None = Field(None, description="Environment variable with the key that signs them.")
    min_severity: SeverityKey = Field("warning", description="Least severe alert that is posted.")
    timeout_s: float = Field(5.0, gt=0.0, le=60.0, description="Longest wait for one answer, in seconds.")


class HealthSection(Section):
    dry_run: bool = Field(
        _POLICY.dry_run, description="Judge and tell everything, but act on nothing except devices that cannot be read."
    )
    rules: dict[RuleKey, RuleSection] = Field(
        default_factory=dict,
        description=(
            "What differs from the built-in rules, by name, e.g. {THERMAL_WARNING: {threshold: 75, hold_s: 30}}; each "
            "takes enabled, threshold, ratio, hold_s, window_s, severity, action."
        ),
    )
    stale_s: float = Field(
        _POLICY.stale_s,
        ge=5.0,
        le=600.0,
        description="A device without a poll for so long counts as lost, in seconds.",
    )
    rest_s: float = Field(
        _POLICY.rest_s,
        ge=0.0,
        le=DAY_S,
        description="First rest in quarantine, in seconds; each strike doubles it.",
    )
    lost_rest_s: float = Field(
        _POLICY.lost_rest_s,
        ge=0.0,
        le=DAY_S,
        description="The same for a lost device that answers again, in seconds.",
    )
    max_rest_s: float = Field(
        _POLICY.max_rest_s, ge=0.0, le=7 * DAY_S, description="Longest rest that strikes lead to, in seconds."
    )
    probe_timeout_s: float = Field(
        _POLICY.probe_timeout_s,
        ge=1.0,
        le=3600.0,
        description="A probe without an answer for so long has failed, in seconds.",
    )
    forgive_s: float = Field(
        _POLICY.forgive_s,
        ge=0.0,
        le=30 * DAY_S,
        description="Strikes are forgotten after so long in service, in seconds.",
    )
    preempt_at_risk: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="Risk of failure within half an hour from which a device is emptied, e.g. 0.8; null never does.",
    )
    max_quarantined: float = Field(
        _POLICY.max_quarantined,
        ge=0.0,
        le=1.0,
        description="Part of the devices that rules may take out of service; one device always.",
    )
    throttle_fraction: float = Field(
        _POLICY.throttle_fraction,
        gt=0.0,
        le=1.0,
        description="Part of its requests in flight that a throttled device keeps.",
    )
    history: int = Field(10_000, ge=100, le=1_000_000, description="Alerts kept in the history.")
    webhooks: list[WebhookSection] = Field(
        default_factory=list,
        max_length=MAX_WEBHOOKS,
        description=(
            "Where alerts are posted, each {url, secret_file or secret_env, min_severity, timeout_s}; the secret signs "
            "them (HMAC-SHA256) and never stands in this file."
        ),
    )


class WindowSection(Section):
    name: Name = Field(description="Name of the window, shown as the holder of its cordons.")
    cron: Cron = Field(description="When it opens, e.g. '0 2 * * SUN'.")
    duration_s: float = Field(ge=60.0, le=7 * DAY_S, description="How long it stays open, in seconds.")
    timezone: TimeZone = Field("UTC", description="Time zone of the schedule.")
    devices: list[DeviceId] = Field(default_factory=list, max_length=4096, description="Devices it holds.")
    nodes: list[NodeName] = Field(default_factory=list, max_length=1024, description="Nodes it holds whole.")
    action: Literal["cordon", "drain"] = Field(
        "cordon", description="Nothing new is placed there (cordon), or what runs there moves off too (drain)."
    )


class MaintenanceSection(Section):
    windows: list[WindowSection] = Field(
        default_factory=list,
        max_length=MAX_WINDOWS,
        description=(
            "Devices held by schedule, each {name, cron, duration_s, timezone, devices, nodes, action}; action is "
            "cordon or drain."
        ),
    )


class ShareSection(Section):
    target: float = Field(AVAILABILITY.target, gt=0.0, lt=1.0, description="Part that must be good.")
    window_days: int = Field(30, ge=1, le=90, description="Days over which it is counted.")


class WithinSection(ShareSection):
    within_s: float = Field(gt=0.0, le=30 * DAY_S, description="Longest time that counts as good, in seconds.")


def _within(objective: Objective) -> WithinSection:
    assert objective.within_s is not None
    return WithinSection(target=objective.target, within_s=objective.within_s)


class ObjectivesSection(Section):
    availability: ShareSection = Field(
        default_factory=ShareSection, description="Requests that are answered without a fault."
    )
    job_completion_time: WithinSection = Field(
        default_factory=lambda: _within(JOB_COMPLETION_TIME), description="Jobs that end in time."
    )
    alert_response_time: WithinSection = Field(
        default_factory=lambda: _within(ALERT_RESPONSE_TIME), description="Alerts that are acted on in time."
    )
