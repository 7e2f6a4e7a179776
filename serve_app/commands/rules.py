"""`headroom rules`: Prometheus alert rules for one cluster.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from serve_app.commands.options import config_file_argument

if TYPE_CHECKING:
    from serve_app.config.settings import Settings
    from serve_app.fleet.load_limits import LoadLimit
    from tracing.rules.catalog import RuleData
    from tracing.rules.rule import RuleGroup

RUNBOOKS = "tracing/rules/RUNBOOKS.md"
_HIT_TARGETS = {"fast": 0.6, "balanced": 0.6}
"""Row B5; other modes have none."""


@click.command("rules")
@config_file_argument
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write to this file instead of stdout.")
@click.option(
    "--runbooks",
    default=RUNBOOKS,
    show_default=True,
    help="Where people find the page of runbooks: a path or an address.",
)
def command(*, file: Path, out: Path | None, runbooks: str) -> None:
    """Print Prometheus alert rules for the health rules, modes, models and headroom of FILE.

    Check them with `promtool check rules`. What cannot fire yet, or is only guessed, is said on stderr.
    """
    from serve_app.config.load import load_settings
    from serve_app.fleet.load_limits import load_limit
    from tracing.rules.catalog import rule_groups

    settings = load_settings(file)
    limits = [load_limit(model, settings.storage) for model in settings.models]
    groups = rule_groups(rule_data(settings, limits), runbooks=runbooks)
    _warn(limits, groups)
    text = as_yaml(groups, source=file.name)
    if out is None:
        click.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}. Name another file.") from error
    click.echo(f"{sum(len(group.rules) for group in groups)} rules written to {out}.")


def rule_data(settings: Settings, limits: list[LoadLimit]) -> RuleData:
    from placement.objectives import BurnWindows
    from serve_app.ops.alert_rules import told_rules
    from tracing.rules.catalog import RuleData
    from tracing.rules.service_rules import ModeLimits, ModelLimits

    return RuleData(
        health=told_rules(settings.health),
        headroom=settings.fleet.headroom,
        modes=tuple(
            ModeLimits(
                mode=mode.name,
                latency_target_s=mode.latency_target_s,
                hit_target=_HIT_TARGETS.get(mode.name) if mode.cache_ttl_s > 0 else None,
            )
            for mode in settings.modes
        ),
        models=tuple(ModelLimits(model=limit.model, load_s=limit.limit_s) for limit in limits),
        burn_rate=BurnWindows().rate,
    )


def as_yaml(groups: tuple[RuleGroup, ...], *, source: str) -> str:
    import yaml

    from tracing.rules.rule import document

    head = f"# Made from {source} by `headroom rules`; make it again instead of changing it.\n"
    body: str = yaml.safe_dump(document(groups), sort_keys=False, allow_unicode=True, width=1000)
    return head + body


def _warn(limits: list[LoadLimit], groups: tuple[RuleGroup, ...]) -> None:
    for limit in limits:
        if limit.problem:
            text = f"The size of '{limit.model}' is not known, so it may load for {limit.limit_s} s: {limit.problem}"
            click.echo(text, err=True)
    waiting = [rule.name.value for group in groups for rule in group.rules if rule.waits_for]
    if waiting:
        click.echo(f"Cannot fire yet, because nothing records their metrics: {', '.join(waiting)}.", err=True)
