"""What is kept of each sensor's stamps while a bundle may still want them."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from perception.core.bundle import DropCause, Stamp
from perception.sync.timing import SensorTiming

# A duplicate is recognised among so many buffers' worth of the last captures.
_MEMORY_FACTOR = 4
_INTERVALS = 8
# The next message may come this much early against the shortest interval seen, and still not be nearer.
_EARLIEST_SHARE = 0.9


@dataclass(slots=True)
class Kept:
    """A stamp in a buffer. is_late: a bundle that has closed would have taken it."""

    stamp: Stamp
    is_late: bool
    is_used: bool = False

    @property
    def unused_cause(self) -> DropCause:
        """Why it is dropped if it leaves the buffer without having been used."""
        return DropCause.LATE if self.is_late else DropCause.UNMATCHED


class SensorBuffer:
    """Stamps of one sensor by capture time, and when that sensor was last of use."""

    def __init__(self, timing: SensorTiming, length: int, start_ns: int) -> None:
        self.timing = timing
        self._length = length
        self._kept: list[Kept] = []
        self._captures: list[int] = []
        self._seen: deque[int] = deque(maxlen=length * _MEMORY_FACTOR)
        self._intervals: deque[int] = deque([timing.period_ns], maxlen=_INTERVALS)
        self._newest_ns: int | None = None
        self.useful_ns = start_ns
        """Arrival of its last message that any bundle could take; the start before there is one."""

    @property
    def silent_at_ns(self) -> int:
        """When, on the arrival clock, it counts as silent unless it speaks."""
        return self.useful_ns + self.timing.silence_ns

    def has_seen(self, capture_ns: int) -> bool:
        return capture_ns in self._seen

    def note(self, capture_ns: int) -> None:
        """Take notice of a capture time, whether or not the stamp is kept."""
        self._seen.append(capture_ns)
        if self._newest_ns is None or capture_ns > self._newest_ns:
            if self._newest_ns is not None:
                self._intervals.append(capture_ns - self._newest_ns)
            self._newest_ns = capture_ns

    def add(self, kept: Kept) -> Kept | None:
        """Keep a stamp; returns the oldest one if that had to go for it."""
        at = bisect_left(self._captures, kept.stamp.capture_ns)
        self._captures.insert(at, kept.stamp.capture_ns)
        self._kept.insert(at, kept)
        if len(self._kept) <= self._length:
            return None
        self._captures.pop(0)
        return self._kept.pop(0)

    def nearest(self, reference_ns: int) -> Kept | None:
        """The stamp nearest to where a reference time expects it, within tolerance; the earlier of two equals."""
        expected = self.timing.expected_ns(reference_ns)
        at = bisect_left(self._captures, expected)
        near = self._kept[max(at - 1, 0) : at + 1]
        best = min(near, key=lambda kept: abs(kept.stamp.capture_ns - expected), default=None)
        return best if best and self.timing.accepts(best.stamp.capture_ns, reference_ns) else None

    def is_settled(self, reference_ns: int) -> bool:
        """Whether no better stamp for a reference time can come, if this sensor's messages come in order.

        Either its captures have passed the expected time, or the next one, at the shortest interval seen lately,
        will be further from it than what is here.
        """
        if self._newest_ns is None:
            return False
        expected = self.timing.expected_ns(reference_ns)
        if self._newest_ns >= expected:
            return True
        best = self.nearest(reference_ns)
        if best is None:
            return False
        soonest = self._newest_ns + round(min(self._intervals) * _EARLIEST_SHARE)
        return soonest - expected >= expected - best.stamp.capture_ns

    def release_before(self, capture_ns: int) -> list[Kept]:
        """Let go of everything captured before `capture_ns`."""
        at = bisect_left(self._captures, capture_ns)
        gone = self._kept[:at]
        del self._kept[:at], self._captures[:at]
        return gone

    def clear(self) -> list[Kept]:
        gone, self._kept, self._captures = self._kept, [], []
        return gone
