"""Where the controller stands on the way from settings to serving."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from placement.inventory import Inventory
from placement.plan import Plan
from serve_app.controller.claims import Weights
from serve_app.controller.planning import StoredPlan


class Phase(StrEnum):
    MODELS = "preparing models"
    FLEET = "reading the fleet"
    PLAN = "planning"
    SERVING = "serving"
    STOPPED = "waiting to try again"


@dataclass(slots=True, kw_only=True)
class BringupState:
    """Where the controller stands. `problems` maps a model id to why it is not served."""

    phase: Phase = Phase.MODELS
    message: str = ""
    stored: StoredPlan | None = None
    weights: dict[str, Weights] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @property
    def inventory(self) -> Inventory | None:
        return self.stored.inventory if self.stored else None

    @property
    def plan(self) -> Plan | None:
        return self.stored.plan if self.stored else None
