"""What the README shows is run: its Python against the cluster, its shell commands as they stand."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.integration.default_models import ROOT
from tests.integration.live_cluster import LiveCluster

pytestmark = pytest.mark.integration

README = (ROOT / "README.md").read_text()
SHOWN = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


class TestReadme:
    @pytest.mark.parametrize("code", blocks("python"))
    def test_its_python_runs(self, cluster: LiveCluster, code: str) -> None:
        run = subprocess.run(
            [sys.executable, "-c", code.replace(SHOWN, cluster.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert run.stdout.strip()

    def test_its_curl_gets_an_answer(self, cluster: LiveCluster) -> None:
        commands = [
            match.group(1).replace("\\\n", " ")
            for block in blocks("console")
            for match in re.finditer(r"^\$ (curl -s .*?(?:\\\n.*?)*)$", block, flags=re.MULTILINE)
        ]
        assert commands
        for command in commands:
            run = subprocess.run(
                ["bash", "-c", command.replace(SHOWN, cluster.url)],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert '"object":"chat.completion"' in run.stdout or '"error"' in run.stdout, run

    def test_every_command_it_names_exists(self) -> None:
        from serve_app.cli import SUBCOMMANDS

        named = set(re.findall(r"`headroom ([a-z]+)", README))
        assert named <= set(SUBCOMMANDS), named - set(SUBCOMMANDS)
