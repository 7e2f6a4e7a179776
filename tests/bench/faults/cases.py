"""Which faults are made: rows 1 to 5 and 12 to 16, each with the figure they are held against.

Source of the figures: measured on plain Ray Serve 2.60 with two cores before this product was built.
"""

from __future__ import annotations

from tests.bench.faults import flood
from tests.bench.faults.abuse import abused, header_bomb, large_body, slow_body, slow_readers
from tests.bench.faults.deaths import core, killed, named, replica, stopped
from tests.bench.faults.leaving import left
from tests.bench.faults.outcome import Alone, Case, Live

_NONE = "no such process"
_PROXY = "its one proxy is the row above"
_ON_BOUND = "bounded memory, 408/413/400"

LIVE: tuple[Case[Live], ...] = (
    Case(
        number=1,
        fault="replica killed, answers not begun",
        promise="2/210 → 0",
        base=killed(replica),
        product=killed(replica),
    ),
    Case(
        number=1, fault="engine core killed, answers not begun", promise="→ 0", base=killed(core), product=killed(core)
    ),
    Case(
        number=2,
        fault="replica killed mid-stream",
        promise="100 % clean",
        base=killed(replica, stream=True),
        product=killed(replica, stream=True),
    ),
    Case(
        number=2,
        fault="engine core killed mid-stream",
        promise="100 % clean",
        base=killed(core, stream=True),
        product=killed(core, stream=True),
    ),
    Case(number=3, fault="engine core stopped for 45 s", promise="≤ 2N = 20 s", base=stopped, product=stopped),
    Case(
        number=4,
        fault="ingress killed",
        promise="26.6 s (HAProxy ≥ 22 s) → ≤ 6 s",
        base=killed(named("ray::ProxyActor")),
        product=killed(named("haproxy -dS")),
    ),
    Case(
        number=4,
        fault="HAProxy's manager killed",
        promise="≥ 22 s → ≤ 6 s",
        base=_PROXY,
        product=killed(named("ray::HAProxyManager")),
    ),
    Case(
        number=5,
        fault="Serve controller killed",
        promise="0 of 180 → 0",
        base=killed(named("ray::ServeController")),
        product=killed(named("ray::ServeController")),
    ),
    Case(
        number=5,
        fault="our controller killed",
        promise="→ 0",
        base=_NONE,
        product=killed(named("ray::ServeReplica:headroom:controller")),
    ),
    Case(
        number=5,
        fault="one of two gateways killed",
        promise="→ 0",
        base=_NONE,
        product=killed(named("ray::ServeReplica:headroom:gateway")),
    ),
    Case(number=5, fault="watch killed", promise="→ 0", base=_NONE, product=killed(named("ray::NodeWatch"))),
    Case(
        number=15,
        fault="clients leave mid-stream",
        promise="6 ms; 0 leaked",
        base=left(stream=True),
        product=left(stream=True),
    ),
    Case(
        number=15,
        fault="clients leave before a whole answer",
        promise="6 ms; 0 leaked",
        base=left(stream=False),
        product=left(stream=False),
    ),
    Case(number=16, fault="slow readers", promise=_ON_BOUND, base=abused(slow_readers), product=abused(slow_readers)),
    Case(number=16, fault="slow body", promise=_ON_BOUND, base=abused(slow_body), product=abused(slow_body)),
    Case(number=16, fault="body of 256 MiB", promise=_ON_BOUND, base=abused(large_body), product=abused(large_body)),
    Case(number=16, fault="1 MiB of headers", promise=_ON_BOUND, base=abused(header_bomb), product=abused(header_bomb)),
)
"""On two clusters of real engines, one after the other, in this order."""

ALONE: tuple[Case[Alone], ...] = (
    Case(
        number=12,
        fault="overload, 5x",
        promise="≥ 95 % of 1x",
        base=flood.base_overloaded,
        product=flood.product_overloaded,
    ),
    Case(
        number=13,
        fault="downshift, 3x",
        promise="100 % honest",
        base="has no second model to go down to",
        product=flood.product_downshifted,
    ),
    Case(
        number=14,
        fault="one of two replicas answers 500",
        promise="breaker opens",
        base=flood.base_with_a_bad_replica,
        product=flood.product_with_a_bad_replica,
    ),
)
"""With scripted engines, whose capacity and faults are known."""
