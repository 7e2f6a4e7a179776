"""`/v1/goals` as pages: each request becomes an answer in JSON, errors in OpenAI's form.

POST /v1/goals   GET /v1/goals?limit=&before=&state=&model=   GET /v1/goals/{id}   DELETE /v1/goals/{id}
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from placement.codec import to_json_value
from serve_app.api.control_routes import ControlAnswer, ControlAsked, error_answer, json_answer
from serve_app.api.errors import ApiError, invalid, method_not_allowed, not_found
from serve_app.goals.goal import Goal, GoalEntry, GoalState, Metric
from serve_app.goals.service import GoalService
from serve_app.goals.store import MAX_OPEN

PATH: Final = "/v1/goals"
MAX_PAGE: Final = 1000
_FILTERS: Final = ("limit", "before", "state", "model")


class GoalRequest(BaseModel):
    """`deadline_in_s` counts from now."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=128)]
    metric: Metric
    target: FiniteFloat
    deadline_in_s: Annotated[FiniteFloat, Field(gt=0, le=366 * 86_400)]
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    min_gain: Annotated[FiniteFloat, Field(gt=0)] | None = None


class GoalPages:
    """`has_model` says whether there is such a model to train; `new_id` makes ids nobody can guess or meet twice."""

    def __init__(
        self,
        *,
        service: GoalService,
        has_model: Callable[[str], bool],
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._service = service
        self._has_model = has_model
        self._clock = clock
        self._new_id = new_id

    async def answer(self, asked: ControlAsked) -> ControlAnswer:
        """`asked.path` begins with `/v1/goals`."""
        match asked.method, asked.path.removeprefix(PATH).strip("/"):
            case "POST", "":
                return self._add(asked.body)
            case "GET", "":
                return self._list(asked.query)
            case "GET", goal_id:
                entry = self._service.store.entry(goal_id)
                return _unknown(goal_id) if entry is None else json_answer(goal_json(entry))
            case "DELETE", goal_id if goal_id:
                return await self._cancel(goal_id)
            case method, rest:
                return error_answer(method_not_allowed(method, asked.path, "GET, DELETE" if rest else "GET, POST"))

    def _add(self, body: bytes) -> ControlAnswer:
        try:
            wanted = GoalRequest.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(str(part) for part in first["loc"]) or "body"
            return error_answer(invalid(f"{place}: {first['msg']}.", param=place))
        problem = self._problem(wanted)
        if problem is not None:
            return error_answer(problem)
        now_s = self._clock()
        goal = Goal(
            id=self._new_id(),
            model=wanted.model,
            metric=wanted.metric,
            target=wanted.target,
            deadline_s=now_s + wanted.deadline_in_s,
            priority=wanted.priority,
            created_at_s=now_s,
            min_gain=wanted.min_gain,
        )
        self._service.store.add(goal)
        self._service.noticed()
        return json_answer(goal_json(GoalEntry(goal=goal, state=GoalState.OPEN)), HTTPStatus.CREATED)

    def _problem(self, wanted: GoalRequest) -> ApiError | None:
        if not self._has_model(wanted.model):
            message = f"There is no model '{wanted.model}' to train. `headroom models list` shows those there are."
            return not_found(message, param="model", code="unknown_model")
        if not _can_be_met(wanted):
            ranges = {Metric.ACCURACY: "above 0 and at most 1", Metric.LOSS: "0 or more", Metric.REWARD: "any number"}
            return invalid(f"`target` is {wanted.target:g}; a goal of {wanted.metric} is {ranges[wanted.metric]}.")
        if self._service.store.num_open() >= MAX_OPEN:
            message = f"{MAX_OPEN} goals are open already, and that is the most. Cancel one, or wait until one ends."
            return ApiError(
                status=HTTPStatus.TOO_MANY_REQUESTS,
                message=message,
                type="invalid_request_error",
                code="too_many_goals",
                retry_after_s=60,
            )
        return None

    def _list(self, query: Mapping[str, str]) -> ControlAnswer:
        unknown = sorted(set(query) - set(_FILTERS))
        if unknown:
            message = f"Unknown filter '{unknown[0][:64]}'. Known: {', '.join(_FILTERS)}."
            return error_answer(invalid(message, param=unknown[0][:64]))
        state, limit, before = query.get("state"), query.get("limit", "100"), query.get("before")
        if state is not None and state not in set(GoalState):
            message = f"`state` is '{state[:32]}', expected one of {', '.join(GoalState)}."
            return error_answer(invalid(message, param="state"))
        for name, text, most in (("limit", limit, MAX_PAGE), ("before", before or "1", 2**62)):
            if not (text.isascii() and text.isdigit() and len(text) < 20 and 1 <= int(text) <= most):
                message = f"`{name}` is '{text[:32]}', expected a whole number from 1 to {most}."
                return error_answer(invalid(message, param=name))
        page = self._service.store.page(
            limit=int(limit),
            before=int(before) if before else None,
            state=GoalState(state) if state else None,
            model=query.get("model"),
        )
        following = page[-1][0] if len(page) == int(limit) else None
        return json_answer({"goals": [goal_json(entry) for _, entry in page], "next": following})

    async def _cancel(self, goal_id: str) -> ControlAnswer:
        """Cancelling what has ended changes nothing and is no error."""
        entry = self._service.store.entry(goal_id)
        if entry is None:
            return _unknown(goal_id)
        if entry.state is GoalState.OPEN:
            await self._service.cancel(entry)
        found = self._service.store.entry(goal_id)
        return _unknown(goal_id) if found is None else json_answer(goal_json(found))


def goal_json(entry: GoalEntry) -> dict[str, Any]:
    fields: dict[str, Any] = to_json_value(entry.goal)
    jobs = [to_json_value(job) for job in entry.jobs]
    return {**fields, "state": entry.state.value, "why": entry.why, "jobs": jobs}


def _can_be_met(wanted: GoalRequest) -> bool:
    match wanted.metric:
        case Metric.ACCURACY:
            return 0 < wanted.target <= 1
        case Metric.LOSS:
            return wanted.target >= 0
        case Metric.REWARD:
            return math.isfinite(wanted.target)


def _unknown(goal_id: str) -> ControlAnswer:
    message = f"There is no goal '{goal_id[:64]}'. `headroom goals list` shows those there are."
    return error_answer(not_found(message, code="unknown_goal"))
