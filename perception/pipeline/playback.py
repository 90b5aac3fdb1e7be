"""Pause, step, seek and rate of a drive while it is played."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from perception.core.errors import UsageError

FASTEST = 64.0
"""Twice as fast as this is as fast as it goes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaybackStatus:
    """Where a replay is. position_s: after the drive's first message; duration_s: of the drive, None where not known.

    rate: multiple of real time, infinite for as fast as it goes. results: published since the last seek.
    """

    position_s: float
    duration_s: float | None
    rate: float
    paused: bool
    results: int


class Playback:
    """Any thread may steer; one thread plays: it asks `wait_until` before each message.

    duration_s: of the drive, where that is known. A seek ends the lap; the next one begins where it leads to.
    """

    def __init__(self, rate: float, duration_s: float | None) -> None:
        self._changed = threading.Condition()
        self._rate = rate
        self._duration_s = duration_s
        self._is_paused = False
        self._is_over = False
        self._steps = self._results = 0
        self._seek_s: float | None = None
        self._position_s = 0.0
        self._anchor: tuple[float, float] | None = None
        """Wall time and the position that was due then; None until the next message, and after each change."""

    @property
    def status(self) -> PlaybackStatus:
        with self._changed:
            return PlaybackStatus(
                position_s=self._position_s,
                duration_s=self._duration_s,
                rate=self._rate,
                paused=self._is_paused,
                results=self._results,
            )

    def pause(self) -> None:
        with self._changing():
            self._is_paused, self._steps = True, 0

    def resume(self) -> None:
        with self._changing():
            self._is_paused, self._steps = False, 0

    def toggle(self) -> None:
        """Pause, or resume."""
        self.resume() if self.status.paused else self.pause()

    def step(self) -> None:
        """Pause, and go on to the next result."""
        with self._changing():
            self._is_paused = True
            self._steps += 1

    def seek(self, to_s: float) -> None:
        """Go on from there, in a run of its own. Raises UsageError where that is no time of the drive."""
        if not 0 <= to_s < float("inf") or (self._duration_s is not None and to_s > self._duration_s):
            end = f"{self._duration_s:.3f}" if self._duration_s is not None else "its end"
            raise UsageError(f"seek: {to_s} is not in the drive, which goes from 0 to {end} s")
        with self._changing():
            self._seek_s = to_s

    def seek_by(self, seconds: float) -> None:
        """Ahead or back, at most to an end of the drive."""
        end_s = self._duration_s if self._duration_s is not None else float("inf")
        self.seek(min(max(0.0, self.status.position_s + seconds), end_s))

    def set_rate(self, rate: float) -> None:
        """Raises UsageError unless `rate` is positive; infinite is as fast as it goes."""
        if not rate > 0:
            raise UsageError(f"rate: {rate} is not positive")
        with self._changing():
            self._rate = rate

    def faster(self) -> None:
        rate = self.status.rate * 2
        self.set_rate(rate if rate <= FASTEST else float("inf"))

    def slower(self) -> None:
        rate = self.status.rate
        self.set_rate(rate / 2 if rate <= FASTEST else FASTEST)

    def quit(self) -> None:
        """End the replay as an interrupt does."""
        with self._changing():
            self._is_over = True

    def begin(self, position_s: float) -> None:
        """A lap begins there."""
        with self._changing():
            self._position_s, self._results, self._seek_s = position_s, 0, None

    def catch_up(self, position_s: float) -> None:
        """The lap is there by now: what lies before is due at once."""
        with self._changing():
            self._position_s = position_s

    def wait_until(self, position_s: float) -> bool:
        """Wait until the message at `position_s` is due; False where the lap is to end instead."""
        with self._changed:
            while not self.is_cut:
                delay_s = self._due_in_s(position_s)
                if delay_s is not None and delay_s <= 0:
                    self._position_s = position_s
                    return True
                self._changed.wait(delay_s)
            return False

    def rebase(self) -> None:
        """Keep the pace from here on: what is late by now is forgiven."""
        with self._changing():
            pass

    def late_s(self, position_s: float) -> float:
        """How long ago, in seconds of the drive, the message at `position_s` was due; 0 while paused or at no pace."""
        with self._changed:
            due_s = self._due_in_s(position_s)
            return 0.0 if due_s is None or self._rate == float("inf") else max(0.0, -due_s * self._rate)

    def delivered(self) -> None:
        """A result was published: a step is done."""
        with self._changed:
            self._results += 1
            self._steps = max(0, self._steps - 1)

    @property
    def is_cut(self) -> bool:
        """Whether somebody asked for the end of the lap."""
        return self._is_over or self._seek_s is not None

    @property
    def target_s(self) -> float | None:
        """Where the next lap begins; None where there is none."""
        return None if self._is_over else self._seek_s

    def _due_in_s(self, position_s: float) -> float | None:
        """Seconds until the message at `position_s` is due, None while paused."""
        if self._is_paused and not self._steps:
            return None
        if self._rate == float("inf"):
            return 0.0
        if self._anchor is None:
            self._anchor = (time.monotonic(), self._position_s)
        wall_s, at_s = self._anchor
        return (position_s - at_s) / self._rate - (time.monotonic() - wall_s)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """What waits looks again, and the pace is kept from here on."""
        with self._changed:
            yield
            self._anchor = None
            self._changed.notify_all()
