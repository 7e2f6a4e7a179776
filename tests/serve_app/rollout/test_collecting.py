"""What nodes keep of shipped checkpoints once a rollout is over: nothing goes that somebody may go back to."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from serve_app.rollout.collecting import KEPT_BESIDE, collect
from serve_app.rollout.content_store_care import Stored, to_remove
from serve_app.rollout.record import OVER, Record, Stage, Weights
from serve_app.rollout.returnable import needed, weights_of
from tests.serve_app.rollout.parcels import depot, made
from tests.serve_app.rollout.test_stages import record

MODELS = ("mini", "base")
VERSIONS = tuple(letter * 12 for letter in "abcdef")


def weights(version: str) -> Weights:
    return Weights(path=f"/models/mini/checkpoint-{version}", version=version)


def rollouts() -> st.SearchStrategy[tuple[Record, ...]]:
    one = st.builds(
        lambda model, stage, old, new: replace(record(stage), model=model, old=weights(old), new=weights(new)),
        st.sampled_from(MODELS),
        st.sampled_from(Stage),
        st.sampled_from(VERSIONS),
        st.sampled_from(VERSIONS),
    )
    return st.lists(one, max_size=6).map(tuple)


class Node:
    """A depot as the controller asks one."""

    def __init__(self, stored: tuple[Stored, ...]) -> None:
        self.held = {one.digest: one for one in stored}

    async def stored(self) -> tuple[Stored, ...]:
        return tuple(self.held.values())

    async def collect(self, keep: Collection[str], newest: int) -> tuple[str, ...]:
        gone = to_remove(await self.stored(), keep=keep, newest=newest)
        self.held = {digest: one for digest, one in self.held.items() if digest not in gone}
        return gone


class TestWhatIsNeeded:
    @given(rollouts(), st.fixed_dictionaries({model: st.sampled_from(VERSIONS) for model in MODELS}))
    def test_weights_that_are_under_way_or_that_one_can_go_back_to_always_are(
        self, records: tuple[Record, ...], in_force: dict[str, str]
    ) -> None:
        kept = {(one.path, one.version) for one in weights_of(needed(records, in_force))}
        for one in records:
            if one.stage not in OVER:
                assert {(one.old.path, one.old.version), (one.new.path, one.new.version)} <= kept
            if one.stage is Stage.FINISHED and in_force[one.model] == one.new.version:
                assert (one.old.path, one.old.version) in kept

    def test_those_of_before_the_last_are_not(self) -> None:
        first = replace(record(Stage.FINISHED), old=weights("a" * 12), new=weights("b" * 12))
        second = replace(record(Stage.FINISHED), id=2, old=weights("b" * 12), new=weights("c" * 12))
        assert needed((second, first), {"mini": "c" * 12}) == (second,)


class TestCollecting:
    async def test_a_node_keeps_what_is_needed_and_the_newest_beside(self) -> None:
        node = Node(tuple(Stored(digest=one * 6, num_bytes=1, stored_ns=at) for at, one in enumerate(VERSIONS)))
        gone = await collect(node, {VERSIONS[0], VERSIONS[2]})
        assert gone == {VERSIONS[1], VERSIONS[3], VERSIONS[4]}
        assert len(node.held) == 2 + KEPT_BESIDE

    async def test_versions_name_what_a_real_store_holds(self, tmp_path: Path) -> None:
        keeper = depot(tmp_path, "n")
        packed = [keeper.pack(made(tmp_path / "models" / "tiny", step=step, seed=step)) for step in range(1, 4)]
        for one in packed:
            keeper.copy(one)
        node = Node(keeper.stored())
        first = packed[0].parcel.weights_version
        gone = await collect(node, {first})
        assert first not in gone
        assert len(gone) == len(packed) - 1 - KEPT_BESIDE
