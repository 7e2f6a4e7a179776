"""From an answer back to the training run of its weights: one step after another, and what is missing said. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from serve_app.why.known import Known, Made, Ran, Step, StepKind
from tracing import names
from tracing.recent import SpanRecord

_MAX_PARENTS: Final = 8
_NEVER_SERVED: Final = frozenset({"refused", "returned"})
_JOB_SPANS: Final = frozenset(span.value for span in names.JobSpan)


def origin_of(trace: Sequence[SpanRecord], known: Known) -> tuple[Step, ...]:
    """`trace` holds the spans of the answer's trace. Every kind of step is there at least once but PARENT."""
    call = _call_of(trace)
    answer, replica, device = _answer(trace, call), _replica(trace, call), _device(call)
    version = str(call.attributes.get(names.WEIGHTS_VERSION) or "") if call is not None else ""
    if call is None or not version:
        reason = answer.missing or "The answer's span names no weights."
        later = (StepKind.WEIGHTS, StepKind.ROLLOUT, StepKind.COMPARISON, StepKind.TRAINING)
        return (answer, replica, device, *(Step(kind=kind, missing=reason) for kind in later))
    model, made = _model_of(call), _made(version, known)
    return (
        answer,
        replica,
        device,
        _weights(version, made, known),
        _rollout(model, version, call.start_ns / 1e9, known),
        _comparison(version, known),
        _training(version, made, known),
        *_parents(made, known),
    )


def _call_of(trace: Sequence[SpanRecord]) -> SpanRecord | None:
    """The run in an engine that gave the answer: the last one that did not fail, where some were tried again."""
    calls = [span for span in trace if span.kind == "client" and names.GEN_AI_OPERATION in span.attributes]
    good = [span for span in calls if span.status != "error"]
    return max(good or calls, key=lambda span: span.start_ns, default=None)


def _answer(trace: Sequence[SpanRecord], call: SpanRecord | None) -> Step:
    servers = [span for span in trace if span.name.startswith("POST /v1/")]
    root = min(servers or trace, key=lambda span: span.start_ns)
    route = _route_of(trace)
    shown = {"mode": names.MODE, "model": names.MODEL, "cache": names.CACHE, "instead of": names.DOWNSHIFTED_FROM}
    facts = {name: str(route.attributes[key]) for name, key in shown.items() if route and key in route.attributes}
    missing = ""
    if call is None and facts.get("cache") in ("hit", "shared", "semantic"):
        missing = "It came from the cache: ask with the `id` of the answer, which is that of the run that made it."
    elif call is None:
        missing = "No engine was asked in this trace."
    name = str(call.attributes.get(names.GEN_AI_RESPONSE_ID) or "") if call is not None else ""
    return Step(
        kind=StepKind.ANSWER,
        name=name or root.name,
        facts=facts,
        missing=missing,
        began_unix_s=root.start_ns / 1e9,
        took_s=root.duration_ms / 1e3,
        trace_id=root.trace_id,
    )


def _replica(trace: Sequence[SpanRecord], call: SpanRecord | None) -> Step:
    if call is None:
        return Step(kind=StepKind.REPLICA, missing="No engine was asked in this trace.")
    route = _route_of(trace)
    deployment = str(route.attributes.get(names.DEPLOYMENT) or "") if route else ""
    facts = {
        name: str(call.attributes[key])
        for name, key in (("tokens in", names.GEN_AI_INPUT_TOKENS), ("tokens out", names.GEN_AI_OUTPUT_TOKENS))
        if key in call.attributes
    }
    return Step(
        kind=StepKind.REPLICA,
        name=deployment or _model_of(call),
        facts=facts,
        began_unix_s=call.start_ns / 1e9,
        took_s=call.duration_ms / 1e3,
    )


def _device(call: SpanRecord | None) -> Step:
    device = str(call.attributes.get(names.DEVICE) or "") if call is not None else ""
    return Step(kind=StepKind.DEVICE, name=device, missing="" if device else "The trace names no device.")


def _weights(version: str, made: Made | None, known: Known) -> Step:
    if made is None:
        why = known.unread.get(StepKind.WEIGHTS, "No checkpoint with these weights lies on this machine.")
        return Step(kind=StepKind.WEIGHTS, name=version, missing=why)
    facts = {"checkpoint": f"{made.model}/{made.checkpoint}", "step": str(made.step), "config": made.config_hash[:12]}
    facts |= {"commit": made.git_commit[:12]} if made.git_commit else {}
    return Step(kind=StepKind.WEIGHTS, name=version, facts=facts, began_unix_s=made.created_unix_s)


