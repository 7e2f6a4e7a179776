"""One thing wrong with cluster.yaml, and the error that carries all of them at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

from serve_app.errors import HeadroomError

Location = tuple[str | int, ...]
"""Keys and list indices from the top of the file, e.g. ("applications", 0, "args", "models", 1, "dtype")."""

Finding = tuple[Location, str, str, str]
"""Of a rule over several keys: where (below args), what, expected, advice."""

MAX_SHOWN_VALUE = 80
_PASSWORD_IN_URL = re.compile(r"://[^/@\s]*@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`path` as in the file; `what` continues the sentence ("is 'float31'"); `line` None when there is no file."""

    path: str
    what: str
    expected: str
    advice: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line is not None else ""
        subject = f"{self.path} {self.what}".strip()
        expected = f"; expected {self.expected}" if self.expected else ""
        advice = f" {self.advice}" if self.advice else ""
        return f"{place}{subject}{expected}.{advice}"


class ConfigError(HeadroomError):
    """cluster.yaml, or the arguments made from it, are wrong: every problem found, in the order of the file."""

    exit_code: ClassVar[int] = 2

    def __init__(self, origin: str, problems: Iterable[Problem]) -> None:
        self.origin = origin
        self.problems = tuple(sorted(problems, key=lambda problem: (problem.line or 0, problem.path)))
        count = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        super().__init__("\n".join([f"{origin} has {count}:", *(f"  {problem}" for problem in self.problems)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.__class__, (self.origin, self.problems))


def path_text(location: Location) -> str:
    """`("applications", 0, "args")` as `applications[0].args`."""
    text = ""
    for step in location:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text


def value_text(value: object) -> str:
    """The value as the reader wrote it, shortened, without a password."""
    text = _PASSWORD_IN_URL.sub("://***@", "null" if value is None else repr(value))
    return text if len(text) <= MAX_SHOWN_VALUE else text[: MAX_SHOWN_VALUE - 3] + "..."


def did_you_mean(word: object, valid: Iterable[object]) -> str:
    """A suggestion as a sentence, or nothing when no valid word is near."""
    if not isinstance(word, str):
        return ""
    by_folded = {str(candidate).casefold(): str(candidate) for candidate in valid}
    near = difflib.get_close_matches(word.casefold(), by_folded, n=1, cutoff=0.6)
    return f"Did you mean '{by_folded[near[0]]}'?" if near else ""
