"""Every check passes on a cluster in order and fails on a planted fault, asked of the real gateway over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from serve_app.cli import main
from serve_app.engines.scripted import Behaviour
from serve_app.validate.checks import Check, Finding, Group, Outcome, Status, all_well, skipped
from serve_app.validate.limits import BadLimits, Limits, made_limits, read_limits
from serve_app.validate.suite import Wish, service_checks, validate
from tests.serve_app.cli.loopback import silent_address
from tests.serve_app.gateway.builders import SECRET
from tests.serve_app.validate.cluster import GIB, PLANNED, Running, cluster, with_a_rollout

EASY = Limits(
    memory_op_s=5,
    health_s=5,
    request_s=5,
    connect_s=5,
    cross_node_s=5,
    action_s=0.5,
    metrics_s=0.5,
)
"""Times that a busy machine keeps too: these tests are about everything else."""
TWO_NODES = ("node-1", "node-2")
ALL_DISRUPTIVE = Wish(limits=EASY, is_disruptive=True, trace_folder=Path("nowhere"))


async def found(running: Running, wish: Wish = ALL_DISRUPTIVE) -> dict[Check, Finding]:
    return {one.check: one.finding for one in await validate(running.url, wish)}


def group(check: Check) -> Wish:
    return Wish(groups=(check.group,), limits=EASY, is_disruptive=True, trace_folder=Path("nowhere"))


class TestAClusterInOrder:
    async def test_passes_all_but_what_one_node_cannot_show(self) -> None:
        async with cluster() as running:
            told = await found(running)
        assert list(told) == list(Check)
        wrong = {check: one for check, one in told.items() if one.status is not Status.PASS}
        assert wrong == {check: skipped("The cluster has one node.") for check in Check if check.group == "cross-node"}

    async def test_on_two_nodes_passes_what_http_can_show(self) -> None:
        async with cluster(nodes=TWO_NODES) as running:
            await with_a_rollout(running)
            running.faults.digest = ("1" * 12).ljust(64, "0")
            told = await found(running, group(Check.REACH))
        assert {check for check, one in told.items() if one.status is Status.PASS} == {
            Check.REACH,
            Check.SHIP,
            Check.REMOTE_ANSWER,
        }
        assert {told[check].status for check in (Check.TAKEOVER, Check.TRACE_CROSSES)} == {Status.SKIP}

    async def test_a_replica_that_took_over_from_another_is_known_by_its_plan(self) -> None:
        async with cluster() as running:
            running.faults.suffix = ".2f"
            told = await found(running, group(Check.IDENTITY))
        assert told[Check.IDENTITY].status is Status.PASS, told[Check.IDENTITY]

    async def test_nothing_is_left_behind(self) -> None:
        async with cluster() as running:
            await found(running)
            assert running.control.leases == {}
            assert running.control.away_models == set()


def sets(name: str, value: object) -> Callable[[Running], object]:
    return lambda running: setattr(running.faults, name, value)


def behaves(behaviour: Behaviour, *models: str) -> Callable[[Running], object]:
    def plant(running: Running) -> None:
        for model in models or running.engines:
            running.engines[model].behaviour = behaviour

    return plant


PLANTED: list[tuple[Check, Callable[[Running], object], str]] = [
    (Check.TELEMETRY, sets("is_unread", True), "cannot be read"),
    (Check.SHARE, sets("keeps_lease", True), "still held"),
    (Check.AS_PLANNED, sets("measured_bytes", int(PLANNED * 1.06)), "106% of its plan"),
    (Check.AS_PLANNED, sets("used_bytes", 31 * GIB), "of the 40 GB class and with 2 models"),
    (Check.HEADROOM, sets("used_bytes", 33 * 10**9), "expected 20%"),
    (Check.IDENTITY, sets("uuid", "another"), "is read as another"),
    (Check.IDENTITY, sets("runs_on", "node-1/gpu-1"), "runs on node-1/gpu-1"),
    (Check.LOAD, sets("never_loads", True), "was not loaded within"),
    (Check.SLEEP_WAKE, sets("never_loads", True), "was not awake within"),
    (Check.RELOAD, sets("reload_version", "ffffffffffff"), "does not serve the same weights"),
    (Check.RELOAD, sets("reload_status", 500), "status 500"),
    (Check.INFO, sets("info_version", "ffffffffffff"), "ffffffffffff in /models/info and 0123456789ab in an answer"),
    (Check.CHAT, behaves(Behaviour.ERROR_500), "Mode 'fast': Status 500"),
    (Check.STREAM, behaves(Behaviour.NO_DONE), "end mark"),
    (Check.CACHE, behaves(Behaviour.GARBAGE), "expected a hit"),
    (Check.METRIC_TRACE, sets("counts", False), "rose by 0"),
    (Check.METRIC_TRACE, sets("trace_header", b"0" * 32), "is none"),
    (Check.REACH, sets("lost_node", "node-2"), "No device of 'node-2'"),
    (Check.SHIP, sets("digest", "f" * 64), "shipped ffffffffffff"),
    (Check.REMOTE_ANSWER, behaves(Behaviour.ERROR_500, "small"), "'node-2' did"),
    (Check.TAKEOVER, sets("watch_age_s", 60.0), "was last watched 60 s ago"),
]


class TestAPlantedFault:
    @pytest.mark.parametrize(("check", "plant", "said"), PLANTED)
    async def test_is_found_by_its_check(self, check: Check, plant: Callable[[Running], object], said: str) -> None:
        nodes = TWO_NODES if check.group is Group.CROSS_NODE else ("node-1",)
        async with cluster(nodes=nodes) as running:
            await with_a_rollout(running)
            plant(running)
            told = (await found(running, group(check)))[check]
        assert told.status is Status.FAIL, told
        assert said in told.reason

    async def test_of_an_unload_that_does_nothing_is_found(self) -> None:
        class Deaf(set[str]):
            def add(self, element: str) -> None:
                pass

        async with cluster() as running:
            running.control.away_models = Deaf()
            told = (await found(running, group(Check.UNLOAD)))[Check.UNLOAD]
        assert told.status is Status.FAIL
        assert "'small' was not unloaded within" in told.reason

    async def test_of_a_controller_that_is_away_is_found_by_every_check_that_asks_it(self) -> None:
        async with cluster() as running:
            url = running.url
        told = {one.check: one.finding for one in await validate(url, Wish(limits=EASY))}
        assert list(told) == list(Check)
        assert {one.status for one in told.values()} <= {Status.FAIL, Status.SKIP}
        assert not all_well([Outcome(check=check, finding=one) for check, one in told.items()])


class TestTime:
    async def test_over_a_limit_is_a_fault(self) -> None:
        never = Limits(memory_op_s=1e-9, health_s=1e-9, request_s=1e-9, connect_s=1e-9, cross_node_s=1e-9)
        wish = Wish(limits=never, groups=(Group.DEVICE, Group.SERVICE, Group.CROSS_NODE), trace_folder=Path("nowhere"))
        async with cluster(nodes=TWO_NODES) as running:
            told = await found(running, wish)
        for check in (
            Check.TELEMETRY,
            Check.SHARE,
            Check.CHAT,
            Check.STREAM,
            Check.CACHE,
            Check.ERRORS,
            Check.REACH,
            Check.REMOTE_ANSWER,
        ):
            assert (told[check].status, "expected at most" in told[check].reason) == (Status.FAIL, True), check


class TestWhatIsNotLookedAt:
    async def test_says_why(self) -> None:
        async with cluster() as running:
            running.faults.is_full = True
            running.faults.reload_status = 409
            told = await found(running, Wish(limits=EASY))
        assert told[Check.UNLOAD].reason.endswith("--disruptive allows it.")
        assert told[Check.SHARE] == skipped("There is no room to lend: No room for 16 MB.")
        assert told[Check.RELOAD] == skipped("The reload was refused as things stand: Rollout 1 is shipping.")

    async def test_quick_leaves_the_reload_out(self) -> None:
        async with cluster() as running:
            told = await found(running, Wish(groups=(Group.MODEL,), limits=EASY, is_quick=True))
        assert told[Check.RELOAD] == skipped("Left out with --quick.")
        assert told[Check.INFO].status is Status.PASS

    def test_only_skips_are_not_well(self) -> None:
        assert not all_well([Outcome(check=Check.LOAD, finding=skipped("why"))])


class TestARolloutsSubset:
    async def test_is_of_one_model_and_the_checks_it_names(self) -> None:
        async with cluster() as running:
            told = await service_checks(running.url, "small", checks=(Check.CHAT, Check.STREAM), limits=EASY)
            assert running.engines["mini"].counts.num_started == 0
        assert [(one.check, one.finding.status) for one in told] == [
            (Check.CHAT, Status.PASS),
            (Check.STREAM, Status.PASS),
        ]

    async def test_passes_whole_where_a_gateway_is_asked_as_other_gateways_ask_it(self) -> None:
        async with cluster() as running:
            secret = {"x-headroom-internal": SECRET}
            told = await service_checks(running.url, "mini", limits=EASY, headers=secret)
        assert {one.check: one.finding.reason for one in told if one.finding.status is not Status.PASS} == {}
        assert len(told) == 5


class TestLimits:
    def test_the_command_line_wins_over_the_file_and_the_file_over_the_defaults(self, tmp_path: Path) -> None:
        (tmp_path / "limits.yaml").write_text("request_s: 2\nhealth_s: 3\n")
        limits = read_limits(tmp_path / "limits.yaml", ["request_s=4"])
        assert (limits.request_s, limits.health_s, limits.connect_s) == (4.0, 3.0, 0.05)

    @pytest.mark.parametrize("given", ["request_s=-1", "request_s=soon", "reqest_s=1", "request_s", "over_plan=nan"])
    def test_what_is_none_is_refused(self, given: str) -> None:
        with pytest.raises(BadLimits):
            read_limits(None, [given])

    def test_the_defaults_are_those_of_the_edge(self) -> None:
        assert made_limits({}) == Limits()


class TestTheCommand:
    def test_nobody_there_is_exit_code_3(self) -> None:
        with silent_address() as address:
            assert CliRunner().invoke(main, ["validate", "--address", address]).exit_code == 3

    def test_a_limit_that_is_none_is_bad_usage(self) -> None:
        shown = CliRunner().invoke(main, ["validate", "--limit", "reqest_s=1"])
        assert (shown.exit_code, "Known limits" in shown.output) == (2, True)

    @pytest.mark.parametrize("used", [4 * GIB, 33 * 10**9])
    async def test_the_exit_code_is_the_result(self, used: int) -> None:
        async with cluster() as running:
            running.faults.used_bytes = used
            easy = [f"--limit={name}=5" for name in ("memory_op_s", "health_s", "request_s", "connect_s")]
            asked = ["validate", "--address", running.url, "--group", "device", *easy]
            shown = await asyncio.to_thread(CliRunner().invoke, main, asked)
            as_json = await asyncio.to_thread(CliRunner().invoke, main, [*asked, "--json"])
        is_well = used == 4 * GIB
        assert shown.exit_code == as_json.exit_code == (0 if is_well else 1), shown.output
        assert json.loads(as_json.stdout)["passes"] is is_well
        assert ("FAIL" in shown.stdout.replace("0 FAIL", "")) is not is_well
