"""`/v1/jobs` over HTTP, from a request to a page, and `SubmitJob` for gRPC and ZeroMQ; errors in OpenAI's form.

POST   /v1/jobs                 submit        GET  /v1/jobs?state=&kind=&model=&page_size=&page_token=
GET    /v1/jobs/{id}            show          GET  /v1/jobs/{id}/logs?offset=&max_bytes=
POST   /v1/jobs/{id}/cancel     cancel        DELETE /v1/jobs/{id}   the same
GET    /v1/jobs/review?days=    what each value of the reinforcement settings was worth
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from serve_app.api.control_routes import ControlAnswer, ControlAsked, ControlRoute, error_answer, json_answer
from serve_app.api.errors import ApiError, Origin, invalid, method_not_allowed, not_found
from serve_app.errors import ConfigRefused
from serve_app.jobs.job import Job, JobKind
from serve_app.jobs.service import JobRefusal, JobRefusalReason, JobService, JobView
from serve_app.jobs.settings_review import settings_review
from serve_app.jobs.wire import JobRequest, ListRequest, LogRequest, ReviewRequest, path_fault, shown
from serve_app.leases.rpcs import RpcError
from serve_app.training.job_config import read_job_config

PATH: Final = "/v1/jobs"
JOB_ROUTES: Final = (
    ControlRoute(PATH, ("GET", "POST")),
    ControlRoute(f"{PATH}/review", ("GET",)),
    ControlRoute(f"{PATH}/{{id}}", ("GET", "DELETE")),
    ControlRoute(f"{PATH}/{{id}}/logs", ("GET",)),
    ControlRoute(f"{PATH}/{{id}}/cancel", ("POST",)),
)
_STATUS: Final = {
    JobRefusalReason.UNKNOWN_JOB: (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    JobRefusalReason.ALREADY_OVER: (HTTPStatus.CONFLICT, "FAILED_PRECONDITION"),
    JobRefusalReason.QUEUE_FULL: (HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
    JobRefusalReason.LEDGER_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    JobRefusalReason.LOG_UNAVAILABLE: (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
}
_RETRY_S: Final = 30
_NAMED_FIELD: Final = re.compile(r"`(\w+)`")
R = TypeVar("R", bound=BaseModel)


class JobCalls:
    """`roots` are the directories whose checkpoints a job may begin with.

    `home` is where our trainer finds and writes models, and its configuration is checked; None leaves that to callers.
    `curriculum` weighs the data of a model's job, where the user says nothing of it: what tests failed at.
    """

    def __init__(
        self,
        service: JobService,
        *,
        roots: Sequence[Path],
        home: Path | None = None,
        curriculum: Callable[[str], list[dict[str, Any]]] = lambda _: [],
        unix_s: Callable[[], float] = time.time,
    ) -> None:
        self._service = service
        self._roots = roots
        self._home = home
        self._curriculum = curriculum
        self._unix_s = unix_s

    async def answer(self, asked: ControlAsked) -> ControlAnswer:
        """`asked.path` begins with `/v1/jobs`; the body's size is the caller's to limit."""
        match asked.method, asked.path.removeprefix(PATH).strip("/").split("/"):
            case "GET", [""]:
                return _page(self._list(asked.query))
            case "POST", [""]:
                return _page(self._submit(asked.body), done=HTTPStatus.CREATED)
            case "GET", ["review"]:
                return _page(self._review(asked.query))
            case "GET", [job_id]:
                return _page(_one(self._service.show(job_id)))
            case ("DELETE", [job_id]) | ("POST", [job_id, "cancel"]):
                return _page(_one(self._service.cancel(job_id)), done=HTTPStatus.ACCEPTED)
            case "GET", [job_id, "logs"]:
                return _page(await self._logs(job_id, asked.query))
        return error_answer(_told(_no_such_page(asked)))

    async def submit_rpc(self, fields: dict[str, Any]) -> dict[str, Any]:
        """`SubmitJob` of modelops.proto, a `leases.rpcs.Handler`. Raises: RpcError."""
        answer = self._submit(fields["body"])
        if isinstance(answer, JobRefusal):
            raise RpcError(code=_STATUS[answer.reason][1], message=answer.message)
        if isinstance(answer, ApiError):
            raise RpcError(code="INVALID_ARGUMENT", message=answer.message)
        return {"job_id": answer["id"]}

    def _submit(self, body: bytes) -> dict[str, Any] | ApiError | JobRefusal:
        request = _parsed(JobRequest, body)
        if isinstance(request, ApiError):
            return request
        if request.resume_from is not None and (fault := path_fault(request.resume_from, self._roots)):
            return invalid(f"resume_from: {fault} Name a checkpoint below the model's own.", param="resume_from")
        spec = request.inside()
        if self._home is not None and spec.kind in (JobKind.TRAIN, JobKind.REINFORCE):
            if "home" in request.config:
                return invalid("config.home: the cluster's own home is used. Leave it out.", param="config.home")
            config = {**self._learned(request.model or ""), **orjson.loads(spec.config), "home": str(self._home)}
            spec = replace(spec, config=orjson.dumps(config).decode())
            try:
                read_job_config(spec.config)
            except ConfigRefused as refused:
                return invalid(str(refused), param="config", code="bad_field")
        return _one(self._service.submit(spec))

    def _learned(self, model: str) -> dict[str, Any]:
        curriculum = self._curriculum(model)
        return {"curriculum": curriculum} if curriculum else {}

    def _list(self, query: Mapping[str, str]) -> dict[str, Any] | ApiError:
        request = _parsed(ListRequest, {name: value for name, value in query.items() if value})
        if isinstance(request, ApiError):
            return request
        views, following = self._service.page(
            limit=request.page_size,
            before=int(request.page_token) if request.page_token else None,
            state=request.state,
            kind=request.kind,
            model=request.model,
        )
        return {
            "jobs": [shown(view) for view in views],
            "next_page_token": "" if following is None else str(following),
        }

    def _review(self, query: Mapping[str, str]) -> dict[str, Any] | ApiError:
        request = _parsed(ReviewRequest, dict(query))
        if isinstance(request, ApiError):
            return request
        return settings_review(self._service, days=request.days, unix_s=self._unix_s())

    async def _logs(self, job_id: str, query: Mapping[str, str]) -> dict[str, Any] | ApiError | JobRefusal:
        request = _parsed(LogRequest, dict(query))
        if isinstance(request, ApiError):
            return request
        view = self._service.show(job_id)
        part = await self._service.read_log(job_id, offset=request.offset, max_bytes=request.max_bytes)
        if isinstance(view, JobRefusal):
            return view
        if isinstance(part, JobRefusal):
            return part
        return {
            "text": part.text,
            "offset": part.offset,
            "next_offset": part.next_offset,
            "num_dropped": part.num_dropped,
            "is_over": view.job.is_over,
        }


def _one(answer: Job | JobView | JobRefusal) -> dict[str, Any] | JobRefusal:
    if isinstance(answer, JobRefusal):
        return answer
    return shown(JobView(job=answer) if isinstance(answer, Job) else answer, whole=True)


def _parsed(model: type[R], body: bytes | dict[str, str]) -> R | ApiError:
    """The request, or an error that names the first field that is wrong; never its value."""
    try:
        return model.model_validate(body) if isinstance(body, dict) else model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    said = first["msg"].removeprefix("Value error, ")
    place = ".".join(str(step) for step in first["loc"])
    if not place and (named := _NAMED_FIELD.match(said)):
        return invalid(f"{said}.", param=named[1], code="bad_field")
    names = ", ".join(f"`{name}`" for name in model.model_fields)
    message = f"{place[:64] or 'body'}: {said}. Known fields: {names}."
    return invalid(message, param=place[:64] or None, code="bad_field" if place else "malformed")


def _page(answer: dict[str, Any] | ApiError | JobRefusal, *, done: int = HTTPStatus.OK) -> ControlAnswer:
    if isinstance(answer, JobRefusal):
        return error_answer(_refused(answer))
    return error_answer(_told(answer)) if isinstance(answer, ApiError) else json_answer(answer, done)


def _refused(refusal: JobRefusal) -> ApiError:
    status = _STATUS[refusal.reason][0]
    is_ours = status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return ApiError(
        status=status,
        message=refusal.message,
        type="server_error" if is_ours else "invalid_request_error",
        code=refusal.reason.value,
        origin=Origin.CONTROLLER,
        retry_after_s=_RETRY_S if is_ours or status == HTTPStatus.TOO_MANY_REQUESTS else None,
    )


def _told(error: ApiError) -> ApiError:
    return replace(error, origin=Origin.CONTROLLER)


def _no_such_page(asked: ControlAsked) -> ApiError:
    parts = asked.path.split("/")
    for route in JOB_ROUTES:
        template = route.template.split("/")
        if len(parts) == len(template) and all(
            want in (part, "{id}") for want, part in zip(template, parts, strict=True)
        ):
            return method_not_allowed(asked.method, asked.path[:128], ", ".join(route.methods))
    return not_found(f"There is no such page under {PATH}.", code="unknown_path")
