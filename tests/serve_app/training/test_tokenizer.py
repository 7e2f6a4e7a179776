from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.training.rows import IGNORED, rows
from serve_app.training.tasks import INSTRUCTION_WORDS, held_out_tasks
from serve_app.training.tokenizer import SPECIAL_TOKENS, VOCABULARY_MULTIPLE, build_tokenizer, special_ids
from tests.serve_app.training.tiny import tiny_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

USER, ASSISTANT, SYSTEM = "<|user|>", "<|assistant|>", "<|system|>"


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(INSTRUCTION_WORDS)


@cache
def stored() -> PreTrainedTokenizerFast:
    """The tokenizer as another program loads it."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tiny_checkpoint()))


def chat(*messages: tuple[str, Any], ask: bool = True) -> str:
    listed = [{"role": role, "content": content} for role, content in messages]
    return str(stored().apply_chat_template(listed, tokenize=False, add_generation_prompt=ask))


class TestTokenizer:
    @given(text=st.text())
    def test_any_text_comes_back(self, text: str) -> None:
        ids = tokenizer()(text, add_special_tokens=False)["input_ids"]
        assert tokenizer().decode(ids) == text

    @given(text=st.text())
    def test_the_stored_one_gives_the_same_tokens(self, text: str) -> None:
        assert stored()(text)["input_ids"] == tokenizer()(text)["input_ids"]

    def test_words_asked_about_are_seen_letter_by_letter(self) -> None:
        tokens = tokenizer().tokenize("Reverse the word: planet")
        assert tokens == ["Reverse", "Ġthe", "Ġword", ":", "Ġ", *"planet"]

    def test_digits_are_seen_one_by_one(self) -> None:
        assert tokenizer().tokenize("What is 97 + 8?") == ["What", "Ġis", "Ġ", "9", "7", "Ġ+", "Ġ", "8", "?"]

    def test_special_tokens_come_first_and_the_vocabulary_is_a_round_number(self) -> None:
        assert list(special_ids(tokenizer()).values()) == list(range(len(SPECIAL_TOKENS)))
        assert len(tokenizer()) % VOCABULARY_MULTIPLE == 0

    def test_it_names_end_begin_and_padding(self) -> None:
        assert (stored().eos_token, stored().bos_token, stored().pad_token) == ("<|end|>", "<|begin|>", "<|pad|>")


class TestChatTemplate:
    def test_one_question(self) -> None:
        assert chat(("user", "hello")) == f"<|begin|>{USER}hello<|end|>{ASSISTANT}"

    def test_system_message_and_earlier_turns(self) -> None:
        text = chat(("system", "be kind"), ("user", "a"), ("assistant", "b"), ("user", "c"))
        assert text == (f"<|begin|>{SYSTEM}be kind<|end|>{USER}a<|end|>{ASSISTANT}b<|end|>{USER}c<|end|>{ASSISTANT}")

    def test_a_conversation_that_is_only_shown_asks_for_nothing(self) -> None:
        assert chat(("user", "a"), ("assistant", "b"), ask=False).endswith("b<|end|>")

    def test_a_developer_is_a_system_and_a_tool_is_a_user(self) -> None:
        assert chat(("developer", "x"), ("tool", "y")) == f"<|begin|>{SYSTEM}x<|end|>{USER}y<|end|>{ASSISTANT}"

    @pytest.mark.parametrize("content", [None, ""])
    def test_an_assistant_that_said_nothing_is_no_error(self, content: str | None) -> None:
        assert f"{ASSISTANT}<|end|>" in chat(("user", "a"), ("assistant", content), ("user", "b"))

    def test_what_is_trained_on_is_what_is_asked(self) -> None:
        """The tokens before the first answer of a row are those the template makes of its question."""
        row = next(row for row in rows(tokenizer(), seed=0, num_tokens=96) if USER in tokenizer().decode(row.ids[1:2]))
        first = next(index for index, label in enumerate(row.labels) if label != IGNORED)
        question = tokenizer().decode(row.ids[2 : first - 2])
        assert tokenizer().decode(row.ids[:first]) == chat(("user", question))


class TestRows:
    def test_all_rows_are_of_one_length_and_end_their_answers(self) -> None:
        end = special_ids(tokenizer())["<|end|>"]
        for row, _ in zip(rows(tokenizer(), seed=1, num_tokens=80), range(200), strict=False):
            assert len(row.ids) == len(row.labels) == len(row.segments) == 80
            assert all(label in (IGNORED, token) for token, label in zip(row.ids, row.labels, strict=True))
            assert end in row.labels

    def test_a_row_begins_with_a_conversation_of_its_own(self) -> None:
        begin = special_ids(tokenizer())["<|begin|>"]
        for row, _ in zip(rows(tokenizer(), seed=2, num_tokens=80), range(200), strict=False):
            assert row.ids[0] == begin
            starts = [index for index, token in enumerate(row.ids) if token == begin]
            changes = [i for i in range(len(row.ids)) if i == 0 or row.segments[i] > row.segments[i - 1]]
            assert starts == changes

    def test_every_question_of_the_test_set_fits_a_row(self) -> None:
        longest = max(len(tokenizer()(task.prompt + task.answer)["input_ids"]) for task in held_out_tasks())
        assert longest < 40
