"""The openb trace as values: nodes, pods, and the order in which pods arrive for one seed.

The published experiment: pods shuffled by the seed, then random ones of the same list cloned at the end (or random ones
taken out) until 130 % of all devices are asked for. Nothing departs.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from placement.ask import WHOLE_DEVICE_MILLIS, Ask, EmptyNode, check_ask
from placement.errors import InvalidProblem

ARRIVING = 1.3
"""Demand for devices that arrives, as a multiple of the devices there are."""

_NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
_POD_COLUMNS = ("cpu_milli", "memory_mib", "num_gpu", "gpu_milli")
"""`gpu_spec` may be absent: then any device type will do."""

Row = dict[str, str]


class BadTrace(Exception):
    """A file that is not what it should be; `str()` is one sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One run: nodes in the order that breaks ties, and asks in the order of arrival."""

    seed: int
    nodes: tuple[EmptyNode, ...]
    arrivals: tuple[Ask, ...]


def read_nodes(path: Path) -> tuple[EmptyNode, ...]:
    """Raises BadTrace."""
    nodes = tuple(
        EmptyNode(
            name=row["sn"],
            device_type=row["model"],
            num_devices=_count(path, line, row, "gpu"),
            cpu_millis=_count(path, line, row, "cpu_milli"),
            host_memory_bytes=_count(path, line, row, "memory_mib") << 20,
        )
        for line, row in _rows(path, _NODE_COLUMNS)
    )
    if len({node.name for node in nodes}) < len(nodes):
        raise BadTrace(f"{path} names a node twice in column 'sn'; give each row its own name.")
    if not any(node.num_devices for node in nodes):
        raise BadTrace(f"{path} has no node with a device; expected at least one row with 'gpu' above 0.")
    return nodes


def read_pods(path: Path) -> tuple[Ask, ...]:
    """Raises BadTrace."""
    pods = tuple(_pod(path, line, row) for line, row in _rows(path, _POD_COLUMNS))
    if not any(pod.total_device_millis for pod in pods):
        raise BadTrace(f"{path} has no pod that asks for a device; expected at least one row with 'num_gpu' above 0.")
    return pods


def stream(nodes: Sequence[EmptyNode], pods: Sequence[Ask], seed: int) -> Stream:
    """Arrivals and node order of one seed; the same seed gives the same stream."""
    draw, arrivals = random.Random(seed), list(pods)
    draw.shuffle(arrivals)
    asked = sum(pod.total_device_millis for pod in arrivals)
    wanted = ARRIVING * WHOLE_DEVICE_MILLIS * sum(node.num_devices for node in nodes)
    if asked > wanted:
        while asked > wanted:
            asked -= arrivals.pop(draw.randrange(len(arrivals))).total_device_millis
    else:
        while asked + (clone := pods[draw.randrange(len(pods))]).total_device_millis <= wanted:
            asked += clone.total_device_millis
            arrivals.append(clone)
    order = list(nodes)
    draw.shuffle(order)
    return Stream(seed=seed, nodes=tuple(order), arrivals=tuple(arrivals))


def _pod(path: Path, line: int, row: Row) -> Ask:
    num_devices, spec = _count(path, line, row, "num_gpu"), row.get("gpu_spec") or ""
    ask = Ask(
        cpu_millis=_count(path, line, row, "cpu_milli"),
        host_memory_bytes=_count(path, line, row, "memory_mib") << 20,
        num_devices=num_devices,
        device_millis=_count(path, line, row, "gpu_milli") if num_devices else 0,
        device_types=tuple(sorted({name for name in spec.split("|") if name and name != "nan"})) if num_devices else (),
    )
    try:
        check_ask(ask)
    except InvalidProblem as fault:
        raise BadTrace(f"{path}, line {line}: {fault}") from fault
    return ask


def _rows(path: Path, columns: Sequence[str]) -> list[tuple[int, Row]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            present = reader.fieldnames or ()
            rows = [(reader.line_num, row) for row in reader]
    except OSError as fault:
        raise BadTrace(f"{path} cannot be read ({fault.strerror}); expected a CSV file of the openb trace.") from fault
    except (UnicodeDecodeError, csv.Error) as fault:
        raise BadTrace(f"{path} is no CSV file ({fault}); expected one of the openb trace.") from fault
    missing = [name for name in columns if name not in present]
    if missing:
        raise BadTrace(
            f"{path} lacks the column(s) {', '.join(missing)}; expected {', '.join(columns)} in its first line."
        )
    return rows


def _count(path: Path, line: int, row: Row, column: str) -> int:
    """A whole number, 0 or more; some files write 1000 as 1000.0."""
    text = row[column] or ""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if number < 0 or not number.is_integer():
        raise BadTrace(f"{path}, line {line}: '{column}' is '{text}'; expected a whole number, 0 or more.")
    return int(number)
