"""Who decides what becomes of messages and bundles: all of them in a replay, the newest in a live run."""

from collections import deque
from dataclasses import dataclass
from typing import Protocol

from perception.config.schema import DeadlineConfig, LadderConfig, LiveConfig
from perception.core.bundle import DropCause
from perception.core.messages import AnyMessage, CameraFrame, LidarSweep, RadarScan
from perception.pipeline.completion import Outcome
from perception.pipeline.deadlines import Fate
from perception.pipeline.frames import Draft
from perception.pipeline.ladder import FULL, Ladder, Rung

_BEHIND = (DropCause.OVERLOAD.value, DropCause.UNREAD.value)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Order:
    """What becomes of a draft: it is worked on at a rung, or dropped by a cause. change: why the rung is a new one."""

    draft: Draft
    rung: Rung = FULL
    change: str = ""
    cause: DropCause | None = None


class Steering(Protocol):
    """Asked before each message, given what it made ready, asked for orders until there are none."""

    def takes(self, message: AnyMessage, lag_ns: int) -> bool:
        """Whether a message that was read so long after it was due is worked on."""
        ...

    def eager(self, *, has_room: bool) -> Rung | None:
        """What is encoded as it arrives; None: nothing."""
        ...

    def offer(self, draft: Draft) -> None:
        """A bundle closed."""
        ...

    def order(self, at_message: int, *, has_room: bool) -> Order | None:
        """The next order, where there is one. has_room: a frame could begin now without waiting."""
        ...

    @property
    def is_waiting(self) -> bool:
        """Whether a draft waits for room."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """A frame's fate is known; called from the publisher's thread."""
        ...


class EveryFrame:
    """A replay: nothing is dropped, who feeds it waits."""

    def __init__(self) -> None:
        self._drafts: deque[Draft] = deque()

    def takes(self, message: AnyMessage, lag_ns: int) -> bool:
        return True

    def eager(self, *, has_room: bool) -> Rung | None:
        return FULL

    def offer(self, draft: Draft) -> None:
        self._drafts.append(draft)

    def order(self, at_message: int, *, has_room: bool) -> Order | None:
        return Order(draft=self._drafts.popleft()) if self._drafts else None

    @property
    def is_waiting(self) -> bool:
        return False

    def observe(self, outcome: Outcome) -> None:
        """A replay learns nothing."""


class NewestWins:
    """A live run: of the bundles that wait, the newest is worked on next; the ladder says how thoroughly.

    While one waits nothing is encoded on arrival: it would come before what waits.
    """

    def __init__(self, live: LiveConfig, ladder: LadderConfig, deadline: DeadlineConfig) -> None:
        self._max_lag_ns = round(live.max_lag_ms * 1e6)
        self._budget_ns = round(deadline.budget_ms * 1e6)
        self._ladder = Ladder(ladder)
        self._dropped: deque[Order] = deque()
        self._waiting: Draft | None = None
        self._since_kept = 0
        self._level = 0

    def takes(self, message: AnyMessage, lag_ns: int) -> bool:
        return lag_ns <= self._max_lag_ns or not isinstance(message, CameraFrame | LidarSweep | RadarScan)

    def eager(self, *, has_room: bool) -> Rung | None:
        return self._ladder.rung if has_room and self._waiting is None else None

    def offer(self, draft: Draft) -> None:
        self._since_kept += 1
        if self._since_kept < self._ladder.rung.keep_one_of:
            self._dropped.append(Order(draft=draft, cause=DropCause.SKIPPED))
            return
        self._since_kept = 0
        if self._waiting is not None:
            self._dropped.append(Order(draft=self._waiting, cause=DropCause.OVERLOAD))
        self._waiting = draft

    def order(self, at_message: int, *, has_room: bool) -> Order | None:
        if self._dropped:
            return self._dropped.popleft()
        if self._waiting is None or not has_room:
            return None
        draft, self._waiting = self._waiting, None
        rung, reason = self._ladder.state
        change = reason if rung.level != self._level else ""
        self._level = rung.level
        return Order(draft=draft, rung=rung, change=change)

    @property
    def is_waiting(self) -> bool:
        return self._waiting is not None

    def observe(self, outcome: Outcome) -> None:
        frame = outcome.frame
        self._ladder.observe(
            slack_ns=frame.bundle.reference_ns + self._budget_ns - outcome.published_at,
            budget_ns=self._budget_ns,
            is_overloaded=outcome.fate is not Fate.PUBLISHED or any(frame.dropped[cause] for cause in _BEHIND),
        )
