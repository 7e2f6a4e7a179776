"""For all tests: properties have no time limit of their own, so that a busy machine fails nothing."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("headroom", deadline=None)
settings.load_profile("headroom")
