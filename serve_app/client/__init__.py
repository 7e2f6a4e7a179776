"""The Python client: `from serve_app.client import Client, AsyncClient, get_client`.

    with get_client() as client:
        print(client.chat("1+1", model="fast").text)

Importing it is light: the `openai` SDK and httpx come with the first request.
"""

from __future__ import annotations

from serve_app.client.asynchronous import AsyncClient
from serve_app.client.errors import (
    BadRequest,
    BrokenAnswer,
    ClientError,
    NotAllowed,
    Overloaded,
    ServerFault,
    TimedOut,
    Unreachable,
)
from serve_app.client.synchronous import Client, get_client
from serve_app.client.terms import Answer, Message, Terms

__all__ = [
    "Answer",
    "AsyncClient",
    "BadRequest",
    "BrokenAnswer",
    "Client",
    "ClientError",
    "Message",
    "NotAllowed",
    "Overloaded",
    "ServerFault",
    "Terms",
    "TimedOut",
    "Unreachable",
    "get_client",
]
