"""What both clients share: terms of a connection, messages in, answers out, when to try again. Pure."""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, TypedDict, cast

from serve_app.access.tls import trusting
from serve_app.client.errors import BadRequest, BrokenAnswer, ClientError, Overloaded, Unreachable, of_status

ADDRESS_VARIABLE: Final = "HEADROOM_ADDRESS"
KEY_VARIABLE: Final = "HEADROOM_KEY"
CA_VARIABLE: Final = "HEADROOM_CA_FILE"
DEFAULT_ADDRESS: Final = "http://127.0.0.1:8000"
_NO_KEY: Final = "none"
"""Sent where there is none: the SDK wants one, and a cluster without keys does not look."""
_FIRST_BACKOFF_S: Final = 0.25
_MAX_BACKOFF_S: Final = 8.0
_OK: Final = range(200, 300)


class Message(TypedDict):
    role: Literal["system", "user", "assistant", "tool", "developer"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """`timeout_s` bounds each try; `num_retries` follow the first, where trying again is safe and may help.

    `ca_file`: PEM file of whom to trust at an https address; None trusts the usual public authorities.
    """

    address: str = DEFAULT_ADDRESS
    key: str | None = field(default=None, repr=False)
    timeout_s: float = 60.0
    num_retries: int = 2
    ca_file: Path | str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < float("inf"):
            raise ValueError(f"timeout_s is {self.timeout_s}, expected a number above 0.")
        if not 0 <= self.num_retries <= 10:  # more would be a storm
            raise ValueError(f"num_retries is {self.num_retries}, expected 0 to 10.")

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def trust(self) -> ssl.SSLContext | bool:
        """`verify` of both libraries. Raises: BadRequest when `ca_file` cannot be read as one."""
        if self.ca_file is None:
            return True
        try:
            return trusting(self.ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise BadRequest(f"'{self.ca_file}' is no PEM file of certificates: {error.strerror or error}.") from error

    def sdk(self) -> dict[str, Any]:
        """Arguments of the `openai` clients, beside the one of their transport."""
        base_url = f"{self.address.rstrip('/')}/v1"
        key = self.key or _NO_KEY
        return {"base_url": base_url, "api_key": key, "timeout": self.timeout_s, "max_retries": self.num_retries}

    def http(self) -> dict[str, Any]:
        """Arguments of the httpx clients."""
        address = self.address.rstrip("/")
        return {
            "base_url": address,
            "headers": self.headers,
            "timeout": self.timeout_s,
            "trust_env": False,
            "verify": self.trust,
        }


def terms_of(environment: Mapping[str, str] = os.environ, **given: Any) -> Terms:
    """What is given, else HEADROOM_ADDRESS, HEADROOM_KEY and HEADROOM_CA_FILE, else a cluster on this machine."""
    names = {"address": ADDRESS_VARIABLE, "key": KEY_VARIABLE, "ca_file": CA_VARIABLE}
    found = {term: environment.get(variable) for term, variable in names.items()}
    return Terms(**({name: value for name, value in found.items() if value} | given))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One whole answer. `model` is the one that answered; `cache` is hit, miss, shared or bypass."""

    text: str
    model: str
    finish_reason: str
    input_tokens: int | None
    output_tokens: int | None
    weights_version: str | None
    cache: str | None
    trace_id: str | None
    completion: Any = field(repr=False)
    """The SDK's own `ChatCompletion`, for tools, reasoning and log-probabilities."""


def messages_of(messages: str | Sequence[Message]) -> list[Message]:
    """A text alone is one message of the user."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def answer_of(completion: Any, headers: Mapping[str, str]) -> Answer:
    """Raises: BrokenAnswer when there is no choice in it."""
    if not completion.choices:
        raise BrokenAnswer("The answer holds no choice.")
    choice, usage = completion.choices[0], completion.usage
    return Answer(
        text=choice.message.content or "",
        model=completion.model,
        finish_reason=choice.finish_reason,
        input_tokens=usage.prompt_tokens if usage else None,
        output_tokens=usage.completion_tokens if usage else None,
        weights_version=headers.get("x-headroom-weights-version"),
        cache=headers.get("x-headroom-cache"),
        trace_id=headers.get("x-trace-id"),
        completion=completion,
    )


def delta_of(chunk: Any) -> str:
    """The text of one piece of a stream; empty where it holds none."""
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def body_of(response: Any, *, also: Sequence[int] = ()) -> dict[str, Any]:
    """The JSON object of an httpx response. `also`: statuses that are answers, too.

    Raises: ClientError by its status, BrokenAnswer when it is no JSON object.
    """
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.status_code not in _OK and response.status_code not in also:
        raise of_status(response.status_code, body, response.headers)
    if not isinstance(body, dict):
        raise BrokenAnswer("The answer is no JSON object. Is this the address of a Headroom?")
    return cast("dict[str, Any]", body)


def again_in_s(error: ClientError, *, attempt: int, idempotent: bool, jitter: float) -> float | None:
    """Seconds until the next try after `attempt` (from 0) failed; None where another is not safe or will not help.

    What was refused was not done, so it may be sent again; a broken connection may have been obeyed. Doubles each time,
    by `jitter` (0 to 1) shorter; the server's own wish is obeyed, up to the longest backoff.
    """
    if not (isinstance(error, Overloaded) or (idempotent and isinstance(error, Unreachable))):
        return None
    backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt) * (1 - 0.5 * jitter)
    wished_s = error.retry_after_s if error.retry_after_s is not None else 0.0
    return None if wished_s > _MAX_BACKOFF_S else max(wished_s, backoff_s)
