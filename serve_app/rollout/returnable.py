"""Which weights a rollout may still need: those under way, and those that one can go back to. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from serve_app.rollout.record import Record, Stage, Weights


def needed(records: Iterable[Record], in_force: Mapping[str, str]) -> tuple[Record, ...]:
    """Rollouts whose old weights may come back; `in_force` gives the version that serves each model."""
    return tuple(
        record
        for record in records
        if not record.is_over or (record.stage is Stage.FINISHED and in_force.get(record.model) == record.new.version)
    )


def weights_of(records: Iterable[Record]) -> tuple[Weights, ...]:
    """Old and new weights of these, each once."""
    return tuple(dict.fromkeys(weights for record in records for weights in (record.old, record.new)))
