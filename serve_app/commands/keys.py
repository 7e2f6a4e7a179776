"""`headroom keys create|list|show|revoke`: who may call a running cluster, and for what."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from serve_app.commands.options import address_option, json_option

if TYPE_CHECKING:
    from serve_app.access.wire import KeyView

_ROLES = ("inference", "jobs", "leases", "admin")


@click.group("keys")
def command() -> None:
    """Make, list, show and revoke keys.

    While there are none, anybody on this machine may do anything, and nobody else anything. The first must be an
    admin's that is bound by nothing; from then on every request needs a key. Commands take theirs from HEADROOM_KEY.
    """


def _lifetime(ctx: click.Context, param: click.Parameter, text: str | None) -> float | None:
    from serve_app.config.durations import duration_s

    if text is None:
        return None
    try:
        return duration_s(text)
    except ValueError:
        raise click.BadParameter(f"'{text}' is no duration such as 90s, 12h or 30d.") from None


@command.command("create")
@click.option("--role", "roles", type=click.Choice(_ROLES), multiple=True, required=True, help="May be given often.")
@click.option("--tenant", help="Whose key it is; caches and limits are kept apart by it.")
@click.option("--models", help="Models it may use, by commas; all when left out.")
@click.option("--rate", type=click.IntRange(min=1), help="Most requests a minute.")
@click.option("--tokens", type=click.IntRange(min=1), help="Most tokens a minute.")
@click.option("--expires", "lifetime_s", callback=_lifetime, help="How long it lives, e.g. 12h or 30d; for ever.")
@click.option("--note", default="", help="What people call it.")
@address_option
@json_option
def create(
    *,
    roles: tuple[str, ...],
    tenant: str | None,
    models: str | None,
    rate: int | None,
    tokens: int | None,
    lifetime_s: float | None,
    note: str,
    address: str,
    as_json: bool,
) -> None:
    """Make a key, and print it once: only its SHA-256 is kept."""
    from serve_app.access.wire import NewKeyView
    from serve_app.commands.asking import post

    wanted: dict[str, Any] = {
        "roles": sorted(set(roles)),
        "tenant": tenant,
        "models": None if models is None else [name.strip() for name in models.split(",")],
        "requests_per_min": rate,
        "tokens_per_min": tokens,
        "lifetime_s": lifetime_s,
        "note": note,
    }
    made = post(NewKeyView, address, "/admin/keys", wanted)
    if as_json:
        click.echo(json.dumps(made.model_dump()))
        return
    click.echo(made.key)
    click.echo(
        f"Key {made.id}, {', '.join(made.roles)}. It is shown this once: keep it where secrets are kept.", err=True
    )


@command.command("list")
@click.option("--tenant", help="Of this tenant only.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many.")
@address_option
@json_option
def list_keys(*, tenant: str | None, limit: int, address: str, as_json: bool) -> None:
    """List keys, revoked and expired ones too."""
    from urllib.parse import urlencode

    from serve_app.access.wire import KeysView
    from serve_app.commands.asking import get

    query = urlencode({"limit": limit} | ({} if tenant is None else {"tenant": tenant}))
    view = get(KeysView, address, f"/admin/keys?{query}")
    if as_json:
        click.echo(json.dumps(view.model_dump()))
    else:
        _draw(view.keys)


@command.command("show")
@click.argument("key_id", metavar="ID")
@address_option
@json_option
def show(*, key_id: str, address: str, as_json: bool) -> None:
    """Show one key by its id; never its text."""
    from serve_app.access.wire import KeyView
    from serve_app.commands.asking import get

    view = get(KeyView, address, f"/admin/keys/{_quoted(key_id)}")
    _print(view, as_json=as_json)


@command.command("revoke")
@click.argument("key_id", metavar="ID")
@address_option
@json_option
def revoke(*, key_id: str, address: str, as_json: bool) -> None:
    """Revoke a key everywhere, within a second. Answers that have begun end."""
    from serve_app.access.wire import KeyView
    from serve_app.commands.asking import delete

    _print(delete(KeyView, address, f"/admin/keys/{_quoted(key_id)}"), as_json=as_json)


def _quoted(key_id: str) -> str:
    from urllib.parse import quote

    return quote(key_id, safe="")


def _print(view: KeyView, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(view.model_dump()))
    else:
        _draw((view,))


def _draw(keys: tuple[KeyView, ...]) -> None:
    from rich.table import Table

    from serve_app.commands.screen import console

    titles = ("id", "state", "roles", "tenant", "models", "rate/min", "tokens/min", "expires", "made by", "note")
    table = Table(*titles, box=None, padding=(0, 2, 0, 0))
    for key in keys:
        bounds = (key.requests_per_min, key.tokens_per_min)
        table.add_row(
            key.id,
            key.state,
            ", ".join(key.roles),
            key.tenant or "all",
            "all" if key.models is None else ", ".join(key.models),
            *("–" if bound is None else str(bound) for bound in bounds),
            "never" if key.expires_at_s is None else _when(key.expires_at_s),
            key.made_by or "–",
            key.note,
        )
    console().print(table)


def _when(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
