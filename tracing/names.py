"""Every name under which the product can be seen: spans, their attributes, resources, metrics and alerts.

One table, so that a name is spelled in one place. Only what the code records is a metric here: one that nobody
records is worse than none (`Later` holds the few that alert rules wait for). Knows nothing of exporters nor of how
values are collected.

Sources: OpenTelemetry semantic conventions 1.40 (HTTP stable, GenAI in development and therefore pinned
here and nowhere else); metric names carry the prefix `headroom_`, except the four of the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

# -- Services (resource attribute `service.name`) ----------------------------------------------------

GATEWAY = "headroom-gateway"
ENGINE = "headroom-engine"
CONTROLLER = "headroom-controller"
WATCH = "headroom-watch"
TRAINER = "headroom-trainer"
NODE_ROLE = "headroom.node.role"

# -- Spans: names hold no ids. `{}` is a mode or a model, both bounded -------------------------------

ROUTE_SPAN = "route {}"
LOAD_MODEL_SPAN = "load model {}"
UNLOAD_MODEL_SPAN = "unload model {}"
SLEEP_MODEL_SPAN = "sleep model {}"
WAKE_MODEL_SPAN = "wake model {}"
RELOAD_MODEL_SPAN = "reload {}"
PLACEMENT_SPAN = "scheduler.placement"
VLLM_REQUEST_SPAN = "llm_request"
"""Made by vLLM, child of the `chat` span."""
HEALTH_CHECK_SPAN = "health.check"
ALERT_SPAN = "alert.{}"
"""`{}` is the name of a rule."""
QUARANTINE_SPAN = "quarantine"
PREEMPT_SPAN = "preempt"
COMPARE_SPAN = "compare {}"
ROLLOUT_SPAN = "rollout {}"
"""`{}` is a model; linked to the run that made its weights."""
ROLLOUT_STAGE_SPAN = "rollout.{}"


class LeaseSpan(StrEnum):
    ACQUIRE = "lease.acquire"
    RENEW = "lease.renew"
    RELEASE = "lease.release"
    PREEMPT = "lease.preempt"


class JobSpan(StrEnum):
    SUBMIT = "job.submit"
    SCHEDULE = "job.schedule"
    RUN = "job.run"
    PROGRAM = "job.program"
    """On the node it runs on, in the process that watches it; `job.run` is the controller's view of the same."""
    SETTLE = "job.settle"


class JobEvent(StrEnum):
    """Events of `job.run` and `job.program`."""

    CHECKPOINT_SAVED = "checkpoint.saved"
    PREEMPTED = "preempted"
    GPU_FAULT = "gpu.fault"


class Operation(StrEnum):
    """`gen_ai.operation.name`; the client span is named `<operation> <model>`."""

    CHAT = "chat"
    TEXT_COMPLETION = "text_completion"


# -- Span attributes ---------------------------------------------------------------------------------

HTTP_METHOD = "http.request.method"
HTTP_ROUTE = "http.route"
HTTP_STATUS = "http.response.status_code"
ERROR_TYPE = "error.type"

WATCHING_ROUTES = frozenset(
    {"/health", "/metrics", "/metrics/mma", "/models/info", "/admin/cache/stats", "/admin/fleet"},
)
"""Routes that look at the cluster and do no work of users; local trace files leave them out."""

GEN_AI_OPERATION = "gen_ai.operation.name"
GEN_AI_PROVIDER = "gen_ai.provider.name"
PROVIDER_VLLM = "vllm"
GEN_AI_REQUEST_MODEL = "gen_ai.request.model"
GEN_AI_REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P = "gen_ai.request.top_p"
GEN_AI_REQUEST_STREAM = "gen_ai.request.stream"
GEN_AI_REQUEST_CHOICES = "gen_ai.request.choice.count"
GEN_AI_RESPONSE_ID = "gen_ai.response.id"
GEN_AI_RESPONSE_MODEL = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS = "gen_ai.response.finish_reasons"
GEN_AI_INPUT_TOKENS = "gen_ai.usage.input_tokens"
GEN_AI_OUTPUT_TOKENS = "gen_ai.usage.output_tokens"

