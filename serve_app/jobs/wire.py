"""Jobs as they stand on the wire: what a user may ask for, and what is shown of a job. Converted here, once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictStr, model_validator

from serve_app.config.sizes import size_bytes
from serve_app.jobs.job import DEFAULT_PRIORITY, MAX_PRIORITY, Job, JobKind, JobLimits, JobSpec, JobState, Moment
from serve_app.jobs.service import JobView
from tracing.propagation import parse_traceparent

TRAINER: Final = (sys.executable, "-m", "serve_app.training.run_job")
TRAINER_BYTES: Final = 3 * 2**29
"""1.5 GiB: the default models with optimizer state, torch and its libraries on a CPU."""
MAX_CONFIG_BYTES: Final = 64 << 10
_MAX_ARGUMENTS: Final = 256
_MAX_ARGUMENT_CHARS: Final = 8192
_MAX_LOG_BYTES: Final = 2**30
_LONGEST_S: Final = 30 * 86_400.0
_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$"
_DEFAULT: Final = JobLimits()


def _sized(value: object) -> int:
    """Raises: ValueError, which pydantic tells with the field's name."""
    try:
        return size_bytes(value)
    except ValueError:
        raise ValueError("expected a number of bytes, or a size such as '2GiB'") from None


def _no_null(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold a null character")
    return text


def _context(text: str) -> str:
    if not text.isascii() or parse_traceparent(text.encode()) is None:
        raise ValueError("is no W3C traceparent")
    return text


Size = Annotated[int, BeforeValidator(_sized)]
Argument = Annotated[StrictStr, Field(max_length=_MAX_ARGUMENT_CHARS), AfterValidator(_no_null)]


class JobRequest(BaseModel):
    """What a user asks for. `train` and `reinforce` need a `model`; `script` needs a `command` and `num_bytes`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["train", "reinforce", "script"]
    model: Annotated[StrictStr, Field(pattern=_NAME)] | None = None
    config: dict[str, Any] = {}
    command: Annotated[tuple[Argument, ...], Field(max_length=_MAX_ARGUMENTS)] = ()
    priority: Annotated[int, Field(ge=0, le=MAX_PRIORITY, strict=True)] = DEFAULT_PRIORITY
    num_bytes: Annotated[Size, Field(ge=1, le=2**50)] | None = None
    num_devices: Annotated[int, Field(ge=1, le=64, strict=True)] = 1
    run_s: Annotated[float, Field(gt=0, le=_LONGEST_S, allow_inf_nan=False)] = _DEFAULT.run_s
    silence_s: Annotated[float, Field(gt=0, le=_LONGEST_S, allow_inf_nan=False)] = _DEFAULT.silence_s
    log_bytes: Annotated[Size, Field(ge=4096, le=_MAX_LOG_BYTES)] = _DEFAULT.log_bytes
    num_failures: Annotated[int, Field(ge=1, le=20, strict=True)] = _DEFAULT.num_failures
    resume_from: Annotated[StrictStr, Field(max_length=4096), AfterValidator(_no_null)] | None = None
    traceparent: Annotated[StrictStr, Field(max_length=128), AfterValidator(_context)] | None = None

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        """Each sentence begins with the field it is about."""
        if self.kind == "script":
            if not self.command or not self.command[0]:
                raise ValueError("`command`: a script needs one, such as ['python', 'x.py']")
            if self.num_bytes is None:
                raise ValueError("`num_bytes`: a script must say how much device memory it needs, such as '2GiB'")
        else:
            if self.model is None:
                raise ValueError(f"`model`: a job of kind '{self.kind}' needs the name of one")
            if self.command:
                raise ValueError(f"`command`: only scripts have one; '{self.kind}' runs our own trainer")
        if len(orjson.dumps(self.config)) > MAX_CONFIG_BYTES:
            raise ValueError(f"`config`: more than {MAX_CONFIG_BYTES} bytes of JSON")
        return self

    def inside(self) -> JobSpec:
        """Our trainer finds kind and model in its config, beside what the user wrote there."""
        is_script = self.kind == "script"
        config = self.config if is_script else {**self.config, "kind": self.kind, "model": self.model}
        return JobSpec(
            kind=JobKind(self.kind),
            model=self.model,
            command=self.command if is_script else TRAINER,
            config=orjson.dumps(config).decode() if config else "",
            priority=self.priority,
            num_bytes=TRAINER_BYTES if self.num_bytes is None else self.num_bytes,
            num_devices=self.num_devices,
            limits=JobLimits(
                run_s=self.run_s,
                silence_s=self.silence_s,
                log_bytes=self.log_bytes,
                num_failures=self.num_failures,
            ),
            resume_from=self.resume_from,
            traceparent=self.traceparent,
        )


class ListRequest(BaseModel):
    """Empty filters take all. `page_token` is the `next_page_token` of the page before."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: JobState | None = None
    kind: JobKind | None = None
    model: Annotated[str, Field(max_length=128)] | None = None
    page_size: Annotated[int, Field(ge=1, le=1000)] = 100
    page_token: Annotated[str, Field(pattern=r"^\d{0,18}$")] = ""


class ReviewRequest(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    days: Annotated[int, Field(ge=1, le=366)] = 7


class LogRequest(BaseModel):
    """A negative `offset` counts from the end."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    offset: Annotated[int, Field(ge=-(2**50), le=2**50)] = 0
    max_bytes: Annotated[int, Field(ge=1, le=2**20)] = 2**16


def path_fault(resume_from: str, roots: Sequence[Path]) -> str:
    """Why a job may not begin with this checkpoint: it lies outside `roots`, links followed. Empty when it may."""
    path = Path(resume_from)
    if not path.is_absolute():
        return f"'{resume_from[:256]}' is no absolute path."
    real = path.resolve()
    if any(real.is_relative_to(root.resolve()) for root in roots):
        return ""
    return f"'{resume_from[:256]}' lies outside {', '.join(str(root) for root in roots)}."


def shown(view: JobView, *, whole: bool = False) -> dict[str, Any]:
    """One job; `command`, `config` and `result` only when the `whole` is asked for."""
    job, live, spec = view.job, view.live, view.job.spec
    step = live.step if live is not None and live.step else job.checkpoint.step if job.checkpoint else 0
    fields: dict[str, Any] = {
        "id": job.id,
        "kind": spec.kind.value,
        "model": spec.model,
        "state": job.state.value,
        "reason": job.reason.value,
        "message": job.message,
        "priority": spec.priority,
        "num_bytes": spec.num_bytes,
        "num_devices": spec.num_devices,
        "attempt": job.attempt,
        "num_failures": job.num_failures,
        "num_preemptions": job.num_preemptions,
        "node": job.node,
        "devices": list(job.placed.devices) if job.placed is not None else [],
        "step": step,
        "num_steps": live.num_steps if live is not None else 0,
        "metrics": live.metrics if live is not None and live.metrics else _saved_metrics(job),
        "checkpoint": job.checkpoint.path if job.checkpoint is not None else None,
        "weights_version": job.checkpoint.weights_version if job.checkpoint is not None else None,
        "submitted": _wall(job.submitted),
        "scheduled": _wall(job.scheduled),
        "started": _wall(job.started),
        "ended": _wall(job.ended),
        "wait_s": None if job.wait_s is None else round(job.wait_s, 3),
        "exit_status": job.exit_status,
        "trace_id": _trace_id(job.run_traceparent or job.submit_traceparent),
    }
    if whole:
        fields |= {
            "command": list(spec.command),
            "config": orjson.loads(spec.config) if spec.config else {},
            "resume_from": job.resume_from,
            "run_s": spec.limits.run_s,
            "silence_s": spec.limits.silence_s,
            "log_bytes": spec.limits.log_bytes,
            "result": orjson.loads(job.result) if job.result else None,
        }
    return fields


def _saved_metrics(job: Job) -> dict[str, float]:
    return job.checkpoint.metrics if job.checkpoint is not None else {}


def _wall(moment: Moment | None) -> str | None:
    return None if moment is None else datetime.fromtimestamp(moment.unix_s, UTC).isoformat(timespec="milliseconds")


def _trace_id(traceparent: str | None) -> str | None:
    parent = parse_traceparent(traceparent.encode()) if traceparent is not None else None
    return None if parent is None else parent.trace_id
