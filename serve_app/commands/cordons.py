"""What `headroom cordon`, `drain` and `uncordon` have in common: one act on a device or node of a running cluster."""

from __future__ import annotations

import json

import click

from serve_app.commands.options import address_option, json_option

by_option = click.option(
    "--by", default="operator", show_default=True, help="In whose name; each name lifts only its own."
)


def cordon_command(act: str, text: str) -> click.Command:
    """`act` is also the last part of the route."""

    @click.argument("target", metavar="DEVICE|NODE")
    @by_option
    @address_option
    @json_option
    def run(*, target: str, by: str, address: str, as_json: bool) -> None:
        from serve_app.api.wire import CordonAnswer
        from serve_app.commands.asking import post

        answer = post(CordonAnswer, address, f"/admin/{act}", {"target": target, "by": by})
        if as_json:
            click.echo(json.dumps(answer.model_dump()))
            return
        for device in answer.devices:
            click.echo(f"{device.device}: {device.health}{', cordoned' if device.cordoned else ''}")
            for reason in device.reasons:
                click.echo(f"  {reason}")

    return click.command(act, help=f"{text}\n\nExit code 0: done, 1: unknown device, 3: nothing answers.")(run)
