"""`headroom config`."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from serve_app.access.tls import TlsFiles
from serve_app.cli import main
from tests.serve_app.access.certificates import self_signed
from tests.serve_app.config.cluster_text import GOOD, changed, changed_args, written
from tests.serve_app.fleet.checkpoint_files import checkpoint

SHIPPED = Path(__file__).parents[3] / "cluster.yaml"


def headroom(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["config", *map(str, arguments)])


def with_certificate(directory: Path, tls: TlsFiles) -> Path:
    named = {"certificate_file": str(tls.certificate), "key_file": str(tls.key)}
    return written(directory, changed_args("access", value=named))


class TestCheck:
    def test_the_shipped_file_is_ok(self) -> None:
        result = headroom("check", SHIPPED)
        assert (result.exit_code, result.stdout) == (0, "ok: 3 models, 3 modes\n")

    def test_problems_go_to_stderr_with_exit_code_two(self, tmp_path: Path) -> None:
        result = headroom("check", written(tmp_path, changed_args("fleet", value={"headrom": 0.1})))
        assert (result.exit_code, result.stdout) == (2, "")
        assert "applications[0].args.fleet.headrom is an unknown key" in result.stderr
        assert "Traceback" not in result.stderr

    def test_a_file_that_is_not_there_is_exit_code_two(self, tmp_path: Path) -> None:
        result = headroom("check", tmp_path / "none.yaml")
        assert result.exit_code == 2
        assert "No such file" in result.stderr

    def test_a_certificate_that_can_serve_is_not_spoken_of(self, tmp_path: Path) -> None:
        result = headroom("check", with_certificate(tmp_path, self_signed(tmp_path)))
        assert (result.exit_code, result.stderr) == (0, "")

    def test_a_certificate_whose_time_is_over_is_a_warning(self, tmp_path: Path) -> None:
        result = headroom("check", with_certificate(tmp_path, self_signed(tmp_path, days=-3)))
        assert (result.exit_code, result.stdout) == (0, "ok: 1 model, 1 mode\n")
        assert "Warning: `access.certificate_file`" in result.stderr
        assert "certificate has expired" in result.stderr

    def test_a_key_of_another_certificate_is_a_problem_with_its_line(self, tmp_path: Path) -> None:
        mixed = dataclasses.replace(self_signed(tmp_path), key=self_signed(tmp_path, name="other").key)
        result = headroom("check", with_certificate(tmp_path, mixed))
        assert (result.exit_code, result.stdout) == (2, "")
        assert "args.access.certificate_file and key_file cannot be used: the key in" in result.stderr
        assert "line " in result.stderr

    @pytest.mark.parametrize("made", ["nothing", "no checkpoint", "outside"])
    def test_a_source_that_cannot_be_opened_is_a_problem_of_its_line(self, tmp_path: Path, made: str) -> None:
        source = tmp_path / "roots" / "mine"
        if made == "no checkpoint":
            source.mkdir(parents=True)
        elif made == "outside":
            source = checkpoint(tmp_path / "elsewhere")
        data = changed_args("models", 0, "source", value=str(source))
        data["applications"][0]["args"]["storage"] = {"model_roots": [str(tmp_path / "roots")]}
        result = headroom("check", written(tmp_path, data))
        assert result.exit_code == 2
        assert "line 7: applications[0].args.models[0].source is" in result.stderr

    def test_a_source_below_the_roots_is_ok(self, tmp_path: Path) -> None:
        data = changed_args("models", 0, "source", value="roots/mine")
        checkpoint(tmp_path / "roots" / "mine")
        data["applications"][0]["args"]["storage"] = {"model_roots": ["roots"]}
        assert headroom("check", written(tmp_path, data)).exit_code == 0


class TestSchema:
    schema = json.loads(headroom("schema").stdout)

    def test_is_a_valid_json_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(self.schema)

    def test_takes_the_shipped_file(self) -> None:
        jsonschema.validate(yaml.safe_load(SHIPPED.read_text()), self.schema)

    @pytest.mark.parametrize(
        "data",
        [
            changed_args("fleet", value={"headroom": 2}),
            changed_args("models", 0, "dtype", value="int3"),
            changed_args("no_such_key", value=1),
            changed("applications", 0, "import_path", value="elsewhere"),
        ],
    )
    def test_refuses_what_the_check_refuses(self, data: object) -> None:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, self.schema)

    def test_leaves_other_applications_alone(self) -> None:
        theirs = {"name": "theirs", "import_path": "their.app", "args": {"anything": 1}}
        jsonschema.validate({"applications": [*GOOD["applications"], theirs]}, self.schema)


class TestShow:
    def test_fills_in_every_default(self, tmp_path: Path) -> None:
        shown = json.loads(headroom("show", written(tmp_path, GOOD)).stdout)
        assert shown["fleet"] == {"headroom": 0.2, "devices": "auto", "idle_after_s": 600.0}
        assert shown["models"][0]["max_num_seqs"] == 64
        assert shown["http"] == {"host": "0.0.0.0", "port": 8000}

    def test_never_shows_a_password(self, tmp_path: Path) -> None:
        data = changed_args("cache", value={"redis_url": "redis://me:secret@127.0.0.1:6379/0"})
        result = headroom("show", written(tmp_path, data))
        assert "secret" not in result.stdout
        assert json.loads(result.stdout)["cache"]["redis_url"] == "redis://***@127.0.0.1:6379/0"
