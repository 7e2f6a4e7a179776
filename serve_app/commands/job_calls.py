"""Asking a running cluster about jobs over HTTP; its refusals become our own errors."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from serve_app.commands.asking import connection, unreached
from serve_app.errors import BadAnswer, HeadroomError

PATH = "/v1/jobs"
TIMEOUT_S = 10.0
_FIRST_ERROR = 400


class JobClient:
    def __init__(self, address: str) -> None:
        self._url = f"{address.rstrip('/')}{PATH}"

    def submit(self, request: dict[str, Any]) -> dict[str, Any]:
        return self._asked("POST", "", body=request)

    def show(self, job_id: str) -> dict[str, Any]:
        return self._asked("GET", f"/{quote(job_id, safe='')}")

    def cancel(self, job_id: str) -> dict[str, Any]:
        return self._asked("POST", f"/{quote(job_id, safe='')}/cancel")

    def page(self, **query: str) -> dict[str, Any]:
        return self._asked("GET", "", query={name: value for name, value in query.items() if value})

    def review(self, *, days: int) -> dict[str, Any]:
        return self._asked("GET", "/review", query={"days": str(days)})

    def log(self, job_id: str, *, offset: int) -> dict[str, Any]:
        return self._asked("GET", f"/{quote(job_id, safe='')}/logs", query={"offset": str(offset)})

    def _asked(
        self, method: str, path: str, *, body: object = None, query: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Raises: NotRunning, BadAnswer, or HeadroomError with the cluster's own sentence."""
        import httpx  # costs a tenth of a second, so only when something is asked

        try:
            answer = httpx.request(method, self._url + path, json=body, params=query, timeout=TIMEOUT_S, **connection())
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise unreached(self._url, error) from error
        try:
            told = answer.json()
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise BadAnswer(
                f"{self._url} answers with status {answer.status_code} and no JSON object.",
                expected="A Headroom of this version.",
                advice="Look at what listens there, or name another with --address.",
            )
        if answer.status_code >= _FIRST_ERROR:
            refusal = told.get("error")
            message = refusal.get("message") if isinstance(refusal, dict) else None
            raise HeadroomError(str(message or f"{self._url} answers with status {answer.status_code}."))
        return told
