"""Makes several default models at once, each in a process of its own, as many as there are cores.

One model trains on one core: two models side by side finish sooner than one after the other on both. The caller
never loads torch, and what a trainer took of memory is free again when it ends.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import serve_app
from serve_app.errors import ModelNotMade
from serve_app.training.defaults import Progress, default_recipe, whole_checkpoint
from serve_app.training.messages import Failed, Made, Moved, read
from serve_app.training.recipe import Recipe
from serve_app.training.sources import models_folder

STOP_TIMEOUT_S: Final = 10.0
"""How long a trainer that is told to stop may take before it is killed."""
LAST_WORDS: Final = 2000
"""Characters of a trainer's stderr that are kept for the message when it dies."""

_Said = tuple[str, Moved | Made | Failed | None]
"""Who said what; None: that process has closed its mouth."""


def ensure_default_models(
    names: Iterable[str], *, home: Path, progress: Callable[[Progress], None], force: bool = False
) -> Mapping[str, Path]:
    """The checkpoints of the default models `names`, trained where needed; `progress` is called from this thread.

    Models that are there and whole cost one reading of their files and no process.
    Raises: ModelNotMade for the first model that fails, after the other trainers were stopped.
    """
    recipes = {name: default_recipe(name) for name in names}
    made = {name: None if force else whole_checkpoint(models_folder(home) / name) for name in recipes}
    waiting = deque(sorted((recipes[name] for name, path in made.items() if path is None), key=_work, reverse=True))
    with _Trainers(home, force=force) as trainers:
        while waiting or trainers.names:
            while waiting and len(trainers.names) < _num_cores():
                trainers.start(waiting.popleft().model)
            name, message = trainers.next_message()
            if isinstance(message, Moved):
                progress(_progress(name, message))
            elif isinstance(message, Made):
                made[name] = Path(message.path)
    return {name: path for name, path in made.items() if path is not None}


class _Trainers:
    """The running processes. Leaving the block stops those that are left."""

    def __init__(self, home: Path, *, force: bool) -> None:
        self._home, self._force = home, force
        self._said: queue.SimpleQueue[_Said] = queue.SimpleQueue()
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._last_words: dict[str, str] = {}
        self._finished: set[str] = set()

    def __enter__(self) -> _Trainers:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._running)

    def start(self, name: str) -> None:
        command = [sys.executable, "-m", "serve_app.training.make_one", name, str(self._home)]
        process = subprocess.Popen(  # noqa: S603  # our own module, a name of our own table
            [*command, *(["--force"] if self._force else [])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        self._running[name] = process
        threading.Thread(target=self._listen, args=(name, process), daemon=True).start()
        threading.Thread(target=self._keep_last_words, args=(name, process), daemon=True).start()

    def next_message(self) -> _Said:
        """Waits for the next message; one whose trainer ended is None and ends its being `running`.

        Raises: ModelNotMade when a trainer says that it failed, or ends without a word.
        """
        name, message = self._said.get()
        if isinstance(message, Made):
            self._finished.add(name)
        elif isinstance(message, Failed):
            raise ModelNotMade(message.what, expected=message.expected, advice=message.advice)
        elif message is None:
            status = self._running.pop(name).wait()
            if name not in self._finished:
                raise ModelNotMade(
                    f"The trainer of {name!r} ended with status {status}: {self._last_words.get(name) or 'no word'}.",
                    expected="Expected it to write a checkpoint.",
                    advice="A negative status is a signal; -9 most often means that the machine ran out of memory.",
                )
        return name, message

    def _listen(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                self._said.put((name, read(line)))
            except ValueError:
                continue  # a library's own chatter
        self._said.put((name, None))

    def _keep_last_words(self, name: str, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            self._last_words[name] = (self._last_words.get(name, "") + line)[-LAST_WORDS:]


def _progress(name: str, moved: Moved) -> Progress:
    return Progress(model=name, stage=moved.stage, step=moved.step, num_steps=moved.num_steps, loss=moved.loss)


def _work(recipe: Recipe) -> int:
    """A measure of how long a model takes, to begin with the longest."""
    return recipe.num_steps * recipe.hidden_size**2 * recipe.num_layers


def _num_cores() -> int:
    return max(1, len(os.sched_getaffinity(0)))


def _environment() -> dict[str, str]:
    """The child finds this very package; its libraries use no threads of their own."""
    root = str(Path(serve_app.__file__).parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    single = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, **single}
