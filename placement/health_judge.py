"""One poll of one device against every rule. What firing leads to is the book's business."""

from __future__ import annotations

from dataclasses import replace

from placement.health_book import Book
from placement.health_hold import Hold, Turn, advanced, broken, counted, increase
from placement.health_rules import (
    Action,
    Comparison,
    HealthRule,
    RuleName,
    Severity,
    Signal,
    fatal_xids,
    reading,
)
from placement.health_state import Alert, Record
from placement.signals import DeviceSignals, Silence

_ADVICE = {
    Action.NOTIFY: "",
    Action.THROTTLE: " Fewer requests are sent to it.",
    Action.PREEMPT: " What runs there goes back to its queue.",
    Action.QUARANTINE: " It is emptied, and comes back after a rest and a passed probe.",
}
_WORDS = {
    Signal.TEMPERATURE_C: ("temperature", " °C"),
    Signal.POWER_W: ("power", " W"),
    Signal.ECC_CORRECTED: ("corrected memory errors", ""),
    Signal.ECC_UNCORRECTED: ("uncorrectable memory errors", ""),
    Signal.FATAL_XIDS: ("fatal driver events (XID)", ""),
}


def silent(book: Book, silence: Silence) -> None:
    """The device could not be read: lost at once, and no hold goes on."""
    book.put(replace(_broken(book.record(silence.device)), last_poll_s=book.now_s))
    book.clear(silence.device, frozenset({RuleName.WATCH_STALE}))
    _lose(book, silence.device, f"{silence.device} cannot be read: {silence.reason}.")


def answered(book: Book, signals: DeviceSignals, *, planned_bytes: int) -> None:
    device = signals.device
    rules = book.policy.active_rules
    book.clear(device, frozenset(RuleName) - {rule.name for rule in rules})  # facts, and rules that are off by now
    _recognise(book, signals)
    before = book.record(device)
    if book.now_s - before.last_poll_s > book.policy.stale_s:
        before = _broken(before)
    new_events = _new_events(before, signals)
    _remember(book, before, signals)
    holds = []
    for rule in rules:
        hold = before.hold(rule.name)
        if rule.signal.is_counted:
            num_new = new_events[rule.signal]
            hold = counted(hold, num_new or 0, window_s=rule.window_s, now_s=book.now_s)
            value = None if num_new is None else float(hold.num_counted)
        else:
            value = reading(rule.signal, signals, planned_bytes=planned_bytes)
        holds.append(_judged(book, rule, hold, value, signals))
    book.put(replace(book.record(device), holds=tuple(holds)))


def _broken(record: Record) -> Record:
    """Nobody saw what was between the polls."""
    return replace(record, holds=tuple(broken(hold) for hold in record.holds))


def _recognise(book: Book, signals: DeviceSignals) -> None:
    """Other hardware under a known id inherits quarantine and no good name: ids follow NVML's order of what is left."""
    known = book.record(signals.device).standing.uuid
    if known in ("", signals.uuid):
        return
    book.clear(signals.device, frozenset(RuleName))
    standing = replace(book.record(signals.device).standing, uuid=signals.uuid, ecc_uncorrected=0)
    book.put(Record(standing=standing, last_poll_s=book.now_s))
    _lose(book, signals.device, f"{signals.device} was {known} and is {signals.uuid} now.")


def _lose(book: Book, device: str, what: str) -> None:
    message = f"{what} It comes back after a rest and a passed probe."
    book.fire(
        Alert(
            rule=RuleName.DEVICE_LOST,
            device=device,
            severity=Severity.CRITICAL,
            action=Action.NOTIFY,
            message=message,
            since_s=book.now_s,
        )
    )
    book.lose(device, message)


def _judged(book: Book, rule: HealthRule, hold: Hold, value: float | None, signals: DeviceSignals) -> Hold:
    limit = rule.limit(signals)
    if value is None or limit is None:
        return broken(hold)
    is_fired = book.record(signals.device).standing.has(rule.name)
    hold, turn = advanced(hold, rule, value=value, limit=limit, is_fired=is_fired, now_s=book.now_s)
    if turn is Turn.FIRES:
        book.fire(_alert(rule, signals, value, limit, book.now_s))
    elif turn is Turn.CLEARS:
        book.clear(signals.device, frozenset({rule.name}))
    return hold


def _new_events(before: Record, signals: DeviceSignals) -> dict[Signal, int | None]:
    """Since the poll before; None where this poll does not tell."""
    corrected, uncorrected = signals.ecc_corrected, signals.ecc_uncorrected
    seen = before.standing.ecc_uncorrected
    return {
        Signal.ECC_CORRECTED: None if corrected is None else increase(before.ecc_corrected, corrected),
        Signal.ECC_UNCORRECTED: None if uncorrected is None else increase(seen, uncorrected),
        Signal.FATAL_XIDS: len(fatal_xids(signals)),
    }


def _remember(book: Book, record: Record, signals: DeviceSignals) -> None:
    corrected, uncorrected = signals.ecc_corrected, signals.ecc_uncorrected
    standing = record.standing
    seen = standing.ecc_uncorrected if uncorrected is None else uncorrected
    book.put(
        replace(
            record,
            standing=replace(standing, uuid=signals.uuid, ecc_uncorrected=seen),
            last_poll_s=book.now_s,
            ecc_corrected=record.ecc_corrected if corrected is None else corrected,
        )
    )


def _alert(rule: HealthRule, signals: DeviceSignals, value: float, limit: float, now_s: float) -> Alert:
    message = f"{signals.device}: {rule.name}: {_seen(rule, signals, value, limit)}.{_ADVICE[rule.action]}"
    return Alert(
        rule=rule.name,
        device=signals.device,
        severity=rule.severity,
        action=rule.action,
        message=message,
        since_s=now_s,
        value=value,
        limit=limit,
    )


def _seen(rule: HealthRule, signals: DeviceSignals, value: float, limit: float) -> str:
    """What was read, as part of a sentence."""
    held = f" for {rule.hold_s:g} s" if rule.hold_s else ""
    match rule.signal:
        case Signal.FAULT_CLOCKS:
            reasons = sorted(reason for reason in signals.throttle_reasons or () if reason.is_fault)
            return f"clocks are held down by {', '.join(reasons)}{held}"
        case Signal.MEMORY_RATIO:
            return f"{value:.0%} of its memory is used, more than was planned, limit {limit:.0%}{held}"
        case Signal.ROW_REMAP_FAILED:
            return "a memory row could not be remapped"
        case Signal.RECOVERY_ADVISED:
            advised = signals.recovery_action
            return f"its driver advises {'recovery' if advised is None else advised.name.lower()}"
    words, unit = _WORDS[rule.signal]
    numbers = f" {', '.join(map(str, fatal_xids(signals)))}" if rule.signal is Signal.FATAL_XIDS else ""
    window = f" within {rule.window_s:g} s" if rule.signal.is_counted else ""
    bound = "above" if rule.comparison is Comparison.ABOVE else "at least"
    return f"{words}{numbers} {value:.4g}{unit}{window}, {bound} {limit:.4g}{unit}{held}"
