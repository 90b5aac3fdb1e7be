"""Who opens a bundle, and at which reference time."""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping

from perception.core.bundle import Stamp
from perception.sync.buffers import SensorBuffer
from perception.sync.timing import SensorTiming

TIMER = "timer"
NEVER_NS = 2**63 - 1
# A frame further than this share of its sensor's period from a reference time has a neighbour that is nearer.
_WANTED_SHARE = 0.75


class ReferencePolicy:
    """The first sensor of the order that is not silent leads; when all are silent a timer does.

    The first choice's captures are reference times as they are. Another leader's are taken back by its expected offset,
    so that the reference times stay where the first choice would have had them; they keep half a period's distance.
    With `reference_times` (keyframes) only those times are opened, each as soon as the leader's captures reach it: a
    lost or silent reference sensor costs no keyframe.
    """

    def __init__(
        self,
        order: tuple[str, ...],
        timings: Mapping[str, SensorTiming],
        reference_times: frozenset[int] | None,
    ) -> None:
        self.order = order
        self.period_ns = timings[order[0]].period_ns
        self._timings = timings
        self._times = None if reference_times is None else sorted(reference_times)

    def leader(self, buffers: Mapping[str, SensorBuffer], now_ns: int) -> str:
        alive = (name for name in self.order if buffers[name].silent_at_ns > now_ns)
        return next(alive, TIMER)

    def all_silent_at(self, buffers: Mapping[str, SensorBuffer]) -> int:
        """Arrival time from which on nobody in the order leads unless somebody speaks."""
        return max(buffers[name].silent_at_ns for name in self.order)

    def openings(self, stamp: Stamp, *, leader: str, newest_ns: int | None, first_ns: int) -> list[int]:
        """Reference times that a stamp opens. newest_ns: latest one so far; first_ns: earliest capture of the run."""
        if stamp.sensor == self.order[0]:
            if self._times is None:
                return [stamp.capture_ns]
            due = self._due(stamp.capture_ns, newest_ns, first_ns)
            is_exact = self._is_listed(stamp.capture_ns) and stamp.capture_ns not in due
            return [*due, stamp.capture_ns] if is_exact else due
        if stamp.sensor != leader:
            return []
        return self.stand_in(stamp.capture_ns - self._timings[stamp.sensor].offset_ns, newest_ns, first_ns)

    def stand_in(self, reference_ns: int, newest_ns: int | None, first_ns: int) -> list[int]:
        """Reference times that a stand-in (another sensor, or the timer) opens when its own time is `reference_ns`."""
        if self._times is not None:
            return self._due(reference_ns, newest_ns, first_ns)
        is_apart = newest_ns is None or reference_ns >= newest_ns + self.period_ns // 2
        return [reference_ns] if is_apart else []

    def earliest_after(self, floor_ns: int | None) -> int | None:
        """The earliest reference time that can still be opened once `floor_ns` is closed; None if any can."""
        if self._times is None:
            return None if floor_ns is None else floor_ns + 1
        at = 0 if floor_ns is None else bisect_right(self._times, floor_ns)
        return self._times[at] if at < len(self._times) else NEVER_NS

    def may_want(self, sensor: str, capture_ns: int, newest_ns: int | None) -> bool:
        """Whether a capture will plausibly be the nearest to a reference time; True where nothing can be predicted."""
        timing = self._timings[sensor]
        window = min(timing.tolerance_ns, round(timing.period_ns * _WANTED_SHARE))
        target = capture_ns - timing.offset_ns
        if self._times is not None:
            at = bisect_left(self._times, target - window)
            return at < len(self._times) and self._times[at] <= target + window
        if newest_ns is None:
            return True
        off_grid = (target - newest_ns) % self.period_ns
        return min(off_grid, self.period_ns - off_grid) <= window

    def _due(self, until_ns: int, newest_ns: int | None, first_ns: int) -> list[int]:
        assert self._times is not None
        # Not what lies before the run began, nor in a gap in which the whole drive was silent.
        since = max(first_ns, until_ns - 2 * self._timings[self.order[0]].silence_ns)
        if newest_ns is not None:
            since = max(since, newest_ns + 1)
        return self._times[bisect_left(self._times, since) : bisect_right(self._times, until_ns)]

    def _is_listed(self, time_ns: int) -> bool:
        assert self._times is not None
        at = bisect_left(self._times, time_ns)
        return at < len(self._times) and self._times[at] == time_ns