TENANT = "headroom.tenant"
MODE = "headroom.mode"
MODEL = "headroom.model"
DEPLOYMENT = "headroom.deployment"
CACHE = "headroom.cache"
DOWNSHIFTED_FROM = "headroom.downshifted_from"
DECISION = "headroom.decision"
WEIGHTS_VERSION = "headroom.weights_version"
ACCURACY = "headroom.accuracy"
"""Share of the test set that was answered right, 0 to 1."""
DEVICE = "headroom.device"
TRIGGER = "headroom.trigger"
"""What asked for a load, unload, sleep or wake: a person, a request, room that is needed."""
NUM_BYTES = "headroom.bytes"
OUTCOME = "headroom.outcome"
"""Of a load, unload, sleep or wake: `done`, or `put_back` when a start failed and what ran before serves again."""
INVENTORY_VERSION = "headroom.inventory.version"
NUM_DEMANDS = "headroom.plan.demands"
NUM_REFUSED = "headroom.plan.refused"
"""Replicas."""
PLAN_GAP = "headroom.plan.gap"
"""Proven distance to the best plan; left out where nothing is proven."""
REASON = "headroom.reason"
LEASE_GRANTED = "headroom.lease.granted"
LEASE_EPOCH = "headroom.lease.epoch"
HARDWARE_ID = "hw.id"
"""UUID of the device."""
ALERT_VALUE = "headroom.alert.value"
ALERT_THRESHOLD = "headroom.alert.threshold"
ALERT_ACTION = "headroom.alert.action"
XID = "headroom.xid"
DRY_RUN = "headroom.dry_run"
MESSAGING_OPERATION = "messaging.operation.type"
JOB_ID = "headroom.job.id"
JOB_KIND = "headroom.job.kind"
JOB_PRIORITY = "headroom.job.priority"
JOB_ATTEMPT = "headroom.job.attempt"
JOB_WAIT_S = "headroom.job.wait_s"
JOB_DEVICES = "headroom.job.devices"
JOB_RESULT = "headroom.job.result"
CHECKPOINT_PATH = "headroom.checkpoint.path"
CHECKPOINT_STEP = "headroom.checkpoint.step"
NODE = "headroom.node"
ROLLOUT_ID = "headroom.rollout.id"
ROLLOUT_FROM = "headroom.rollout.from_weights_version"
ROLLOUT_WAY = "headroom.rollout.way"
ROLLOUT_SCORE = "headroom.rollout.score"
"""Accuracy that comparison found, 0 to 1."""
ROLLOUT_CANARY_SCORE = "headroom.rollout.canary_score"
ROLLOUT_VERDICT = "headroom.rollout.verdict"
"""How it ended."""
ROLLOUT_DIGEST = "headroom.rollout.digest"
ROLLOUT_CLOSED_S = "headroom.rollout.closed_s"

# -- Metrics -----------------------------------------------------------------------------------------

NO_MODE = "none"
"""Label `mode` of a request that named a model and no mode."""
OTHER = "other"
"""Takes the place of a label value beyond its metric's cap."""


class Merge(StrEnum):
    """How one gauge series reported by several sources becomes one value."""

    SUM = "sum"
    LATEST = "latest"
    """A fact about the world: the report made last counts."""


class BurnWindow(StrEnum):
    """Values of the label `window` of an objective."""

    LONG = "long"
    SHORT = "short"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counter:
    """`max_values` bounds the distinct values of each label; `known` are values created at 0 beside declared ones.

    `passes`: values of its labels come and go for ever; beyond the cap it is the oldest that are counted as `other`.
    """

    name: str
    help: str
    labels: tuple[str, ...] = ()
    max_values: int = 64
    known: tuple[tuple[str, tuple[str, ...]], ...] = ()
    passes: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    name: str
    help: str
    labels: tuple[str, ...] = ()
    max_values: int = 64
    merge: Merge = Merge.LATEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """`buckets` are upper bounds, ascending, in the unit of the name; +Inf is implied. The rest is as in `Counter`."""

    name: str
    help: str
    buckets: tuple[float, ...]
    labels: tuple[str, ...] = ()
    max_values: int = 64
    known: tuple[tuple[str, tuple[str, ...]], ...] = ()
    passes: bool = False


Metric = Counter | Gauge | Histogram

