"""The `headroom` command: a table of subcommands, each imported only when it is called.

Must not import a subcommand, nor anything heavy, at module top: `headroom --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass

import click

from serve_app.errors import HeadroomError

INTERRUPTED_EXIT_CODE = 130
"""128 + SIGINT, as shells report it."""


@dataclass(frozen=True, slots=True)
class Subcommand:
    """`module` holds a click command named `command`; `summary` is its line in `headroom --help`."""

    module: str
    summary: str


SUBCOMMANDS: dict[str, Subcommand] = {
    "up": Subcommand("serve_app.commands.up", "Start everything that cluster.yaml names, on this machine."),
    "down": Subcommand("serve_app.commands.down", "Stop what `headroom up` started, engine cores included."),
    "status": Subcommand("serve_app.commands.status", "Show health, models and weights of the running cluster."),
    "plan": Subcommand("serve_app.commands.plan", "Show which model goes where, and what is refused and why."),
    "apply": Subcommand("serve_app.commands.apply", "Bring the running cluster to what cluster.yaml says now."),
    "estimate": Subcommand("serve_app.commands.estimate", "Show what a model needs, and compare it with what it took."),
    "gpus": Subcommand("serve_app.commands.gpus", "Show devices, shares planned and measured, and their headroom."),
    "rules": Subcommand("serve_app.commands.rules", "Print Prometheus alert rules for cluster.yaml."),
    "alerts": Subcommand("serve_app.commands.alerts", "List what the watch has found, newest first."),
    "objectives": Subcommand("serve_app.commands.objectives", "Show what is promised, how well it is kept, and burn."),
    "cordon": Subcommand("serve_app.commands.cordon", "Place nothing new on a device or node; what runs there stays."),
    "drain": Subcommand("serve_app.commands.drain", "Move all off a device or node, and place nothing new there."),
    "forget": Subcommand("serve_app.commands.forget", "Drop what is known of a device or node that was taken out."),
    "uncordon": Subcommand("serve_app.commands.uncordon", "Lift a cordon or drain."),
    "forecast": Subcommand("serve_app.commands.forecast", "Judge forecasts of device failures on recorded telemetry."),
    "lease": Subcommand("serve_app.commands.lease", "Borrow device memory for a program outside, and give it back."),
    "jobs": Subcommand("serve_app.commands.jobs", "Train models and run scripts: submit, list, show, logs, cancel."),
    "keys": Subcommand("serve_app.commands.keys", "Make, list, show and revoke the keys of callers."),
    "cache": Subcommand("serve_app.commands.cache", "Replay recorded traffic at other cache times, or pin one."),
    "scale": Subcommand("serve_app.commands.scale", "Show how many of each there are and why, or set one by hand."),
    "route": Subcommand("serve_app.commands.route", "Explain where a request would go now, and why."),
    "config": Subcommand("serve_app.commands.config", "Check, explain and show cluster.yaml."),
    "models": Subcommand("serve_app.commands.models", "Make, list and verify models; load, unload, wake and pin them."),
    "backup": Subcommand("serve_app.commands.backup", "Save configuration, state and weights, and bring them back."),
    "comparisons": Subcommand("serve_app.commands.comparisons", "Show how checkpoints compare with what serves."),
    "checkpoints": Subcommand("serve_app.commands.checkpoints", "List, archive, verify and pin checkpoints."),
    "goals": Subcommand("serve_app.commands.goals", "Set targets for models, and see what becomes of them."),
    "eval": Subcommand("serve_app.commands.eval", "Ask a model its test set through the live API."),
    "rollouts": Subcommand("serve_app.commands.rollouts", "Show, begin and command rollouts of new weights."),
    "validate": Subcommand("serve_app.commands.validate", "Check devices, models, service and nodes against limits."),
    "why": Subcommand("serve_app.commands.why", "Follow an answer back to the training run of its weights."),
    "traces": Subcommand("serve_app.commands.traces", "Show the last traces kept on this machine."),
}


class ShownError(click.ClickException):
    """A HeadroomError on its way to stderr: one message, no traceback, its own exit code."""

    def __init__(self, error: HeadroomError) -> None:
        super().__init__(str(error))
        self.error = error

    @property
    def exit_code(self) -> int:  # type: ignore[override]  # click has one code per class; ours is per error
        return self.error.exit_code


class LazyGroup(click.Group):
    """A group whose commands live in `SUBCOMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(SUBCOMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = SUBCOMMANDS.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        command = importlib.import_module(entry.module).command
        assert isinstance(command, click.Command), f"{entry.module}.command is no click command"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], SUBCOMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table from its summaries; click's own would import every subcommand."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in SUBCOMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except HeadroomError as error:
            raise ShownError(error) from error
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            ctx.exit(INTERRUPTED_EXIT_CODE)


@click.group(
    name="headroom",
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Environment: HEADROOM_ADDRESS, HEADROOM_KEY, HEADROOM_CA_FILE (PEM of whom to trust at https://…).\n\n"
    "Exit codes: 0 done, 1 refused or failed, 2 bad usage or configuration, 3 not running.",
)
@click.version_option(package_name="headroom", prog_name="headroom")
def main() -> None:
    """Several language models on one Ray cluster, never out of device memory."""
