"""The request header `Cache-Control`, as far as a response cache heeds it. Pure.

Where directives contradict each other the more careful one counts: `no-store` over all, `no-cache` over `max-age`,
the smaller of two ages. An age that is no number is 0, as RFC 9111, 4.2.1, advises. What is not known is passed over.
`no-semantic` is ours, an extension by RFC 9111, 5.2.3: no answer to a similar question, only to this very one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MOST_S: Final = 2**31
"""Source: RFC 9111, 1.2.2: what is larger means this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheControl:
    """`max_age_s`: an answer stored longer ago is not wanted; None sets no limit."""

    no_store: bool = False
    no_cache: bool = False
    no_semantic: bool = False
    max_age_s: float | None = None


NOTHING_SAID: Final = CacheControl()


def read_cache_control(value: bytes | None) -> CacheControl:
    """All headers of the name, joined by commas. An age of 0 is `no-cache`."""
    if value is None:
        return NOTHING_SAID
    directives = [_directive(part) for part in value.split(b",")]
    names = {name for name, _ in directives}
    ages = [_age_s(argument) for name, argument in directives if name == b"max-age"]
    max_age_s = min(ages, default=None)
    return CacheControl(
        no_store=b"no-store" in names,
        no_cache=b"no-cache" in names or max_age_s == 0,
        no_semantic=b"no-semantic" in names,
        max_age_s=max_age_s,
    )


def _directive(part: bytes) -> tuple[bytes, bytes]:
    name, _, argument = part.partition(b"=")
    return name.strip().lower(), argument.strip().strip(b'"')


def _age_s(argument: bytes) -> float:
    if not argument.isdigit():
        return 0.0
    return float(min(int(argument[:20]), _MOST_S))
