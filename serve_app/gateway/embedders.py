"""Embedders by name: the shipped lexical one, or any that is installed.

To add one: a package with the entry point `NAME = "module:factory"` in the group `headroom.embedders`, where the
factory takes nothing and gives an `Embedder`, and `cache.embedder: NAME`.
"""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from serve_app.errors import HeadroomError
from serve_app.gateway.embedding import Embedder
from serve_app.gateway.lexical_embedder import LexicalEmbedder

GROUP: Final = "headroom.embedders"


def embedder(name: str, installed: tuple[EntryPoint, ...] | None = None) -> Embedder:
    """Raises: HeadroomError when it is not there or no embedder. `installed` None: what this Python has."""
    if name == LexicalEmbedder.name:
        return LexicalEmbedder()
    found = {one.name: one for one in (tuple(entry_points(group=GROUP)) if installed is None else installed)}
    if name not in found:
        raise HeadroomError(
            f"`cache.embedder` is '{name}', which is not installed on this node.",
            expected=f"There are: {', '.join(sorted({LexicalEmbedder.name, *found}))}.",
            advice=f"Install the package that has it as an entry point of '{GROUP}', or name one of these.",
        )
    made: Any = found[name].load()()
    if not isinstance(getattr(made, "num_dims", None), int) or not callable(getattr(made, "embed", None)):
        raise HeadroomError(
            f"`cache.embedder` '{name}' gave a {type(made).__name__}.",
            expected="Expected an object with `name`, `num_dims` and `embed`.",
        )
    checked: Embedder = made
    return checked
