"""Spans as they end, without any process that receives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.sdk.trace import ReadableSpan

from tests.tracing.test_spans import Kept
from tracing import names, setup
from tracing.settings import ExportSettings
from tracing.setup import Exporting


@dataclass(frozen=True, slots=True)
class Traced:
    exporting: Exporting
    kept: Kept

    def span(self, name: str) -> ReadableSpan:
        return self.kept.named(name)

    def facts(self, name: str) -> dict[str, object]:
        return dict(self.span(name).attributes or {})

    def names(self) -> set[str]:
        return {span.name for span in self.kept.spans}


@contextmanager
def traced() -> Iterator[Traced]:
    exporting = setup.start(ExportSettings(otlp=None, directory=None, max_per_s=None), names.CONTROLLER)
    kept = Kept()
    exporting.provider.add_span_processor(kept)
    try:
        yield Traced(exporting, kept)
    finally:
        exporting.provider.shutdown()
