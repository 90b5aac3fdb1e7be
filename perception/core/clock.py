"""Clocks that are passed in, so that nothing reads the time behind the caller's back."""

import threading
import time


class SystemClock:
    """Wall time; for live sources and for stamping what is published."""

    def now_ns(self) -> int:
        return time.time_ns()

    def sleep_until(self, time_ns: int) -> None:
        delay = time_ns - time.time_ns()
        if delay > 0:
            time.sleep(delay / 1e9)


class ReplayClock:
    """Data time that runs `rate` times as fast as wall time, from `start_ns` at the first call on.

    With `rate` infinite it never sleeps: data time is wherever the replay is.
    """

    def __init__(self, start_ns: int, rate: float = 1.0) -> None:
        if not rate > 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self._start_ns = start_ns
        self._rate = rate
        self._wall_start_ns: int | None = None
        self._latest_ns = start_ns

    def now_ns(self) -> int:
        if self._rate == float("inf"):
            return self._latest_ns
        return self._start_ns + round(self._elapsed_ns() * self._rate)

    def sleep_until(self, time_ns: int) -> None:
        self._latest_ns = max(self._latest_ns, time_ns)
        if self._rate == float("inf"):
            return
        delay = (time_ns - self._start_ns) / self._rate - self._elapsed_ns()
        if delay > 0:
            time.sleep(delay / 1e9)

    def _elapsed_ns(self) -> int:
        if self._wall_start_ns is None:
            self._wall_start_ns = time.monotonic_ns()
        return time.monotonic_ns() - self._wall_start_ns


class ManualClock:
    """Moves only when told to; for tests."""

    def __init__(self, now_ns: int = 0) -> None:
        self._now_ns = now_ns
        self._moved = threading.Condition()

    def now_ns(self) -> int:
        return self._now_ns

    def advance_to(self, time_ns: int) -> None:
        with self._moved:
            self._now_ns = max(self._now_ns, time_ns)
            self._moved.notify_all()

    def sleep_until(self, time_ns: int) -> None:
        with self._moved:
            self._moved.wait_for(lambda: self._now_ns >= time_ns)
