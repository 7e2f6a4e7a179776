"""`/v1/rollouts` and `/models/reload` as functions from a request to an answer.

GET  /v1/rollouts?limit=&before=&model=&status=          GET /v1/rollouts/{id}
POST /v1/rollouts {"model", "checkpoint"|"weights_version", "mode", "observe_s"}
POST /v1/rollouts/{id}/promote|rollback|pause|resume      rollback: {"kind": "quick"|"full"}
POST /models/reload {"model", "checkpoint"?}
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer, json_answer
from serve_app.api.errors import ApiError, Origin, Outcome, method_not_allowed
from serve_app.rollout.ledger import MAX_PAGE
from serve_app.rollout.record import Kind, Mode, Record, Stage
from serve_app.rollout.service import Ask, RefusalReason, Refused, RolloutService
from serve_app.rollout.stages import Command
from serve_app.rollout.views import GIB, RolloutsView, view_of

PATH: Final = "/v1/rollouts"
RELOAD_PATH: Final = "/models/reload"
RELOAD_WAIT_S: Final = 120.0
_PERSON: Final = "person"
_STATUS: Final[Mapping[RefusalReason, HTTPStatus]] = {
    RefusalReason.BUSY: HTTPStatus.CONFLICT,
    RefusalReason.SERVES_ALREADY: HTTPStatus.CONFLICT,
    RefusalReason.IS_OVER: HTTPStatus.CONFLICT,
    RefusalReason.NOT_POSSIBLE: HTTPStatus.CONFLICT,
    RefusalReason.NOT_COMPARED: HTTPStatus.CONFLICT,
    RefusalReason.CHECKPOINT_REFUSED: HTTPStatus.UNPROCESSABLE_ENTITY,
    RefusalReason.UNKNOWN_MODEL: HTTPStatus.NOT_FOUND,
    RefusalReason.UNKNOWN_CHECKPOINT: HTTPStatus.NOT_FOUND,
    RefusalReason.UNKNOWN_ROLLOUT: HTTPStatus.NOT_FOUND,
}
Name = Annotated[str, Field(min_length=1, max_length=128)]
CheckpointName = Annotated[str, Field(pattern=r"^checkpoint-\d{1,12}$")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DeployRequest(_Body):
    model: Name
    checkpoint: CheckpointName | None = None
    weights_version: Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")] | None = None
    mode: Mode = Mode.AUTO
    observe_s: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False, strict=True)] | None = None

    @model_validator(mode="after")
    def _names_one(self) -> DeployRequest:
        if (self.checkpoint is None) == (self.weights_version is None):
            raise ValueError("name either `checkpoint` or `weights_version`")
        return self

    def inside(self) -> Ask:
        return Ask(
            model=self.model,
            by=_PERSON,
            checkpoint=self.checkpoint,
            version=self.weights_version,
            mode=self.mode,
            observe_s=self.observe_s,
        )


class ReloadRequest(_Body):
    model: Name
    checkpoint: CheckpointName | None = None

    def inside(self) -> Ask:
        kind = Kind.RELOAD if self.checkpoint is None else Kind.FORWARD
        return Ask(
            model=self.model, by=_PERSON, checkpoint=self.checkpoint, mode=Mode.IN_PLACE, observe_s=0.0, kind=kind
        )


class RollbackRequest(_Body):
    kind: Literal["quick", "full"] = "quick"


class PageRequest(_Body):
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 20
    before: Annotated[int, Field(ge=1, le=2**62)] | None = None
    model: Name | None = None
    status: Stage | None = None


B = TypeVar("B", bound=_Body)


async def answer_rollouts(service: RolloutService, asked: ControlAsked) -> ControlAnswer:
    """`asked.path` is `/models/reload`, or begins with `/v1/rollouts`."""
    if asked.path == RELOAD_PATH:
        return await _reload(service, asked)
    match asked.method, asked.path.removeprefix(PATH).strip("/").split("/"):
        case "GET", [""]:
            return _page(service, asked.query)
        case "POST", [""]:
            return await _deploy(service, asked.body)
        case "GET", [number]:
            return _one(service, number)
        case "POST", [number, command] if command in set(Command):
            return await _command(service, number, Command(command), asked.body)
        case _, [""]:
            return error_answer(method_not_allowed(asked.method, PATH, "GET, POST"))
        case _, [_]:
            return error_answer(method_not_allowed(asked.method, asked.path[:128], "GET"))
        case _, [_, command] if command in set(Command):
            return error_answer(method_not_allowed(asked.method, asked.path[:128], "POST"))
    return _error(HTTPStatus.NOT_FOUND, "unknown_path", f"There is no such page under {PATH}.")


def _page(service: RolloutService, query: Mapping[str, str]) -> ControlAnswer:
    asked = _parsed(PageRequest, dict(query))
    if isinstance(asked, ControlAnswer):
        return asked
    found = service.page(limit=asked.limit, before=asked.before, model=asked.model, status=asked.status)
    last = found[-1].id if len(found) == asked.limit else None
    return json_answer(RolloutsView(rollouts=tuple(view_of(one) for one in found), next=last).model_dump())


def _one(service: RolloutService, number: str) -> ControlAnswer:
    record = service.get(_id(number))
    if record is None:
        message = f"There is no rollout {number[:32]} among the kept ones."
        return _error(HTTPStatus.NOT_FOUND, RefusalReason.UNKNOWN_ROLLOUT.value, message)
    return json_answer(view_of(record).model_dump())


async def _deploy(service: RolloutService, body: bytes) -> ControlAnswer:
    asked = _parsed(DeployRequest, body)
    if isinstance(asked, ControlAnswer):
        return asked
    return _told(await service.begin(asked.inside()), done=HTTPStatus.ACCEPTED)


async def _command(service: RolloutService, number: str, command: Command, body: bytes) -> ControlAnswer:
    if command is not Command.ROLLBACK:
        return _told(service.command(_id(number), command, by=_PERSON), done=HTTPStatus.ACCEPTED)
    asked = _parsed(RollbackRequest, body or b"{}")
    if isinstance(asked, ControlAnswer):
        return asked
    answer = await service.roll_back(_id(number), by=_PERSON, is_full=asked.kind == "full")
    return _told(answer, done=HTTPStatus.ACCEPTED)


async def _reload(service: RolloutService, asked: ControlAsked) -> ControlAnswer:
    """Waits for the end. Status 200 where the weights asked for serve now, 409 where the old ones do."""
    if asked.method != "POST":
        return error_answer(method_not_allowed(asked.method, asked.path, "POST"))
    request = _parsed(ReloadRequest, asked.body)
    if isinstance(request, ControlAnswer):
        return request
    begun = await service.begin(request.inside())
    if isinstance(begun, Refused):
        return _told(begun, done=HTTPStatus.OK)
    try:
        async with asyncio.timeout(RELOAD_WAIT_S):
            record = await service.ended(begun.id) or begun
    except TimeoutError:
        record = service.get(begun.id) or begun
    status = HTTPStatus.ACCEPTED if not record.is_over else HTTPStatus.OK
    return json_answer(_reloaded(record), HTTPStatus.CONFLICT if _went_back(record) else status)


def _reloaded(record: Record) -> dict[str, str | int | float | None]:
    serving = record.old if _went_back(record) else record.new
    vram_bytes = record.learned.vram_bytes
    return {
        "status": record.stage.value,
        "model": record.model,
        "step": serving.step,
        "weights_version": serving.version,
        "vram_gb": None if vram_bytes is None else vram_bytes / GIB,
        "rollout": record.id,
        "message": record.reason,
    }


def _went_back(record: Record) -> bool:
    return record.stage in (Stage.RETURNED, Stage.REFUSED)


def _id(number: str) -> int:
    """0, which no rollout has, for what is no number."""
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0


def _told(answer: Record | Refused, *, done: HTTPStatus) -> ControlAnswer:
    if isinstance(answer, Refused):
        return _error(_STATUS[answer.reason], answer.reason.value, answer.message)
    return json_answer(view_of(answer).model_dump(), done)


def _parsed(form: type[B], body: bytes | dict[str, str]) -> B | ControlAnswer:
    try:
        return form.model_validate(body) if isinstance(body, dict) else form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(step) for step in first["loc"])[:64] or "body"
        names = ", ".join(f"`{name}`" for name in form.model_fields)
        message = f"{place}: {first['msg']}. Known fields: {names}."
        return _error(HTTPStatus.BAD_REQUEST, "invalid_request", message, param=place)


def _error(status: HTTPStatus, code: str, message: str, *, param: str | None = None) -> ControlAnswer:
    error = ApiError(
        status=status,
        message=message,
        type="invalid_request_error",
        param=param,
        code=code,
        origin=Origin.CONTROLLER,
        outcome=Outcome.REJECTED,
    )
    return error_answer(error)
