"""What can be wrong with a sensor, as findings that go with every result."""

from dataclasses import dataclass
from enum import StrEnum


class FaultKind(StrEnum):
    """The findings of this version; a reader takes a kind that it does not know as it is."""

    SILENT = "silent"
    """Nothing comes from it, or what comes has been empty for a while (a radar)."""
    UNREADABLE = "unreadable"
    """Its payloads are broken."""
    FROZEN = "frozen"
    """A camera or lidar repeats what it saw, under new stamps."""
    STUCK = "stuck"
    """A radar reports the same returns again and again."""
    DARK = "dark"
    """There is nothing in it: a black image, a sweep without points."""
    SATURATED = "saturated"
    BLURRED = "blurred"
    BLOCKED = "blocked"
    """Part of its view is covered: a patch of an image, a sector of a lidar."""
    COLLAPSED = "collapsed"
    """A lidar's points became few, all around."""
    ATTENUATED = "attenuated"
    """Rain or fog: a lidar sees less far and scatters back from the air."""
    MISCALIBRATED = "miscalibrated"
    """What a camera sees lies beside what the lidar measures, as far as the calibration goes."""
    JITTERY = "jittery"
    LATE = "late"
    """Its messages take longer than they did."""
    CLOCK = "clock"
    """Its capture times moved against their arrival: its clock is off."""


class Severity(StrEnum):
    WARNING = "warning"
    """What it says is worse than usual."""
    ERROR = "error"
    """What it says is wrong, or there is nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorFault:
    """One finding about one sensor. kind: a `FaultKind`, or one of a newer writer. since_ns: capture time at which it
    began; where nothing was heard, on the arrival clock. detail: figures, for people.
    """

    kind: str
    since_ns: int
    severity: Severity
    detail: str