_MAX_DEVICES = 1024
DEVICE_LABELS = ("node", "device")
"""First labels of every metric of a device."""
HEALTH_STATES = ("healthy", "degraded", "throttled", "draining", "quarantined", "probation", "lost")
THROTTLE_REASONS = ("power_cap", "hw_slowdown", "hw_thermal", "sw_thermal", "hw_power_brake", OTHER)
"""`power_cap` is how a busy device works; what follows it, but for `other`, are faults. Idling is no throttling."""
FATAL_XIDS = ("48", "63", "64", "74", "79", "94", "95", "119", "120")
"""Source: NVIDIA's XID catalogue: memory that cannot be corrected or remapped, NVLink, off the bus, firmware."""
PROGRAM_XIDS = ("13", "31", "43")
"""The fault of the program that ran, not of the device."""
XIDS = (*FATAL_XIDS, *PROGRAM_XIDS, OTHER)
_ROUTES = (
    *("/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/{id}", "/health", "/models/info"),
    *("/metrics", "/metrics/mma", "/admin/cache/stats", "/admin/fleet"),
)
_HTTP = (("route", _ROUTES), ("method", ("GET", "POST")), ("code", ("200", "400", "404", "500", "503")))
_OUTCOMES = (("outcome", ("success", "error", "timeout", "cancelled", "rejected")),)
_LOADED = (("outcome", ("success", "error")),)
_LEASE_RESULTS = ("result", ("granted", "refused", "invalid", "error"))
# 2.5, 3.2 and 4.5 s are the modes' targets, so that "within target" is read off a bucket and not interpolated.
_REQUEST_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 3.2, 4.5, 10.0, 30.0, 60.0)
_FIRST_TOKEN_S = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PER_TOKEN_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
# 2.2, 5.5 and 16.5 s are the default limits for small, medium and large models.
_LOAD_S = (0.5, 1.0, 2.2, 5.5, 10.0, 16.5, 30.0, 60.0, 120.0, 300.0)
# 600 s is the limit of JobWaitHigh.
_JOB_S = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 7200.0, 21_600.0, 86_400.0)
JOB_KINDS = ("train", "reinforce", "score", "script")
JOB_STATES = ("queued", "scheduled", "running", "succeeded", "failed", "cancelled")
JOB_RESULTS = ("succeeded", "failed", "cancelled")
_KINDS = ("kind", JOB_KINDS)
_SHORT_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)

