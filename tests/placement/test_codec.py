"""Plans survive JSON, and JSON that is no plan is refused with the place of the fault."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.codec import (
    demands_from_json,
    demands_to_json,
    inventory_from_json,
    inventory_to_json,
    plan_from_json,
    plan_to_json,
)
from placement.demand import Demand
from placement.errors import DecodeError
from placement.inventory import Inventory
from placement.policy import Policy
from placement.solver import solve
from tests.placement.builders import demand, fleet, problems

Question = tuple[Inventory, tuple[Demand, ...], Policy]
PLAN = solve(fleet("n: 2x24GiB"), [demand("a", gib=4), demand("b", gib=40)], Policy())


class TestThereAndBack:
    @given(problems())
    @settings(max_examples=60, deadline=None)
    def test_a_plan_survives(self, question: Question) -> None:
        plan = solve(*question)
        assert plan_from_json(plan_to_json(plan)) == plan

    @given(problems())
    def test_inventory_and_demands_survive(self, question: Question) -> None:
        inventory, demands, _ = question
        assert inventory_from_json(inventory_to_json(inventory)) == inventory
        assert demands_from_json(demands_to_json(demands)) == demands

    def test_a_field_with_a_default_may_be_left_out(self) -> None:
        (bare,) = json.loads(demands_to_json((demand("a", gib=4),)))
        del bare["tensor_parallel"]
        assert demands_from_json(json.dumps([bare])) == (demand("a", gib=4),)

    def test_the_property_finds_a_codec_that_loses_a_field(self) -> None:
        forgetful = json.loads(plan_to_json(PLAN)) | {"gap": None}
        assert plan_from_json(json.dumps(forgetful)) != PLAN


def changed(*path: str | int, to: object) -> str:
    """The plan as JSON with one value changed."""
    whole: Any = json.loads(plan_to_json(PLAN))
    inner = whole
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return json.dumps(whole)


FAULTS = {
    "extra": changed("extra", to=1),
    "placements[0].estimate.parts[1].bytes": changed("placements", 0, "estimate", "parts", 1, "bytes", to=1),
    "placements[0].estimate.parts[1].num_bytes": changed(
        "placements", 0, "estimate", "parts", 1, "num_bytes", to="many"
    ),
    "placements[0].devices": changed("placements", 0, "devices", to="n/gpu-0"),
    "placements[0]": changed("placements", 0, to=None),
    "refusals[0].kind": changed("refusals", 0, "kind", to="maybe"),
    "refusals[0].causes[0]": changed("refusals", 0, "causes", 0, to=["too_small"]),
    "refusals[0].causes[0][1]": changed("refusals", 0, "causes", 0, to=["too_small", True]),
    "headroom": changed("headroom", to=None),
    "inventory_version": changed("inventory_version", to=1.0),
    "strategy": changed("strategy", to={}),
}


class TestFaults:
    @pytest.mark.parametrize("path", FAULTS)
    def test_a_fault_is_named_by_its_path(self, path: str) -> None:
        with pytest.raises(DecodeError) as refused:
            plan_from_json(FAULTS[path])
        assert refused.value.path == path

    def test_a_missing_field_is_named(self) -> None:
        whole = json.loads(plan_to_json(PLAN))
        del whole["placements"][0]["node"]
        with pytest.raises(DecodeError, match=r"placements\[0\]\.node: missing"):
            plan_from_json(json.dumps(whole))

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"a": NaN}', '{"a": 1, "a": 2}', "[" * 100_000, b"\xff"])
    def test_what_is_no_plan_is_refused(self, text: str | bytes) -> None:
        with pytest.raises(DecodeError):
            plan_from_json(text)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
        )
    )
    def test_any_json_is_decoded_or_refused(self, value: object) -> None:
        with pytest.raises(DecodeError):
            plan_from_json(json.dumps(value))
