"""The producer's buffer before a broker: publishing costs an append, a thread of its own does the sending.

While the broker is away the thread tries again, after pauses of 0.05 to 2 s, and what is published waits here. When
the buffer is full, `wait` holds the publisher up (nothing is lost) and `drop` lets go of the oldest result (never of
the end of a run) and counts it. A broker that refuses us, by password, certificate or permission, is not asked again:
the next `put` or `close` raises its refusal.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from perception.core.errors import QueueError
from perception.queues.broker import Broker, BrokerAwayError, HungUpError, Letter, Outage

BATCH = 64
"""Letters sent before the first of them must be confirmed."""
IDLE_S = 1.0
"""How often an idle connection is looked after."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxState:
    """For health reports. waiting: items not yet stored by the broker. away_s: for how long it has been away, or None.

    dropped: results given up so far because the buffer was full.
    """

    waiting: int
    away_s: float | None
    dropped: int


class Outbox:
    """Sends to `broker`, called `name` in messages. Takes the broker over and closes it.

    Returns once the first attempt to connect has been made; a broker that is away is waited for in the background.
    Raises QueueError where the broker refuses us.
    """

    def __init__(
        self, broker: Broker, name: str, *, capacity: int, when_full: Literal["wait", "drop"], linger_s: float
    ) -> None:
        self._broker = broker
        self._name = name
        self._capacity = capacity
        self._drops = when_full == "drop"
        self._linger_s = linger_s
        self._changed = threading.Condition()
        self._letters: deque[Letter] = deque()
        self._in_flight = 0
        self._next_number = 0
        self._dropped = self._reported = 0
        self._failure: BaseException | None = None
        self._outage = Outage(name)
        self._progress_at = time.monotonic()
        self._has_tried = self._closing = self._gave_up = False
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._has_tried)
            if self._failure is not None:
                raise self._failure

    @property
    def state(self) -> OutboxState:
        with self._changed:
            return OutboxState(waiting=len(self._letters), away_s=self._outage.lasts_s, dropped=self._dropped)

    def take_losses(self) -> int:
        """Results dropped since the last call."""
        with self._changed:
            lost, self._reported = self._dropped - self._reported, self._dropped
            return lost

    def put(self, payload: bytes, key: str, *, is_end: bool = False) -> None:
        """Hand over a payload. The end of a run never waits. Raises QueueError once closed, or if we were refused."""
        with self._changed:
            if not self._drops and not is_end:
                self._changed.wait_for(lambda: len(self._letters) < self._capacity or self._closing or self._failure)
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise QueueError("the queue was closed; nothing more can be published")
            self._letters.append(Letter(number=self._next_number, key=key, payload=payload, is_end=is_end))
            self._next_number += 1
            if self._drops and len(self._letters) > self._capacity:
                self._drop_oldest()
            self._changed.notify_all()

    def close(self) -> None:
        """Wait until everything is stored, but give up on a broker that is away and has taken nothing for `linger_s`.

        Raises QueueError that says how many items were not delivered.
        """
        with self._changed:
            if self._closing:
                return
            self._closing = True
            self._progress_at = time.monotonic()
            self._changed.notify_all()
            while self._letters and self._failure is None:
                patience_s = self._progress_at + self._linger_s - time.monotonic()
                if self._outage.lasts_s is not None and patience_s <= 0:
                    break
                self._changed.wait(max(patience_s, IDLE_S))
            self._gave_up = True
            self._changed.notify_all()
        self._thread.join()
        if self._letters:
            reason = self._failure or f"{self._name}: the broker is away ({self._outage.reason})"
            raise QueueError(f"{len(self._letters)} items were not delivered: {reason}")

    def _run(self) -> None:
        try:
            while not self._is_done():
                try:
                    self._broker.connect()
                    self._note_back()
                    self._forward()
                except BrokerAwayError as reason:
                    self._pause(reason)
        except BaseException as error:  # raised by the next `put` or `close`
            with self._changed:
                self._failure = error
                self._has_tried = True
                self._changed.notify_all()
        finally:
            self._broker.close()

    def _forward(self) -> None:
        """Send what comes until the outbox is closed and empty. Raises BrokerAwayError, QueueError."""
        while not self._is_done():
            with self._changed:
                self._changed.wait_for(lambda: self._letters or self._closing, IDLE_S)
                batch = list(islice(self._letters, BATCH))
                self._in_flight = len(batch)
            stored = self._broker.store(batch)
            with self._changed:
                for _ in range(stored):
                    self._letters.popleft()
                self._in_flight = 0
                self._progress_at = time.monotonic()
                self._changed.notify_all()
            if stored < len(batch):
                raise BrokerAwayError("it did not confirm what was sent")

    def _is_done(self) -> bool:
        with self._changed:
            return self._gave_up or (self._closing and not self._letters)

    def _drop_oldest(self) -> None:
        """What is being sent right now stays: it may have arrived. So do the ends of runs."""
        for index in range(self._in_flight, len(self._letters)):
            if not self._letters[index].is_end:
                del self._letters[index]
                self._dropped += 1
                return

    def _pause(self, reason: BrokerAwayError) -> None:
        with self._changed:
            if isinstance(reason, HungUpError) and not self._has_tried:
                raise QueueError(f"{self._name}: {reason}")
            self._has_tried = True
            self._in_flight = 0
            pause_s = self._outage.goes_on(reason, len(self._letters))
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._gave_up, pause_s)

    def _note_back(self) -> None:
        with self._changed:
            self._has_tried = True
            self._outage.ends()
            self._changed.notify_all()
