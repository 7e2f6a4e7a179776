"""A cluster in memory that outlives the controller: replicas with gates, node stores, one committed version.

It breaks the laws itself when asked to do what no real one could, and can end the controller at any point.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.engines.fingerprint import PROMPTS, Fingerprint, Trace
from serve_app.rollout.record import Room, Shipped, Weights
from serve_app.rollout.service import Checkpoint
from serve_app.rollout.triggers import CheckFound, Passed, Signals, Traffic
from serve_app.rollout.world import Loaded, Replica, World

MODEL = "mini"
OLD = Weights(path="/models/mini/checkpoint-100", version="0" * 12, step=100)
NEW = Weights(path="/models/mini/checkpoint-200", version="1" * 12, step=200)
CANDIDATE = "candidate"


class Killed(BaseException):
    """The controller's process ends here; nothing may catch it."""


class Broken(Exception):
    """The world does not do what it was asked."""


def words(version: str) -> Fingerprint:
    """What weights of this version say, each with a likelihood of its own."""
    logprob = -0.1 * (1 + sum(version.encode()) % 97)
    return Fingerprint(traces=tuple(Trace(prompt=one, tokens=(version,), logprobs=(logprob,)) for one in PROMPTS))


@dataclass(slots=True)
class Engine:
    """`sure` is False from the moment a switch begins until it is through."""

    name: str
    node: str
    weights: str = OLD.version
    is_sure: bool = True
    is_open: bool = True
    num_switches: int = 0

    def shown(self) -> Replica:
        return Replica(
            name=self.name, node=self.node, url=f"http://{self.node}", weights=self.weights if self.is_sure else ""
        )


@dataclass(slots=True)
class Cluster:
    """What is really there. `garbage` are versions that load and say something else."""

    engines: dict[str, Engine] = field(
        default_factory=lambda: {
            name: Engine(name=name, node=node) for name, node in (("a", "n1"), ("b", "n1"), ("c", "n2"))
        }
    )
    candidate: Engine | None = None
    canary: tuple[str, float] | None = None
    committed: str = OLD.version
    link: str = OLD.version
    stored: dict[str, dict[str, str]] = field(default_factory=lambda: {n: {OLD.version: "whole"} for n in ("n1", "n2")})
    garbage: set[str] = field(default_factory=set)
    room: Room = field(default_factory=lambda: Room(needed_bytes=2 << 30, free_bytes=4 << 30, fits=True))
    signals: Signals = field(default_factory=Signals)
    traffic: dict[str, Traffic] = field(default_factory=dict)
    accuracy: float | None = 0.9
    checks: tuple[CheckFound, ...] = (CheckFound(check="service.chat", passed=Passed.PASS, measured="0.1 s"),)
    num_backups: int = 0
    restored: list[str] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)
    mad: set[str] = field(default_factory=set)
    """Replicas that say something else, whatever their weights, until they are started again."""
    broken_laws: list[str] = field(default_factory=list)
    """Asserting at once would look like one more fault of the world, and be recovered from."""

    def law(self, holds: bool, what: str) -> None:
        if not holds:
            self.broken_laws.append(what)

    def served(self) -> set[str]:
        """Versions that an answer may come from now, canary apart: no table lists a replica with other weights than
        the committed ones.
        """
        return {one.weights for one in self.engines.values() if one.is_open and one.weights == self.committed}

    def check_never_mixed(self) -> None:
        self.law(len(self.served()) <= 1, f"two versions answer at once: {self.served()}")
        self.law(not self.served() & self.garbage, "garbage answers")

    def check_rest(self) -> None:
        """What must be so once a rollout is over."""
        self.check_never_mixed()
        assert self.broken_laws == []
        assert all(engine.is_open and engine.is_sure for engine in self.engines.values()), "a gate is left closed"
        assert {engine.weights for engine in self.engines.values()} == {self.committed}
        assert self.link == self.committed, "the link names something else"
        assert self.candidate is None, "a candidate is left"
        assert self.canary is None, "a canary is left"
        assert all(self.stored[engine.node][engine.weights] == "whole" for engine in self.engines.values())


