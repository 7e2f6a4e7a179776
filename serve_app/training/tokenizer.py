"""The tokenizer of our own models, and the one place that says how a chat becomes text.

Bytes, digits and letters one by one, plus one token for each word that instructions are made of: a model of
few parameters sees the letters it is asked about, and whatever else a caller writes still has tokens.
Made here, stored as `tokenizer.json`; serving loads it like any other.

Imports `tokenizers` and `transformers`: keep it out of the import of commands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD: Final = "<|pad|>"
BEGIN: Final = "<|begin|>"
END: Final = "<|end|>"
SYSTEM: Final = "<|system|>"
USER: Final = "<|user|>"
ASSISTANT: Final = "<|assistant|>"
SPECIAL_TOKENS: Final = (PAD, BEGIN, END, SYSTEM, USER, ASSISTANT)
VOCABULARY_MULTIPLE: Final = 32
"""The vocabulary is filled up to a multiple of this, as matrix kernels like it."""

CHAT_TEMPLATE: Final = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] in ['system', 'developer'] %}{{ '<|system|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ '<|assistant|>' }}"
    "{% else %}{{ '<|user|>' }}{% endif %}"
    "{{ (message['content'] or '') | trim }}{{ eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
"""Any role but these counts as the user; several system messages, anywhere, are allowed."""

MAX_POSITIONS: Final = 2048
"""`model_max_length` of the tokenizer and `max_position_embeddings` of the models."""


def build_tokenizer(words: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE without merges: a word is one token if it is among `words`, else its bytes.

    `ignore_merges` looks a whole word up before it is taken apart; nothing is ever joined.
    """
    from transformers import PreTrainedTokenizerFast

    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *map(_byte_level, words)]
    tokens += [f"<|unused-{index}|>" for index in range(-len(tokens) % VOCABULARY_MULTIPLE)]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", pair=f"{BEGIN} $A $B", special_tokens=[(BEGIN, vocabulary[BEGIN])]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _byte_level(word: str) -> str:
    """`word` as byte-level tokens write it (a blank is `Ġ`)."""
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(word)
    return "".join(piece for piece, _ in pieces)


def special_ids(tokenizer: PreTrainedTokenizerFast) -> Mapping[str, int]:
    return {token: int(tokenizer.convert_tokens_to_ids(token)) for token in SPECIAL_TOKENS}
