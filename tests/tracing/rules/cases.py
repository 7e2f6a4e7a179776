"""For every alert, series on which it fires and series on which it must not. Data alone; who runs them is beside it.

Series hold one value every five seconds, in promtool's own notation. Every case begins at 0 s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracing.names import Alert

STEP_S = 5
WATCHED_S = 900
"""How long a silent case is watched."""
_LONG_S = 1200

Series = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fires:
    """`begins_s` is when the rule's condition first holds; it fires after the rule's own duration, not before."""

    alert: Alert
    why: str
    begins_s: int
    series: Series
    num_alerts: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent:
    alert: Alert
    why: str
    series: Series


def held(value: float, for_s: int = _LONG_S) -> str:
    return f"{value}+0x{for_s // STEP_S - 1}"


def growing(per_step: float, for_s: int = _LONG_S, *, start: float = 0) -> str:
    """`start` first, then `per_step` more every five seconds."""
    return f"{start}+{per_step}x{for_s // STEP_S - 1}"


def path(*parts: str) -> str:
    return " ".join(parts)


def jump(before: float, after: float, *, at_s: int = 60) -> str:
    return path(held(before, at_s), held(after))


def on(metric: str, device: str = "a/gpu-0", **labels: str) -> str:
    """One series of a device of node `a`."""
    more = "".join(f',{name}="{value}"' for name, value in labels.items())
    return f'headroom_device_{metric}{{node="a",device="{device}"{more}}}'


def info(product: str, device: str = "a/gpu-0") -> Series:
    return {on("info", device, uuid="GPU-1", product=product, driver="570"): held(1)}


def memory(*, used: str, planned: float, leased: float = 0) -> Series:
    """Of a device of 1000 bytes."""
    return {
        on("memory_bytes", state="total"): held(1000),
        on("memory_bytes", state="used"): used,
        on("memory_bytes", state="planned"): held(planned),
        on("memory_bytes", state="leased"): held(leased),
    }


def hot(product: str, celsius: str, *, slowdown: float | None, limit_w: float = 400) -> Series:
    own = {} if slowdown is None else {on("slowdown_celsius"): held(slowdown)}
    return {on("temperature_celsius"): celsius, on("power_limit_watts"): held(limit_w), **own, **info(product)}


def drawing(product: str, watts: str, *, limit_w: float | None) -> Series:
    own = {} if limit_w is None else {on("power_limit_watts"): held(limit_w)}
    return {on("power_watts"): watts, **own, **info(product)}


A100, H100 = "NVIDIA A100-SXM4-80GB", "NVIDIA H100 80GB HBM3"

THERMAL = (
    Fires(
        alert=Alert.THERMAL_WARNING,
        why="an A100 reaches 80 °C",
        begins_s=60,
        series=hot(A100, jump(79.9, 80), slowdown=89),
    ),
    Fires(
        alert=Alert.THERMAL_WARNING,
        why="another type reaches the same part of its own limit",
        begins_s=60,
        series=hot(H100, jump(71, 72), slowdown=80),
    ),
    Fires(
        alert=Alert.THERMAL_WARNING,
        why="a device that tells no limit is judged by the A100's",
        begins_s=60,
        series=hot("unknown", jump(79.9, 80), slowdown=None),
    ),
    Silent(
        alert=Alert.THERMAL_WARNING,
        why="80 °C of another type with a higher limit",
        series=hot(H100, held(80), slowdown=95),
    ),
    Fires(
        alert=Alert.THERMAL_WARNING,
        why="an A100 at its full limit has the absolute figure, whatever it tells",
        begins_s=60,
        series=hot(A100, jump(79.9, 80), slowdown=95, limit_w=400),
    ),
    Silent(
        alert=Alert.THERMAL_WARNING,
        why="an A100 set to less than 400 W is judged by what it tells",
        series=hot(A100, held(80), slowdown=95, limit_w=399),
    ),
    Silent(
        alert=Alert.THERMAL_WARNING,
        why="80 °C five seconds too short",
        series=hot(A100, path(held(79, 60), held(80, 60), held(79)), slowdown=89),
    ),
    Fires(
        alert=Alert.THERMAL_CRITICAL,
        why="an A100 goes above 85 °C",
        begins_s=60,
        series=hot(A100, jump(85, 85.1), slowdown=89),
    ),
    Silent(alert=Alert.THERMAL_CRITICAL, why="an A100 at just 85 °C", series=hot(A100, held(85), slowdown=89)),
    Silent(
        alert=Alert.THERMAL_CRITICAL,
        why="an A100 that was set to less power is judged by its own limit",
        series=hot(A100, held(86), slowdown=92, limit_w=300),
    ),
)

POWER = (
    Fires(
        alert=Alert.POWER_SPIKE,
        why="an A100 draws more than 400 W",
        begins_s=60,
        series=drawing(A100, jump(400, 401), limit_w=400),
    ),
    Silent(
        alert=Alert.POWER_SPIKE,
        why="an H100 at work, under its own limit",
        series=drawing(H100, held(690), limit_w=700),
    ),
    Fires(
        alert=Alert.POWER_CRITICAL,
        why="an A100 draws 450 W",
        begins_s=60,
        series=drawing(A100, jump(449, 450), limit_w=400),
    ),
    Fires(
        alert=Alert.POWER_CRITICAL,
        why="an H100 draws an eighth more than its limit",
        begins_s=60,
        series=drawing(H100, jump(787, 788), limit_w=700),
    ),
    Fires(
        alert=Alert.POWER_CRITICAL,
        why="an A100 that tells no limit is judged by 450 W",
        begins_s=60,
        series=drawing(A100, jump(449, 450), limit_w=None),
    ),
    Silent(alert=Alert.POWER_CRITICAL, why="an H100 at 700 W", series=drawing(H100, held(700), limit_w=700)),
    Silent(
        alert=Alert.POWER_CRITICAL,
        why="another type that tells no limit cannot be judged",
        series=drawing(H100, held(700), limit_w=None),
    ),
)

ERRORS = (
    Fires(
        alert=Alert.ECC_ERRORS_SPIKE,
        why="ten at once",
        begins_s=60,
        series={on("ecc_errors_total", type="corrected"): jump(0, 10)},
    ),
    Silent(
        alert=Alert.ECC_ERRORS_SPIKE,
        why="nine in five minutes, again and again",
        series={on("ecc_errors_total", type="corrected"): path(held(0, 60), held(9, 360), held(18))},
    ),
    Fires(
        alert=Alert.ECC_UNCORRECTABLE,
        why="one, at once",
        begins_s=60,
        series={on("ecc_errors_total", type="uncorrected"): jump(0, 1)},
    ),
    Silent(
        alert=Alert.ECC_UNCORRECTABLE,
        why="corrected ones, and an old uncorrected one",
        series={
            on("ecc_errors_total", type="corrected"): growing(1),
            on("ecc_errors_total", type="uncorrected"): held(1),
        },
    ),
    Fires(
        alert=Alert.THROTTLING,
        why="heat holds the clocks down, one alert however many reasons",
        begins_s=60,
        series={
            on("throttle_active", reason="hw_thermal"): jump(0, 1),
            on("throttle_active", reason="hw_slowdown"): jump(0, 1),
        },
    ),
    Silent(
        alert=Alert.THROTTLING,
        why="the power cap, which is how a busy device works",
        series={
            on("throttle_active", reason="power_cap"): held(1),
            on("throttle_active", reason="other"): held(1),
            on("throttle_active", reason="hw_thermal"): held(0),
        },
    ),
    Fires(
        alert=Alert.XID_FATAL,
        why="off the bus",
        begins_s=60,
        series={on("xid_errors_total", xid="79"): jump(0, 1)},
    ),
    Silent(
        alert=Alert.XID_FATAL,
        why="the program's own fault, or a number without a meaning",
        series={
            on("xid_errors_total", xid="13"): growing(1),
            on("xid_errors_total", xid="other"): growing(1),
            on("xid_errors_total", xid="79"): held(0),
        },
    ),
    Fires(
        alert=Alert.ROW_REMAP_FAILURE,
        why="no spare row",
        begins_s=60,
        series={on("row_remap_failure"): jump(0, 1)},
    ),
    Silent(
        alert=Alert.ROW_REMAP_FAILURE,
        why="a row that only waits for a reset",
        series={on("row_remap_failure"): held(0), on("row_remap_pending"): held(1)},
    ),
    Fires(
        alert=Alert.RECOVERY_ADVISED,
        why="the driver wants a reset",
        begins_s=60,
        series={on("recovery_action"): jump(0, 1)},
    ),
    Silent(alert=Alert.RECOVERY_ADVISED, why="it wants nothing", series={on("recovery_action"): held(0)}),
)

MEMORY = (
    Fires(
        alert=Alert.MEMORY_PRESSURE,
        why="90 % and above its plan",
        begins_s=60,
        series=memory(used=jump(899, 900), planned=500, leased=100),
    ),
    Silent(alert=Alert.MEMORY_PRESSURE, why="full as planned", series=memory(used=held(950), planned=900, leased=50)),
    Silent(alert=Alert.MEMORY_PRESSURE, why="above plan with room", series=memory(used=held(890), planned=100)),
    Fires(
        alert=Alert.DEVICE_MEMORY_HIGH,
        why="above 90 % and its plan",
        begins_s=60,
        series=memory(used=jump(900, 901), planned=900),
    ),
    Silent(alert=Alert.DEVICE_MEMORY_HIGH, why="just 90 %", series=memory(used=held(900), planned=100)),
    Silent(alert=Alert.DEVICE_MEMORY_HIGH, why="full as leased", series=memory(used=held(990), planned=0, leased=990)),
    Fires(
        alert=Alert.DEVICE_MEMORY_CRITICAL,
        why="above 95 % and its plan",
        begins_s=60,
        series=memory(used=jump(950, 951), planned=900),
    ),
    Silent(alert=Alert.DEVICE_MEMORY_CRITICAL, why="just 95 %", series=memory(used=held(950), planned=900)),
    Fires(
        alert=Alert.HEADROOM_LOW,
        why="less than a fifth is free",
        begins_s=60,
        series={on("headroom_ratio"): jump(0.2, 0.19)},
    ),
    Silent(
        alert=Alert.HEADROOM_LOW,
        why="for less than five minutes",
        series={on("headroom_ratio"): path(held(0.2, 60), held(0.05, 300), held(0.2))},
    ),
)

FLEET = (
    Fires(
        alert=Alert.DEVICE_TEMPERATURE_HIGH,
        why="any type above 85 °C",
        begins_s=60,
        series={on("temperature_celsius"): jump(85, 86)},
    ),
    Silent(alert=Alert.DEVICE_TEMPERATURE_HIGH, why="just 85 °C", series={on("temperature_celsius"): held(85)}),
    Fires(alert=Alert.DEVICE_LOST, why="a poll failed", begins_s=60, series={on("up", uuid="GPU-1"): jump(1, 0)}),
    Silent(
        alert=Alert.DEVICE_LOST,
        why="a device that was taken out leaves no series",
        series={on("up", uuid="GPU-1"): path(held(1, 60), "stale")},
    ),
    Fires(
        alert=Alert.FAILURE_PREDICTED,
        why="a risk above 0.8",
        begins_s=60,
        series={on("failure_risk_ratio", horizon="15m"): jump(0.8, 0.81)},
    ),
    Silent(
        alert=Alert.FAILURE_PREDICTED,
        why="a risk of just 0.8",
        series={on("failure_risk_ratio", horizon="15m"): held(0.8)},
    ),
    Fires(
        alert=Alert.QUARANTINED_SHARE_HIGH,
        why="two of nineteen devices",
        begins_s=60,
        series={
            on("health_state", f"a/gpu-{number}", state="quarantined"): jump(0, 1 if number < 2 else 0)
            for number in range(19)
        },
    ),
    Silent(
        alert=Alert.QUARANTINED_SHARE_HIGH,
        why="two of twenty devices",
        series={
            on("health_state", f"a/gpu-{number}", state="quarantined"): held(1 if number < 2 else 0)
            for number in range(20)
        },
    ),
    Silent(
        alert=Alert.QUARANTINED_SHARE_HIGH,
        why="one device of two: one is always allowed",
        series={
            on("health_state", f"a/gpu-{number}", state="quarantined"): held(1 if number < 1 else 0)
            for number in range(2)
        },
    ),
    Fires(
        alert=Alert.WATCH_STALE,
        why="no poll for more than 30 s",
        begins_s=95,
        series={'headroom_watch_last_poll_timestamp_seconds{node="a"}': path(growing(5, 65), held(60))},
    ),
    Silent(
        alert=Alert.WATCH_STALE,
        why="polls go on after just 30 s",
        series={
            'headroom_watch_last_poll_timestamp_seconds{node="a"}': path(
                growing(5, 65), held(60, 30), growing(5, start=95)
            )
        },
    ),
)


def requests(outcome: str, values: str, mode: str = "fast") -> Series:
    return {f'headroom_inference_requests_total{{mode="{mode}",model="mini",outcome="{outcome}"}}': values}


def histogram(name: str, labels: str, **per_step: float) -> Series:
    """Cumulative buckets, by bound (`le_2_5`), that grow with every step."""
    bounds = {bound: bound.removeprefix("le_").replace("_", ".").replace("inf", "+Inf") for bound in per_step}
    return {f'{name}_bucket{{{labels},le="{bounds[bound]}"}}': growing(value) for bound, value in per_step.items()}


def looked_up(mode: str, *, hits: float, misses: float) -> Series:
    labels = f'{{mode="{mode}",cache_type="memory"}}'
    return {f"cache_hits_total{labels}": jump(0, hits), f"cache_misses_total{labels}": jump(0, misses)}


def loaded(model: str, outcome: str, *, within: int) -> Series:
    """One load at 60 s; `within` the limit of 2.2 s, or not."""
    labels = f'model="{model}",outcome="{outcome}"'
    return {
        f"headroom_model_load_seconds_count{{{labels}}}": jump(0, 1),
        f'headroom_model_load_seconds_bucket{{{labels},le="2.2"}}': jump(0, within),
    }


def replicas(state: str, values: str) -> Series:
    return {f'headroom_model_replicas{{model="mini",state="{state}"}}': values}


def burning(objective: str = "availability", *, long: str, short: str) -> Series:
    name = "headroom_objective_burn_rate"
    return {
        f'{name}{{objective="{objective}",window="{window}"}}': values
        for window, values in (("long", long), ("short", short))
    }


DURATION, FIRST = "headroom_inference_request_duration_seconds", "headroom_time_to_first_token_seconds"

SERVICE = (
    Fires(
        alert=Alert.QUEUE_BUILDUP,
        why="51 wait, over all gateways",
        begins_s=60,
        series={
            'headroom_requests_queued{model="mini",replica="1"}': jump(25, 26),
            'headroom_requests_queued{model="mini",replica="2"}': held(25),
        },
    ),
    Silent(alert=Alert.QUEUE_BUILDUP, why="just 50", series={'headroom_requests_queued{model="mini"}': held(50)}),
    Fires(
        alert=Alert.ERROR_RATE_HIGH,
        why="6 % fail or run out of time",
        begins_s=5,
        series={
            **requests("success", growing(94)),
            **requests("error", growing(3)),
            **requests("timeout", growing(3)),
        },
    ),
    Silent(
        alert=Alert.ERROR_RATE_HIGH,
        why="just 5 % fail",
        series={**requests("success", growing(95)), **requests("error", growing(5))},
    ),
    Silent(
        alert=Alert.ERROR_RATE_HIGH,
        why="4 % fail; what callers did wrong or gave up does not count",
        series={
            **requests("success", growing(96)),
            **requests("error", growing(4)),
            **requests("rejected", growing(100)),
            **requests("cancelled", growing(100)),
        },
    ),
    Fires(
        alert=Alert.MODE_LATENCY_HIGH,
        why="6 % of fast requests take longer than 2.5 s",
        begins_s=5,
        series=histogram(DURATION, 'mode="fast",model="mini"', le_1_0=50, le_2_5=94, le_3_2=100, le_inf=100),
    ),
    Fires(
        alert=Alert.MODE_LATENCY_HIGH,
        why="6 % of creative requests take longer than 4.5 s",
        begins_s=5,
        series=histogram(DURATION, 'mode="creative",model="base"', le_4_5=94, le_5_0=100, le_inf=100),
    ),
    Silent(
        alert=Alert.MODE_LATENCY_HIGH,
        why="each mode is held to its own target",
        series={
            **histogram(DURATION, 'mode="fast",model="mini"', le_2_5=96, le_3_2=100, le_inf=100),
            **histogram(DURATION, 'mode="creative",model="base"', le_2_5=0, le_3_2=0, le_4_5=100, le_inf=100),
        },
    ),
    Fires(
        alert=Alert.TIME_TO_FIRST_TOKEN_HIGH,
        why="6 % of streams begin after 2.5 s",
        begins_s=5,
        series=histogram(FIRST, 'model="mini"', le_1_0=50, le_2_5=94, le_5_0=100, le_inf=100),
    ),
    Silent(
        alert=Alert.TIME_TO_FIRST_TOKEN_HIGH,
        why="4 % do",
        series=histogram(FIRST, 'model="mini"', le_1_0=50, le_2_5=96, le_5_0=100, le_inf=100),
    ),
    Fires(
        alert=Alert.CACHE_HIT_RATE_LOW,
        why="59 % of a hundred look-ups",
        begins_s=60,
        series=looked_up("fast", hits=59, misses=41),
    ),
    Fires(
        alert=Alert.CACHE_HIT_RATE_LOW,
        why="the same in another mode with a target",
        begins_s=60,
        series=looked_up("balanced", hits=59, misses=41),
    ),
    Silent(
        alert=Alert.CACHE_HIT_RATE_LOW,
        why="just the target in one mode, too few look-ups in another",
        series={**looked_up("fast", hits=90, misses=60), **looked_up("balanced", hits=0, misses=90)},
    ),
    Silent(
        alert=Alert.CACHE_HIT_RATE_LOW,
        why="too few look-ups, good ones, and a mode without a target",
        series={
            **looked_up("fast", hits=0, misses=90),
            **looked_up("balanced", hits=61, misses=39),
            **looked_up("creative", hits=0, misses=500),
        },
    ),
    Fires(
        alert=Alert.MODEL_LOAD_SLOW,
        why="a small model took longer than 2.2 s",
        begins_s=60,
        series=loaded("mini", "success", within=0),
    ),
    Silent(
        alert=Alert.MODEL_LOAD_SLOW,
        why="one within its limit, and one that failed",
        series={**loaded("mini", "success", within=1), **loaded("mini", "error", within=0)},
    ),
    Fires(
        alert=Alert.REPLICAS_UNAVAILABLE,
        why="one of two is gone",
        begins_s=60,
        series={**replicas("desired", held(2)), **replicas("ready", jump(2, 1)), **replicas("starting", held(1))},
    ),
    Silent(
        alert=Alert.REPLICAS_UNAVAILABLE,
        why="one sleeps, and wakes on demand",
        series={**replicas("desired", held(2)), **replicas("ready", held(1)), **replicas("sleeping", held(1))},
    ),
)

OBJECTIVES = (
    Fires(
        alert=Alert.OBJECTIVE_BURNING,
        why="both windows reach the rate",
        begins_s=60,
        series=burning(long=jump(14.3, 14.4), short=held(20)),
    ),
    Silent(
        alert=Alert.OBJECTIVE_BURNING,
        why="an old wound, and a blip of another objective",
        series={
            **burning(long=held(20), short=held(14.3)),
            **burning("alert_response_time", long=held(14.3), short=held(20)),
        },
    ),
    Silent(
        alert=Alert.OBJECTIVE_BURNING,
        why="nothing counted of late has no short rate",
        series=burning(long=held(20), short=path(held(0, 60), "stale")),
    ),
)

WORK = (
    Fires(
        alert=Alert.WORKER_DEAD,
        why="a trainer is gone",
        begins_s=60,
        series={'headroom_worker_up{kind="trainer"}': jump(1, 0)},
    ),
    Silent(alert=Alert.WORKER_DEAD, why="it is there", series={'headroom_worker_up{kind="trainer"}': held(1)}),
    Fires(
        alert=Alert.NODE_UNREACHABLE,
        why="a node is gone",
        begins_s=60,
        series={'headroom_connection_up{peer="b"}': jump(1, 0)},
    ),
    Silent(
        alert=Alert.NODE_UNREACHABLE,
        why="gone for less than 30 s",
        series={'headroom_connection_up{peer="b"}': path(held(1, 60), held(0, 30), held(1))},
    ),
    Fires(
        alert=Alert.ROLLBACK_TRIGGERED,
        why="one was rolled back",
        begins_s=60,
        series={'headroom_rollouts_total{result="rolled_back"}': jump(0, 1)},
    ),
    Silent(
        alert=Alert.ROLLBACK_TRIGGERED,
        why="one went well",
        series={
            'headroom_rollouts_total{result="finished"}': jump(0, 1),
            'headroom_rollouts_total{result="rolled_back"}': held(0),
        },
    ),
    Fires(
        alert=Alert.ROLLOUT_REGRESSION,
        why="a test set scored worse",
        begins_s=60,
        series={'headroom_rollouts_total{result="regressed"}': jump(0, 1)},
    ),
    Silent(
        alert=Alert.ROLLOUT_REGRESSION,
        why="one was rolled back, which has its own alert",
        series={
            'headroom_rollouts_total{result="rolled_back"}': jump(0, 1),
            'headroom_rollouts_total{result="regressed"}': held(0),
        },
    ),
    Fires(
        alert=Alert.CHECKPOINT_DAMAGED,
        why="one of the daily reading",
        begins_s=60,
        series={'headroom_alerts_active{rule="CheckpointDamaged",severity="critical"}': jump(0, 1)},
    ),
    Silent(
        alert=Alert.CHECKPOINT_DAMAGED,
        why="another alert holds",
        series={
            'headroom_alerts_active{rule="CheckpointDamaged",severity="critical"}': held(0),
            'headroom_alerts_active{rule="RolloutRegression",severity="warning"}': held(1),
        },
    ),
    Fires(
        alert=Alert.JOB_WAIT_HIGH,
        why="6 % wait longer than ten minutes",
        begins_s=5,
        series=histogram("headroom_job_wait_seconds", 'kind="train"', le_60=50, le_600=94, le_1800=100, le_inf=100),
    ),
    Silent(
        alert=Alert.JOB_WAIT_HIGH,
        why="4 % do",
        series=histogram("headroom_job_wait_seconds", 'kind="train"', le_60=50, le_600=96, le_3600=100, le_inf=100),
    ),
)

CASES: tuple[Fires | Silent, ...] = (*THERMAL, *POWER, *ERRORS, *MEMORY, *FLEET, *SERVICE, *OBJECTIVES, *WORK)
