"""Every error the product raises for people to read, as one tree with one exit code each.

    HeadroomError                1   the base; also "something was refused" on the command line
    ├── ConfigError              2   cluster.yaml does not say what it must (serve_app/config/problems.py)
    ├── NotRunning               3   nothing answers at the address
    ├── AlreadyRunning           4   the port is taken, or another Ray runs here
    ├── CheckpointRefused        5   a checkpoint is missing, damaged, unsafe or outside the allowed roots
    ├── ModelUnsupported         6   a checkpoint is whole, but its kind cannot be estimated or served
    ├── DeviceUnreadable         7   the device kind that was asked for cannot be read
    ├── BadAnswer                8   something answered, but not as Headroom does
    ├── FleetUnready             9   Ray cannot give what the plan needs: a group, a warden, a share
    ├── EngineStartFailed       10   an engine did not come up, or not where it was planned
    ├── ModelNotMade            11   a default model is unknown, or could not be trained or stored
    ├── ApplyBusy               12   another change of the running cluster is under way
    └── ConfigRefused           18   a job's configuration does not say what it must

Each says three things: what happened, what was expected, what to do. A bug is an assert and not in this
tree; a refusal of the solver is a value (`placement.plan.Refusal`) and not in this tree either.
"""

from __future__ import annotations

from typing import Any, ClassVar


class HeadroomError(Exception):
    """`what` happened, what was `expected`, what to do (`advice`): whole sentences, the last two optional."""

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, *, expected: str = "", advice: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.advice = advice

    def __str__(self) -> str:
        return " ".join(sentence for sentence in (self.what, self.expected, self.advice) if sentence)

    def __reduce__(self) -> tuple[Any, ...]:
        """Keeps the keyword fields when Ray carries the error from one process to another."""
        return (self.__class__, (self.what,), self.__dict__)


class NotRunning(HeadroomError):
    exit_code = 3


class AlreadyRunning(HeadroomError):
    exit_code = 4


class CheckpointRefused(HeadroomError):
    exit_code = 5


class ModelUnsupported(HeadroomError):
    exit_code = 6


class DeviceUnreadable(HeadroomError):
    exit_code = 7


class BadAnswer(HeadroomError):
    exit_code = 8


class FleetUnready(HeadroomError):
    exit_code = 9


class EngineStartFailed(HeadroomError):
    exit_code = 10


class ModelNotMade(HeadroomError):
    exit_code = 11


class ApplyBusy(HeadroomError):
    exit_code = 12


class ConfigRefused(HeadroomError):
    exit_code = 18