class Points:
    """Counts the places where a controller can end or the world can break, and does it where it was told to."""

    def __init__(self, *, kill_at: int | None = None, fails: Callable[[int], bool] = lambda _: False) -> None:
        self.num = 0
        self.names: list[str] = []
        self._kill_at = kill_at
        self._fails = fails
        self.is_dead = False

    async def pass_by(self, name: str, *, may_fail: bool = True) -> None:
        self.here(name, may_fail=may_fail)
        await asyncio.sleep(0)

    def here(self, name: str, *, may_fail: bool = True) -> None:
        """A dead controller does nothing more, whatever of it is still on its way."""
        if self.is_dead:
            raise Killed
        number = self.num
        self.num += 1
        self.names.append(name)
        if number == self._kill_at:
            self.is_dead = True
            raise Killed
        if may_fail and self._fails(number):
            raise Broken(name)


class FakeClock:
    """Its own time: sleeping moves it on at once."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return 1_700_000_000.0 + self.now_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now_s += seconds


class FakeWorld:
    """All protocols of `world` over one `Cluster`; each call is two points: before it acts, and after."""

    def __init__(self, cluster: Cluster, points: Points | None = None) -> None:
        self.cluster = cluster
        self.points = points or Points()
        self.clock = FakeClock()
        self.asked: list[str] = []
        self.contexts: dict[str, str | None] = {}
        self.num_checked: dict[int, int] = {}

    def world(self) -> World:
        return World(
            ship=self,
            replicas=self,
            publish=self,
            judge=self,
            watch=self,
            checks=self,
            backup=self,
            clock=self.clock,
        )

    async def _do(self, name: str, act: Callable[[], None] = lambda: None, *, of: str | None = None) -> None:
        self.asked.append(name)
        self.contexts[name.split(" ", maxsplit=1)[0]] = of
        await self.points.pass_by(f"before {name}")
        act()
        self.cluster.check_never_mixed()
        await self.points.pass_by(f"after {name}")

    async def back_up(self, model: str, *, reason: str) -> str:
        def act() -> None:
            self.cluster.num_backups += 1

        await self._do("back_up", act)
        return f"backup-{self.cluster.num_backups}"

    async def restore(self, backup: str, weights: Weights) -> None:
        def act() -> None:
            self.cluster.restored.append(backup)
            for files in self.cluster.stored.values():
                files[weights.version] = "whole"

        await self._do("restore", act)

    async def ship(self, weights: Weights, nodes: Sequence[str], *, traceparent: str | None) -> Shipped:
        for node in nodes:
            files = self.cluster.stored[node]
            if files.get(weights.version) != "whole":
                await self._do(f"copy {node}", lambda files=files: files.__setitem__(weights.version, "half"))  # type: ignore[misc]
                await self._do(f"rename {node}", lambda files=files: files.__setitem__(weights.version, "whole"))  # type: ignore[misc]
        return Shipped(num_bytes=1 << 20, duration_s=0.5, digest=weights.version * 5)

    async def serving(self, model: str) -> Sequence[Replica]:
        await self.points.pass_by("serving")
        return [engine.shown() for engine in self.cluster.engines.values()]

    async def prepare(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> None:
        if self.cluster.stored[replica.node].get(weights.version) != "whole":
            raise Broken(f"{weights.version} is not whole on {replica.node}")
        await self._do(f"prepare {replica.name}", of=traceparent)

    async def close(self, replica: Replica, *, deadline_s: float, traceparent: str | None) -> None:
        engine = self._engine(replica)
        await self._do(f"close {replica.name}", lambda: setattr(engine, "is_open", False), of=traceparent)

    async def switch(self, replica: Replica, weights: Weights, *, traceparent: str | None) -> Loaded:
        engine = self._engine(replica)
        self.cluster.law(not engine.is_open, "other weights behind an open gate")
        self.cluster.law(self.cluster.stored[engine.node].get(weights.version) == "whole", "half a checkpoint loaded")
        engine.num_switches += 1
        await self._do(f"unsure {replica.name}", lambda: setattr(engine, "is_sure", False), of=traceparent)
        engine.weights = weights.version
        engine.is_sure = True
        await self._do(f"switch {replica.name}", of=traceparent)
        return Loaded(vram_bytes=1 << 30)

    async def fingerprint(self, replica: Replica, *, traceparent: str | None) -> Fingerprint:
        await self._do(f"fingerprint {replica.name}", of=traceparent)
        version = self._engine(replica).weights
        is_wrong = version in self.cluster.garbage or replica.name in self.cluster.mad
        return words("garbage" if is_wrong else version)

    async def open(self, replica: Replica, *, traceparent: str | None) -> None:
        engine = self._engine(replica)
        self.cluster.law(engine.weights == self.cluster.committed, "opened with weights that are not committed")
        await self._do(f"open {replica.name}", lambda: setattr(engine, "is_open", True), of=traceparent)

    async def die(self, replica: Replica, *, reason: str) -> None:
        def act() -> None:
            self.cluster.deaths.append(replica.name)
            self.cluster.mad.discard(replica.name)
            node = self._engine(replica).node
            self.cluster.engines[replica.name] = Engine(name=replica.name, node=node, weights=self.cluster.committed)

        await self._do(f"die {replica.name}", act)

    async def candidate_room(self, model: str) -> Room:
        await self.points.pass_by("room")
        return self.cluster.room

    async def stand_beside(self, model: str, weights: Weights, *, traceparent: str | None) -> Replica:
        self.cluster.law(self.cluster.candidate is None, "two candidates")
        candidate = Engine(name=CANDIDATE, node="n1", weights=weights.version)
        await self._do("stand", lambda: setattr(self.cluster, "candidate", candidate), of=traceparent)
        return candidate.shown()

    async def end_candidate(self, model: str) -> None:
        self.cluster.law(self.cluster.canary is None, "a candidate ended that gets traffic")
        await self._do("end", lambda: setattr(self.cluster, "candidate", None))

    async def canary(self, model: str, version: str, *, share: float) -> None:
        self.cluster.law(self.cluster.candidate is not None, "a canary without a candidate")
        await self._do("canary", lambda: setattr(self.cluster, "canary", (version, share)))

    async def clear_canary(self, model: str) -> None:
        await self._do("clear", lambda: setattr(self.cluster, "canary", None))

    async def committed(self, model: str) -> str:
        await self.points.pass_by("committed")
        return self.cluster.committed

    async def commit(self, model: str, weights: Weights, *, words: Fingerprint | None) -> None:
        if self.cluster.committed != weights.version:
            still = [engine.name for engine in self.cluster.engines.values() if engine.is_open]
            is_return = weights.version == OLD.version  # one whose gate cannot be closed leaves the table with this
            self.cluster.law(is_return or not still, f"committed while {still} answer")
        self.cluster.law(weights.version not in self.cluster.garbage, "garbage committed")
        await self._do("commit", lambda: setattr(self.cluster, "committed", weights.version))
        await self._do("link", lambda: setattr(self.cluster, "link", weights.version))

    async def traffic(self, model: str, version: str) -> Traffic:
        await self.points.pass_by("traffic")
        return self.cluster.traffic.get(version, Traffic())

    async def test_set(self, model: str, replica: Replica, *, traceparent: str | None) -> float | None:
        await self._do("test", of=traceparent)
        return self.cluster.accuracy

    async def signals(self, model: str) -> Signals:
        await self.points.pass_by("signals")
        return self.cluster.signals

    async def found(self, rollout_id: int, model: str) -> tuple[CheckFound, ...] | None:
        """Under way at the first look."""
        await self.points.pass_by("checks")
        self.num_checked[rollout_id] = self.num_checked.get(rollout_id, 0) + 1
        return self.cluster.checks if self.num_checked[rollout_id] > 1 else None

    def _engine(self, replica: Replica) -> Engine:
        if replica.name == CANDIDATE:
            assert self.cluster.candidate is not None
            return self.cluster.candidate
        return self.cluster.engines[replica.name]


class FakeCatalog:
    """Knows two checkpoints of one model, and which serves."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.known = {one.version: one for one in (OLD, NEW)}
        self.compared = {OLD.version, NEW.version}

    async def serving(self, model: str) -> Checkpoint | None:
        return self._of(self._cluster.committed) if model == MODEL else None

    async def find(self, model: str, *, name: str | None, version: str | None) -> Checkpoint | None:
        for weights in self.known.values():
            if weights.version == version or Path(weights.path).name == name:
                return self._of(weights.version)
        return None

    def _of(self, version: str) -> Checkpoint:
        is_compared = version in self.compared
        return Checkpoint(
            weights=self.known[version],
            expected=words(version) if is_compared else None,
            score=0.9 if is_compared else None,
            config_hash="c" * 8,
            git_commit="abc",
            made_by=f"00-{'a' * 32}-{'b' * 16}-01",
        )
