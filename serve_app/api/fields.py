"""The request fields the address accepts, each with its check; everything else is refused by name.

Pure. A check takes the value and returns what is wrong with it, or None. `null` never reaches a check: it
means "not given", as in OpenAI's API.
Source of names: vLLM 0.32 `entrypoints/openai/{chat_completion,completion}/protocol.py` and OpenAI's reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from serve_app.api.messages import messages_problem
from serve_app.api.schema_limits import schema_problem

Check = Callable[[Any], str | None]

MAX_CHOICES: Final = 8
MAX_PROMPTS: Final = 32
MAX_STOPS: Final = 16
MAX_STOP_CHARS: Final = 256
MAX_TOOLS: Final = 128
MAX_LOGIT_BIAS: Final = 1024
MAX_LOGPROBS: Final = 20
_INT64: Final = 2**63 - 1


def boolean(value: Any) -> str | None:
    return None if value is True or value is False else "must be true or false"


def integer(low: int, high: int) -> Check:
    problem = f"must be a whole number from {low} to {high}"

    def check(value: Any) -> str | None:
        return None if type(value) is int and low <= value <= high else problem

    return check


def number(low: float, high: float, *, above_low: bool = False) -> Check:
    span = f"above {low:g}, at most {high:g}" if above_low else f"from {low:g} to {high:g}"
    problem = f"must be a number {span}"

    def check(value: Any) -> str | None:
        fits = type(value) in (int, float) and low <= value <= high and not (above_low and value == low)
        return None if fits else problem

    return check


def text(max_chars: int) -> Check:
    def check(value: Any) -> str | None:
        fits = isinstance(value, str) and len(value) <= max_chars
        return None if fits else f"must be a string of at most {max_chars} characters"

    return check


def one_of(*values: str) -> Check:
    problem = f"must be one of: {', '.join(values)}"

    def check(value: Any) -> str | None:
        return None if isinstance(value, str) and value in values else problem

    return check


def positive(value: Any) -> str | None:
    """The upper limit is the model's own and is checked when the model is known."""
    return None if type(value) is int and value >= 1 else "must be a whole number of at least 1"


def _stop(value: Any) -> str | None:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        return f"must be a string or a list of at most {MAX_STOPS} strings"
    if any(not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARS for stop in stops):
        return f"must hold strings of 1 to {MAX_STOP_CHARS} characters"
    return None


def _token_ids(value: Any) -> str | None:
    fits = _is_token_list(value) and len(value) <= MAX_STOPS
    return None if fits else f"must be a list of at most {MAX_STOPS} token ids"


def _logit_bias(value: Any) -> str | None:
    if not isinstance(value, dict) or len(value) > MAX_LOGIT_BIAS:
        return f"must be an object of at most {MAX_LOGIT_BIAS} token ids"
    fits = all(key.isdecimal() and type(bias) in (int, float) and -100 <= bias <= 100 for key, bias in value.items())
    return None if fits else "must map token ids to numbers from -100 to 100"


def _stream_options(value: Any) -> str | None:
    if not isinstance(value, dict):
        return "must be an object"
    unknown = sorted(set(value) - {"include_usage"})
    if unknown:
        return f"has the unknown field '{unknown[0]}'; the valid one is include_usage"
    return boolean(value["include_usage"]) if "include_usage" in value else None


def _response_format(value: Any) -> str | None:
    kinds = ("text", "json_object", "json_schema")
    if not isinstance(value, dict) or value.get("type") not in kinds:
        return f"must be an object with a type of: {', '.join(kinds)}"
    unknown = sorted(set(value) - {"type", "json_schema"})
    if unknown:
        return f"has the unknown field '{unknown[0]}'"
    if value["type"] == "json_schema" and not isinstance(value.get("json_schema"), dict):
        return "of type json_schema needs an object `json_schema`"
    return schema_problem(value.get("json_schema"))


def _tools(value: Any) -> str | None:
    if not isinstance(value, list) or not 0 < len(value) <= MAX_TOOLS:
        return f"must be a list of 1 to {MAX_TOOLS} tools"
    for tool in value:
        if not isinstance(tool, dict) or tool.get("type") != "function":
            return "must hold objects of type function"
        function = tool.get("function")
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return "must hold functions with a name"
    return schema_problem(value)


