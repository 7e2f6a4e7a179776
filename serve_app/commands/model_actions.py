"""`headroom models load|unload|sleep|wake|pin|unpin`: one model of a running cluster, while the others serve on."""

from __future__ import annotations

import json
import time

import click

from serve_app.commands.options import address_option, json_option

_LOOK_S = 0.5
_ACT_TIMEOUT_S = 35.0
_WAIT_S = 600.0
_TEXTS = {
    "load": "Load MODEL again, also one that was unloaded by hand; idle models may be put to sleep for it.",
    "unload": "Take MODEL away until `headroom models load`; its requests are refused meanwhile.",
    "sleep": "Give the memory of MODEL back; the next request for it wakes it.",
    "wake": "Load MODEL if it sleeps.",
    "pin": "Never put MODEL to sleep to make room for another.",
    "unpin": "Let MODEL be put to sleep again when it is idle and room is needed.",
}
_WAITS = ("load", "unload", "sleep", "wake")


def commands() -> tuple[click.Command, ...]:
    return tuple(_command(action) for action in _TEXTS)


def _command(action: str) -> click.Command:
    @click.argument("model")
    @address_option
    @json_option
    def act(*, model: str, address: str, as_json: bool, wait: bool = False) -> None:
        answer = _ask(action, model, address)
        if wait and answer["outcome"] == "accepted":
            answer |= _followed(model, address)
        click.echo(json.dumps(answer) if as_json else answer["message"])

    if action in _WAITS:
        act = click.option("--wait/--no-wait", default=True, show_default=True, help="Return when it is done.")(act)
    return click.command(action, help=f"{_TEXTS[action]}\n\nExit code 0: done, 1: refused, 3: nothing answers.")(act)


def _ask(action: str, model: str, address: str) -> dict[str, str]:
    """Raises: HeadroomError with the controller's sentence when it refuses."""
    from serve_app.api.wire import ModelAnswer, ModelOutcome
    from serve_app.commands.asking import post
    from serve_app.errors import HeadroomError

    answer = post(ModelAnswer, address, f"/models/{action}", {"model": model}, timeout_s=_ACT_TIMEOUT_S)
    if answer.outcome not in (ModelOutcome.DONE, ModelOutcome.ACCEPTED):
        raise HeadroomError(answer.message)
    return {"model": model, "outcome": answer.outcome.value, "message": answer.message}


def _followed(model: str, address: str) -> dict[str, str]:
    """Waits until the change is through. Raises: HeadroomError when it failed and everything was put back."""
    from serve_app.api.wire import ApplyProgress
    from serve_app.commands.asking import get
    from serve_app.errors import HeadroomError

    began_s = time.monotonic()
    while time.monotonic() - began_s < _WAIT_S:
        progress = get(ApplyProgress, address, "/admin/apply")
        if progress.status == "failed":
            raise HeadroomError(f"Not done, and back where it was: {progress.message}")
        if progress.status == "done":
            return {"outcome": "done", "message": f"Done in {time.monotonic() - began_s:.1f} s."}
        time.sleep(_LOOK_S)
    raise HeadroomError(f"Not done after {_WAIT_S:.0f} s.", advice="See `headroom status`.")
