"""The synchronizer: which messages make up each reference time. A pure state machine over stamps.

It never sees payloads and never reads a clock: the same stamps give the same bundles, at any replay speed and however
the calls of `advance` in between are chunked.
"""

from bisect import bisect_left
from collections import Counter, deque

from perception.config.schema import SyncConfig
from perception.core.bundle import CloseReason, DropCause, SensorBundle, Stamp
from perception.core.errors import ConfigError
from perception.core.rig import SensorRig
from perception.sync.buffers import Kept, SensorBuffer
from perception.sync.clock_guard import ClockGuard, Verdict
from perception.sync.collector import Collector
from perception.sync.reference import TIMER, ReferencePolicy
from perception.sync.timing import MS, opening_order, sensor_timings

_CLOSED_REMEMBERED = 64


class Synchronizer:
    """Turns stamps into bundles.

    Bundles come out in sequence, their reference times strictly rising (only a clock that jumps back by more than
    `max_jump_s` starts lower again). A hit is always within its sensor's tolerance of its expected time. Each stamp of
    the rig ends either in a hit of at least one bundle or as a drop with exactly one cause. A silent sensor is waited
    for only until `silence_ms`; silent reference sensors are replaced (see `ReferencePolicy`), at last by a timer. It
    runs for `max_jump_s` of arrival time after the last message: a longer hole is a pause of the drive.

    reference_times: capture times of the keyframes where `config.reference` is `keyframes`.
    Raises ConfigError where the configuration names sensors that the rig has not, or keyframes without their times.
    """

    def __init__(self, rig: SensorRig, config: SyncConfig, *, reference_times: frozenset[int] | None = None) -> None:
        if config.reference == "keyframes" and not reference_times:
            raise ConfigError("sync.reference is keyframes, but the drive labels none; set it to sweeps")
        self._config = config
        self._timings = sensor_timings(rig, config)
        order = opening_order(rig, config)
        times = reference_times if config.reference == "keyframes" else None
        self._policy = ReferencePolicy(order, self._timings, times)
        self._max_jump_ns = round(config.max_jump_s * 1e9)
        self._deadline_ns = round(config.deadline_ms * MS)
        self._guard = ClockGuard(
            behind_ns=self._max_jump_ns,
            silence_ns={name: timing.silence_ns for name, timing in self._timings.items()},
        )
        self._dropped: list[tuple[int, DropCause]] = []
        self._released: list[int] = []
        self._ready: list[SensorBundle] = []
        self._sequence = 0
        self._floor_ns: int | None = None
        self._now_ns: int | None = None
        self._lead_ns = 0
        self._start_afresh(0)

    def push(self, stamp: Stamp) -> list[SensorBundle]:
        """Take one message; returns the bundles that closed up to its arrival or because of it."""
        if stamp.sensor not in self._buffers:
            self._drop(stamp.index, DropCause.UNKNOWN_SENSOR)
            return []
        verdict = self._guard.check(stamp)
        if verdict is Verdict.SUSPECT:
            self._drop(stamp.index, DropCause.CLOCK_JUMP)
            return []
        if verdict is Verdict.JUMPED:
            self._follow_jump(stamp)
        self._run_to(stamp.arrival_ns)
        # Only now: what was due before this message must not depend on it.
        self._heard_ns, self._lead_ns = self._now, self._guard.lead_ns
        self._admit(stamp)
        self._run_to(self._now)
        return self._take_ready()

    def advance(self, now_ns: int) -> list[SensorBundle]:
        """Let the arrival clock reach `now_ns` (it never goes back); returns what closed on the way."""
        self._run_to(now_ns)
        return self._take_ready()

    def flush(self) -> list[SensorBundle]:
        """The drive has ended: close whatever is open and release everything."""
        while self._open:
            self._close_head(CloseReason.FLUSHED)
        for buffer in self._buffers.values():
            for kept in buffer.clear():
                self._let_go(kept)
        return self._take_ready()

    def is_wanted(self, sensor: str, capture_ns: int) -> bool:
        """Whether a frame will plausibly be picked; only a prediction, a bundle may pick another one."""
        if sensor not in self._timings:
            return False
        if self._now_ns is None or self._policy.leader(self._buffers, self._now_ns) != self._policy.order[0]:
            return True
        return self._policy.may_want(sensor, capture_ns, self._newest_ns)

    def is_open(self, sensor: str, capture_ns: int) -> bool:
        """Whether the bundle that this message opened still waits for others."""
        return any(one.reference_ns == capture_ns and one.reference_sensor == sensor for one in self._open)

    def is_silent(self, sensor: str) -> bool:
        """Whether nobody waits for this sensor at present. Raises KeyError on an unknown one."""
        return self._now_ns is not None and self._buffers[sensor].silent_at_ns <= self._now_ns

    def take_dropped(self) -> Counter[DropCause]:
        """Stamps dropped since the last call (of this or of `take_drops`), by cause."""
        return Counter(cause for _, cause in self.take_drops())

    def take_drops(self) -> list[tuple[int, DropCause]]:
        """Indices of stamps dropped since the last call, each with its cause."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def take_released(self) -> list[int]:
        """Indices of stamps, since the last call, that no further bundle can use.

        Each stamp is named once, also if it was dropped. Bundles that were returned before may still hold them.
        """
        released, self._released = self._released, []
        return released

    @property
    def _now(self) -> int:
        assert self._now_ns is not None
        return self._now_ns

    @property
    def _newest_ns(self) -> int | None:
        return self._open[-1].reference_ns if self._open else self._floor_ns

    def _start_afresh(self, now_ns: int) -> None:
        length = self._config.buffer_length
        self._buffers = {name: SensorBuffer(timing, length, now_ns) for name, timing in self._timings.items()}
        self._open: list[Collector] = []
        self._closed: deque[SensorBundle] = deque(maxlen=_CLOSED_REMEMBERED)
        self._first_ns: int | None = None
        self._heard_ns = now_ns
        self._ticked_ns: int | None = None

    def _run_to(self, until_ns: int) -> None:
        """Let everything happen that is due by `until_ns`, each at its own time, however far the step."""
        if self._now_ns is None:
            self._now_ns = until_ns
            self._start_afresh(until_ns)
        while True:
            tick_ns = self._tick_at()
            if self._open:
                close_ns, reason = self._open[0].closes_at(self._buffers, self._now)
                if close_ns <= until_ns and close_ns <= tick_ns:
                    self._now_ns = close_ns
                    self._close_head(reason)
                    continue
            if tick_ns > until_ns or tick_ns > self._heard_ns + self._max_jump_ns:
                break
            self._tick(tick_ns)
        self._now_ns = max(self._now, until_ns)

    def _tick_at(self) -> int:
        silent_ns = self._policy.all_silent_at(self._buffers)
        again_ns = silent_ns if self._ticked_ns is None else self._ticked_ns + self._policy.period_ns
        return max(silent_ns, again_ns, self._now)

    def _tick(self, tick_ns: int) -> None:
        self._now_ns = self._ticked_ns = tick_ns
        reference_ns = tick_ns + self._lead_ns
        first_ns = reference_ns if self._first_ns is None else self._first_ns
        for due_ns in self._policy.stand_in(reference_ns, self._newest_ns, first_ns):
            self._open_bundle(due_ns, TIMER)

    def _admit(self, stamp: Stamp) -> None:
        buffer = self._buffers[stamp.sensor]
        if buffer.has_seen(stamp.capture_ns):
            self._drop(stamp.index, DropCause.DUPLICATE)
            return
        buffer.note(stamp.capture_ns)
        self._first_ns = stamp.capture_ns if self._first_ns is None else min(stamp.capture_ns, self._first_ns)
        kept = Kept(stamp, is_late=self._is_late(stamp))
        if self._floor_ns is not None and stamp.capture_ns < self._wanted_from(buffer, self._floor_ns + 1):
            self._let_go(kept)
            return
        buffer.useful_ns = self._now
        earliest_ns = self._policy.earliest_after(self._floor_ns)
        if earliest_ns is not None and stamp.capture_ns < self._wanted_from(buffer, earliest_ns):
            self._let_go(kept)
        elif (oldest := buffer.add(kept)) is not None:
            self._let_go(oldest, DropCause.OVERFLOW)
        leader = self._policy.leader(self._buffers, self._now)
        for reference_ns in self._policy.openings(
            stamp, leader=leader, newest_ns=self._newest_ns, first_ns=self._first_ns
        ):
            self._open_bundle(reference_ns, stamp.sensor)

    def _open_bundle(self, reference_ns: int, sensor: str) -> None:
        at = bisect_left(self._open, reference_ns, key=lambda collector: collector.reference_ns)
        is_open = at < len(self._open) and self._open[at].reference_ns == reference_ns
        if is_open or (self._floor_ns is not None and reference_ns <= self._floor_ns):
            return
        deadline_ns = self._now + self._deadline_ns
        if at < len(self._open):
            # An earlier time that comes late must not hold up the ones already waiting.
            deadline_ns = min(deadline_ns, self._open[at].deadline_ns)
        collector = Collector(
            reference_ns=reference_ns, reference_sensor=sensor, opened_ns=self._now, deadline_ns=deadline_ns
        )
        self._open.insert(at, collector)
        if len(self._open) > self._config.max_open:
            self._close_head(CloseReason.DEADLINE)

    def _close_head(self, reason: CloseReason) -> None:
        collector = self._open.pop(0)
        bundle = collector.close(self._buffers, sequence=self._sequence, closed_ns=self._now, reason=reason)
        self._sequence += 1
        self._floor_ns = bundle.reference_ns
        self._closed.append(bundle)
        self._ready.append(bundle)
        earliest_ns = self._policy.earliest_after(self._floor_ns)
        assert earliest_ns is not None
        for buffer in self._buffers.values():
            for kept in buffer.release_before(self._wanted_from(buffer, earliest_ns)):
                self._let_go(kept)

    def _follow_jump(self, stamp: Stamp) -> None:
        """Close what the old clock left open and begin again on the new one."""
        while self._open:
            self._close_head(CloseReason.FLUSHED)
        for buffer in self._buffers.values():
            for kept in buffer.clear():
                self._let_go(kept, DropCause.CLOCK_JUMP)
        if self._floor_ns is not None and stamp.capture_ns < self._floor_ns:
            self._floor_ns = None
        if self._now_ns is None or self._now_ns - stamp.arrival_ns > self._max_jump_ns:
            self._now_ns = stamp.arrival_ns
        self._start_afresh(max(self._now_ns, stamp.arrival_ns))

    def _is_late(self, stamp: Stamp) -> bool:
        """Whether a bundle that has closed would have taken this stamp, had it been there."""
        timing = self._timings[stamp.sensor]
        if self._floor_ns is not None and stamp.sensor == self._policy.order[0] and stamp.capture_ns <= self._floor_ns:
            return True
        for bundle in reversed(self._closed):
            expected_ns = timing.expected_ns(bundle.reference_ns)
            if expected_ns + timing.tolerance_ns < stamp.capture_ns:
                return False
            hit = bundle.hits.get(stamp.sensor)
            distance_ns = timing.tolerance_ns + 1 if hit is None else abs(hit.capture_ns - expected_ns)
            if abs(stamp.capture_ns - expected_ns) < distance_ns:
                return True
        return len(self._closed) == _CLOSED_REMEMBERED

    @staticmethod
    def _wanted_from(buffer: SensorBuffer, earliest_ns: int) -> int:
        """Captures before this are of no use to any reference time from `earliest_ns` on."""
        return buffer.timing.expected_ns(earliest_ns) - buffer.timing.tolerance_ns

    def _let_go(self, kept: Kept, cause: DropCause | None = None) -> None:
        if kept.is_used:
            self._released.append(kept.stamp.index)
        else:
            self._drop(kept.stamp.index, cause or kept.unused_cause)

    def _drop(self, index: int, cause: DropCause) -> None:
        self._dropped.append((index, cause))
        self._released.append(index)

    def _take_ready(self) -> list[SensorBundle]:
        ready, self._ready = self._ready, []
        return ready