def _rollout(model: str, version: str, at_s: float, known: Known) -> Step:
    """The last one before the answer that brought these weights."""
    brought = [one for one in known.rollouts if (one.model, one.to_weights) == (model, version)]
    before = [one for one in brought if one.asked_unix_s <= at_s]
    chosen = max(before, key=lambda one: (one.status not in _NEVER_SERVED, one.asked_unix_s), default=None)
    if chosen is None:
        made_first = "No rollout on record brought these weights: the model was made, or loaded, with them."
        return Step(kind=StepKind.ROLLOUT, missing=known.unread.get(StepKind.ROLLOUT, made_first))
    facts = {"status": chosen.status, "from": chosen.from_weights, "way": chosen.way or "", "by": chosen.asked_by}
    facts |= {stage.stage: f"{stage.spent_s:.2f} s" for stage in chosen.stages if stage.spent_s > 0}
    return Step(
        kind=StepKind.ROLLOUT,
        name=str(chosen.deployment_id),
        facts={name: value for name, value in facts.items() if value},
        began_unix_s=chosen.asked_unix_s,
        took_s=sum(stage.spent_s for stage in chosen.stages),
        trace_id=chosen.trace_id,
    )


def _comparison(version: str, known: Known) -> Step:
    found = next((one for one in known.compared if one.weights_version == version), None)
    if found is None:
        why = known.unread.get(StepKind.COMPARISON, "These weights were never compared.")
        return Step(kind=StepKind.COMPARISON, missing=why)
    facts = {
        "accuracy": "" if found.accuracy is None else f"{found.accuracy:.1%}",
        "rank": "" if found.rank is None else str(found.rank),
        "verdict": found.verdict,
        "reason": found.reason,
    }
    return Step(
        kind=StepKind.COMPARISON,
        name=found.state,
        facts={name: value for name, value in facts.items() if value},
        began_unix_s=found.looked_at_unix_s,
    )


def _training(version: str, made: Made | None, known: Known) -> Step:
    """The attempt that wrote the checkpoint by its spans, else the job by the trace or the weights it names."""
    trace_id = made.trace_id if made is not None else None
    spans = {span.name: span for span in known.job_spans if span.trace_id == trace_id and span.name in _JOB_SPANS}
    run = spans.get(names.JobSpan.RUN)
    schedule = spans.get(names.JobSpan.SCHEDULE)
    job = _job_of(version, trace_id, schedule, known)
    if job is None and run is None:
        return Step(kind=StepKind.TRAINING, missing=_no_training(made, known), trace_id=trace_id)
    begun = run.start_ns / 1e9 if run else job.started_unix_s if job else None
    return Step(
        kind=StepKind.TRAINING,
        name=job.id if job else str((schedule.attributes if schedule else {}).get(names.JOB_ID, "")),
        facts=_job_facts(job),
        began_unix_s=begun,
        queued_s=_queued_s(schedule, job),
        took_s=run.duration_ms / 1e3 if run else _ran_s(job),
        trace_id=trace_id or (job.trace_id if job else None),
    )


def _job_of(version: str, trace_id: str | None, schedule: SpanRecord | None, known: Known) -> Ran | None:
    job_id = schedule.attributes.get(names.JOB_ID) if schedule else None
    by_trace = (one for one in known.jobs if one.id == job_id or (trace_id is not None and one.trace_id == trace_id))
    by_weights = (one for one in known.jobs if one.weights_version == version)
    return next(by_trace, None) or next(by_weights, None)


def _no_training(made: Made | None, known: Known) -> str:
    if made is None:
        return "Which run made these weights is not known without their checkpoint."
    if made.trace_id is None:
        return "The checkpoint names no run: it was made at first use, or by a program that is not traced."
    return known.unread.get(StepKind.TRAINING, "No job and no span of the run that the checkpoint names is kept.")


def _job_facts(job: Ran | None) -> dict[str, str]:
    if job is None:
        return {"job": "no longer on record"}
    facts = {"kind": job.kind, "state": job.state, "attempt": str(job.attempt), "devices": ", ".join(job.devices)}
    return {name: value for name, value in facts.items() if value}


def _queued_s(schedule: SpanRecord | None, job: Ran | None) -> float | None:
    if schedule is not None:
        return schedule.duration_ms / 1e3
    return job.queued_s if job is not None else None


def _ran_s(job: Ran | None) -> float | None:
    if job is None or job.started_unix_s is None or job.ended_unix_s is None:
        return None
    return job.ended_unix_s - job.started_unix_s


def _parents(made: Made | None, known: Known) -> tuple[Step, ...]:
    """The weights that training began from, and those before them."""
    steps: list[Step] = []
    version = made.parent if made is not None else None
    while version is not None and len(steps) < _MAX_PARENTS and version not in {step.name for step in steps}:
        above = _made(version, known)
        shown = _weights(version, above, known)
        steps.append(
            Step(
                kind=StepKind.PARENT,
                name=version,
                facts=shown.facts,
                missing=shown.missing,
                began_unix_s=shown.began_unix_s,
                trace_id=above.trace_id if above else None,
            )
        )
        version = above.parent if above is not None else None
    return tuple(steps)


def _made(version: str, known: Known) -> Made | None:
    return next((one for one in known.made if one.weights_version == version), None)


def _route_of(trace: Sequence[SpanRecord]) -> SpanRecord | None:
    return max((one for one in trace if names.MODE in one.attributes), key=lambda one: one.start_ns, default=None)


def _model_of(call: SpanRecord) -> str:
    return str(call.attributes.get(names.GEN_AI_REQUEST_MODEL) or "")
