"""For all tests: properties have no time limit of their own, so that a busy machine fails nothing.

In CI they try the same examples each time: a change is judged by what it changes. Everywhere else they seek new ones.
"""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("headroom", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "headroom")
