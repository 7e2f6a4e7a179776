"""What cluster.yaml may say, and what is answered when it says something else."""

from __future__ import annotations

import contextlib
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from serve_app.config.load import load_cluster, load_settings, settings_from_args
from serve_app.config.problems import ConfigError, Problem
from serve_app.config.settings import DeviceChoice, Settings
from tests.serve_app.config.cluster_text import GOOD, MODEL, changed, changed_args, written

HERE = Path("/somewhere")


def problems(data: dict[str, Any] | str, directory: Path) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load_cluster(written(directory, data), environment={})
    return caught.value.problems


def problem(data: dict[str, Any] | str, directory: Path) -> Problem:
    (only,) = problems(data, directory)
    return only


def loaded(data: dict[str, Any], directory: Path, **environment: str) -> Settings:
    return load_settings(written(directory, data), environment=environment)


class TestAGoodFile:
    def test_the_shortest_one_gets_every_default(self, tmp_path: Path) -> None:
        settings = loaded(GOOD, tmp_path, HEADROOM_HOME="/home/of/headroom")
        assert settings.fleet.headroom == 0.20
        assert settings.fleet.devices is DeviceChoice.AUTO
        assert settings.models[0].max_model_len == 512
        assert settings.models[0].kv_cache_bytes is None
        assert settings.models[0].path == "models[0]"
        assert settings.cache.max_bytes == 256 * 2**20
        assert settings.storage.home == Path("/home/of/headroom")

    def test_where_serve_listens_comes_from_its_own_keys(self, tmp_path: Path) -> None:
        cluster = load_cluster(written(tmp_path, changed("http_options", value={"host": "10.0.0.1", "port": 9000})))
        assert (cluster.host, cluster.port) == ("10.0.0.1", 9000)

    def test_modes_may_be_absent_because_models_can_be_asked_by_name(self, tmp_path: Path) -> None:
        assert loaded(changed_args("modes", value={}), tmp_path).modes == ()

    def test_relative_paths_start_at_the_directory_of_the_file(self, tmp_path: Path) -> None:
        data = changed_args("models", 0, "source", value="weights/mine")
        assert loaded(data, tmp_path).models[0].source == str(tmp_path / "weights/mine")

    def test_the_file_names_home_before_the_environment_does(self, tmp_path: Path) -> None:
        data = changed_args("storage", value={"home": "/from/file"})
        assert loaded(data, tmp_path, HEADROOM_HOME="/from/env").storage.home == Path("/from/file")

    def test_sizes_are_read_in_human_units(self, tmp_path: Path) -> None:
        assert loaded(changed_args("models", 0, "kv_cache_bytes", value="512MiB"), tmp_path).models[
            0
        ].kv_cache_bytes == (512 * 2**20)

    def test_other_applications_may_stand_beside_ours(self, tmp_path: Path) -> None:
        data = copy.deepcopy(GOOD)
        data["applications"].insert(0, {"name": "theirs", "import_path": "their.app", "route_prefix": "/theirs"})
        assert load_cluster(written(tmp_path, data)).args_location == ("applications", 1, "args")


