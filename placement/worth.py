"""What free room of one node is worth to asks to come: how much of it will stay idle, and how many blocks are broken.

The larger the *loss*, the less the room is worth. Knows free room and the mix, not which node it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from placement.ask import WHOLE_DEVICE_MILLIS, Ask
from placement.lookahead import Gaps, Lookahead
from placement.mix import Mix, pressure_by_type


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The knobs of online placement.

    `num_futures` and `future_length` say how far it looks ahead. A device that asks for several devices cannot use
    counts `block_weight` + `block_weight_by_share` x the share of the demand that wants several, times the share that
    cannot use it: the more of them come, the less often a broken block is healed by others. `pressure_weight` is what a
    device of a type costs per unit of pressure on that type.
    Source: tuned on seeds 1001 to 1003 of seven mixes; DESIGN.md says what else was tried.
    """

    num_futures: int = 20
    future_length: int = 80
    block_weight: float = 0.3
    block_weight_by_share: float = 1.0
    pressure_weight: float = 0.5
    seed: int = 0


class Worth:
    """Loss and price of room by device type, for one mix. A new mix needs a new one."""

    def __init__(self, mix: Mix, devices_by_type: Mapping[str, int], tuning: Tuning) -> None:
        futures = mix.futures(num_futures=tuning.num_futures, length=tuning.future_length, seed=tuning.seed)
        shares = mix.shares_of_demand()
        share_of_blocks = sum(share for ask, share in shares.items() if ask.num_devices > 1)
        self._block_weight = tuning.block_weight + tuning.block_weight_by_share * share_of_blocks
        self._price = {
            name: tuning.pressure_weight * pressure for name, pressure in pressure_by_type(mix, devices_by_type).items()
        }
        self._blocks = {
            name: tuple((ask, share) for ask, share in shares.items() if ask.num_devices > 1 and _names(ask, name))
            for name in devices_by_type
        }
        self._shut_out = {
            name: sum(share for ask, share in shares.items() if ask.num_devices > 1 and not _names(ask, name))
            for name in devices_by_type
        }
        self._lookaheads = _shared_where_alike(mix, devices_by_type, futures)

    def loss_millis(self, device_type: str, gaps: Gaps, cpu_millis: int) -> float:
        """Device millis that are as good as lost of this room."""
        if not gaps:
            return 0.0
        waste = self._lookaheads[device_type].waste_millis(gaps, cpu_millis)
        return waste + self._block_weight * self._broken_millis(device_type, gaps, cpu_millis)

    def price_millis(self, device_type: str, ask: Ask) -> float:
        """What it costs others that the ask takes devices of this type."""
        return self._price[device_type] * ask.total_device_millis

    def _broken_millis(self, device_type: str, gaps: Gaps, cpu_millis: int) -> float:
        """Free millis that asks for several devices cannot use here, weighted by their shares of the demand."""
        idle, num_whole = sum(gaps), gaps.count(WHOLE_DEVICE_MILLIS)
        broken = self._shut_out[device_type] * idle
        for ask, share in self._blocks[device_type]:
            is_open = ask.num_devices <= num_whole and ask.cpu_millis <= cpu_millis
            broken += share * (idle - WHOLE_DEVICE_MILLIS * num_whole if is_open else idle)
        return broken


def _shared_where_alike(
    mix: Mix, devices_by_type: Mapping[str, int], futures: tuple[tuple[Ask, ...], ...]
) -> dict[str, Lookahead]:
    """Types that the same asks may lie on share one lookahead, and what it remembers."""
    made: dict[frozenset[tuple[str, ...]], Lookahead] = {}
    lookaheads = {}
    named = {ask.device_types for ask in mix.counts if ask.device_types}
    for name in devices_by_type:
        key = frozenset(types for types in named if name in types)
        if key not in made:
            made[key] = Lookahead(futures, name)
        lookaheads[name] = made[key]
    return lookaheads


def _names(ask: Ask, device_type: str) -> bool:
    return not ask.device_types or device_type in ask.device_types
