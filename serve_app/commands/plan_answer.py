"""The answer of `headroom plan`: the plan, and when asked for its proof, the steps to it, the joining of free space."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from serve_app.commands.plan_question import Question, answer
from serve_app.config.problems import ConfigError, Problem

if TYPE_CHECKING:
    from placement.certificate import Certificate
    from placement.defragment import Defragmentation
    from placement.demand import Demand
    from placement.plan import Plan
    from placement.steps import Steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Extras:
    """What is asked for beside the plan. `running`: the file of the plan in force.

    `defragment_bytes` None: not asked; 0: for the largest replica possible.
    """

    running: Path | None
    defragment_bytes: int | None
    wants_certificate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """None for what was not asked."""

    question: Question
    plan: Plan
    steps: Steps | None
    certificate: Certificate | None
    defragmentation: Defragmentation | None


def make_answer(question: Question, extras: Extras) -> Answer:
    """Raises: ConfigError, also for a file that is no plan."""
    from placement.certificate import certify
    from placement.defragment import defragment

    before, demands_before = _running(extras.running) if extras.running else (None, ())
    plan = answer(question, running=before.placements if before else ())
    inventory, demands = question.inventory, question.demands
    joined = None
    if extras.defragment_bytes is not None:
        joined = defragment(plan, inventory, demands, question.policy, wanted_bytes=extras.defragment_bytes)
    return Answer(
        question=question,
        plan=plan,
        steps=_steps(before, plan, question, demands_before, path=extras.running),
        certificate=certify(plan, inventory, demands) if extras.wants_certificate else None,
        defragmentation=joined,
    )


def print_answer(made: Answer, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(_json_value(made), indent=2))
        return
    from serve_app.commands.certificate_table import draw_certificate
    from serve_app.commands.plan_table import draw_plan
    from serve_app.commands.screen import console
    from serve_app.commands.steps_table import draw_defragmentation, draw_steps

    screen = console()
    draw_plan(screen, made.plan, made.question.inventory)
    if made.steps:
        draw_steps(screen, made.steps)
    if made.defragmentation:
        draw_defragmentation(screen, made.defragmentation)
    if made.certificate:
        draw_certificate(screen, made.certificate)


def _steps(
    before: Plan | None, plan: Plan, question: Question, demands_before: tuple[Demand, ...], *, path: Path | None
) -> Steps | None:
    from placement.errors import InvalidProblem
    from placement.steps import steps

    if before is None or path is None:
        return None
    described = (*question.demands, *demands_before)  # of a model in both, the demand of its own plan counts
    try:
        return steps(before, plan, question.inventory, question.demands, demands_before=described)
    except InvalidProblem as error:
        advice = "Save the whole of what `headroom plan --json` prints: it has the demands too."
        raise ConfigError(str(path), [Problem(path=str(error), what="", expected="", advice=advice)]) from error


def _json_value(made: Answer) -> dict[str, Any]:
    """What was not asked for is left out."""
    from placement.codec import to_json_value
    from placement.report import device_report

    parts = {
        "plan": made.plan,
        "inventory": made.question.inventory,
        "demands": made.question.demands,
        "devices": device_report(made.plan, made.question.inventory),
        "steps": made.steps,
        "defragmentation": made.defragmentation,
        "certificate": made.certificate,
    }
    return {name: to_json_value(value) for name, value in parts.items() if value is not None}


def _running(path: Path) -> tuple[Plan, tuple[Demand, ...]]:
    """The plan in the file, and the demands it was made for when the file has them."""
    from placement.codec import from_json_value, plan_from_json
    from placement.demand import Demand
    from placement.errors import DecodeError

    try:
        text = path.read_bytes()
        whole = json.loads(text)
        if not isinstance(whole, dict) or "plan" not in whole:
            return plan_from_json(text), ()
        demands = from_json_value(tuple[Demand, ...], whole.get("demands", []), path="demands")
        return plan_from_json(json.dumps(whole["plan"])), demands
    except OSError as error:
        raise _no_plan(path, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _no_plan(path, str(error) if isinstance(error, DecodeError) else "is not JSON") from error


def _no_plan(path: Path, what: str) -> ConfigError:
    advice = "Make one with `headroom plan --json`."
    return ConfigError(str(path), [Problem(path="the file", what=what, expected="a plan as JSON", advice=advice)])
