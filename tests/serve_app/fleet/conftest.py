"""NVML without a GPU: the stand-in, built once, and a script for each test."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pynvml
import pytest

from tests.nvml_stand_in import library
from tests.nvml_stand_in.script import NvmlScript


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = library.compiler()
    if compiler is None:
        pytest.skip("no C compiler here (cc, gcc or clang), which the stand-in for NVML is built with")
    return library.build(tmp_path_factory.mktemp("nvml"), compiler=compiler)


@pytest.fixture
def nvml(nvml_library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NvmlScript:
    """The script that NVML answers from, in this process and in those it starts."""
    script = NvmlScript(tmp_path / "nvml-script")
    for name, value in library.environment(nvml_library, script.path).items():
        monkeypatch.setenv(name, value)
    # A process that runs already looks for no libraries anew, so here the module is given the stand-in.
    monkeypatch.setattr(pynvml, "nvmlLib", ctypes.CDLL(str(nvml_library)))
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    return script
