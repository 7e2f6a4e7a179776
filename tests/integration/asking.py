"""The questions these tests ask, in the fewest words."""

from __future__ import annotations

from typing import Any

import httpx
import openai
from openai.types.chat import ChatCompletion

ENDLESS = {"ignore_eos": True}
"""An answer as long as its limit: what the model says does not end it."""


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def chat(client: openai.OpenAI, model: str, text: str, **more: Any) -> ChatCompletion:
    answer: ChatCompletion = client.chat.completions.create(model=model, messages=user(text), **more)
    return answer


def text_of(answer: ChatCompletion) -> str:
    return answer.choices[0].message.content or ""


def post_chat(http: httpx.Client, body: dict[str, Any], **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post("/v1/chat/completions", json=body, headers=sent)


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error
