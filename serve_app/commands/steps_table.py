"""Steps between two plans as a table with prices, the order they are done in, and who is interrupted for how long."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from placement.defragment import Defragmentation, Outcome, Room
from placement.moves import Action, ActionKind
from placement.steps import Interruption, Order, Step, StepKind, Steps
from placement.units import gib

ORDERS = {
    Order.EXACT: "no order interrupts less",
    Order.EXACT_WITHOUT_DETOURS: "no order without temporary places interrupts less",
    Order.HEURISTIC: "order by heuristic",
}


def draw_steps(console: Console, steps: Steps) -> None:
    changed = [step for step in steps.steps if step.kind is not StepKind.UNCHANGED]
    stays = len(steps.steps) - len(changed)
    console.print()
    console.print(_headline(steps, num_changed=len(changed), num_unchanged=stays))
    if not changed:
        return
    console.print(_table(changed))
    console.print(_batch_table(steps))
    for interruption in steps.interruptions:
        console.print(Text(f"  {_interruption(interruption)}", style="yellow"))


def draw_defragmentation(console: Console, joined: Defragmentation) -> None:
    console.print()
    console.print(Text.assemble(("defragmentation", "bold"), f"  {_outcome(joined)}"))
    if joined.outcome is Outcome.GAINED:
        draw_steps(console, joined.steps)


def _headline(steps: Steps, *, num_changed: int, num_unchanged: int) -> Text:
    line = Text.assemble(("steps", "bold"), f"  {num_changed} to do, {num_unchanged} unchanged")
    if not num_changed:
        return line
    load = f", {steps.price_s:.1f} s of loading, done in {steps.duration_s:.1f} s" if steps.price_s else ""
    interrupts = any(not interruption.was_down for interruption in steps.interruptions)
    return line.append(f"{load}; {ORDERS[steps.order] if interrupts else 'nothing that runs is interrupted'}")


def _table(changed: list[Step]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 2))
    table.add_column("replica", overflow="fold")
    table.add_column("step", no_wrap=True)
    for heading in ("loads", "takes"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("where", overflow="fold")
    for step in changed:
        load = (gib(step.num_bytes), f"{step.price_s:.1f} s") if step.price_s else ("-", "-")
        table.add_row(step.replica, step.kind.value, *load, _where(step))
    return table


def _where(step: Step) -> str:
    before, after = ", ".join(step.before), ", ".join(step.after)
    ways = {
        StepKind.START: after,
        StepKind.STOP: before,
        StepKind.LOST: "",
        StepKind.UNCHANGED: after,
        StepKind.MOVE_IN_TURN: f"{before} to {after}",
        StepKind.MOVE_SIDE_BY_SIDE: f"{before} to {after}",
    }
    return "; ".join(words for words in (ways[step.kind], step.reason) if words)


def _batch_table(steps: Steps) -> Table:
    """What stands on one line may be done at the same time."""
    table = Table("", "in order", box=None, padding=(0, 0, 0, 2))
    for number, batch in enumerate(steps.batches, start=1):
        table.add_row(f"{number}.", "; ".join(map(_words, batch)))
    return table


def _words(action: Action) -> str:
    for_a_while = " for a while" if action.temporary and action.kind is ActionKind.START else ""
    return f"{action.kind.value} {action.replica} on {', '.join(action.devices)}{for_a_while}"


def _interruption(one: Interruption) -> str:
    if one.was_down:
        return f"{one.model} is down already and answers again after {one.seconds:.1f} s"
    return f"{one.model} (priority {one.priority}) does not answer for {one.seconds:.1f} s, from {one.from_s:.1f} s on"


def _outcome(joined: Defragmentation) -> str:
    before, after = _room(joined.before), _room(joined.after)
    wanted = f"{gib(joined.wanted_bytes)} wanted; " if joined.wanted_bytes else ""
    match joined.outcome:
        case Outcome.GAINED:
            fewest = "the fewest possible" if joined.is_fewest_moves else "fewest not proven"
            num = joined.steps.num_moves
            moves = f"1 move ({fewest}) makes" if num == 1 else f"{num} moves ({fewest}) make"
            return f"{wanted}{moves} room for a replica of {after}; now it is {before}"
        case Outcome.ENOUGH_ALREADY:
            return f"{wanted}nothing to do: there is room for a replica of {before}"
        case Outcome.NOTHING_TO_GAIN:
            most = f"the largest device would take {_room(joined.most)} with nothing else on it"
            return f"{wanted}nothing to gain: there is room for a replica of {before}, no plan found has more; {most}"


def _room(room: Room) -> str:
    return f"{gib(max(0, room.num_bytes))} on {room.device}" if room.device else "nothing"
