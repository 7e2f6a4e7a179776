"""`python -m serve_app.training.make_one NAME HOME [--force]`: makes one default model in a process of its own.

Says how it goes as one JSON object per line on stdout, in the three forms of `serve_app.training.messages`.
Ends by itself when nobody reads any more.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from serve_app.errors import HeadroomError
from serve_app.training.defaults import Progress, ensure_default_model
from serve_app.training.messages import Failed, Made, Moved, write


def main(arguments: list[str]) -> int:
    name, home, *flags = arguments
    try:
        made = ensure_default_model(
            name,
            home=Path(home),
            progress=_say,
            force="--force" in flags,
            traceparent=os.environ.get("TRACEPARENT"),
        )
    except HeadroomError as error:
        print(write(Failed(what=error.what, expected=error.expected, advice=error.advice)), flush=True)  # noqa: T201  # stdout is the channel
        return error.exit_code
    print(write(Made(path=str(made))), flush=True)  # noqa: T201  # stdout is the channel
    return 0


def _say(progress: Progress) -> None:
    moved = Moved(stage=progress.stage, step=progress.step, num_steps=progress.num_steps, loss=progress.loss)
    print(write(moved), flush=True)  # noqa: T201  # stdout is the channel


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
