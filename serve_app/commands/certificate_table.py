"""A certificate as sums that can be added up by hand: per device and node, then the bounds, then why not elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from placement.certificate import Certificate, DeviceProof, NodeProof
from placement.elsewhere import Elsewhere, OtherDevice, Reason, Unit
from placement.plan import Cause
from placement.units import percent, told_apart
from serve_app.commands.screen import verdict

CAUSES = {
    Cause.TOO_SMALL: "too small even when empty",
    Cause.NO_ROOM: "no room",
    Cause.UNHEALTHY: "takes no shares",
    Cause.CORDONED: "takes no shares",
    Cause.TOO_FEW_DEVICES: "too few devices on its node",
    Cause.WRONG_TYPE: "of another type",
    Cause.NO_CPU: "too few cores on its node",
    Cause.NO_HOST_MEMORY: "too little host memory on its node",
}
FITS = "fits there too; the goals prefer the place it has"


def draw_certificate(console: Console, certificate: Certificate) -> None:
    console.print()
    console.print(Text.assemble(("certificate", "bold"), f"  inventory {certificate.inventory_version}"))
    for device in (proof for proof in certificate.devices if proof.shares):
        _draw_sum(console, device.device, [*_device_lines(device, certificate.headroom)], holds=device.holds)
    idle = sum(not proof.shares for proof in certificate.devices)
    if idle:
        devices = "device without a model needs" if idle == 1 else "devices without a model need"
        console.print(Text(f"\n{idle:,} {devices} no proof."))
    for node in certificate.nodes:
        _draw_sum(console, f"{node.node}, beside its devices", [*_node_lines(node)], holds=node.holds)
    _draw_bounds(console, certificate)
    _draw_elsewhere(console, certificate)


def _draw_sum(console: Console, title: str, lines: list[tuple[str, str]], *, holds: bool) -> None:
    console.print()
    console.print(Text.assemble((title, "bold"), "  ", verdict(holds)))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _device_lines(proof: DeviceProof, headroom: float) -> Iterator[tuple[str, str]]:
    yield "total", f"{proof.total_bytes:,}"
    yield f"- headroom, {percent(headroom)} rounded up", f"{proof.headroom_bytes:,}"
    for holding in proof.holdings:
        yield f"- held: {holding.holder}", f"{holding.num_bytes:,}"
    yield "= allowed", f"{proof.allowed_bytes:,}"
    for share in proof.shares:
        yield f"  {share.replica} at rest", f"{share.rest_bytes:,}"
    start = f"+ largest start, {proof.largest_start}" if proof.largest_start else "+ largest start, none needs more"
    yield start, f"{proof.largest_start_bytes:,}"
    yield "= peak", f"{proof.peak_bytes:,}"
    yield "slack = allowed - peak", f"{proof.slack_bytes:,}"


def _node_lines(proof: NodeProof) -> Iterator[tuple[str, str]]:
    if proof.taken_cpu_millis:
        yield "cores allowed", f"{proof.allowed_cpu_millis / 1000:g}"
        yield "cores taken", f"{proof.taken_cpu_millis / 1000:g}"
    if proof.taken_host_bytes:
        yield "host memory allowed", f"{proof.allowed_host_bytes:,}"
        yield "host memory taken", f"{proof.taken_host_bytes:,}"
        yield "slack = allowed - taken", f"{proof.allowed_host_bytes - proof.taken_host_bytes:,}"


def _draw_bounds(console: Console, certificate: Certificate) -> None:
    console.print()
    gap = certificate.gap
    if not certificate.goals:
        console.print(Text(f"No bound: solver {certificate.solver} finds a plan and does not prove how good it is."))
        return
    proof = "no bound" if gap is None else "proven best" if gap == 0 else f"at most {gap:.1%} from the best"
    console.print(Text.assemble(("goals in their order", "bold"), f"  solver {certificate.solver}, {proof}"))
    table = Table("goal", box=None, padding=(0, 2, 0, 2))
    for heading in ("reached", "bound", ""):
        table.add_column(heading, justify="right" if heading else "left")
    for goal in certificate.goals:
        best = Text("best", style="green") if goal.value == goal.bound else Text("not proven", style="yellow")
        table.add_row(goal.name, f"{goal.value:,}", f"{goal.bound:,}", best)
    console.print(table)


def _draw_elsewhere(console: Console, certificate: Certificate) -> None:
    entries = [entry for entry in certificate.elsewhere if entry.reasons]
    if not entries:
        return
    console.print()
    console.print(Text("why not elsewhere", style="bold"))
    for entry in entries:
        console.print(_subject(entry))
        table = Table(box=None, show_header=False, padding=(0, 0, 0, 4))
        for line in (line for reason in entry.reasons for line in _reason_lines(reason)):
            table.add_row(Text(line))
        console.print(table)


def _subject(entry: Elsewhere) -> Text:
    if entry.num_refused:
        return Text.assemble("  ", (entry.subject, "bold"), f"  {entry.num_refused} refused")
    return Text.assemble("  ", (entry.subject, "bold"), f"  on {', '.join(entry.on)}")


def _reason_lines(reason: Reason) -> Iterator[str]:
    """Devices with the same numbers share a line."""
    alike: dict[str, list[str]] = {}
    words = CAUSES[reason.cause] if reason.cause else FITS
    for other in reason.devices:
        alike.setdefault(f"{words}{_numbers(reason, other)}", []).append(other.device)
    yield from (f"{', '.join(devices)}: {sentence}" for sentence, devices in alike.items())
    more = reason.num_devices - len(reason.devices)
    if more:
        yield f"and {more:,} more: {words}"


def _numbers(reason: Reason, other: OtherDevice) -> str:
    if reason.cause is None:
        return ""
    if other.unit is Unit.NONE:
        return f", {other.state}"
    if other.unit is Unit.DEVICES:
        return f": {other.needed} devices of the node are needed, {other.available} would do"
    if other.unit is Unit.CPU_MILLIS:
        return f": {other.needed / 1000:g} needed, {other.available / 1000:g} free"
    needed, available = told_apart(other.needed, other.available)
    peak = "" if reason.cause is Cause.NO_HOST_MEMORY else " at the peak"
    return f": {needed} needed{peak}, {available} free above headroom"
