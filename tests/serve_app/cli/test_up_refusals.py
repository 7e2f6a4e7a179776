"""What `headroom up` refuses before it starts or writes anything."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from serve_app.cli import main
from tests.serve_app.access.certificates import self_signed
from tests.serve_app.config.cluster_text import changed_args, written


def up(directory: Path, *, host: str, access: dict[str, Any] | None = None, **http: str) -> Result:
    home = str(directory / "home")
    data = copy.deepcopy(changed_args("storage", value={"home": home}))
    data["applications"][0]["args"]["access"] = access or {}
    data["http_options"] = {"host": host, **http}
    result = CliRunner().invoke(main, ["up", str(written(directory, data))])
    assert not Path(home).exists(), "it was refused, and yet something was written"
    return result


class TestUp:
    @pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1"])
    def test_listens_nowhere_beyond_loopback_without_keys(self, tmp_path: Path, host: str) -> None:
        tls = self_signed(tmp_path)
        for access in (
            {},
            {"encrypted_elsewhere": True},
            {"certificate_file": str(tls.certificate), "key_file": str(tls.key)},
        ):
            result = up(tmp_path, host=host, access=access)
            assert result.exit_code == 1
            assert f"'{host}' can be reached from outside, and there are no keys" in result.stderr

    def test_does_not_leave_a_certificate_of_rays_unused(self, tmp_path: Path) -> None:
        result = up(tmp_path, host="127.0.0.1", ssl_certfile="c.pem", ssl_keyfile="k.pem")
        assert (result.exit_code, "`access.certificate_file`" in result.stderr) == (1, True)

    def test_serves_no_certificate_that_every_client_would_refuse(self, tmp_path: Path) -> None:
        tls = self_signed(tmp_path, days=-3)
        access = {"certificate_file": str(tls.certificate), "key_file": str(tls.key)}
        result = up(tmp_path, host="127.0.0.1", access=access)
        assert (result.exit_code, "certificate has expired" in result.stderr) == (1, True)
