"""Structured log lines: constant text plus fields, one event a line. Never a prompt, never a secret."""

from __future__ import annotations

import logging


class EventLogger:
    """`log.info("engine ready", slot="mini#0")` writes `engine ready slot=mini#0`."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)
        self._logger.setLevel(logging.INFO)

    def info(self, event: str, **fields: object) -> None:
        self._logger.info("%s%s", event, _formatted(fields))

    def warning(self, event: str, **fields: object) -> None:
        self._logger.warning("%s%s", event, _formatted(fields))

    def error(self, event: str, **fields: object) -> None:
        self._logger.error("%s%s", event, _formatted(fields))


def logger(name: str) -> EventLogger:
    """Below `ray.serve`, whose handlers write every replica's log file."""
    return EventLogger(f"ray.serve.{name}")


def _formatted(fields: dict[str, object]) -> str:
    return "".join(f" {name}={value!r}" if " " in str(value) else f" {name}={value}" for name, value in fields.items())
