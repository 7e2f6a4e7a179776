"""Generated telemetry: devices that never existed, with faults by a small physical model, each labelled by its story.

Every device has a load; some also a fault, which begins at a random time and grows until the device fails. None of the
figures comes from a recording and none was fitted to a detector: they are plausible ranges, written down before the
first backtest. A simulation shows that code does what it says, not how often real devices fail.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from math import exp, inf, pi, sin
from random import Random

DAY_S = 86400.0
IDLE_W = 70.0
LIMIT_W = 400.0
SLOWDOWN_C = 87.0
MISSED_POLLS = 0.002
"""Part of all polls of healthy devices that fail for no reason of theirs."""
FAULTY = 0.4
"""Part of the devices that get a fault: far more than real ones, so that each story is told several times."""


class Load(StrEnum):
    STEADY = "steady"
    BUSY = "busy"
    """Near its power limit day and night."""
    DIURNAL = "diurnal"
    BURSTY = "bursty"
    """Jobs of some 40 minutes with pauses of some 20."""


class Fault(StrEnum):
    THERMAL_CREEP = "thermal_creep"
    """Cooling gets worse over hours; fails at the slow-down limit."""
    FAN_FAILURE = "fan_failure"
    """Cooling is lost within minutes; fails at the slow-down limit."""
    POWER_CREEP = "power_creep"
    """Draws ever more for the same work; fails between 8 and 25 % above its limit."""
    ECC_STORM = "ecc_storm"
    """Corrected errors double again and again; fails at the first uncorrectable one, at random."""
    OFF_THE_BUS = "off_the_bus"
    """Gone without warning in seven of ten; in three, some polls fail in the last minutes."""


@dataclass(slots=True, kw_only=True)
class GeneratedDevice:
    """One device in motion. `fault` begins at `onset_s` and has the speed and the strength of `fault_s`, `strength`."""

    rng: Random
    load: Load
    fault: Fault | None
    onset_s: float
    fault_s: float
    strength: float
    warns_s: float
    """Time before falling off the bus at which polls begin to fail; 0 for none."""
    room_c: float
    thermal_c_per_w: float
    lag_s: float
    hot_from_s: float
    """Start of four hours in which the room is 3 °C warmer, for no fault of the device."""
    errors_per_s: float
    replays_per_s: float
    weak_from_s: float
    """Start of half an hour in which a weak row gives corrected errors and then no more."""
    temperature_c: float = 40.0
    utilization: float = 0.5
    job_until_s: float = 0.0
    power_w: float = IDLE_W
    ecc_corrected: int = 0
    pcie_replays: int = 0
    failed: bool = field(default=False)

    def step(self, now_s: float, step_s: float) -> None:
        self._work(now_s, step_s)
        self._heat(now_s, step_s)
        self._count(now_s, step_s)

    def _age(self, fault: Fault, now_s: float) -> float:
        """Seconds since this fault began; 0 before, and for other faults."""
        return max(0.0, now_s - self.onset_s) if self.fault is fault else 0.0

    def _work(self, now_s: float, step_s: float) -> None:
        match self.load:
            case Load.STEADY:
                self.utilization = 0.6
            case Load.BUSY:
                self.utilization = 0.97
            case Load.DIURNAL:
                drift = self.rng.gauss(0, 0.01 * (step_s / 60) ** 0.5)
                wave = 0.5 + 0.4 * sin(2 * pi * now_s / DAY_S)
                self.utilization += 0.1 * (wave - self.utilization) + drift
            case Load.BURSTY:
                if now_s >= self.job_until_s:
                    self.utilization = 0.95 if self.utilization < 0.5 else 0.05
                    mean_s = 2400 if self.utilization > 0.5 else 1200
                    self.job_until_s = now_s + self.rng.expovariate(1 / mean_s)
        share = min(1.0, max(0.0, self.utilization + self.rng.gauss(0, 0.02)))
        regulated_w = min(IDLE_W + share * (LIMIT_W - IDLE_W), LIMIT_W * (1 + self.rng.gauss(0, 0.01)))
        self.power_w = regulated_w * (1 + self._age(Fault.POWER_CREEP, now_s) / self.fault_s * self.strength)
        self.failed |= self.fault is Fault.POWER_CREEP and self.power_w >= LIMIT_W * (1 + self.strength)

    def _heat(self, now_s: float, step_s: float) -> None:
        room_c = self.room_c + 1.5 * sin(2 * pi * now_s / DAY_S) + 3 * (0 <= now_s - self.hot_from_s < 4 * 3600)
        worse = 1 + self._age(Fault.THERMAL_CREEP, now_s) / self.fault_s * self.strength
        worse += self.strength * (1 - exp(-self._age(Fault.FAN_FAILURE, now_s) / self.fault_s))
        target_c = room_c + self.thermal_c_per_w * worse * self.power_w
        self.temperature_c += (target_c - self.temperature_c) * (1 - exp(-step_s / self.lag_s))
        thermal = self.fault in (Fault.THERMAL_CREEP, Fault.FAN_FAILURE)
        self.failed |= thermal and self.temperature_c >= SLOWDOWN_C

    def _count(self, now_s: float, step_s: float) -> None:
        storm_s = self._age(Fault.ECC_STORM, now_s)
        storm_per_s = 0.05 / 60 * 2 ** min(storm_s / self.fault_s, 14) if storm_s else 0.0
        weak_per_s = 30 / 1800 * (0 <= now_s - self.weak_from_s < 1800)
        errors = _poisson(self.rng, (self.errors_per_s + storm_per_s + weak_per_s) * step_s)
        self.ecc_corrected += errors
        if storm_s:
            self.failed |= any(self.rng.random() < self.strength for _ in range(errors))
        bus_s = self._bus_warning(now_s)
        self.pcie_replays += _poisson(self.rng, (self.replays_per_s + 5 / 60 * bus_s) * step_s)
        self.failed |= self.fault is Fault.OFF_THE_BUS and now_s >= self.onset_s

    def _bus_warning(self, now_s: float) -> bool:
        return self.fault is Fault.OFF_THE_BUS and self.onset_s - self.warns_s <= now_s

    def answers(self, now_s: float) -> bool:
        return self.rng.random() >= (0.3 if self._bus_warning(now_s) and self.warns_s else MISSED_POLLS)


def generated_fleet(*, num_devices: int, days: float, step_s: float, seed: int) -> Iterator[dict[str, list[object]]]:
    """Columns of each device in turn, as `write_telemetry` takes them. The same seed gives the same fleet."""
    rng = Random(seed)  # noqa: S311  # no secrets
    faults = list(Fault)
    num_faulty = round(FAULTY * num_devices)
    stories: list[Fault | None] = [faults[index % len(faults)] for index in range(num_faulty)]
    stories += [None] * (num_devices - num_faulty)
    rng.shuffle(stories)
    for index, fault in enumerate(stories):
        device = generated_device(Random(rng.getrandbits(64)), fault, days * DAY_S)  # noqa: S311  # no secrets
        yield recorded(f"generated/gpu-{index}", device, days * DAY_S, step_s)


def generated_device(rng: Random, fault: Fault | None, duration_s: float) -> GeneratedDevice:
    fault_s, strength = _course(rng, fault)
    return GeneratedDevice(
        rng=rng,
        load=rng.choice(list(Load)),
        fault=fault,
        onset_s=rng.uniform(0.3, 0.9) * duration_s,
        fault_s=fault_s,
        strength=strength,
        warns_s=rng.uniform(120, 1800) if rng.random() < 0.3 else 0.0,
        room_c=rng.uniform(22, 30),
        thermal_c_per_w=rng.uniform(0.095, 0.13),
        lag_s=rng.uniform(120, 240),
        hot_from_s=rng.uniform(0, duration_s) if rng.random() < 0.1 else inf,
        errors_per_s=rng.uniform(0, 3) / DAY_S,
        replays_per_s=rng.uniform(0, 20) / DAY_S,
        weak_from_s=rng.uniform(0, duration_s) if rng.random() < 0.05 else inf,
    )


def _course(rng: Random, fault: Fault | None) -> tuple[float, float]:
    """Seconds and strength: what the fault adds in that time (creeps), its time constant, or its doubling time."""
    match fault:
        case Fault.THERMAL_CREEP:
            return rng.uniform(2, 48) * 3600, 0.6
        case Fault.FAN_FAILURE:
            return rng.uniform(60, 600), rng.uniform(0.3, 1.0)
        case Fault.POWER_CREEP:
            return rng.uniform(1, 24) * 3600, rng.uniform(0.08, 0.25)
        case Fault.ECC_STORM:
            return rng.uniform(20, 240) * 60, rng.uniform(0.001, 0.02)
        case Fault.OFF_THE_BUS | None:
            return inf, 0.0


def recorded(name: str, device: GeneratedDevice, duration_s: float, step_s: float) -> dict[str, list[object]]:
    """Polls until the failure or the end, less one pause of the watch."""
    pause_s, pause_from_s = device.rng.uniform(300, 1800), device.rng.uniform(0, duration_s)
    rows: list[tuple[object, ...]] = []
    now_s = 0.0
    while now_s < duration_s and not device.failed:
        device.step(now_s, step_s)
        if not 0 <= now_s - pause_from_s < pause_s:
            rows.append((now_s, *(_reading(device) if device.answers(now_s) else (None,) * 7)))
        now_s += step_s
    names = (
        "time_s", "temperature_c", "slowdown_c", "power_w", "power_limit_w", "ecc_corrected", "pcie_replays",
        "utilization",
    )  # fmt: skip
    columns: dict[str, list[object]] = {key: [row[place] for row in rows] for place, key in enumerate(names)}
    failed_s = now_s - step_s if device.failed else None
    story = device.fault.value if device.fault is not None else f"healthy_{device.load.value}"
    constant = {"device": name, "failed": failed_s, "ecc_uncorrected": None, "story": story}
    return columns | {key: [value] * len(rows) for key, value in constant.items()}


def _reading(device: GeneratedDevice) -> tuple[object, ...]:
    """As NVML tells it: whole degrees, power in some noise."""
    temperature_c = float(round(device.temperature_c + device.rng.gauss(0, 0.4)))
    return (
        temperature_c, SLOWDOWN_C, round(device.power_w, 1), LIMIT_W, device.ecc_corrected, device.pcie_replays,
        round(min(1.0, max(0.0, device.utilization)), 3),
    )  # fmt: skip


def _poisson(rng: Random, mean: float) -> int:
    """Exact below 30; above, the nearest whole number of a normal variable."""
    if mean > 30:
        return max(0, round(rng.gauss(mean, mean**0.5)))
    number, product, floor = 0, rng.random(), exp(-mean)
    while product > floor:
        number += 1
        product *= rng.random()
    return number
