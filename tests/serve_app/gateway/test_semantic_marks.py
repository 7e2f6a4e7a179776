"""What may never differ between two questions with one answer, whatever an embedder thinks of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serve_app.gateway.lexical_embedder import _FILLERS, lexical_vector
from serve_app.gateway.question import Question, question_of
from serve_app.gateway.semantic_marks import MAX_QUESTION_CHARS, marks

AROUND = ("What is {}?", "{} please", "Reverse {} and add {} to it.", "Say ({}), then stop")
NUMBERS = (
    st.integers(-(10**9), 10**9).map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(str)
    | st.decimals(-1000, 1000, places=2).map(str)
    | st.integers(0, 10**6).map("{:,}".format)
    | st.sampled_from(["½", "²", "٣", ".5", "5.", "5!", "5%", "-5", "+5", "V2", "three", "Dozen", "IV", "1st"])
)
QUOTES = (("'", "'"), ('"', '"'), ("“", "”"), ("‘", "’"), ("«", "»"), ("`", "`"))
QUOTED_WORDS = st.text(st.characters(whitelist_categories=("L", "N", "Zs")), min_size=1, max_size=8)
LETTERS = "abcdefghijklmnoprstuvwy"
WORDS = st.text(LETTERS, min_size=3, max_size=9).filter(lambda word: word not in _FILLERS)
SENTENCES = st.lists(WORDS, min_size=1, max_size=30)
SURE = 0.95
"""The threshold that cluster.yaml gives as its example."""


def similarity(one: list[str], other: list[str]) -> float:
    return float(lexical_vector(" ".join(one)) @ lexical_vector(" ".join(other)))


def question(text: object = "What is love?", **changed: Any) -> Question | None:
    fields = {"model": "mini", "messages": [{"role": "user", "content": text}]}
    parts = {"tenant": "t", "mode": "fast", "model": "mini", "weights_version": "v", "endpoint": "e"}
    return question_of(**{**parts, "fields": fields, **changed})


class TestMarks:
    @given(st.sampled_from(AROUND), NUMBERS, NUMBERS)
    def test_differ_where_any_number_does(self, around: str, one: str, other: str) -> None:
        """A number is what it is written like, but for its case and what ends the sentence behind it."""
        assume(one.lower().rstrip(".") != other.lower().rstrip("."))
        assert marks(around.format(one, one)) != marks(around.format(other, one))

    @given(st.sampled_from(AROUND), st.sampled_from(QUOTES), QUOTED_WORDS, QUOTED_WORDS)
    def test_differ_where_any_quoted_word_does(
        self, around: str, quotes: tuple[str, str], one: str, other: str
    ) -> None:
        assume(one != other)
        opened, closed = quotes
        texts = [around.format(f"{opened}{word}{closed}", "it") for word in (one, other)]
        assert marks(texts[0]) != marks(texts[1])

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("What is 3 + 4?", "What is 3 + 5?"),
            ("What is 3 + 4?", "What is 3 - 4?"),
            ("What is 3 + 4?", "What is 4 + 3?"),
            ("What is 35?", "What is 3.5?"),
            ("What is 3 5?", "What is 3.5?"),
            ("What is 5!", "What is 5"),
            ("Reverse 'star'", "Reverse 'rats'"),
            ('Reverse "star', 'Reverse "rats'),
            ("Is it safe?", "Is it not safe?"),
            ("It isn't safe", "It is safe"),
            ("Can I eat it with milk?", "Can I eat it without milk?"),
            ("From Rome to Paris", "To Rome from Paris"),
            ("Who was born there?", "When was born there?"),
            ("What does US mean?", "What does us mean?"),
            ("What is foo_bar?", "What is foo bar?"),
            ("What is x?", "What is y?"),
            ("a<b", "a>b"),
        ],
    )
    def test_differ_between(self, one: str, other: str) -> None:
        assert marks(one) != marks(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("What is the capital of France?", "what's the capital of france"),
            ("Explain tides.", "Please explain tides"),
            ("Not now, thanks.", "not now thanks"),
        ],
    )
    def test_are_alike_for(self, one: str, other: str) -> None:
        assert marks(one) == marks(other)

    def test_that_took_numbers_for_words_would_be_caught(self) -> None:
        """The property fails on broken marks: those of a text whose digits are all alike."""

        def broken(text: str) -> tuple[str, ...]:
            return marks("".join("0" if sign.isdigit() else sign for sign in text))

        assert broken("What is 3 + 4?") == broken("What is 3 + 5?")


class TestAGroup:
    @pytest.mark.parametrize("part", ["tenant", "mode", "model", "weights_version", "endpoint"])
    def test_is_of_one_tenant_mode_model_version_and_endpoint(self, part: str) -> None:
        one, other = question(), question(**{part: "other"})
        assert one is not None
        assert other is not None
        assert one.group != other.group

    @pytest.mark.parametrize(
        ("one", "other"), [("What is 3 + 4?", "What is 3 + 5?"), ("Reverse 'star'", "Reverse 'rats'"), ("so", "not so")]
    )
    def test_is_of_one_row_of_marks_whatever_an_embedder_finds_alike(self, one: str, other: str) -> None:
        first, second = question(one), question(other)
        assert first is not None
        assert second is not None
        assert first.group != second.group

    def test_holds_other_wordings_and_nothing_else(self) -> None:
        one, same, other = (question(text) for text in ("What is love?", "love", "Tell me what love is!"))
        assert one is not None
        assert same is not None
        assert other is not None
        assert one.group == same.group != other.group, "an exclamation mark is a mark: 5! is not 5"

    @pytest.mark.parametrize(
        "messages",
        [
            [{"role": "assistant", "content": "x"}],
            [{"role": "user", "content": [{"type": "text", "text": "x"}]}],
            [{"role": "user", "content": "two\nlines"}],
            [{"role": "user", "content": "x" * (MAX_QUESTION_CHARS + 1)}],
            [{"role": "user", "content": "  "}],
            [{"role": "tool", "content": "1", "tool_call_id": "a"}, {"role": "user", "content": "x"}],
            [{"role": "assistant", "tool_calls": [{"id": "a"}]}, {"role": "user", "content": "x"}],
        ],
    )
    def test_is_not_of(self, messages: list[dict[str, Any]]) -> None:
        assert question(fields={"messages": messages}) is None

    @pytest.mark.parametrize("field", ["tools", "tool_choice", "parallel_tool_calls"])
    def test_is_never_of_a_request_with_tools(self, field: str) -> None:
        fields = {"messages": [{"role": "user", "content": "x"}], field: []}
        assert question(fields=fields) is None

    def test_is_not_of_a_completion(self) -> None:
        assert question(fields={"prompt": "x"}) is None


class TestTheLexicalEmbedder:
    @given(SENTENCES, WORDS, st.integers(0, 29))
    def test_is_sure_of_nothing_in_which_a_word_differs(self, words: list[str], word: str, at: int) -> None:
        other = [*words]
        other[at % len(words)] = word
        assume(other != words)
        assert similarity(words, other) < SURE

    @given(SENTENCES, WORDS, st.integers(0, 30))
    def test_is_sure_of_nothing_with_a_word_more(self, words: list[str], word: str, at: int) -> None:
        place = at % (len(words) + 1)
        assert similarity(words, [*words[:place], word, *words[place:]]) < SURE

    @given(st.lists(WORDS, min_size=2, max_size=30, unique=True), st.randoms())
    def test_is_sure_of_nothing_in_another_order(self, words: list[str], random: Any) -> None:
        other = [*words]
        random.shuffle(other)
        assume(other != words)
        assert similarity(words, other) < SURE

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("What is the capital of France?", "Could you please tell me the capital of France?"),
            ("Explain photosynthesis.", "please  explain Photosynthesis"),
        ],
    )
    def test_is_sure_of_the_same_words_with_other_fillers(self, one: str, other: str) -> None:
        assert float(lexical_vector(one) @ lexical_vector(other)) >= SURE

    def test_without_what_only_the_whole_shares_would_be_caught(self) -> None:
        """The property fails on plain counts of words: of thirty, one that differs is lost in the rest."""
        words = [f"word{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(30)]
        alike = len({*words} & {*words[:-1], "other"}) / 30
        assert alike >= SURE > similarity(words, [*words[:-1], "other"])
