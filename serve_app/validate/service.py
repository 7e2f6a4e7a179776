"""What is right about answers of the service: chat, stream, cache, metrics, traces and errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import orjson

from serve_app.validate.checks import Finding, judged, skipped, too_slow
from serve_app.validate.limits import Limits

CACHE_HEADER: Final = "x-headroom-cache"
MODE_HEADER: Final = "x-headroom-mode"
MODEL_HEADER: Final = "x-headroom-model"
VERSION_HEADER: Final = "x-headroom-weights-version"
TRACE_HEADER: Final = "x-trace-id"
_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")
_DONE: Final = "[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One whole answer. `first_s` is when its first byte of body came, `took_s` its last. Header names lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    first_s: float
    took_s: float

    def json(self) -> Any:
        """None where it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def message(self) -> str:
        """The sentence of an error answer or of an outcome; empty where there is none."""
        told = self.json()
        error = told.get("error") if isinstance(told, dict) else None
        found = (
            error.get("message") if isinstance(error, dict) else told.get("message") if isinstance(told, dict) else ""
        )
        return str(found or "")[:300]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A request that was asked under `sent_trace`, and a counter before and after it."""

    reply: Reply
    sent_trace: str
    before: float
    after: float
    waited_s: float


def judge_chat(replies: Mapping[str, Reply], *, connect_s: float, connect_limit_s: float, limits: Limits) -> Finding:
    """`replies` by mode, each of one token."""
    if not replies:
        return judged(["No mode is ready."], measured="0 modes")
    problems = too_slow("Connecting", connect_s, connect_limit_s)
    for mode, reply in replies.items():
        problems += [f"Mode '{mode}': {problem}" for problem in _of_chat(mode, reply, limits)]
    slowest = max(reply.took_s for reply in replies.values())
    measured = f"{', '.join(replies)}: slowest {slowest:.3f} s; connect {connect_s:.4f} s"
    return judged(problems, measured=measured, limit=f"{limits.request_s:g} s; connect {connect_limit_s:g} s")


def judge_stream(reply: Reply, limits: Limits) -> Finding:
    """Events of chunks, the last one the end mark; its first byte in time."""
    events = [line[6:] for line in reply.body.decode("utf-8", "replace").splitlines() if line.startswith("data: ")]
    problems = _not_ok(reply)
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        problems.append(f"The stream has content-type '{reply.headers.get('content-type')}'.")
    chunks = [_parsed(event) for event in events if event != _DONE]
    if not chunks or not all(isinstance(one, dict) and isinstance(one.get("choices"), list) for one in chunks):
        problems.append("The stream holds what is no chunk of a completion.")
    if events.count(_DONE) != 1 or events[-1] != _DONE:
        problems.append("The stream does not end with its end mark.")
    problems += too_slow("The first byte", reply.first_s, limits.request_s)
    return judged(
        problems, measured=f"{len(chunks)} events, first {reply.first_s:.3f} s", limit=f"{limits.request_s:g} s"
    )


def judge_cache(first: Reply, second: Reply, fresh: Reply, *, has_cache: bool, limits: Limits) -> Finding:
    """The same request twice, and once more with `cache-control: no-store`."""
    states = [reply.headers.get(CACHE_HEADER, "none") for reply in (first, second, fresh)]
    if not has_cache:
        return skipped("No mode that is ready keeps answers.", measured=", ".join(states))
    problems = [problem for reply in (first, second, fresh) for problem in _not_ok(reply)]
    for what, state, expected in zip(("first", "second", "`no-store`"), states, _EXPECTED_STATES, strict=True):
        if state != expected:
            problems.append(f"The {what} request was a {state}, expected a {expected}.")
    if second.body != first.body:
        problems.append("The stored answer is not the first one.")
    problems += too_slow("The hit", second.took_s, limits.request_s)
    return judged(problems, measured=f"{', '.join(states)}; hit {second.took_s:.3f} s", limit=f"{limits.request_s:g} s")


_EXPECTED_STATES: Final = ("miss", "hit", "bypass")


def judge_metric_trace(counted: Counted, *, num_asked: int, limits: Limits) -> Finding:
    """Others may be asking too: the counter rises at least by what was asked here."""
    problems = _not_ok(counted.reply)
    trace_id = counted.reply.headers.get(TRACE_HEADER, "")
    if not _TRACE_ID.fullmatch(trace_id):
        problems.append(f"The answer's trace id '{trace_id[:40]}' is none.")
    elif trace_id != counted.sent_trace:
        problems.append(f"The answer is in trace {trace_id}, and was asked in {counted.sent_trace}.")
    rose = counted.after - counted.before
    if rose < num_asked:
        problems.append(
            f"The counter of requests rose by {rose:g} within {limits.metrics_s:g} s, expected {num_asked}."
        )
    measured = f"rose by {rose:g} after {counted.waited_s:.1f} s; trace {trace_id[:8]}"
    return judged(problems, measured=measured, limit=f"{limits.metrics_s:g} s")


def judge_errors(unknown: Reply, bad_field: Reply, limits: Limits) -> Finding:
    """An unknown model is a 404, a bad value a 400 that names its field; both in OpenAI's form."""
    problems = _not_error("An unknown model", unknown, status=HTTPStatus.NOT_FOUND, param="model")
    problems += _not_error("A bad field", bad_field, status=HTTPStatus.BAD_REQUEST, param="max_tokens")
    slowest = max(unknown.took_s, bad_field.took_s)
    problems += too_slow("A refusal", slowest, limits.request_s)
    measured = f"{unknown.status} and {bad_field.status}, slowest {slowest:.3f} s"
    return judged(problems, measured=measured, limit=f"404 and 400, {limits.request_s:g} s")


def says_something(reply: Reply) -> bool:
    """Whether it is a chat completion with a choice; what the choice says is the model's affair."""
    told = reply.json()
    choices = told.get("choices") if isinstance(told, dict) else None
    return isinstance(choices, list) and bool(choices) and isinstance(choices[0], dict) and "message" in choices[0]


def _of_chat(mode: str, reply: Reply, limits: Limits) -> list[str]:
    problems = _not_ok(reply)
    if problems:
        return problems
    if not says_something(reply):
        problems.append("The answer is no chat completion.")
    if reply.headers.get(MODE_HEADER) != mode:
        problems.append(f"It was answered in mode '{reply.headers.get(MODE_HEADER)}'.")
    if not reply.headers.get(VERSION_HEADER):
        problems.append("The answer does not name its weights.")
    return problems + too_slow("One token", reply.took_s, limits.request_s)


def _not_ok(reply: Reply) -> list[str]:
    return [] if reply.status == HTTPStatus.OK else [f"Status {reply.status}: {reply.message}"]


def _not_error(what: str, reply: Reply, *, status: int, param: str) -> list[str]:
    told = reply.json()
    error = told.get("error") if isinstance(told, dict) else None
    if reply.status != status:
        return [f"{what} was answered with status {reply.status}, expected {status:d}."]
    if not isinstance(error, dict) or not all(isinstance(error.get(name), str) for name in ("message", "type")):
        return [f"{what} was refused, but not in OpenAI's form."]
    return (
        [] if error.get("param") == param else [f"{what} was refused for `{error.get('param')}`, expected `{param}`."]
    )


def _parsed(event: str) -> Any:
    try:
        return orjson.loads(event)
    except orjson.JSONDecodeError:
        return None