HTTP_REQUESTS = Counter(
    name="headroom_http_requests_total",
    help="HTTP requests answered by the gateway.",
    labels=("route", "method", "code"),
    known=_HTTP,
)
HTTP_REQUEST_DURATION = Histogram(
    name="headroom_http_request_duration_seconds",
    help="Time from the first byte of a request to the last byte of its answer.",
    labels=("route", "method", "code"),
    buckets=_REQUEST_S,
)
INFERENCE_REQUESTS = Counter(
    name="headroom_inference_requests_total",
    help="Chat and completion requests by how they ended.",
    labels=("mode", "model", "outcome"),
    known=_OUTCOMES,
)
INFERENCE_REQUEST_DURATION = Histogram(
    name="headroom_inference_request_duration_seconds",
    help="Duration of chat and completion requests, answers from the cache included.",
    labels=("mode", "model"),
    buckets=_REQUEST_S,
)
INFERENCE_REQUEST_SECONDS = Counter(
    name="headroom_inference_request_seconds_total",
    help="Sum of the durations of chat and completion requests.",
    labels=("mode", "model"),
)
ANSWERS = Counter(
    name="headroom_answers_total",
    help="Engine runs that ended, by the weights that were asked; neither cached answers nor what callers cut short.",
    labels=("model", "version", "outcome"),
    passes=True,
)
ANSWER_DURATION = Histogram(
    name="headroom_answer_duration_seconds",
    help="Time a good answer took from its arrival at the run, waiting for a place included, by weights version.",
    labels=("model", "version"),
    buckets=_REQUEST_S,
    passes=True,
)
TIME_TO_FIRST_TOKEN = Histogram(
    name="headroom_time_to_first_token_seconds",
    help="Time from the arrival of a request to the first byte of its streamed answer from the engine.",
    labels=("model",),
    buckets=_FIRST_TOKEN_S,
)
TIME_PER_OUTPUT_TOKEN = Histogram(
    name="headroom_time_per_output_token_seconds",
    help="Time per token after the first one, mean over one answer.",
    labels=("model",),
    buckets=_PER_TOKEN_S,
)
TOKENS = Counter(
    name="headroom_tokens_total",
    help="Tokens read (input), made (output), and answered from the cache (cached).",
    labels=("model", "type"),
    known=(("type", ("input", "output", "cached")),),
)
REQUESTS_IN_FLIGHT = Gauge(
    name="headroom_requests_in_flight",
    help="Requests now running in an engine of this model.",
    labels=("model",),
    merge=Merge.SUM,
)
REQUESTS_QUEUED = Gauge(
    name="headroom_requests_queued",
    help="Requests that wait in the gateways for this model.",
    labels=("model",),
    merge=Merge.SUM,
)
DOWNSHIFTS = Counter(
    name="headroom_downshifts_total",
    help="Requests answered one step down under pressure: modes, or models within one mode.",
    labels=("from", "to"),
)
SHED = Counter(
    name="headroom_shed_total",
    help="Requests refused because more came than can be answered in time.",
    labels=("mode",),
)
RETRIES = Counter(
    name="headroom_retries_total",
    help="Requests sent to another replica before anything was answered.",
    labels=("model",),
)
BREAKER_STATE = Gauge(
    name="headroom_breaker_state",
    help="Worst breaker of the deployment's replicas: 0 closed, 1 half open, 2 open; summed over gateways.",
    labels=("deployment",),
    max_values=256,
    merge=Merge.SUM,
)
GATEWAY_CPU = Gauge(
    name="headroom_gateway_cpu_ratio",
    help="Part of one core that this gateway's process used between its last two reports.",
    labels=("replica",),
)
GATEWAY_MEMORY = Gauge(
    name="headroom_gateway_memory_ratio",
    help="Part of its machine's memory that this gateway's process holds.",
    labels=("replica",),
)
GATEWAY_OVERHEAD = Histogram(
    name="headroom_gateway_overhead_seconds",
    help="Time a request spent in its gateway: all but the run of an engine and the wait for one.",
    labels=(),
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0),
)
SEMANTIC_CACHE = "semantic"
"""`cache_type` of answers to similar questions; they are no hits of the exact cache."""
CACHE_HITS = Counter(
    name="cache_hits_total",
    help="Answers given from the response cache.",
    labels=("mode", "cache_type"),
)
CACHE_MISSES = Counter(
    name="cache_misses_total",
    help="Requests that looked into the response cache in vain.",
    labels=("mode", "cache_type"),
)
CACHE_TTL_EXPIRED = Counter(
    name="cache_ttl_expired_total",
    help="Stored answers that were too old when they were looked for or swept.",
    labels=("mode", "cache_type"),
)
CACHE_HIT_RATE = Gauge(
    name="cache_hit_rate",
    help="cache_hits_total / (cache_hits_total + cache_misses_total); NaN before the first look-up.",
    labels=("mode", "cache_type"),
)
MODEL_REPLICAS = Gauge(
    name="headroom_model_replicas",
    help="Replicas of a model by state: desired (0 once unloaded by hand), ready, starting, sleeping, draining.",
    labels=("model", "state"),
)
MODEL_LOAD = Histogram(
    name="headroom_model_load_seconds",
    help="Time from the start of a replica's engine to ready.",
    labels=("model", "outcome"),
    buckets=_LOAD_S,
    known=_LOADED,
)
MODEL_UNLOAD = Histogram(
    name="headroom_model_unload_seconds",
    help="Time from the order to unload a replica to its bytes being back.",
    labels=("model", "outcome"),
    buckets=_LOAD_S,
    known=_LOADED,
)
WEIGHTS_VERSION_INFO = Gauge(
    name="headroom_weights_version_info",
    help="1 for the weights that serve a model; step is the trainer's, or empty.",
    labels=("model", "version", "step"),
)
DEVICE_UP = Gauge(
    name="headroom_device_up",
    help="1 while the device can be read.",
    labels=(*DEVICE_LABELS, "uuid"),
    max_values=_MAX_DEVICES,
)
DEVICE_INFO = Gauge(
    name="headroom_device_info",
    help="1; product and driver of the device.",
    labels=(*DEVICE_LABELS, "uuid", "product", "driver"),
    max_values=_MAX_DEVICES,
)
DEVICE_MEMORY = Gauge(
    name="headroom_device_memory_bytes",
    help="Memory of the device: total, used, planned, leased, foreign.",
    labels=(*DEVICE_LABELS, "state"),
    max_values=_MAX_DEVICES,
)
DEVICE_HEADROOM = Gauge(
    name="headroom_device_headroom_ratio",
    help="Free memory of the device as a fraction of its total.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_TEMPERATURE = Gauge(
    name="headroom_device_temperature_celsius",
    help="Temperature of the device.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_SLOWDOWN = Gauge(
    name="headroom_device_slowdown_celsius",
    help="Temperature at which the device slows itself down.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_POWER = Gauge(
    name="headroom_device_power_watts",
    help="Power the device draws.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_POWER_LIMIT = Gauge(
    name="headroom_device_power_limit_watts",
    help="Power limit that is enforced on the device.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_UTILIZATION = Gauge(
    name="headroom_device_utilization_ratio",
    help="Fraction of the last sample period in which something ran on the device.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_ENERGY = Counter(
    name="headroom_device_energy_joules_total",
    help="Energy the device took since it was first seen.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_ECC_ERRORS = Counter(
    name="headroom_device_ecc_errors_total",
    help="ECC errors since the device was first seen, corrected and uncorrected.",
    labels=(*DEVICE_LABELS, "type"),
    max_values=_MAX_DEVICES,
)
DEVICE_THROTTLE_ACTIVE = Gauge(
    name="headroom_device_throttle_active",
    help="1 while this reason holds the clocks of the device down; power_cap is no fault.",
    labels=(*DEVICE_LABELS, "reason"),
    max_values=_MAX_DEVICES,
)
DEVICE_XID_ERRORS = Counter(
    name="headroom_device_xid_errors_total",
    help="XID events of the device; numbers without a meaning here are other.",
    labels=(*DEVICE_LABELS, "xid"),
    max_values=_MAX_DEVICES,
)
DEVICE_ROW_REMAP_PENDING = Gauge(
    name="headroom_device_row_remap_pending",
    help="1 while a row of memory waits for a reset to be remapped.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_ROW_REMAP_FAILURE = Gauge(
    name="headroom_device_row_remap_failure",
    help="1 once a row of memory could not be remapped.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_RECOVERY_ACTION = Gauge(
    name="headroom_device_recovery_action",
    help="What the driver advises: 0 nothing, 1 reset, 2 reboot, 3 drain peer-to-peer, 4 drain and reset, 5 other.",
    labels=DEVICE_LABELS,
    max_values=_MAX_DEVICES,
)
DEVICE_HEALTH_STATE = Gauge(
    name="headroom_device_health_state",
    help="1 for the state the device is in, 0 for the others.",
    labels=(*DEVICE_LABELS, "state"),
    max_values=_MAX_DEVICES,
)
DEVICE_FAILURE_RISK = Gauge(
    name="headroom_device_failure_risk_ratio",
    help="Forecast risk that the device fails within the horizon, 0 to 1.",
    labels=(*DEVICE_LABELS, "horizon"),
    max_values=_MAX_DEVICES,
)
CLUSTER_DEVICES = Gauge(
    name="headroom_cluster_devices",
    help="Devices: total, and each of them once as unhealthy, allocated, cordoned or available.",
    labels=("state",),
)
WATCH_POLL = Histogram(
    name="headroom_watch_poll_seconds",
    help="Time one poll of a node's devices took.",
    labels=("node",),
    buckets=_SHORT_S,
    max_values=_MAX_DEVICES,
)
WATCH_POLL_ERRORS = Counter(
    name="headroom_watch_poll_errors_total",
    help="Devices that could not be read in a poll, or not in time.",
    labels=("node",),
    max_values=_MAX_DEVICES,
)
WATCH_LAST_POLL = Gauge(
    name="headroom_watch_last_poll_timestamp_seconds",
    help="Unix time of the last poll the watch finished, whatever it found.",
    labels=("node",),
    max_values=_MAX_DEVICES,
)
ALERTS_TRIGGERED = Counter(
    name="headroom_alerts_triggered_total",
    help="Alerts the watch raised.",
    labels=("rule", "severity"),
)
ALERTS_ACTIVE = Gauge(
    name="headroom_alerts_active",
    help="Alerts of the watch that hold now.",
    labels=("rule", "severity"),
)
OBJECTIVE_BURN = Gauge(
    name="headroom_objective_burn_rate",
    help="How many times faster than allowed the error budget is spent, over the last hour (long) or 5 min (short).",
    labels=("objective", "window"),
)
OBJECTIVE_BUDGET_LEFT = Gauge(
    name="headroom_objective_budget_left_ratio",
    help="Part of the error budget of the objective's window that is left; below 0 once it is missed.",
    labels=("objective",),
)
LEASES = Gauge(
    name="headroom_leases",
    help="Leases by state.",
    labels=("state",),
)
LEASE_REQUESTS = Counter(
    name="headroom_lease_requests_total",
    help="Requests for a lease by how they were answered; invalid ones could not be understood.",
    labels=("result",),
    known=(_LEASE_RESULTS,),
)
LEASE_HANDSHAKE = Histogram(
    name="headroom_lease_handshake_seconds",
    help="Time from a request for a lease to its answer, the ledger's write included.",
    labels=("result",),
    buckets=_SHORT_S,
    known=(_LEASE_RESULTS,),
)
JOBS = Gauge(
    name="headroom_jobs",
    help="Jobs by kind and state; of those that are over, the ones still kept.",
    labels=("kind", "state"),
)
JOBS_SUBMITTED = Counter(
    name="headroom_jobs_submitted_total",
    help="Jobs taken into the queue.",
    labels=("kind",),
    known=(_KINDS,),
)
JOBS_SCHEDULED = Counter(
    name="headroom_jobs_scheduled_total",
    help="Attempts of jobs that were given their shares.",
    labels=("kind",),
    known=(_KINDS,),
)
JOBS_FINISHED = Counter(
    name="headroom_jobs_finished_total",
    help="Jobs that are over, by how they ended.",
    labels=("kind", "result"),
    known=(_KINDS, ("result", JOB_RESULTS)),
)
JOB_WAIT = Histogram(
    name="headroom_job_wait_seconds",
    help="Time an attempt of a job waited in the queue before it got its shares.",
    labels=("kind",),
    buckets=_JOB_S,
    known=(_KINDS,),
)
JOB_RUN = Histogram(
    name="headroom_job_run_seconds",
    help="Time one attempt of a job ran, by how the job stood after it; requeued ones go on later.",
    labels=("kind", "result"),
    buckets=_JOB_S,
    known=(_KINDS, ("result", (*JOB_RESULTS, "requeued"))),
)
JOB_PREEMPTIONS = Counter(
    name="headroom_job_preemptions_total",
    help="Attempts of jobs that were ended because their room or device was needed or in danger.",
    labels=("kind",),
    known=(_KINDS,),
)
TRAINING_STEP = Gauge(
    name="headroom_training_step",
    help="Step that a running job is at; of several of one kind and model, the one that started last.",
    labels=("kind", "model"),
)
TRAINING_LOSS = Gauge(
    name="headroom_training_loss",
    help="Loss that a running job told last.",
    labels=("kind", "model"),
)
TRAINING_REWARD = Gauge(
    name="headroom_training_reward",
    help="Mean reward of the last update of a running reinforcement job.",
    labels=("kind", "model"),
)
TRAINING_REWARD_AVERAGE = Gauge(
    name="headroom_training_reward_average",
    help="Moving average of the reward of a running reinforcement job.",
    labels=("kind", "model"),
)
TRAINING_ENTROPY = Gauge(
    name="headroom_training_entropy",
    help="Entropy of the policy of a running reinforcement job, in nats per token.",
    labels=("kind", "model"),
)
CALIBRATION_ERROR = Gauge(
    name="headroom_calibration_error",
    help="Mean distance of confidence and accuracy, 0 to 1, of what serves, in the newest scheduled test.",
    labels=("model", "version"),
)
PLANS = Counter(
    name="headroom_plans_total",
    help="Plans made, by whether all demands were placed.",
    labels=("outcome",),
    known=(("outcome", ("placed", "refused", "error")),),
)
PLAN_SECONDS = Histogram(
    name="headroom_plan_seconds",
    help="Time to make and verify one plan.",
    buckets=_SHORT_S,
)
PLACEMENT_REFUSALS = Gauge(
    name="headroom_placement_refusals",
    help="Replicas the current plan refuses, by kind of refusal.",
    labels=("reason",),
)
NUMA_LOCAL_RATIO = Gauge(
    name="headroom_numa_local_ratio",
    help="Replicas over several devices that lie within one NUMA node, of all of them; no series where there are none.",
    labels=(),
)
ROLLOUT_RESULTS = ("finished", "rolled_back", "refused", "regressed")
"""`regressed` is counted beside another result: a test set scored worse than these weights were deployed with."""
ROLLOUT_STAGES = (
    *("requested", "backed_up", "shipping", "preparing", "canary"),
    *("switching", "committed", "observing", "returning"),
)
ROLLOUTS = Counter(
    name="headroom_rollouts_total",
    help="Rollouts of new weights by how they ended.",
    labels=("result",),
    known=(("result", ROLLOUT_RESULTS),),
)
ROLLOUT_STAGE = Histogram(
    name="headroom_rollout_stage_seconds",
    help="Time a rollout spent in one stage, the waits of canary and observation included.",
    labels=("stage",),
    buckets=(0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 12.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 86_400.0),
    known=(("stage", ROLLOUT_STAGES),),
)
SCALING_DECISIONS = Counter(
    name="headroom_scaling_decisions_total",
    help="Changes of a count that were wanted, by what became of them; applied ones include those by hand.",
    labels=("target", "direction", "outcome"),
    known=(
        ("target", ("gateway", "trainers")),
        ("direction", ("up", "down")),
        ("outcome", ("applied", "blocked_by_headroom", "cooling_down", "at_limit", "failed")),
    ),
)
BUILD_INFO = Gauge(name="headroom_build_info", help="1; version of the product.", labels=("version",))
TRACE_SPANS_DROPPED = Counter(
    name="headroom_trace_spans_dropped_total",
    help="Spans lost because a queue was full or an export failed.",
    labels=("exporter", "reason"),
    known=(("exporter", ("otlp", "file")), ("reason", ("queue_full", "export_failed"))),
)

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in tuple(globals().values()) if isinstance(metric, Counter | Gauge | Histogram)
}


