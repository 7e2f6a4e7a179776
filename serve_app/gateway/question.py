"""The part of a request by which an answer to a similar one may be found: its group and the question itself. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import orjson

from serve_app.gateway.semantic_marks import marks, may_be_compared

_FORM: Final = "headroom-question-1"
_TOOL_FIELDS: Final = frozenset({"tools", "tool_choice", "parallel_tool_calls"})
_TOOL_ROLES: Final = frozenset({"tool", "function"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """`group` is equal exactly when all is equal but the wording of `text`; 32 bytes."""

    group: bytes
    text: str


def question_of(
    *, tenant: str, mode: str, model: str, weights_version: str, endpoint: str, fields: Mapping[str, Any]
) -> Question | None:
    """`fields` as for `cache_key`. None where no similar request may be answered alike: no last message of a user in
    plain text, tools anywhere, several lines or too long.
    """
    messages = fields.get("messages")
    if not messages or not _TOOL_FIELDS.isdisjoint(fields) or any(map(_is_of_tools, messages)):
        return None
    last = messages[-1]
    text = last.get("content")
    if last["role"] != "user" or not isinstance(text, str) or not may_be_compared(text):
        return None
    around = {**fields, "messages": [*messages[:-1], {**last, "content": None}]}
    parts = [_FORM, tenant, mode, model, weights_version, endpoint, sorted(around.items()), marks(text)]
    return Question(group=sha256(orjson.dumps(parts)).digest(), text=text)


def _is_of_tools(message: Mapping[str, Any]) -> bool:
    return message["role"] in _TOOL_ROLES or bool(message.get("tool_calls"))
