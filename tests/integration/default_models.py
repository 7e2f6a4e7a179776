"""The default models, made once per machine and copied into each test's home.

`python -m tests.integration.default_models` makes them beforehand.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

from serve_app.training.defaults import DEFAULT_MODELS
from serve_app.training.sources import models_folder

ROOT = Path(__file__).parents[2]
HEADROOM = Path(sys.executable).with_name("headroom")
CACHE_VARIABLE = "HEADROOM_TEST_MODELS"


def copy_models(home: Path, names: Iterable[str] = tuple(DEFAULT_MODELS)) -> None:
    """Puts the models into `home`, trained before when this machine has not made them yet (about two minutes)."""
    chosen = tuple(names)
    made_in = _cache()
    subprocess.run(_make(chosen), cwd=ROOT, check=True, capture_output=True, text=True, timeout=600)
    for name in chosen:
        shutil.copytree(models_folder(made_in) / name, models_folder(home) / name, symlinks=True)


def _make(names: Iterable[str]) -> list[str | Path]:
    """The command that trains what is missing; two at once wait for each other."""
    return [HEADROOM, "models", "make", *names, "--home", _cache()]


def _cache() -> Path:
    """One folder per set of recipes: a changed recipe makes new models."""
    recipes = sha256("".join(recipe.config_hash for recipe in DEFAULT_MODELS.values()).encode()).hexdigest()[:12]
    return Path(os.environ.get(CACHE_VARIABLE) or ROOT / ".cache" / "models") / recipes


if __name__ == "__main__":
    sys.exit(subprocess.run(_make(DEFAULT_MODELS), cwd=ROOT, check=False).returncode)
