"""Whether a model corrects itself: answers that were wrong are asked for again in a second turn.

Who answers (the live API, a model in this process) is the caller's business. Grades, keeps nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

AGAIN: Final = "That is wrong, try again."
MOST_RETRIES: Final = 64


class Asked(Protocol):
    """A question with its one right answer."""

    @property
    def prompt(self) -> str: ...
    @property
    def answer(self) -> str: ...


Message = Mapping[str, str]
"""`role` and `content`, as the chat API takes them."""
Ask = Callable[[Sequence[Message]], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCorrection:
    """Of `num_failed` wrong answers `num_retried` were asked again; `num_repeated` gave the same wrong answer."""

    num_failed: int
    num_retried: int
    num_corrected: int
    num_repeated: int

    @property
    def corrected_share(self) -> float | None:
        """None where nothing was asked again."""
        return self.num_corrected / self.num_retried if self.num_retried else None


async def measure_self_correction(
    answered: Sequence[tuple[Asked, str]], *, ask: Ask, most: int = MOST_RETRIES
) -> SelfCorrection:
    """Asks the first `most` wrong ones again, one after the other.

    Raises: whatever `ask` raises.
    """
    failed = [(asked, text) for asked, text in answered if not _is_right(asked, text)]
    corrected = repeated = 0
    for asked, text in failed[:most]:
        retried = await ask(second_turn(asked, text))
        corrected += _is_right(asked, retried)
        repeated += retried.strip() == text.strip()
    return SelfCorrection(
        num_failed=len(failed),
        num_retried=len(failed[:most]),
        num_corrected=corrected,
        num_repeated=repeated,
    )


def second_turn(asked: Asked, wrong: str) -> tuple[Message, ...]:
    return (
        {"role": "user", "content": asked.prompt},
        {"role": "assistant", "content": wrong},
        {"role": "user", "content": AGAIN},
    )


def _is_right(asked: Asked, text: str) -> bool:
    return text.strip() == asked.answer.strip()
