"""Takes frames in order, waits for their fusion, and hands the results on while the next frame is being encoded."""

import threading
from collections.abc import Callable
from queue import Queue
from typing import Final

from perception.core.results import PerceptionResult
from perception.pipeline.session import Frame, Session

Deliver = Callable[[PerceptionResult], None]
_STOP: Final = None


class Publisher:
    """A thread that completes frames and calls `deliver` with each result, in order.

    At most `max_in_flight` frames wait; `submit` blocks while there are so many. The first error ends the work and is
    raised by the next `submit`, `drain` or `close`.
    """

    def __init__(self, session: Session, deliver: Deliver, *, max_in_flight: int, timeout_s: float) -> None:
        self._session = session
        self._deliver = deliver
        self._timeout_s = timeout_s
        self._slots = threading.Semaphore(max_in_flight)
        self._frames: Queue[Frame | None] = Queue()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether `submit` would block."""
        if self._slots.acquire(blocking=False):
            self._slots.release()
            return False
        return True

    def submit(self, frame: Frame) -> None:
        self._slots.acquire()
        self._raise_error()
        self._frames.put(frame)

    def drain(self) -> None:
        """Wait until every submitted frame was delivered."""
        self._frames.join()
        self._raise_error()

    def close(self) -> None:
        """Deliver what was submitted and stop. Raises the first error, if there was one."""
        self._frames.put(_STOP)
        self._thread.join()
        self._raise_error()

    def _run(self) -> None:
        while (frame := self._frames.get()) is not _STOP:
            if self._error is None:
                try:
                    self._deliver(self._session.complete(frame, self._timeout_s))
                except BaseException as error:  # re-raised in the submitting thread
                    self._error = error
            self._slots.release()
            self._frames.task_done()
        self._frames.task_done()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
