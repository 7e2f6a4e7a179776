"""What scoring one checkpoint found, and whether one is better than another beyond noise. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.engines.fingerprint import Fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointScore:
    """One checkpoint over its model's test set.

    `right` says of each task of the set, in order, whether it was answered right, so that two checkpoints can be
    compared task by task. `loss` is the mean cross entropy per token of the right answers, in nats; None where it
    was not measured. `format_share` is the part of the answers that had the form asked for, right or not.
    `latency_s` is the median time of an answer. `test_set` names the questions and their order by a digest: only
    scores of one test set can be compared.
    """

    model: str
    weights_version: str
    step: int
    path: str
    right: tuple[bool, ...]
    loss: float | None
    format_share: float
    latency_s: float
    fingerprint: Fingerprint
    test_set: str = ""

    @property
    def accuracy(self) -> float:
        return sum(self.right) / len(self.right) if self.right else 0.0
