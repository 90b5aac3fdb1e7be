"""Takes frames in order, waits for their fusion, and hands the results on while the next frame is being encoded."""

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from perception.core.errors import EngineError
from perception.core.results import PerceptionResult
from perception.core.stages import FusionOutput
from perception.pipeline.completion import Completion
from perception.pipeline.frames import Frame

Deliver = Callable[[PerceptionResult], None]


class Publisher:
    """A thread that completes frames and calls `deliver` with each result, in order.

    At most `max_in_flight` frames are under way; `submit` blocks while there are so many. Where a deadline asks for
    it, a result made of earlier ones is delivered while fusion goes on. The first error ends the work and is raised
    by the next `submit`, `drain` or `close`: EngineError where a frame takes longer than `timeout_s`.
    """

    def __init__(self, completion: Completion, deliver: Deliver, *, max_in_flight: int, timeout_s: float) -> None:
        self._completion = completion
        self._deliver = deliver
        self._max_in_flight = max_in_flight
        self._timeout_s = timeout_s
        self._changed = threading.Condition()
        self._frames: deque[Frame] = deque()
        self._head_since_s = 0.0
        self._is_closing = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    @property
    def is_full(self) -> bool:
        """Whether `submit` would block."""
        return len(self._frames) >= self._max_in_flight

    def wait_for_room(self, timeout_s: float | None = None) -> bool:
        """Wait until `submit` would not block, or for so long; whether it would not. Raises the first error."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_full or self._error is not None, timeout_s)
            self._raise_error()
            return not self.is_full

    def submit(self, frame: Frame) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self.is_full or self._error is not None)
            self._raise_error()
            if not self._frames:
                self._head_since_s = time.monotonic()
            self._frames.append(frame)
            self._changed.notify_all()
        frame.future.add_done_callback(self._wake)

    def drain(self) -> None:
        """Wait until every submitted frame was delivered."""
        with self._changed:
            self._changed.wait_for(lambda: not self._frames or self._error is not None)
            self._raise_error()

    def close(self) -> None:
        """Deliver what was submitted and stop. Raises the first error, if there was one."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()
        self._raise_error()

    def _run(self) -> None:
        try:
            while (work := self._next_work()) is not None:
                frame, is_early = work
                if is_early:
                    self._deliver(self._completion.degrade(frame))
                    continue
                result = self._completion.apply(frame, frame.future.result(0))
                if result is not None:
                    self._deliver(result)
                with self._changed:
                    self._frames.popleft()
                    self._head_since_s = time.monotonic()
                    self._changed.notify_all()
        except BaseException as error:  # re-raised in the submitting thread
            with self._changed:
                self._error = error
                self._frames.clear()
                self._changed.notify_all()

    def _next_work(self) -> tuple[Frame, bool] | None:
        """The next frame that is ready, or due for a result before it is; None at the end."""
        with self._changed:
            while True:
                if not self._frames:
                    if self._is_closing:
                        return None
                    self._changed.wait()
                    continue
                head = self._frames[0]
                late, due_s = self._first_due(head)
                if late is not None and due_s <= 0:
                    return late, True
                if head.future.done():
                    return head, False
                left_s = self._timeout_s - (time.monotonic() - self._head_since_s)
                if left_s <= 0:
                    raise EngineError(
                        f"the engine did not finish a frame within {self._timeout_s:g} s (runtime.result_timeout_s)"
                    )
                self._changed.wait(left_s if late is None else min(left_s, due_s))

    def _first_due(self, head: Frame) -> tuple[Frame | None, float]:
        """The first frame without a result, where one may be due before it is ready, and in how many seconds."""
        for frame in self._frames:
            if not self._completion.is_degraded(frame):
                is_head = frame is head
                due_s = self._completion.degrade_in_s(frame, is_next=is_head, is_ready=is_head and frame.future.done())
                return (None, 0.0) if due_s is None else (frame, due_s)
        return None, 0.0

    def _wake(self, _: Future[FusionOutput]) -> None:
        with self._changed:
            self._changed.notify_all()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
