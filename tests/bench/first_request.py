"""How much longer the first request after ready takes than the next ones."""

from __future__ import annotations

import http.client
import statistics
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.bench.http_load import VARIED
from tests.bench.rounds import WrongAnswers

_NUM_NEXT = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstRequest:
    """`next_ms` is the median of the ten that follow, one after the other on the same connection."""

    model: str
    first_ms: float
    next_ms: float

    @property
    def ratio(self) -> float:
        return self.first_ms / self.next_ms


def first_request(url: str, body: bytes, *, model: str) -> FirstRequest:
    """Ask eleven times, each time for something new. Raises WrongAnswers."""
    target = urlsplit(url)
    connection = http.client.HTTPConnection(target.netloc, timeout=60)
    took_ms = [
        _ask_ms(connection, target.path, body.replace(VARIED.encode(), b"%08d" % number), model)
        for number in range(_NUM_NEXT + 1)
    ]
    connection.close()
    return FirstRequest(model=model, first_ms=took_ms[0], next_ms=statistics.median(took_ms[1:]))


def _ask_ms(connection: http.client.HTTPConnection, path: str, body: bytes, model: str) -> float:
    began_s = time.perf_counter()
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read()
    if answer.status != 200:
        raise WrongAnswers(f"{model} answered {answer.status}")
    return 1e3 * (time.perf_counter() - began_s)
