"""What an apply proposes: which engines go on, what is told apart, what needs a restart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from placement.policy import Policy
from placement.solver import solve
from placement.steps import DEFAULT_RATES
from serve_app.controller.claims import Weights
from serve_app.controller.proposal import changed_models, keep_estimates, rates_seen, restart_keys, staying, told_apart
from serve_app.gateway.standalone import standalone_settings
from tests.placement.builders import demand, fleet

SETTINGS = standalone_settings(["m", "n"])
WEIGHTS = {name: Weights(path=Path(name), version=f"{name}-1", step=1) for name in ("m", "n")}


def with_model(**changes: Any) -> Any:
    first, *rest = SETTINGS.models
    return replace(SETTINGS, models=(replace(first, **changes), *rest))


class TestRestartKeys:
    def test_models_and_modes_change_while_it_runs(self) -> None:
        assert restart_keys(SETTINGS, replace(with_model(num_replicas=9), modes=())) == []

    def test_everything_else_is_named_as_in_the_file(self) -> None:
        after = replace(
            SETTINGS,
            fleet=replace(SETTINGS.fleet, headroom=0.5),
            gateway=replace(SETTINGS.gateway, num_replicas=3),
            storage=replace(SETTINGS.storage, home=Path("/elsewhere")),
        )
        assert restart_keys(SETTINGS, after) == ["fleet.headroom", "gateway.replicas", "storage.home"]


class TestChangedModels:
    @pytest.mark.parametrize(
        "changes", [{"dtype": "bfloat16"}, {"max_num_seqs": 3}, {"kv_cache_bytes": 1 << 20}, {"source": "default:x"}]
    )
    def test_other_arguments_make_another_engine(self, changes: dict[str, Any]) -> None:
        assert changed_models(SETTINGS, with_model(**changes), WEIGHTS, WEIGHTS) == {"m"}

    @pytest.mark.parametrize("changes", [{"num_replicas": 3}, {"priority": 1}, {"path": "models[9]"}])
    def test_more_replicas_or_another_priority_do_not(self, changes: dict[str, Any]) -> None:
        assert changed_models(SETTINGS, with_model(**changes), WEIGHTS, WEIGHTS) == frozenset()

    def test_other_weights_do(self) -> None:
        newer = {**WEIGHTS, "n": replace(WEIGHTS["n"], version="n-2")}
        assert changed_models(SETTINGS, SETTINGS, WEIGHTS, newer) == {"n"}

    def test_a_new_model_is_no_changed_one(self) -> None:
        grown = replace(SETTINGS, models=(*SETTINGS.models, replace(SETTINGS.models[0], id="k")))
        assert changed_models(SETTINGS, grown, WEIGHTS, WEIGHTS) == frozenset()


class TestEnginesThatGoOn:
    def test_keep_the_bytes_they_were_planned_with(self) -> None:
        planned, measured = demand("m", gib=4), demand("m", gib=3)
        assert keep_estimates([measured], [planned], changed=()) == (planned,)
        assert keep_estimates([measured], [planned], changed={"m"}) == (measured,)

    def test_stay_unless_their_node_is_gone(self) -> None:
        two = fleet("a: 1x24GiB", "b: 1x24GiB")
        plan = solve(two, [demand("m", gib=10, replicas=2)], Policy())
        assert len(staying(plan, two, changed=())) == 2
        left = replace(two, nodes=two.nodes[:1])
        assert [one.node for one in staying(plan, left, changed=())] == ["a"]
        assert staying(plan, two, changed={"m"}) == ()


class TestToldApart:
    def test_the_replicas_of_a_changed_model_get_names_that_none_had_before(self) -> None:
        one = fleet("a: 1x80GiB")
        before = solve(one, [demand("m", gib=4, replicas=2), demand("n", gib=4)], Policy())
        after = told_apart(before, before, changed={"m"})
        assert sorted(placement.replica for placement in after.placements) == ["m#2", "m#3", "n#0"]


class TestRatesSeen:
    def test_the_quickest_start_seen_here_is_what_a_start_takes_besides_its_weights(self) -> None:
        assert rates_seen([11.5, 9.0, 30.0]).start_s == 9.0
        assert rates_seen([0.1]) == rates_seen([]) == DEFAULT_RATES
