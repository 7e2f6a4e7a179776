"""`headroom lease`: borrow device memory for a program outside the cluster, and give it back."""

from __future__ import annotations

import getpass
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_app.commands.options import json_option

if TYPE_CHECKING:
    from rich.table import Table

    from serve_app.leases.client import Grant, LeaseClient

DEFAULT_SERVER = "127.0.0.1:7212"
REFUSED_EXIT_CODE = 1
CERTIFICATE_VARIABLE = "HEADROOM_LEASES_CERTIFICATE"
_MB = 10**6


class SizeMb(click.ParamType[int]):
    """A size with its unit as whole megabytes, rounded up: a lease must not be smaller than asked for."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from serve_app.config.sizes import size_bytes

        if isinstance(value, int):
            return value
        try:
            return -(-size_bytes(value) // _MB)
        except ValueError:
            self.fail(f"'{value}' is no size. Expected one with a unit, such as 12GiB or 800MB.", param, ctx)


class Seconds(click.ParamType[float]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        from serve_app.config.durations import duration_s

        if isinstance(value, float):
            return value
        try:
            return duration_s(value)
        except ValueError:
            self.fail(f"'{value}' is no duration. Expected one such as 90s, 30m or 2h.", param, ctx)


server_option = click.option(
    "--server",
    envvar="HEADROOM_LEASES",
    default=DEFAULT_SERVER,
    show_default=True,
    show_envvar=True,
    help=f"Where the lease server listens, host:port. {CERTIFICATE_VARIABLE}: PEM file to trust, where it speaks TLS.",
)
client_option = click.option(
    "--client",
    envvar="HEADROOM_LEASE_CLIENT",
    default=lambda: f"{getpass.getuser()}@{socket.gethostname()}",
    show_default="user@host",
    show_envvar=True,
    help="Who holds the lease; only the same name can renew or release it.",
)


def _request_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.option("--vram", "vram_mb", type=SizeMb(), required=True, help="Memory on one device, such as 12GiB."),
        click.option("--ttl", "ttl_s", type=Seconds(), default="30s", show_default=True, help="Time to live."),
        click.option("--priority", type=int, default=0, show_default=True, help="The larger wins."),
        click.option("--model", "model_name", default="unnamed", show_default=True, help="What it is for, for lists."),
        click.option("--wait", is_flag=True, help="Wait until there is room."),
        server_option,
        client_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


def _hold_options(command: Callable[..., None]) -> Callable[..., None]:
    options = (
        click.argument("lease_id"),
        click.option("--epoch", type=int, required=True, help="As the grant told."),
        server_option,
        client_option,
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.group("lease")
def command() -> None:
    """Borrow device memory for a program outside the cluster, and give it back."""


@command.command("list")
@server_option
@click.option("--client", default="", help="Only this client's.")
@click.option("--device", default="", help="Only on this device (UUID).")
@click.option("--state", type=click.Choice(["held", "noticed", "unconfirmed", "revoked"]), help="Only in this state.")
@json_option
def list_leases(*, server: str, client: str, device: str, state: str | None, as_json: bool) -> None:
    """Show who holds how much of which device, and for how long."""
    with _connected(server) as leases:
        found = list(leases.leases(client=client, device=device, state=state or ""))
    if as_json:
        click.echo(json.dumps({"leases": found}))
        return
    from serve_app.commands.screen import console

    console().print(_table(found)) if found else click.echo("No leases.")


@command.command("acquire")
@_request_options
@json_option
@click.pass_context
def acquire(ctx: click.Context, /, *, as_json: bool, server: str, wait: bool, **request: Any) -> None:
    """Acquire a lease and print it. Renew it yourself before it expires, or use `headroom lease run`.

    Exit code 1: there is no room.
    """
    with _connected(server) as leases:
        grant = _granted(ctx, leases, wait=wait, **request)
    if as_json:
        click.echo(json.dumps({**grant.fields, "client": grant.client}))
        return
    click.echo(f"{grant.lease_id} epoch {grant.epoch}: {grant.vram_mb:,} MB on {grant.device} of {grant.node}")
    click.echo(f"It expires in {grant.terms.expires_in_s:.0f} s.")


@command.command("renew")
@_hold_options
@json_option
def renew(*, lease_id: str, epoch: int, server: str, client: str, as_json: bool) -> None:
    """Give a lease its whole time to live again, and show what threatens it."""
    with _connected(server) as leases:
        told = leases.renew(client=client, lease_id=lease_id, epoch=epoch)
    if as_json:
        click.echo(json.dumps(told))
        return
    click.echo(f"{lease_id} expires in {told['expires_in_ms'] / 1000:.0f} s.")
    if "deadline_in_ms" in told:
        click.echo(f"It will be taken in {told['deadline_in_ms'] / 1000:.0f} s: {told['reason']}.")


@command.command("release")
@_hold_options
def release(*, lease_id: str, epoch: int, server: str, client: str) -> None:
    """Give a lease back."""
    with _connected(server) as leases:
        leases.release(client=client, lease_id=lease_id, epoch=epoch)
    click.echo(f"{lease_id} is given back.")


@command.command("run", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@_request_options
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.pass_context
def run(ctx: click.Context, /, *, program: tuple[str, ...], server: str, wait: bool, **request: Any) -> None:
    """Run COMMAND inside a lease: acquired before, renewed meanwhile, given back after.

    COMMAND sees HEADROOM_LEASE_ID, _EPOCH, _CLIENT, _DEVICE, _VRAM_MB and, on a GPU, CUDA_VISIBLE_DEVICES. If the lease
    will be taken, the file HEADROOM_LEASE_NOTICE appears with the seconds left; later comes SIGTERM, and SIGKILL
    before the time is over. The exit code is COMMAND's; 1: there is no room.
    """
    from serve_app.leases.run_child import LeasedChild

    with _connected(server) as leases:
        grant = _granted(ctx, leases, wait=wait, **request)
        child = LeasedChild(leases, grant, ttl_s=request["ttl_s"], say=lambda line: click.echo(line, err=True))
        code = child.run(program)
    ctx.exit(code)


@contextmanager
def _connected(server: str) -> Iterator[LeaseClient]:
    from serve_app.client.terms import KEY_VARIABLE
    from serve_app.leases.client import LeaseClient

    certificate = os.environ.get(CERTIFICATE_VARIABLE)
    try:
        trusted = Path(certificate).read_bytes() if certificate else None
    except OSError as error:
        message = f"{CERTIFICATE_VARIABLE} names {certificate}, which cannot be read: {error.strerror}."
        raise click.ClickException(message) from error
    leases = LeaseClient(server, key=os.environ.get(KEY_VARIABLE), trusted=trusted)
    try:
        yield leases
    finally:
        leases.close()


def _granted(ctx: click.Context, leases: LeaseClient, *, wait: bool, **request: Any) -> Grant:
    """Ends the command with exit code 1 where there is no room and nobody wants to wait."""
    from serve_app.leases.client import NotGranted

    key, began_s, progress = secrets.token_hex(8), time.monotonic(), _Progress()
    while True:
        answer = leases.acquire(**request, key=key)
        if not isinstance(answer, NotGranted):
            progress.clear()
            return answer
        if not wait:
            click.echo(f"{answer.message} (`--wait` waits for room.)", err=True)
            ctx.exit(REFUSED_EXIT_CODE)
        progress.show(f"waiting for {request['vram_mb']:,} MB, {time.monotonic() - began_s:.0f} s: {answer.message}")
        time.sleep(answer.retry_after_ms / 1000)


class _Progress:
    """One line on stderr that is written over in a terminal; in a pipe, the first one alone."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._was_shown = False

    def show(self, line: str) -> None:
        if self._is_terminal:
            click.echo(f"\r\x1b[K{line}", err=True, nl=False)
        elif not self._was_shown:
            click.echo(line, err=True)
        self._was_shown = True

    def clear(self) -> None:
        if self._is_terminal and self._was_shown:
            click.echo("\r\x1b[K", err=True, nl=False)


def _table(found: Iterable[dict[str, Any]]) -> Table:
    from rich.table import Table

    heads = ("lease", "epoch", "client", "for", "MB", "priority", "device", "expires in", "state", "reason")
    table = Table(*heads, box=None, padding=(0, 2, 0, 2))
    for one in found:
        table.add_row(
            one["lease_id"],
            str(one["epoch"]),
            one["client"],
            one["model_name"],
            f"{one['vram_reserved_mb']:,}",
            str(one["priority"]),
            one["device"],
            f"{one['expires_in_ms'] / 1000:.0f} s",
            one["state"],
            one["reason"] or "-",
        )
    return table