class TestAProblem:
    def test_names_line_path_value_valid_set_and_the_nearest_word(self, tmp_path: Path) -> None:
        found = problem(changed_args("models", 0, "dtype", value="float31"), tmp_path)
        assert str(found) == (
            "line 8: applications[0].args.models[0].dtype is 'float31'; "
            "expected one of: float32, bfloat16, float16. Did you mean 'float32'?"
        )

    def test_all_are_told_at_once_in_the_order_of_the_file(self, tmp_path: Path) -> None:
        data = changed_args("fleet", value={"headroom": 1.5, "device": "cpu"})
        data["http_options"] = {"port": 0}
        data["applications"][0]["args"]["modes"]["fast"]["candidates"] = ["mini", "maxi"]
        found = problems(data, tmp_path)
        assert [item.path for item in found] == [
            "applications[0].args.modes.fast.candidates[1]",
            "applications[0].args.fleet.headroom",
            "applications[0].args.fleet.device",
            "http_options.port",
        ]
        assert [item.line for item in found] == sorted(item.line or 0 for item in found)

    @pytest.mark.parametrize(
        ("keys", "value", "expected"),
        [
            (("fleet", "headroom"), 0.96, "a number from 0 to 0.95"),
            (("fleet", "headroom"), -0.1, "a number from 0 to 0.95"),
            (("fleet", "headroom"), float("nan"), "a number from 0 to 0.95"),
            (("fleet", "headroom"), "20%", "a number from 0 to 0.95"),
            (("fleet", "devices"), "gpu", "one of: auto, cuda, host"),
            (("models", 0, "tensor_parallel"), 0, "a whole number from 1 to 64"),
            (("models", 0, "replicas"), "1", "a whole number from 1 to 64"),
            (("models", 0, "replicas"), True, "a whole number from 1 to 64"),
            (("models", 0, "priority"), 1001, "a whole number from 0 to 1,000"),
            (("models", 0, "source"), "default:huge", "one of: default:mini, default:small, default:base, or"),
            (("models", 0, "source"), "", "one of: default:mini, default:small, default:base, or"),
            (("models", 0, "id"), "a@b", "a name of 1 to 64 letters"),
            (("models", 0, "id"), "a#1", "a name of 1 to 64 letters"),
            (("models", 0, "id"), "../x", "a name of 1 to 64 letters"),
            (("models", 0, "kv_cache_bytes"), "512", "a size from 1MiB to 16TiB"),
            (("models", 0, "kv_cache_bytes"), "1KiB", "a size from 1MiB to 16TiB"),
            (("modes", "fast", "latency_target_s"), 0, "a number greater than 0, at most 3,600"),
            (("modes", "fast", "sampling"), {"temperature": 3}, "a number from 0 to 2 or null"),
            (("modes", "fast", "candidates"), [], "a list with at least one entry"),
            (("modes", "fast"), None, "a mapping with the keys candidates"),
            (("models",), [], "a list with at least one entry"),
            (("cache",), [], "a mapping with the keys max_bytes, redis_url"),
            (("cache", "redis_url"), "http://x", "an address such as redis://"),
            (("tracing", "sample_ratio"), 2, "a number from 0 to 1"),
        ],
    )
    def test_says_what_the_key_takes(
        self, tmp_path: Path, keys: tuple[str | int, ...], value: object, expected: str
    ) -> None:
        assert any(item.expected.startswith(expected) for item in problems(changed_args(*keys, value=value), tmp_path))

    def test_an_unknown_key_names_the_nearest_valid_one(self, tmp_path: Path) -> None:
        found = problem(changed_args("models", 0, "max_modellen", value=1), tmp_path)
        assert found.what == "is an unknown key"
        assert found.advice == "Did you mean 'max_model_len'?"

    def test_a_missing_key_has_the_line_of_its_parent(self, tmp_path: Path) -> None:
        found = problem(changed_args("models", 0, value={"id": "mini"}), tmp_path)
        assert found.path == "applications[0].args.models[0].source"
        assert found.what == "is missing"
        assert found.line == 6

    def test_a_bad_name_of_a_mode_is_a_problem_of_the_key(self, tmp_path: Path) -> None:
        found = problem(changed_args("modes", "no spaces", value={"candidates": ["mini"]}), tmp_path)
        assert found.path == "applications[0].args.modes.no spaces"
        assert found.what == "is no valid name"
        assert found.expected.startswith("a name of 1 to 64")

    def test_a_password_is_never_repeated(self, tmp_path: Path) -> None:
        found = problem(changed_args("cache", value={"redis_url": "reddis://me:secret@host"}), tmp_path)
        assert "secret" not in str(found)

    def test_a_long_value_is_cut(self, tmp_path: Path) -> None:
        assert len(problem(changed_args("fleet", value={"devices": "x" * 5000}), tmp_path).what) < 100


class TestRulesOverSeveralKeys:
    def test_two_models_never_share_an_id(self, tmp_path: Path) -> None:
        found = problem(changed_args("models", value=[MODEL, MODEL]), tmp_path)
        assert found.path == "applications[0].args.models[1].id"
        assert "models[0] has it already" in found.expected

    def test_a_model_never_has_the_name_of_a_mode(self, tmp_path: Path) -> None:
        data = changed_args("models", value=[MODEL, {**MODEL, "id": "fast"}])
        assert problem(data, tmp_path).path == "applications[0].args.models[1].id"

    def test_a_candidate_is_a_model(self, tmp_path: Path) -> None:
        found = problem(changed_args("modes", "fast", "candidates", value=["mini", "minni"]), tmp_path)
        assert found.expected == "one of the model ids: mini"
        assert found.advice == "Did you mean 'mini'?"

    def test_a_candidate_stands_once(self, tmp_path: Path) -> None:
        found = problem(changed_args("modes", "fast", "candidates", value=["mini", "mini"]), tmp_path)
        assert found.path == "applications[0].args.modes.fast.candidates[1]"

    def test_a_mode_never_asks_for_more_tokens_than_a_candidate_has(self, tmp_path: Path) -> None:
        found = problem(changed_args("modes", "fast", "sampling", value={"max_tokens": 512}), tmp_path)
        assert found.expected == "less than max_model_len of its candidates (mini 512)"

    def test_a_way_down_is_a_mode_and_never_comes_back(self, tmp_path: Path) -> None:
        found = problem(changed_args("modes", "fast", "downshift_to", value="fasst"), tmp_path)
        assert (found.expected, found.advice) == ("one of the modes: fast", "Did you mean 'fast'?")
        found = problem(changed_args("modes", "fast", "downshift_to", value="fast"), tmp_path)
        assert found.path == "applications[0].args.modes.fast.downshift_to"

    def test_they_are_told_beside_wrong_types(self, tmp_path: Path) -> None:
        data = changed_args("models", value=[MODEL, {**MODEL, "replicas": "two"}, 7])
        assert {item.path for item in problems(data, tmp_path)} == {
            "applications[0].args.models[1].id",
            "applications[0].args.models[1].replicas",
            "applications[0].args.models[2]",
        }


