"""Tells a clock that jumped from a message that is merely late, early or broken."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from perception.core.bundle import Stamp

AHEAD_NS = 1_000_000_000
"""More than transports differ by, and little enough that one time stamp from the future does not hold up the output."""


class Verdict(Enum):
    ON_CLOCK = "on_clock"
    SUSPECT = "suspect"
    """Off the common clock: not to be used."""
    JUMPED = "jumped"
    """Most living sensors now agree on another clock, and this message is on it."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one message says of the clocks. lead_ns: capture minus arrival. heard_ns: on the guard's own time."""

    lead_ns: int
    arrival_ns: int
    heard_ns: int


class ClockGuard:
    """Follows by how much capture times lead arrival times, over all sensors.

    Nothing arrives before it was captured, so a capture far ahead of the fastest transport seen is suspect at once
    (`AHEAD_NS`), while one that lags may only be slow (`behind_ns`); so is an arrival far before the latest one. A
    single bad time stamp is left out and changes nothing. The clock itself has jumped when a sensor says so twice in a
    row and more of the living sensors are off the old clock with it than on it: one sensor with a wrong clock never
    takes the others along.
    """

    def __init__(self, *, behind_ns: int, silence_ns: Mapping[str, int]) -> None:
        self._ahead_ns = min(AHEAD_NS, behind_ns)
        self._behind_ns = behind_ns
        self._silence_ns = silence_ns
        self._lead_ns: int | None = None
        self._arrival_ns = 0
        self._passed_ns = 0
        self._previous_ns: int | None = None
        self._latest: dict[str, _Reading] = {}

    @property
    def lead_ns(self) -> int:
        """Capture minus arrival by the fastest transport seen lately; 0 before any message."""
        return self._lead_ns or 0

    def check(self, stamp: Stamp) -> Verdict:
        self._pass_time(stamp.arrival_ns)
        reading = _Reading(stamp.capture_ns - stamp.arrival_ns, stamp.arrival_ns, self._passed_ns)
        previous = self._latest.get(stamp.sensor)
        self._latest[stamp.sensor] = reading
        if self._lead_ns is None or self._is_on_clock(reading):
            self._follow(reading)
            return Verdict.ON_CLOCK
        alive = [
            seen for sensor, seen in self._latest.items() if self._passed_ns - seen.heard_ns <= self._silence_ns[sensor]
        ]
        leavers = [seen for seen in alive if self._has_left_with(seen, reading)]
        stayers = [seen for seen in alive if self._is_on_clock(seen)]
        is_repeated = previous is not None and self._has_left_with(previous, reading)
        if is_repeated and len(leavers) >= len(stayers) and 0 < reading.lead_ns - self._lead_ns <= self._behind_ns:
            # A faster transport than any before, or a small step: those who stay are still on the clock.
            self._follow(reading)
            return Verdict.ON_CLOCK
        if not is_repeated or len(leavers) <= len(stayers):
            return Verdict.SUSPECT
        self._lead_ns, self._arrival_ns = max(seen.lead_ns for seen in leavers), stamp.arrival_ns
        return Verdict.JUMPED

    def _pass_time(self, arrival_ns: int) -> None:
        # Jumps do not count, so that who is alive can be told while the arrival clock itself is in doubt.
        step = 0 if self._previous_ns is None else arrival_ns - self._previous_ns
        self._passed_ns += step if 0 < step <= self._behind_ns else 0
        self._previous_ns = arrival_ns

    def _follow(self, reading: _Reading) -> None:
        if self._lead_ns is None or reading.lead_ns >= self._lead_ns:
            self._lead_ns = reading.lead_ns
        else:
            # Sinks over arrival time, not by message: a burst after a stall must not count as the new normal.
            # With `behind_ns` as its time constant it keeps up with a drive at any fraction of real time.
            elapsed = min(max(reading.arrival_ns - self._arrival_ns, 0), self._behind_ns)
            self._lead_ns -= (self._lead_ns - reading.lead_ns) * elapsed // self._behind_ns
        self._arrival_ns = max(self._arrival_ns, reading.arrival_ns)

    def _is_on_clock(self, reading: _Reading) -> bool:
        assert self._lead_ns is not None
        has_lead = -self._behind_ns <= reading.lead_ns - self._lead_ns <= self._ahead_ns
        return has_lead and reading.arrival_ns >= self._arrival_ns - self._behind_ns

    def _has_left_with(self, seen: _Reading, reading: _Reading) -> bool:
        is_together = abs(seen.lead_ns - reading.lead_ns) <= self._ahead_ns
        return is_together and not self._is_on_clock(seen)
