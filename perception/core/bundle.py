"""What the synchronizer decides: which messages make up one reference time, and which are missing."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Stamp:
    """A message as the synchronizer sees it: never its payload, so that decisions depend on time alone.

    `index` is unique in a run and counts messages in the order in which they were pushed.
    """

    arrival_ns: int
    index: int
    sensor: str
    capture_ns: int


class CloseReason(StrEnum):
    COMPLETE = "complete"
    """Nothing better can come: each sensor hit, passed the time without a message near it, or is silent."""
    DEADLINE = "deadline"
    """Its time was up, or too many younger bundles were open."""
    FLUSHED = "flushed"
    """The drive ended, or its clock jumped, while sensors were still awaited."""


class DropCause(StrEnum):
    """Why a message or frame was not used; the keys of `Provenance.dropped`."""

    DUPLICATE = "duplicate"
    LATE = "late"
    """Arrived after the bundle it belongs to had closed."""
    UNMATCHED = "unmatched"
    """No reference time within tolerance wanted it, or a nearer message won."""
    CLOCK_JUMP = "clock_jump"
    OVERFLOW = "overflow"
    """A bounded buffer was full, and the oldest went; or a live source lost a message on its way."""
    UNREADABLE = "unreadable"
    UNKNOWN_SENSOR = "unknown_sensor"
    OVERLOAD = "overload"
    """A frame: a live service was busy, and a newer one took its place."""
    UNREAD = "unread"
    """A message: a live service was so far behind that it was read too late to be of use."""
    OUTAGE = "outage"
    """A live service's engine or process was being restarted."""
    QUARANTINED = "quarantined"
    """The message crashed its encoder again and again; it was put aside."""
    MASKED = "masked"
    """Its sensor has a fault for which it is left out (`health.mask`)."""
    SKIPPED = "skipped"
    """A frame that the ladder of degradations left out."""
    LEFT_OUT = "left_out"
    """A camera's message that the ladder of degradations left out of a frame that was worked on."""
    DEADLINE = "deadline"
    """A frame whose result missed its deadline and was not published (`deadline.handler`)."""
    QUEUE = "queue"
    """A result that the result queue could not take (a live service, a broker that is away)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SensorBundle:
    """One reference time. `hits` maps each sensor that made it to its message; `misses` names the others.

    reference_sensor: who opened it, `timer` if no sensor did. opened_ns, deadline_ns, closed_ns: on the arrival clock.
    """

    sequence: int
    reference_ns: int
    reference_sensor: str
    opened_ns: int
    deadline_ns: int
    closed_ns: int
    reason: CloseReason
    hits: Mapping[str, Stamp]
    misses: tuple[str, ...]

    @property
    def slack_ns(self) -> int:
        return max(0, self.deadline_ns - self.closed_ns)

    def age_ns(self, sensor: str) -> int:
        """Reference time minus capture time of what `sensor` contributed. Raises KeyError if it is missing."""
        return self.reference_ns - self.hits[sensor].capture_ns
