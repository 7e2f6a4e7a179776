"""Which modules a quantised checkpoint keeps as they were, by the lists its tools write.

Such a list has whole names, names of everything below, last parts of names, patterns with `*`, and regular expressions
after `re:`. Families name the same parts differently; names are brought to one form before they are compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate

from placement.errors import UnsupportedModel

REGEX = "re:"
SYNONYMS = (
    (re.compile(r"(?:^|\.)language_model\.(?:model\.)?"), "model."),
    (re.compile(r"^model\.model\."), "model."),
    (re.compile(r"(?:transformer\.h|backbone\.layers|model\.decoder\.layers)\."), "model.layers."),
    (re.compile(r"\.(?:block_sparse_moe|feed_forward|moe|ffn)(?=\.|$)"), ".mlp"),
    (re.compile(r"\.(?:shared_expert|shared_mlp)(?=\.|$)"), ".shared_experts"),
    (re.compile(r"\.(?:attention|attn)(?=\.|$)"), ".self_attn"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptModules:
    names: frozenset[str]
    patterns: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, entries: Iterable[str]) -> KeptModules:
        """Raises: UnsupportedModel for an expression that is none."""
        names: set[str] = set()
        patterns: list[re.Pattern[str]] = []
        for entry in entries:
            if entry.startswith(REGEX):
                patterns.append(_compiled(entry.removeprefix(REGEX)))
            elif "*" in entry:
                patterns.append(re.compile(translate(_one_form(entry)).removesuffix(r"\Z").removesuffix(r"\z")))
            elif "." not in entry and entry.endswith("Attention"):
                names.add("self_attn")  # the class of the module instead of its name
            else:
                names.add(_one_form(entry).removesuffix(".weight").strip("."))
        return cls(names=frozenset(names), patterns=tuple(patterns))

    def holds(self, path: str) -> bool:
        """Whether the module at `path`, or something it is part of, is on the list."""
        if self.names and any(name in self.names for name in _parts(path)):
            return True
        return any(pattern.match(path) for pattern in self.patterns)


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression)
    except re.error as error:
        message = f"quantization_config has the expression {expression!r} that cannot be read: {error}"
        raise UnsupportedModel("quantization_config", message) from error


def _one_form(name: str) -> str:
    for pattern, word in SYNONYMS:
        name = pattern.sub(word, name)
    return name


def _parts(path: str) -> Iterable[str]:
    """The path, everything above it, and every run of its steps: all that a list may call it by."""
    steps = path.split(".")
    for first in range(len(steps)):
        for last in range(first + 1, len(steps) + 1):
            yield ".".join(steps[first:last])