class Later(StrEnum):
    """Metrics that alert rules read already and nothing records yet. Who records one moves it up, declared."""

    WORKER_UP = "headroom_worker_up"
    CONNECTION_UP = "headroom_connection_up"


# -- Alerts ------------------------------------------------------------------------------------------


class Alert(StrEnum):
    """Names of alert rules. Those in capitals the watch acts on by itself; Prometheus tells of all."""

    THERMAL_WARNING = "THERMAL_WARNING"
    THERMAL_CRITICAL = "THERMAL_CRITICAL"
    POWER_SPIKE = "POWER_SPIKE"
    POWER_CRITICAL = "POWER_CRITICAL"
    ECC_ERRORS_SPIKE = "ECC_ERRORS_SPIKE"
    ECC_UNCORRECTABLE = "ECC_UNCORRECTABLE"
    THROTTLING = "THROTTLING"
    MEMORY_PRESSURE = "MEMORY_PRESSURE"
    HEADROOM_LOW = "HeadroomLow"
    DEVICE_MEMORY_HIGH = "DeviceMemoryHigh"
    DEVICE_MEMORY_CRITICAL = "DeviceMemoryCritical"
    DEVICE_TEMPERATURE_HIGH = "DeviceTemperatureHigh"
    DEVICE_LOST = "DeviceLost"
    XID_FATAL = "XidFatal"
    ROW_REMAP_FAILURE = "RowRemapFailure"
    RECOVERY_ADVISED = "RecoveryAdvised"
    FAILURE_PREDICTED = "FailurePredicted"
    QUARANTINED_SHARE_HIGH = "QuarantinedShareHigh"
    WATCH_STALE = "WatchStale"
    QUEUE_BUILDUP = "QueueBuildup"
    ERROR_RATE_HIGH = "ErrorRateHigh"
    MODE_LATENCY_HIGH = "ModeLatencyHigh"
    TIME_TO_FIRST_TOKEN_HIGH = "TimeToFirstTokenHigh"  # noqa: S105  # an alert's name, no password
    CACHE_HIT_RATE_LOW = "CacheHitRateLow"
    REPLICAS_UNAVAILABLE = "ReplicasUnavailable"
    MODEL_LOAD_SLOW = "ModelLoadSlow"
    OBJECTIVE_BURNING = "ObjectiveBurning"
    WORKER_DEAD = "WorkerDead"
    NODE_UNREACHABLE = "NodeUnreachable"
    ROLLBACK_TRIGGERED = "RollbackTriggered"
    ROLLOUT_REGRESSION = "RolloutRegression"
    CHECKPOINT_DAMAGED = "CheckpointDamaged"
    JOB_WAIT_HIGH = "JobWaitHigh"
