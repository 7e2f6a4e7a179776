"""The models of a cluster.yaml, as they are estimated and as the controller of this home measured them."""

from __future__ import annotations

from dataclasses import dataclass

from placement.demand import Estimate
from placement.estimate import Measurement, weights_bytes_from_config
from placement.inventory import DeviceKind
from placement.measured_parts import MeasuredPart, measured_parts
from serve_app.config.settings import ModelSettings, Settings
from serve_app.errors import HeadroomError
from serve_app.fleet.demands import demand_from_spec, demand_of, device_kind, spec_of
from serve_app.fleet.measurements import measurement_key, read_measurements, shape_digest
from serve_app.fleet.unmade import unmade_config
from serve_app.training.deployed import latest_checkpoint
from serve_app.training.sources import DEFAULT_SCHEME, models_folder, resolve_source


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One model on one type of device. `measured` None: never measured; `problem`: why there is no estimate."""

    model: str
    kind: DeviceKind
    estimate: Estimate | None
    measured: Measurement | None = None
    problem: str = ""

    @property
    def parts(self) -> tuple[MeasuredPart, ...]:
        return measured_parts(self.estimate, self.measured) if self.estimate and self.measured else ()


def compared(settings: Settings) -> tuple[Compared, ...]:
    """Every model in the file's order; one entry for each type of device that it was measured on, or one without."""
    usual = device_kind(settings.fleet.devices)
    return tuple(entry for model in settings.models for entry in _entries(model, settings, usual))


def _entries(model: ModelSettings, settings: Settings, usual: DeviceKind) -> list[Compared]:
    try:
        found = [entry for kind in DeviceKind for entry in _measured(model, settings, kind)]
        return found or [Compared(model=model.id, kind=usual, estimate=_estimate(model, settings, usual))]
    except HeadroomError as error:
        return [Compared(model=model.id, kind=usual, estimate=None, problem=str(error))]


def _measured(model: ModelSettings, settings: Settings, kind: DeviceKind) -> list[Compared]:
    if _is_unmade(model, settings):
        return []
    checkpoint = resolve_source(model.source, storage=settings.storage)
    key = measurement_key(model, shape_digest(checkpoint), kind)
    rows = read_measurements(settings.storage.home, key)
    if not rows:
        return []
    estimate = _estimate(model, settings, kind)
    return [Compared(model=model.id, kind=kind, estimate=estimate, measured=row) for row in rows]


def _estimate(model: ModelSettings, settings: Settings, kind: DeviceKind) -> Estimate:
    """Without any measurement in it."""
    if _is_unmade(model, settings):
        spec = spec_of(unmade_config(_name(model)), dtype=model.dtype, origin=model.source)
        return demand_from_spec(model, spec, weights_bytes=weights_bytes_from_config(spec), kind=kind).estimate
    checkpoint = resolve_source(model.source, storage=settings.storage)
    return demand_of(model, settings, checkpoint, kind=kind).estimate


def _is_unmade(model: ModelSettings, settings: Settings) -> bool:
    if not model.source.startswith(DEFAULT_SCHEME):
        return False
    return latest_checkpoint(models_folder(settings.storage.home) / _name(model)) is None


def _name(model: ModelSettings) -> str:
    return model.source.removeprefix(DEFAULT_SCHEME)


def as_json_value(entries: tuple[Compared, ...]) -> dict[str, object]:
    """The one object that `headroom estimate --compare --json` prints."""
    return {"models": [_model_value(entry) for entry in entries]}


def _model_value(entry: Compared) -> dict[str, object]:
    measured, estimate = entry.measured, entry.estimate
    return {
        "model": entry.model,
        "device_kind": entry.kind.value,
        "device_type": measured.device_type if measured else None,
        "engine": measured.engine if measured else None,
        "measured_on": measured.when if measured else None,
        "estimated_rest_bytes": estimate.rest_bytes if estimate else None,
        "estimated_peak_bytes": estimate.peak_bytes if estimate else None,
        "parts": [
            {
                "name": part.name,
                "estimated_bytes": part.estimated_bytes,
                "measured_bytes": part.measured_bytes,
                "error_percent": part.error_percent,
            }
            for part in entry.parts
        ],
        "problem": entry.problem,
    }
