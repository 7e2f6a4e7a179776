"""Builds the stand-in for NVML with the system's compiler, and puts it before a module or a process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

LIBRARY = "libnvidia-ml.so.1"
SCRIPT_VARIABLE = "HEADROOM_NVML_SCRIPT"
SOURCE = Path(__file__).with_name("nvml.c")


def compiler() -> str | None:
    """Path of a C compiler; None where the machine has none."""
    return shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


def build(directory: Path, *, compiler: str) -> Path:
    """Compile the library into `directory`, which then goes into `LD_LIBRARY_PATH`.

    Without a name inside (SONAME), so that a process which opened it by its path still finds a real NVML by name.
    """
    library = directory / LIBRARY
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC"]
    subprocess.run([*command, "-o", str(library), str(SOURCE)], check=True, timeout=60)
    return library


def environment(library: Path, script: Path) -> dict[str, str]:
    """What a process needs so that it loads the stand-in for NVML, and finds its script."""
    return {"LD_LIBRARY_PATH": str(library.parent), SCRIPT_VARIABLE: str(script)}
