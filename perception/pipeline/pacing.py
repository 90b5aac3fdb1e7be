"""The pace of a run: each message when its time has come, and what time it is in the drive meanwhile."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from perception.config.schema import LiveConfig
from perception.core.messages import AnyMessage
from perception.core.ports import Seekable, Source
from perception.pipeline.drive_part import part_of
from perception.pipeline.playback import Playback
from perception.pipeline.resuming import KeptRun

FAR_BEHIND = 2.0
"""Times `live.max_lag_ms`: a recorded drive that is read this late jumps ahead, or is slowed down."""

Idle = Callable[[float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How to play a drive.

    rate: multiple of real time, infinite for as fast as it goes (live: as the source gives messages). start_s and
    duration_s select a part, counted from the first arrival. live: late frames are dropped instead of waited for.
    strict: an unreadable message is an error.
    """

    rate: float = float("inf")
    start_s: float = 0.0
    duration_s: float | None = None
    live: bool = False
    strict: bool = False


class Pace:
    """The chosen part of a source's messages, each when it is due, and the drive's clock (from any thread).

    At a finite rate the clock runs from the first message on. Live at no rate, the source sets the pace: nothing comes
    before it arrived, so the quickest message sets the clock. In a replay at no rate the clock is where the replay is.
    """

    def __init__(
        self,
        source: Source,
        options: ReplayOptions,
        live: LiveConfig,
        playback: Playback | None,
        kept: KeptRun | None = None,
    ) -> None:
        self._kept = kept
        self._excused_ns = 0
        """What arrived before is late because the service was down, not because it is slow."""
        self._source = source
        self._options = options
        self._playback = playback
        self._far_ns = FAR_BEHIND * live.max_lag_ms * 1e6
        self._rate = 1.0 if math.isinf(options.rate) else options.rate
        self._is_running = options.live or not math.isinf(options.rate)
        self._anchor: tuple[float, int] | None = None
        """Monotonic time in seconds, and the drive's time then."""
        self.lag_ns = 0
        """How long ago, in the drive's time, the last message was due."""
        self.jumped_s = 0.0
        """How much of the drive was never read."""
        self.slowed_s = 0.0
        """By how much the drive was slowed down."""
        self.has_jumped = False
        """Whether the last message came after such a jump."""

    def now_ns(self) -> int:
        if self._anchor is None:
            return 0
        wall_s, drive_ns = self._anchor
        return drive_ns + (round((time.monotonic() - wall_s) * self._rate * 1e9) if self._is_running else 0)

    def seconds_until(self, time_ns: int) -> float:
        return (time_ns - self.now_ns()) / 1e9 / self._rate

    @property
    def is_cut(self) -> bool:
        """Whether who steers asked for the end of the lap."""
        return self._playback is not None and self._playback.is_cut

    def messages(self, idle: Idle = time.sleep) -> Iterator[AnyMessage]:
        """idle: called with the seconds that are left until the next message is due; may return earlier."""
        start_s, duration_s = self._options.start_s, self._options.duration_s
        end_s = None if duration_s is None else start_s + duration_s
        if self._playback is not None:
            self._playback.begin(start_s)
        read_s = start_s if self._kept is None else max(start_s, self._kept.start_s(self._source))
        messages = part_of(self._source, read_s, None if end_s is None else end_s - read_s)
        while (found := next(messages, None)) is not None:
            elapsed_s, message = found
            if self._anchor is None and not (self._kept is not None and self._kept.is_asleep):
                self._begin(message, start_s, elapsed_s)
            if not self._wait(elapsed_s, message, idle):
                return
            if self._options.live and self.lag_ns > self._far_ns and self._playback is None and self._is_paced:
                ahead_s = elapsed_s + self.lag_ns / 1e9
                if isinstance(self._source, Seekable) and (end_s is None or ahead_s < end_s):
                    self.jumped_s += self.lag_ns / 1e9
                    self.has_jumped = True
                    messages = part_of(self._source, ahead_s, None if end_s is None else end_s - ahead_s)
                    continue
                self.slowed_s += self.lag_ns / 1e9
                self._anchor, self.lag_ns = (time.monotonic(), message.arrival_ns), 0
            yield message
            self.has_jumped = False

    def _begin(self, first: AnyMessage, start_s: float, elapsed_s: float) -> None:
        """Set the clock as the first message is read, so long after the drive's first as `elapsed_s` says."""
        rate = self._options.rate if self._playback is None else self._playback.status.rate
        is_paced = not math.isinf(rate)
        begun_ns = now_ns = first.arrival_ns - (round((elapsed_s - start_s) * 1e9) if is_paced else 0)
        if self._kept is not None and self._options.live and not is_paced:
            self._kept.joins_at(first)
        elif self._kept is not None:
            now_ns = self._excused_ns = self._kept.data_time_ns(first, begun_ns, rate if is_paced else 1.0)
            if self._playback is not None:
                self._playback.catch_up(start_s + (now_ns - begun_ns) / 1e9)
        self._anchor = (time.monotonic(), now_ns)

    def _follow(self, playback: Playback, elapsed_s: float, arrival_ns: int) -> None:
        """Set the clock by who steers; where he leaves the pace to a live source, by the source."""
        rate = playback.status.rate
        if not math.isinf(rate):
            self._rate = rate
            late_ns = round(playback.late_s(elapsed_s) * 1e9)
            self._anchor = (time.monotonic(), arrival_ns + late_ns)
            self.lag_ns = 0 if arrival_ns < self._excused_ns else late_ns
            if self._options.live and self.lag_ns > self._far_ns:
                self.slowed_s += self.lag_ns / 1e9
                self._anchor, self.lag_ns = (time.monotonic(), arrival_ns), 0
                playback.rebase()
            return
        self._rate = 1.0
        if self._anchor is None or arrival_ns > self.now_ns():
            self._anchor = (time.monotonic(), arrival_ns)
        self.lag_ns = max(0, self.now_ns() - arrival_ns) if self._is_running else 0

    @property
    def _is_paced(self) -> bool:
        return not math.isinf(self._options.rate)

    def _wait(self, elapsed_s: float, message: AnyMessage, idle: Idle) -> bool:
        """Until a message is due; False where the lap is to end instead."""
        arrival_ns = message.arrival_ns
        if self._playback is not None:
            if not self._playback.wait_until(elapsed_s):
                return False
            self._follow(self._playback, elapsed_s, arrival_ns)
            return True
        if self._kept is not None and self._kept.is_asleep:
            return True
        if self._is_paced:
            while (left_s := self.seconds_until(arrival_ns)) > 0:
                idle(left_s)
        elif arrival_ns > self.now_ns():
            self._anchor = (time.monotonic(), arrival_ns)
        self.lag_ns = 0 if arrival_ns < self._excused_ns else max(0, self.now_ns() - arrival_ns)
        return True
