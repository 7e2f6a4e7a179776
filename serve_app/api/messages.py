"""Check of chat messages: roles, text only, nothing that makes the engine fetch anything. Pure."""

from __future__ import annotations

from typing import Any, Final

MAX_MESSAGES: Final = 2048
MAX_PARTS: Final = 256
MAX_TOOL_CALLS: Final = 128

_ROLES: Final = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_KEYS: Final = frozenset({"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "reasoning_content"})
_MAY_BE_SILENT: Final = frozenset({"assistant"})


def messages_problem(value: Any) -> str | None:
    """What is wrong with the list `messages`, naming the message by its index; None when it is fine."""
    if not isinstance(value, list):
        return "must be a list of messages"
    if not value:
        return "must hold at least one message"
    if len(value) > MAX_MESSAGES:
        return f"must hold at most {MAX_MESSAGES} messages"
    for index, message in enumerate(value):
        problem = _message_problem(message)
        if problem is not None:
            return f"[{index}] {problem}"
    return None


def _message_problem(message: Any) -> str | None:
    if not isinstance(message, dict):
        return "must be an object with role and content"
    role = message.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        return f"needs a role of: {', '.join(sorted(_ROLES))}"
    if not message.keys() <= _KEYS:
        return f"has the unknown field '{sorted(message.keys() - _KEYS)[0]}'"
    if type(message.get("content")) is str:
        return _extras_problem(message) if len(message) > 2 else None
    return _content_problem(message) or _extras_problem(message)


def _content_problem(message: dict[str, Any]) -> str | None:
    content = message.get("content")
    if content is None:
        silent = message["role"] in _MAY_BE_SILENT and message.get("tool_calls")
        return None if silent else "needs content"
    if not isinstance(content, list) or not 0 < len(content) <= MAX_PARTS:
        return f"needs content that is a string or a list of 1 to {MAX_PARTS} text parts"
    return next((problem for part in content if (problem := _part_problem(part))), None)


def _part_problem(part: Any) -> str | None:
    if not isinstance(part, dict):
        return "needs content parts that are objects"
    if part.get("type") != "text":
        return f"has a content part of type '{str(part.get('type'))[:32]}'; only text is served, nothing is fetched"
    if part.keys() != {"type", "text"} or not isinstance(part["text"], str):
        return "needs text parts with exactly the fields type and text"
    return None


def _extras_problem(message: dict[str, Any]) -> str | None:
    for key in ("name", "tool_call_id", "refusal", "reasoning_content"):
        if not isinstance(message.get(key, ""), str | None):
            return f"needs a string as {key}"
    calls = message.get("tool_calls")
    if calls is None:
        return None
    if not isinstance(calls, list) or not 0 < len(calls) <= MAX_TOOL_CALLS:
        return f"needs tool_calls that are a list of 1 to {MAX_TOOL_CALLS}"
    return None if all(map(_is_tool_call, calls)) else "needs tool_calls with id, type function, name and arguments"


def _is_tool_call(call: Any) -> bool:
    if not isinstance(call, dict) or call.get("type") != "function" or not isinstance(call.get("id"), str):
        return False
    function = call.get("function")
    return (
        isinstance(function, dict)
        and isinstance(function.get("name"), str)
        and isinstance(function.get("arguments"), str)
    )