def _tool_choice(value: Any) -> str | None:
    if value in ("none", "auto", "required"):
        return None
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" else None
    fits = isinstance(function, dict) and function.keys() == {"name"} and isinstance(function["name"], str)
    return None if fits else "must be none, auto, required, or an object of type function with a function's name"


def _prompt(value: Any) -> str | None:
    if isinstance(value, str):
        return None if value else "must not be empty"
    if not isinstance(value, list) or not value:
        return "must be a string, a list of token ids, or a list of those, and not empty"
    if _is_token_list(value):
        return None
    if len(value) > MAX_PROMPTS:
        return f"must hold at most {MAX_PROMPTS} prompts"
    same = all(isinstance(item, str) and item for item in value)
    return None if same or all(_is_token_list(item) for item in value) else "must hold prompts that are not empty"


def _is_token_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int and item >= 0 for item in value)


_SHARED: Final[Mapping[str, Check]] = {
    "model": text(128),
    "frequency_penalty": number(-2, 2),
    "presence_penalty": number(-2, 2),
    "repetition_penalty": number(0, 4, above_low=True),
    "logit_bias": _logit_bias,
    "max_tokens": positive,
    "min_tokens": integer(0, _INT64),
    "n": integer(1, MAX_CHOICES),
    "seed": integer(-_INT64 - 1, _INT64),
    "stop": _stop,
    "stop_token_ids": _token_ids,
    "stream": boolean,
    "stream_options": _stream_options,
    "temperature": number(0, 2),
    "top_p": number(0, 1, above_low=True),
    "top_k": integer(-1, 1_000_000),
    "min_p": number(0, 1),
    "ignore_eos": boolean,
    "skip_special_tokens": boolean,
    "include_stop_str_in_output": boolean,
    "response_format": _response_format,
}

CHAT_FIELDS: Final[Mapping[str, Check]] = {
    **_SHARED,
    "messages": messages_problem,
    "max_completion_tokens": positive,
    "logprobs": boolean,
    "top_logprobs": integer(0, MAX_LOGPROBS),
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": boolean,
    "reasoning_effort": one_of("none", "minimal", "low", "medium", "high"),
}

COMPLETION_FIELDS: Final[Mapping[str, Check]] = {
    **_SHARED,
    "prompt": _prompt,
    "echo": boolean,
    "logprobs": integer(0, MAX_LOGPROBS),
}

NUMBER_FIELDS: Final[frozenset[str]] = frozenset(
    {"frequency_penalty", "presence_penalty", "repetition_penalty", "temperature", "top_p", "min_p"}
)
"""Fields whose value is a real number, however it is written."""

IGNORED_FIELDS: Final[frozenset[str]] = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
)
"""Accepted because clients send them, never forwarded: no answer can depend on them."""

REFUSED_FIELDS: Final[Mapping[str, str]] = {
    "chat_template": "templates run code in the engine; the checkpoint's own is used",
    "chat_template_kwargs": "the checkpoint's own template is used as it is",
    "prompt_embeds": "embeddings are unpickled by the engine",
    "cache_salt": "salts are set by the gateway",
    "user_config": "the configuration is not changed by a request",
    "mm_processor_kwargs": "only text is served",
    "media_io_kwargs": "only text is served",
    "mm_payload": "only text is served",
    "documents": "put them into a message",
    "structured_outputs": "use `response_format`",
    "guided_json": "use `response_format`",
    "guided_regex": "use `response_format`",
    "guided_grammar": "use `response_format`",
    "logits_processors": "they name code to run in the engine",
    "vllm_xargs": "engine internals are not open to requests",
    "kv_transfer_params": "engine internals are not open to requests",
    "priority": "set by the gateway",
    "request_id": "send the header `x-request-id`",
    "use_beam_search": "not served",
    "best_of": "not served; use `n`",
    "suffix": "not served",
    "functions": "use `tools`",
    "function_call": "use `tool_choice`",
    "audio": "only text is served",
    "modalities": "only text is served",
}
"""Known and dangerous or without meaning here; the sentence says why or what to use instead."""
