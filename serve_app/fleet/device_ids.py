"""Which id a GPU that NVML lists has: its UUID decides, for life; its index only when it is new. Pure.

Indices shift when a device falls off the bus, so an index alone would give a healthy device its neighbour's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, count

from serve_app.fleet.cuda_devices import device_id


def device_ids(node: str, uuids: Sequence[str | None], known: Mapping[str, str | None]) -> tuple[str, ...]:
    """One id for each device in NVML's order, no two alike.

    `uuids` has None for a device that does not tell its UUID; such a one takes the place of a known one that nobody
    else is. `known` maps ids to UUIDs, None where the UUID was never read. A stranger never gets an id of a known UUID.
    """
    id_of = {uuid: device for device, uuid in known.items() if uuid is not None}
    given = {index: id_of[uuid] for index, uuid in enumerate(uuids) if uuid in id_of}
    for index, uuid in enumerate(uuids):
        if index not in given:
            candidates = chain((device_id(node, index),), known, (device_id(node, number) for number in count()))
            given[index] = next(
                device
                for device in candidates
                if device not in given.values() and (uuid is None or known.get(device) is None)
            )
    return tuple(given[index] for index in range(len(uuids)))
