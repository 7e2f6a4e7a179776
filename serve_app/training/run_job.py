"""`python -m serve_app.training.run_job`: the program of a job of kind `train` or `reinforce`.

Reads its configuration from HEADROOM_JOB_CONFIG and speaks `serve_app.jobs.messages` on stdout. Ends with 0 when it
is done or was told to stop (SIGTERM) and everything is saved; else it has said a `Failed` with three sentences.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from serve_app.errors import HeadroomError, ModelNotMade
from serve_app.jobs.messages import Failed
from serve_app.training.job_channel import ProcessChannel, leave_quietly, read_surroundings
from serve_app.training.job_config import CONFIG_VARIABLE, read_job_config

if TYPE_CHECKING:
    from serve_app.training.job_config import JobConfig


def main() -> int:
    channel = ProcessChannel()
    try:
        config = read_job_config(os.environ.get(CONFIG_VARIABLE))
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before torch: else a GPU's sums differ by run
        from serve_app.training.prepare_job import run_course

        try:
            run_course(config, read_surroundings(), channel)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _not_stored(config, error) from error
    except BrokenPipeError:
        leave_quietly()
        return 1
    except HeadroomError as error:
        channel.say(Failed(what=error.what, expected=error.expected, advice=error.advice))
        return error.exit_code
    return 0


def _not_stored(config: JobConfig, error: OSError) -> ModelNotMade:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    where = Path(error.filename).parent if error.filename else config.home
    return ModelNotMade(
        f"A checkpoint of {config.model!r} could not be stored below {where}: {error.strerror or error}.",
        expected="Expected a folder that can be written, with room for the weights and three times as much for the "
        "optimizer.",
        advice="Free some room there and submit the job again; nothing half-done was left."
        if full
        else "Correct its permissions, or choose another `home`.",
    )


if __name__ == "__main__":
    sys.exit(main())
