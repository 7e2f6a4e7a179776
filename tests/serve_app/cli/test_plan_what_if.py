"""`headroom plan` for a fleet that is not here: what if, certificate, steps, defragmentation. The real command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from serve_app.cli import main
from tests.serve_app.config.cluster_text import changed_args, written
from tests.serve_app.fleet.checkpoint_files import checkpoint

FLEETS = Path(__file__).parents[2] / "data" / "fleets"
MODELS = FLEETS / "reference-models.yaml"


def plan(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["plan", *map(str, arguments)])


def reference(fleet: str, *arguments: str | Path) -> Result:
    return plan("--fleet", FLEETS / fleet, "--demands", MODELS, *arguments)


def answer(fleet: str, *arguments: str | Path) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(reference(fleet, *arguments, "--json").stdout)
    return shown


def where(shown: dict[str, Any]) -> dict[str, list[str]]:
    return {placement["replica"]: placement["devices"] for placement in shown["plan"]["placements"]}


def file(directory: Path, name: str, data: object) -> Path:
    path = directory / name
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster.yaml in the working directory."""
    monkeypatch.chdir(tmp_path)


class TestReferenceModels:
    """Row A3 through the command line."""

    def test_one_device_of_32_gb_takes_all_three(self) -> None:
        shown = answer("one-32gb.yaml")
        assert shown["plan"]["strategy"] == "single-device"
        assert set(where(shown)) == {"qwen-32b#0", "mistral-7b#0", "llama3-8b#0"}
        assert reference("one-32gb.yaml").exit_code == 0

    def test_two_devices_of_24_gb_take_qwen_and_the_two_small_ones_apart(self) -> None:
        shown = answer("two-24gb.yaml")
        assert shown["plan"]["strategy"] == "multi-device"
        assert where(shown) == {
            "qwen-32b#0": ["node/gpu-0"],
            "mistral-7b#0": ["node/gpu-1"],
            "llama3-8b#0": ["node/gpu-1"],
        }

    def test_one_device_of_24_gb_takes_two_of_the_three_and_says_why(self) -> None:
        shown = answer("one-24gb.yaml")
        assert shown["plan"]["strategy"] == "reduced"
        assert set(where(shown)) == {"qwen-32b#0", "mistral-7b#0"}
        result = reference("one-24gb.yaml")
        assert result.exit_code == 1
        assert "No room for 'llama3-8b': it needs 4.7 GiB" in result.stdout

    def test_where_weights_may_lie_in_host_memory_one_device_of_24_gb_serves_all_three(self) -> None:
        options = ("--fleet", FLEETS / "one-24gb.yaml", "--demands", FLEETS / "reference-models-offload.yaml")
        shown = json.loads(plan(*options, "--json").stdout)
        assert (shown["plan"]["strategy"], len(where(shown))) == ("offload", 3)
        assert "llama3-8b#0 1,000,000,000 0.9 GiB 3.7 GiB" in " ".join(plan(*options).stdout.split())

    def test_the_table_shows_every_byte_and_the_verdict(self) -> None:
        shown = reference("two-24gb.yaml").stdout
        assert "16,000,000,000" in shown
        assert shown.count("PASS") == 2


class TestWhatIf:
    def test_more_replicas_of_a_model(self) -> None:
        assert "mistral-7b#1" in where(answer("two-24gb.yaml", "--demand", "mistral-7b=2"))

    def test_no_replica_of_a_model_makes_room_for_another(self) -> None:
        assert set(where(answer("one-24gb.yaml", "--demand", "qwen-32b=0"))) == {"mistral-7b#0", "llama3-8b#0"}

    def test_without_a_device_or_a_node(self) -> None:
        assert {
            d for devices in where(answer("two-24gb.yaml", "--without", "node/gpu-0")).values() for d in devices
        } == {"node/gpu-1"}
        bare = reference("two-24gb.yaml", "--without", "node")
        assert bare.exit_code == 1
        assert "the fleet has no device" in bare.stdout

    def test_without_may_be_said_more_than_once(self) -> None:
        devices = answer("two-24gb.yaml", "--without", "node/gpu-0", "--without", "node/gpu-1")["devices"]
        assert devices == []

    def test_another_headroom(self) -> None:
        assert reference("one-32gb.yaml", "--headroom", "0.3").exit_code == 1
        assert reference("one-24gb.yaml", "--headroom", "0").exit_code == 0
        assert answer("one-32gb.yaml", "--headroom", "0.1")["plan"]["headroom"] == 0.1

    def test_the_models_of_cluster_yaml_on_another_fleet(self, tmp_path: Path) -> None:
        cluster = written(tmp_path, changed_args("models", value=[{"id": "mini", "source": "default:mini"}]))
        result = plan(cluster, "--fleet", FLEETS / "two-24gb.yaml", "--demand", "mini=2", "--json")
        shown = json.loads(result.stdout)
        assert where(shown) == {"mini#0": ["node/gpu-0"], "mini#1": ["node/gpu-1"]}
        assert "cuda_graphs" in {part["name"] for part in shown["demands"][0]["estimate"]["parts"]}

    def test_demands_of_their_own_take_the_headroom_of_cluster_yaml(self, tmp_path: Path) -> None:
        written(tmp_path, changed_args("fleet", value={"headroom": 0.3}))
        assert answer("one-32gb.yaml")["plan"]["headroom"] == 0.3

    def test_device_types_of_cluster_yaml_hold(self, tmp_path: Path) -> None:
        model = {"id": "mini", "source": "default:mini", "device_types": ["H100"]}
        result = plan(written(tmp_path, changed_args("models", value=[model])), "--fleet", FLEETS / "two-24gb.yaml")
        assert (result.exit_code, "2 of another type" in " ".join(result.stdout.split())) == (1, True)


