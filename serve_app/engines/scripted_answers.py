"""Answers in the form of vLLM's own, made of given words: the wire side of the scripted engine. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from serve_app.engines.protocol import Endpoint

_CREATED = 1_700_000_000


def unary_answer(
    endpoint: Endpoint, model: str, body: Mapping[str, Any], words: list[str], *, logprob: float = -0.5
) -> dict[str, Any]:
    """A whole answer in the form of vLLM's own, one choice per `n` and prompt. `logprob` is of its only token."""
    text = "".join(words)
    choices = [_unary_choice(endpoint, index, text, body, logprob) for index in range(_num_choices(body))]
    return {**_head(endpoint, model, streamed=False), "choices": choices, "usage": _usage(words, len(choices))}


def stream_events(endpoint: Endpoint, model: str, body: Mapping[str, Any], words: list[str]) -> list[bytes]:
    """The events of a streamed answer, the last one `[DONE]`, as vLLM sends them."""
    head = _head(endpoint, model, streamed=True)
    num_choices = _num_choices(body)
    chunks = [
        {**head, "choices": [_stream_choice(endpoint, choice, index, word, index == len(words) - 1)]}
        for index, word in enumerate(words)
        for choice in range(num_choices)
    ]
    if body.get("stream_options", {}).get("include_usage"):
        chunks.append({**head, "choices": [], "usage": _usage(words, num_choices)})
    return [*(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks), b"data: [DONE]\n\n"]


def _head(endpoint: Endpoint, model: str, *, streamed: bool) -> dict[str, Any]:
    chat = endpoint is Endpoint.CHAT
    kind = ("chat.completion.chunk" if streamed else "chat.completion") if chat else "text_completion"
    return {"id": "chatcmpl-scripted" if chat else "cmpl-scripted", "object": kind, "created": _CREATED, "model": model}


def _unary_choice(endpoint: Endpoint, index: int, text: str, body: Mapping[str, Any], logprob: float) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": "stop", "logprobs": None}
    if endpoint is Endpoint.COMPLETION:
        return {**choice, "text": text}
    if body.get("logprobs"):
        choice["logprobs"] = {"content": [{"token": text, "logprob": logprob, "bytes": None, "top_logprobs": []}]}
    return {**choice, "message": {"role": "assistant", "content": text}}


def _stream_choice(endpoint: Endpoint, choice: int, index: int, word: str, last: bool) -> dict[str, Any]:
    finish = "stop" if last else None
    if endpoint is Endpoint.COMPLETION:
        return {"index": choice, "text": word, "logprobs": None, "finish_reason": finish}
    delta = {"role": "assistant", "content": word} if index == 0 else {"content": word}
    return {"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish}


def _usage(words: list[str], num_choices: int) -> dict[str, int]:
    num_output = len(words) * num_choices
    return {"prompt_tokens": 7, "completion_tokens": num_output, "total_tokens": 7 + num_output}


def _num_choices(body: Mapping[str, Any]) -> int:
    prompt = body.get("prompt")
    num_prompts = len(prompt) if isinstance(prompt, list) and not isinstance(prompt[0], int) else 1
    return int(body.get("n", 1)) * num_prompts
