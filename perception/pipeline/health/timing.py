"""Rate, jitter and delay of one sensor's messages: what their two times say, whatever is in them."""

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from perception.core.faults import FaultKind
from perception.core.messages import Message
from perception.pipeline.health.evidence import Evidence

WINDOW: Final = 20
"""Messages over which rate and jitter are measured."""
JITTERY_SHARE: Final = 0.25
"""Mean deviation of the arrivals, as a share of the period: the synchronizer's windows still hold a quarter."""
MIN_JITTER_NS: Final = 15_000_000
DELAY_STEP_NS: Final = 60_000_000
"""Arrival minus capture may grow or shrink by so much: the synchronizer's default tolerance, 1.8 m at 30 m/s."""


class TimingWatch:
    """Follows capture and arrival times of one sensor. period_ns: nominal."""

    def __init__(self, period_ns: int) -> None:
        self._period_ns = period_ns
        self._captures: deque[int] = deque(maxlen=WINDOW)
        self._arrivals: deque[int] = deque(maxlen=WINDOW)
        self._delays: deque[int] = deque(maxlen=WINDOW)
        self._cause = FaultKind.LATE
        self.jitter_ns = 0
        """Mean deviation of the arrivals from an even pace; messages that are missing do not count."""

    def observe(self, message: Message) -> Iterator[Evidence]:
        if self._captures and message.capture_ns == self._captures[-1]:
            return  # a duplicate says nothing new; the synchronizer counts it
        delay_ns = message.arrival_ns - message.capture_ns
        yield from self._check_delay(message, delay_ns)
        if self._captures and message.capture_ns < self._captures[-1]:
            self._captures.clear()
        self._captures.append(message.capture_ns)
        self._arrivals.append(max(message.arrival_ns, self._arrivals[-1] if self._arrivals else message.arrival_ns))
        self.jitter_ns = self._jitter_ns()
        if len(self._arrivals) == WINDOW:
            is_jittery = self.jitter_ns > max(MIN_JITTER_NS, JITTERY_SHARE * self._period_ns)
            yield Evidence(FaultKind.JITTERY, is_jittery, f"arrives {self.jitter_ns / 1e6:.0f} ms off an even pace")

    @property
    def frequency_hz(self) -> float:
        if len(self._captures) < 2:
            return 0.0
        return round((len(self._captures) - 1) * 1e9 / (self._captures[-1] - self._captures[0]), 3)

    def _jitter_ns(self) -> int:
        if len(self._arrivals) < 3:
            return 0
        # Plain numbers: for a score of them numpy is ten times slower.
        steps = [later - earlier for earlier, later in pairwise(self._arrivals)]
        period_ns = max(1, sorted(steps)[len(steps) // 2])
        # A step over missing messages is several periods long.
        off_ns = [abs(step - max(1, round(step / period_ns)) * period_ns) for step in steps]
        return sum(off_ns) // len(off_ns)

    def _check_delay(self, message: Message, delay_ns: int) -> Iterator[Evidence]:
        """A delay that changed, and whose fault that is: the sensor's clock, or the way from it."""
        if len(self._delays) < WINDOW // 2:
            self._delays.append(delay_ns)
            return
        change_ns = delay_ns - sorted(self._delays)[len(self._delays) // 2]
        is_changed = abs(change_ns) > DELAY_STEP_NS
        if is_changed and self._captures:
            captured = abs(message.capture_ns - self._captures[-1] - self._period_ns)
            arrived = abs(message.arrival_ns - self._arrivals[-1] - self._period_ns)
            # Whichever of the two kept the pace is right; once both keep it again, what was found remains.
            if max(captured, arrived) > DELAY_STEP_NS // 2:
                self._cause = FaultKind.CLOCK if arrived < captured else FaultKind.LATE
        else:
            self._delays.append(delay_ns)
        if change_ns < -DELAY_STEP_NS:
            self._cause = FaultKind.CLOCK  # nothing arrives sooner than light: it was the clock
        detail = f"arrives {delay_ns / 1e6:.0f} ms after its capture time, {change_ns / 1e6:+.0f} ms against before"
        for kind in (FaultKind.LATE, FaultKind.CLOCK):
            yield Evidence(kind, is_changed and kind is self._cause, detail)