class TestWrongUse:
    """Exit code 2, one sentence, no traceback."""

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (("--demand", "mistal-7b=2"), "Did you mean 'mistral-7b'?"),
            (("--demand", "mistral-7b"), "is not MODEL=REPLICAS"),
            (("--demand", "mistral-7b=-1"), "is not MODEL=REPLICAS"),
            (("--demand", "mistral-7b=9999999"), "is not MODEL=REPLICAS"),
            (("--without", "node/gpu-7"), "there is no node or device 'node/gpu-7'"),
            (("--headroom", "1"), "0<=x<=0.95"),
            (("--headroom", "nan"), "headroom is nan"),
            (("--defragment", "much"), "is not a size above 0"),
            (("--defragment", "0"), "is not a size above 0"),
            (("--running", "none.json"), "cannot be read"),
            (("there-is-none.yaml",), "cannot be read"),
        ],
    )
    def test_names_the_option_and_what_it_takes(self, arguments: tuple[str, ...], says: str) -> None:
        result = reference("one-32gb.yaml", *arguments)
        assert result.exit_code == 2, result.output
        assert says in " ".join(result.stderr.split())
        assert "Traceback" not in result.output

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"plan": {}}', '{"plan": 1, "demands": 2}', "{", "\udcff"])
    def test_a_running_plan_that_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "plan.json").write_bytes(text.encode(errors="surrogateescape"))
        result = reference("one-32gb.yaml", "--running", tmp_path / "plan.json")
        assert (result.exit_code, "expected a plan as JSON" in " ".join(result.stderr.split())) == (2, True)

    def test_ways_to_divide_a_model_that_its_heads_do_not_allow(self, tmp_path: Path) -> None:
        source = str(checkpoint(tmp_path / "little", num_floats=262_144))
        args = changed_args("models", value=[{"id": "little", "source": source, "tensor_parallel": 7}])
        args["applications"][0]["args"] |= {"modes": {}, "storage": {"model_roots": [str(tmp_path)]}}
        result = plan(written(tmp_path, args), "--fleet", FLEETS / "two-24gb.yaml")
        assert result.exit_code == 2
        assert "does not divide among 7 devices" in " ".join(result.stderr.split())

    def test_ten_thousand_models_in_cluster_yaml(self, tmp_path: Path) -> None:
        models = [{"id": f"m{number}", "source": "default:mini"} for number in range(10_000)]
        result = plan(written(tmp_path, changed_args("models", value=models)), "--fleet", FLEETS / "two-24gb.yaml")
        assert (result.exit_code, "10,000 entries" in result.stderr) == (2, True)

    def test_a_fleet_file_with_problems_tells_them_all(self, tmp_path: Path) -> None:
        fleet = file(tmp_path, "fleet.yaml", {"nodes": [{"name": "n", "devices": [{"memory": 0, "helth": "fine"}]}]})
        result = plan("--fleet", fleet, "--demands", MODELS)
        assert result.exit_code == 2
        assert "fleet.yaml has 2 problems" in result.stderr


class TestCertificate:
    def test_shows_the_sum_of_every_device_the_bounds_and_why_not_elsewhere(self) -> None:
        shown = reference("two-24gb.yaml", "--certificate").stdout
        for line in ("= allowed 19,200,000,000", "= peak 9,000,000,000", "slack = allowed - peak 10,200,000,000"):
            assert line in " ".join(shown.split())
        assert "goals in their order solver cp-sat, proven best" in " ".join(shown.split())
        assert "no room: 14.9 GiB needed at the peak, 9.5 GiB free above headroom" in " ".join(shown.split())

    def test_json_has_it_only_when_asked(self) -> None:
        assert "certificate" not in answer("two-24gb.yaml")
        certificate = answer("two-24gb.yaml", "--certificate")["certificate"]
        assert [device["slack_bytes"] for device in certificate["devices"]] == [3_200_000_000, 10_200_000_000]

    def test_a_refused_model_has_a_cause_on_every_device(self) -> None:
        shown = reference("one-24gb.yaml", "--certificate").stdout
        assert "llama3-8b 1 refused node/gpu-0: no room: 4.7 GiB needed" in " ".join(shown.split())


