"""Who may import whom (design §1): `placement` and `tracing` know neither `serve_app` nor each other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ALLOWED = {
    "placement": {"placement", "ortools"},
    "tracing": {
        "tracing",
        "opentelemetry",
        "prometheus_client",
        "google",  # protobuf, under the OTLP exporters
        "grafana_foundation_sdk",
    },
}


def imported_packages(file: Path) -> Iterator[str]:
    """Top-level names of everything a file imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield (node.module or "").split(".")[0]


def strangers(package: str) -> set[tuple[str, str]]:
    """Imports of a package that are neither allowed nor of the standard library."""
    return {
        (file.name, name)
        for file in (ROOT / package).rglob("*.py")
        for name in imported_packages(file)
        if name not in ALLOWED[package] and name not in sys.stdlib_module_names
    }


class TestLayers:
    @pytest.mark.parametrize("package", ALLOWED)
    def test_a_lower_layer_imports_only_what_it_may(self, package: str) -> None:
        assert strangers(package) == set()

    def test_the_walk_sees_imports_inside_functions(self, tmp_path: Path) -> None:
        file = tmp_path / "lazy.py"
        file.write_text("def f():\n    import serve_app.cli\n", encoding="utf-8")
        assert set(imported_packages(file)) == {"serve_app"}

    @pytest.mark.parametrize("name", ["time", "datetime", "logging", "os", "socket", "asyncio", "subprocess", "random"])
    def test_placement_has_no_clock_no_log_and_no_input_or_output(self, name: str) -> None:
        importers = [file.name for file in (ROOT / "placement").rglob("*.py") if name in set(imported_packages(file))]
        assert importers == []
