"""The gate of a replica: who waits, for how long, and that it always knows what runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engines.gate import Gate, GateRefused

FOR_EVER_S = 3600.0


def nothing() -> None: ...


class Runs:
    """Requests through one gate, by number; each runs until it is told to end."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.begun: list[int] = []
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self._ends: dict[int, asyncio.Event] = {}

    def come(self, number: int) -> asyncio.Task[None]:
        self._ends[number] = asyncio.Event()
        self.tasks[number] = asyncio.create_task(self._run(number))
        return self.tasks[number]

    def end(self, number: int) -> None:
        self._ends[number].set()

    async def finish(self) -> None:
        self.gate.open()
        for number in self._ends:
            self.end(number)
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)

    async def _run(self, number: int) -> None:
        async with self.gate.passed():
            self.begun.append(number)
            await self._ends[number].wait()


async def settled() -> None:
    """Every task has gone as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def closed(*, most_waiting: int = 10, longest_wait_s: float = FOR_EVER_S) -> Gate:
    gate = Gate(most_waiting=most_waiting, longest_wait_s=longest_wait_s)
    gate.close(deadline_s=FOR_EVER_S, on_overdue=nothing)
    return gate


class TestWhoRuns:
    async def test_an_open_gate_lets_everybody_in_at_once(self) -> None:
        runs = Runs(Gate())
        runs.come(1)
        await settled()
        assert (runs.begun, runs.gate.num_running) == ([1], 1)
        await runs.finish()

    async def test_what_runs_goes_on_while_the_gate_is_closed(self) -> None:
        runs = Runs(Gate())
        first = runs.come(1)
        await settled()
        runs.gate.close(deadline_s=FOR_EVER_S, on_overdue=nothing)
        runs.end(1)
        await first
        assert runs.gate.num_running == 0

    async def test_those_who_waited_run_in_the_order_they_came(self) -> None:
        runs = Runs(closed())
        for number in range(8):
            runs.come(number)
        await settled()
        assert runs.begun == []
        runs.gate.open()
        await settled()
        assert runs.begun == list(range(8))
        await runs.finish()

    async def test_a_gate_closed_again_at_once_is_not_drained_before_those_it_let_in(self) -> None:
        runs = Runs(closed())
        runs.come(1)
        await settled()
        runs.gate.open()
        runs.gate.close(deadline_s=FOR_EVER_S, on_overdue=nothing)
        drained = asyncio.create_task(runs.gate.drained())
        await settled()
        assert not drained.done()
        runs.end(1)
        await drained
        await runs.finish()

    async def test_drained_waits_for_the_last_run(self) -> None:
        runs = Runs(Gate())
        runs.come(1)
        runs.come(2)
        await settled()
        runs.gate.close(deadline_s=FOR_EVER_S, on_overdue=nothing)
        drained = asyncio.create_task(runs.gate.drained())
        runs.end(1)
        await settled()
        assert not drained.done()
        runs.end(2)
        await drained


class TestLimits:
    async def test_past_the_limit_a_request_is_refused_at_once_with_a_time_to_ask_again(self) -> None:
        runs = Runs(closed(most_waiting=2))
        runs.come(1)
        runs.come(2)
        await settled()
        with pytest.raises(GateRefused) as refused:
            await runs.come(3)
        assert refused.value.retry_after_s >= 1
        assert runs.gate.num_waiting == 2
        await runs.finish()

    async def test_who_waits_too_long_is_refused_and_frees_the_place(self) -> None:
        runs = Runs(closed(longest_wait_s=0.0))
        with pytest.raises(GateRefused):
            await runs.come(1)
        assert runs.gate.num_waiting == 0

    async def test_who_leaves_the_queue_frees_the_place(self) -> None:
        runs = Runs(closed(most_waiting=1))
        runs.come(1)
        await settled()
        runs.tasks[1].cancel()
        await settled()
        runs.come(2)
        await settled()
        assert runs.gate.num_waiting == 1
        await runs.finish()
        assert runs.begun == [2]

    async def test_who_leaves_in_the_moment_of_being_let_in_runs_no_more(self) -> None:
        runs = Runs(closed())
        runs.come(1)
        await settled()
        runs.gate.open()
        runs.tasks[1].cancel()
        await settled()
        assert (runs.gate.num_running, runs.begun) == (0, [])

    async def test_who_is_turned_away_is_refused(self) -> None:
        runs = Runs(closed())
        waiting = runs.come(1)
        await settled()
        runs.gate.turn_away("The replica ends.")
        with pytest.raises(GateRefused, match="ends"):
            await waiting
        assert not runs.gate.is_open


class TestDeadline:
    async def test_nobody_opened_in_time(self) -> None:
        overdue = asyncio.Event()
        Gate().close(deadline_s=0.0, on_overdue=overdue.set)
        async with asyncio.timeout(5):
            await overdue.wait()

    async def test_an_opened_gate_is_never_overdue(self) -> None:
        overdue = asyncio.Event()
        gate = Gate()
        gate.close(deadline_s=0.0, on_overdue=overdue.set)
        gate.open()
        after = asyncio.Event()
        asyncio.get_running_loop().call_later(0.0, after.set)  # due later than the deadline that must not come
        await after.wait()
        assert not overdue.is_set()

    async def test_closing_again_sets_the_deadline_anew(self) -> None:
        first, second = asyncio.Event(), asyncio.Event()
        gate = Gate()
        gate.close(deadline_s=0.0, on_overdue=first.set)
        gate.close(deadline_s=0.0, on_overdue=second.set)
        async with asyncio.timeout(5):
            await second.wait()
        assert not first.is_set()


class TestItNeverMiscounts:
    @given(
        acts=st.lists(
            st.one_of(
                st.tuples(st.sampled_from(["come", "end", "leave"]), st.integers(0, 2)),
                st.tuples(st.sampled_from(["open", "close"]), st.just(0)),
                st.just(("turn", 0)),
            ),
            min_size=5,
            max_size=40,
        )
    )
    def test_what_runs_and_waits_is_what_came_less_what_left(self, acts: list[tuple[str, int]]) -> None:
        """Acts fall between turns of the loop and, with `turn` left out, within one."""
        asyncio.run(self._played(acts))

    async def _played(self, acts: list[tuple[str, int]]) -> None:
        gate = closed(most_waiting=3)
        runs = Runs(gate)
        does: dict[str, Callable[[int], object]] = {
            "come": lambda number: None if number in runs.tasks else runs.come(number),
            "end": lambda number: runs.end(number) if number in runs.tasks else None,
            "leave": lambda number: runs.tasks[number].cancel() if number in runs.tasks else None,
            "open": lambda _: gate.open(),
            "close": lambda _: gate.close(deadline_s=FOR_EVER_S, on_overdue=nothing),
        }
        for act, number in acts:
            if act == "turn":
                await self._counted(runs)
            else:
                does[act](number)
        await self._counted(runs)
        await runs.finish()
        assert (gate.num_running, gate.num_waiting) == (0, 0)

    async def _counted(self, runs: Runs) -> None:
        gate = runs.gate
        await settled()
        unfinished = {number for number, task in runs.tasks.items() if not task.done()}
        assert gate.num_running == len(unfinished & set(runs.begun))
        assert gate.num_waiting == len(unfinished - set(runs.begun))
        assert not (gate.is_open and gate.num_waiting)