class TestSteps:
    """A saved plan is the plan in force."""

    @pytest.fixture
    def in_force(self, tmp_path: Path) -> Path:
        return file(tmp_path, "plan.json", reference("two-24gb.yaml", "--json").stdout)

    def test_the_same_question_again_moves_nothing(self, in_force: Path) -> None:
        assert "steps 0 to do, 3 unchanged" in " ".join(
            reference("two-24gb.yaml", "--running", in_force).stdout.split()
        )

    def test_a_lost_device_moves_only_what_lay_there(self, in_force: Path) -> None:
        models = ("--demand", "qwen-32b=0")
        shown = answer("two-24gb.yaml", "--running", in_force, "--without", "node/gpu-1", *models)
        kinds = {step["replica"]: step["kind"] for step in shown["steps"]["steps"]}
        assert kinds == {"qwen-32b#0": "stop", "mistral-7b#0": "start", "llama3-8b#0": "start"}

    def test_a_plan_without_its_demands_is_enough_while_its_models_are_still_asked_for(self, in_force: Path) -> None:
        bare = file(in_force.parent, "bare.json", json.dumps(json.loads(in_force.read_text())["plan"]))
        assert reference("two-24gb.yaml", "--running", bare).exit_code == 0
        others = file(in_force.parent, "others.yaml", {"models": [{"id": "other", "memory": "1GB"}]})
        result = plan("--fleet", FLEETS / "two-24gb.yaml", "--demands", others, "--running", bare)
        assert result.exit_code == 2
        assert "no demand says what 'qwen-32b' takes" in " ".join(result.stderr.split())

    def test_models_that_are_not_asked_for_any_more_stop(self, in_force: Path) -> None:
        others = file(in_force.parent, "others.yaml", {"models": [{"id": "other", "memory": "1GB"}]})
        options = ("--fleet", FLEETS / "two-24gb.yaml", "--demands", others, "--running", in_force, "--json")
        kinds = {s["replica"]: s["kind"] for s in json.loads(plan(*options).stdout)["steps"]["steps"]}
        assert kinds == {"qwen-32b#0": "stop", "mistral-7b#0": "stop", "llama3-8b#0": "stop", "other#0": "start"}

    def test_each_step_has_its_price_and_the_order_is_shown(self, in_force: Path) -> None:
        shown = reference("two-24gb.yaml", "--running", in_force, "--demand", "mistral-7b=2").stdout
        assert "mistral-7b#1 start 3.7 GiB 2.6 s node/gpu-1" in " ".join(shown.split())
        assert "1. start mistral-7b#1 on node/gpu-1" in " ".join(shown.split())


class TestDefragment:
    @pytest.fixture
    def scattered(self, tmp_path: Path) -> tuple[str | Path, ...]:
        """Three models, each on a device of its own, as a running plan."""
        names = ("a", "b", "c")
        fleet = file(tmp_path, "fleet.yaml", {"nodes": [{"name": "n", "devices": [{"count": 3, "memory": "24GiB"}]}]})
        models = file(tmp_path, "models.yaml", {"models": [{"id": name, "memory": "8GiB"} for name in names]})
        options: tuple[str | Path, ...] = ("--fleet", fleet, "--demands", models)
        shown = json.loads(plan(*options, "--json").stdout)
        for number, placement in enumerate(shown["plan"]["placements"]):
            placement["devices"] = [f"n/gpu-{number}"]
        return (*options, "--running", file(tmp_path, "plan.json", json.dumps(shown)))

    def test_shows_moves_price_and_gain(self, scattered: tuple[str | Path, ...]) -> None:
        shown = " ".join(plan(*scattered, "--defragment").stdout.split())
        assert "1 move (the fewest possible) makes room for a replica of 19.2 GiB on n/gpu-" in shown
        assert "now it is 11.2 GiB" in shown
        assert re.search(r"[abc]#0 move side by side 8.0 GiB 3.4 s n/gpu-\d to n/gpu-\d", shown)

    def test_for_a_number_of_bytes(self, scattered: tuple[str | Path, ...]) -> None:
        made = json.loads(plan(*scattered, "--defragment", "16GiB", "--json").stdout)["defragmentation"]
        assert (made["outcome"], made["wanted_bytes"]) == ("gained", 16 * 2**30)

    def test_says_that_there_is_nothing_to_gain(self) -> None:
        shown = " ".join(reference("two-24gb.yaml", "--defragment").stdout.split())
        assert "nothing to gain: there is room for a replica of 9.5 GiB" in shown