class TestServesOwnKeys:
    def test_a_misspelt_one_is_a_problem_although_serve_lets_it_pass(self, tmp_path: Path) -> None:
        found = problem({**GOOD, "http_option": {"port": 1}}, tmp_path)
        assert found.advice == "Did you mean 'http_options'?"

    def test_our_application_must_be_there(self, tmp_path: Path) -> None:
        found = problem(changed("applications", 0, "name", value="headrom"), tmp_path)
        assert found.path == "applications"
        assert found.advice == "Did you mean 'headroom'?"

    @pytest.mark.parametrize(("key", "value"), [("import_path", "serve_app.app:biuld"), ("route_prefix", "/api")])
    def test_our_application_stands_where_every_command_looks(self, tmp_path: Path, key: str, value: str) -> None:
        assert problem(changed("applications", 0, key, value=value), tmp_path).path == f"applications[0].{key}"

    @pytest.mark.parametrize("args", [[], "x", 3])
    def test_args_of_another_type_are_one_problem(self, tmp_path: Path, args: object) -> None:
        assert problem(changed("applications", 0, "args", value=args), tmp_path).path == "applications[0].args"

    @pytest.mark.parametrize("text", ["", "[]", "3", "a: [", "applications:", "applications: [1]", "applications: {}"])
    def test_any_other_file_is_a_config_error(self, tmp_path: Path, text: str) -> None:
        assert problems(text, tmp_path)

    def test_a_file_that_is_not_there_is_a_config_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="No such file"):
            load_cluster(tmp_path / "none.yaml")

    def test_a_file_that_is_no_text_is_a_config_error(self, tmp_path: Path) -> None:
        (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x01")
        with pytest.raises(ConfigError, match="not UTF-8"):
            load_cluster(tmp_path / "binary.yaml")


class TestArgumentsAlone:
    def test_give_the_same_settings_as_the_file(self, tmp_path: Path) -> None:
        args = GOOD["applications"][0]["args"]
        assert settings_from_args(args, base_dir=tmp_path, environment={}) == loaded(GOOD, tmp_path)

    def test_give_the_same_sentence_without_the_line(self, tmp_path: Path) -> None:
        data = changed_args("fleet", value={"headroom": 2})
        with pytest.raises(ConfigError) as caught:
            settings_from_args(data["applications"][0]["args"])
        (alone,) = caught.value.problems
        in_file = problem(data, tmp_path)
        assert f"line {in_file.line}: {alone}" == str(in_file)

    def test_relative_paths_start_at_the_directory_the_environment_names(self) -> None:
        args = changed_args("storage", value={"home": "state"})["applications"][0]["args"]
        environment = {"HEADROOM_CONFIG_DIR": str(HERE)}
        assert settings_from_args(args, environment=environment).storage.home == HERE / "state"

    def test_no_argument_at_all_names_what_is_missing(self) -> None:
        with pytest.raises(ConfigError, match=r"applications\[0\]\.args\.models is missing"):
            settings_from_args({})


class TestConfigError:
    def test_survives_the_way_from_one_process_to_another(self) -> None:
        error = ConfigError("cluster.yaml", [Problem(path="a", what="is 1", expected="2", line=3)])
        copy_of_it = pickle.loads(pickle.dumps(error))
        assert (copy_of_it.problems, str(copy_of_it)) == (error.problems, str(error))

    def test_its_exit_code_is_two(self) -> None:
        assert ConfigError.exit_code == 2


keys = st.sampled_from(["models", "modes", "fleet", "id", "source", "candidates", "fast", "headroom", "sampling"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("mini"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
)


class TestAnyArguments:
    @given(values)
    def test_end_in_settings_or_in_problems_never_in_another_error(self, value: object) -> None:
        for args in (value, {"models": value}, {"models": [MODEL], "modes": value}):
            if isinstance(args, dict):
                with contextlib.suppress(ConfigError):
                    settings_from_args(args, base_dir=HERE, environment={})

    @given(values)
    def test_end_the_same_way_when_written_as_yaml(self, tmp_path_factory: Any, value: object) -> None:
        path = written(tmp_path_factory.mktemp("any"), yaml.safe_dump({"applications": value}))
        with pytest.raises(ConfigError):
            load_cluster(path)
