"""The shape of a default model before it is made, so that a plan can be shown before anything is trained.

Repeats what the trainer would write into config.json; a test holds both equal.
"""

from __future__ import annotations

from math import ceil

BYTE_TOKENS = 256
"""The alphabet of a byte-level tokenizer."""


def unmade_config(name: str) -> dict[str, object]:
    """Entries of config.json of the default model `name` that sizes depend on.

    Raises: ModelNotMade when there is no such model.
    """
    from serve_app.training.defaults import default_recipe
    from serve_app.training.tokenizer import MAX_POSITIONS

    recipe = default_recipe(name)
    return {
        "model_type": "llama",
        "num_hidden_layers": recipe.num_layers,
        "hidden_size": recipe.hidden_size,
        "num_attention_heads": recipe.num_heads,
        "num_key_value_heads": recipe.num_heads,
        "head_dim": recipe.head_dim,
        "intermediate_size": recipe.intermediate_size,
        "vocab_size": _vocabulary_size(),
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }


def _vocabulary_size() -> int:
    """Size of the tokenizer that `build_tokenizer` makes, without the seconds that importing transformers takes."""
    from serve_app.training.tasks import INSTRUCTION_WORDS
    from serve_app.training.tokenizer import SPECIAL_TOKENS, VOCABULARY_MULTIPLE

    num_tokens = len(SPECIAL_TOKENS) + BYTE_TOKENS + len(INSTRUCTION_WORDS)
    return ceil(num_tokens / VOCABULARY_MULTIPLE) * VOCABULARY_MULTIPLE
