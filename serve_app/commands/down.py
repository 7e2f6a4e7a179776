"""`headroom down`: stop what `headroom up` started, also after it was killed itself."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

_UP_STOPS_S = 45.0
_KILL_S = 10.0


@click.command("down")
@click.option(
    "--home",
    type=click.Path(path_type=Path),
    default=None,
    help="Home of the run to stop; HEADROOM_HOME or ~/.headroom when left out.",
)
def command(home: Path | None) -> None:
    """Stop what `headroom up` started, engine cores included."""
    import psutil

    from serve_app.errors import NotRunning
    from serve_app.ops.run_record import drop_record, is_alive, left_over, read_record

    home = home or Path(os.environ.get("HEADROOM_HOME", "~/.headroom")).expanduser()
    record = read_record(home)
    if record is None:
        raise NotRunning(
            f"Nothing to stop: {home} has no record of a running `headroom up`.",
            advice="Give its home with `--home`, or HEADROOM_HOME.",
        )
    if is_alive(record):
        process = psutil.Process(record.pid)
        process.send_signal(signal.SIGTERM)
        psutil.wait_procs([process], timeout=_UP_STOPS_S)
    remaining = left_over(record.run_id)
    for process in remaining:
        process.kill()
    psutil.wait_procs(remaining, timeout=_KILL_S)
    drop_record(home)
    click.echo(
        f"Stopped {record.address}." + (f" {len(remaining)} left-over processes were killed." if remaining else "")
    )
