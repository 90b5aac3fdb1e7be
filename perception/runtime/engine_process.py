"""One process of an engine: a Ray actor with a model in it, and whether it is alive."""

import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayActorError, RayError, RayTaskError

from perception.config.schema import ModelChoice
from perception.core.errors import EngineError
from perception.core.stages import ModelInfo
from perception.runtime.actors import WATCH, Ready, StageWorker
from perception.runtime.direct_line import DirectLine

START_TIMEOUT_S = 120.0
BEAT_S = 0.25
"""How often a process gives a sign of life."""

Lost = Callable[["EngineProcess", str, bool], None]

GPU_SHARE = 0.2
"""Of a GPU, reserved by each actor. Not yet run on one."""


class EngineProcess:
    """Begins to start as it is made; `await_ready` waits until the model is loaded, `watch` begins to listen to it.

    has_line: `tell` and `ask` go over a socket of its own where it runs on this machine.
    """

    def __init__(self, worker: type[StageWorker], model: ModelChoice, threads: int, *, has_line: bool = False) -> None:
        groups = ray.remote(concurrency_groups={WATCH: 1})  # type: ignore[call-overload]  # missing in its stub
        # Ray hides the GPUs from an actor that reserves none of one. Four roles share a GPU, and one may be replaced.
        has_gpu = model.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0  # type: ignore[no-untyped-call]
        share = GPU_SHARE if has_gpu else 0
        self.actor: Any = groups(worker).options(num_cpus=0, num_gpus=share).remote(threads)
        self._loading = self.actor.load.remote(model)
        self._ready: Ready | None = None
        self._has_line = has_line
        self._line: DirectLine | None = None
        self._heard_s = 0.0
        self._busy_s = 0.0
        self._is_watched = False
        self._on_lost: Lost | None = None

    @property
    def pid(self) -> int:
        return self._ready.pid if self._ready else 0

    def await_ready(self, silent_after_s: float) -> ModelInfo:
        """Wait until it can work. Raises ModelError for an unknown or unfit model, EngineError where it does not."""
        try:
            if self._ready is None:
                self._ready = ray.get(self._loading, timeout=START_TIMEOUT_S)
            ray.get(self.actor.beat.remote(0.0), timeout=silent_after_s)
            if self._has_line and self._line is None and self._is_here:
                self._line = DirectLine(ray.get(self.actor.listen.remote(), timeout=START_TIMEOUT_S))
        except GetTimeoutError:
            raise EngineError("an engine process did not start, or hangs") from None
        except RayError as error:
            raise as_itself(error) from error
        assert self._ready is not None
        return self._ready.info

    def tell(self, *arguments: Any) -> None:
        """Have it `work` on `arguments`, and do not wait for an answer."""
        if self._line is not None:
            self._line.tell(*arguments)
        else:
            self.actor.work.remote(*arguments)

    def ask(self, *arguments: Any) -> "Future[Any]":
        """Have it `work` on `arguments`; the answer."""
        if self._line is not None:
            return self._line.ask(*arguments)
        answer: Future[Any] = self.actor.work.remote(*arguments).future()
        return answer

    def finish(self, ref: Any, timeout_s: float) -> None:
        """Wait for a call's end. Raises what it raised, GetTimeoutError where it takes longer."""
        ray.get(ref, timeout=timeout_s)

    def watch(self, on_lost: Lost) -> None:
        """Call `on_lost` (process, what happened, False) as soon as it dies; from a thread of Ray's or of the line's.

        May be called again, for another `on_lost` in place of the first.
        """
        is_first = self._on_lost is None
        self._on_lost = on_lost
        self._is_watched = True
        self.forgive()
        if is_first:
            self._listen()
        if self._line is not None:
            # A socket tells of a death at once; Ray takes a while.
            self._line.on_broken(lambda: self._tell("an engine process died: it closed its line"))

    def forgive(self) -> None:
        """Count its silence from now: it was we who slept."""
        self._heard_s = time.monotonic()

    def hang(self, silent_after_s: float, work_timeout_s: float) -> str | None:
        """What is wrong with it, if it hangs."""
        silent_s = time.monotonic() - self._heard_s
        if silent_s > silent_after_s + BEAT_S:
            return f"it gave no sign of life for {silent_s:.1f} s"
        if self._busy_s + silent_s > work_timeout_s and self._busy_s > 0:
            return f"it worked on one call for {self._busy_s + silent_s:.1f} s"
        return None

    def kill(self, *, hangs: bool = False) -> None:
        """End it; one that hangs (it may be stopped, and deaf to Ray) by its pid where it runs on this machine."""
        self._is_watched = False
        if hangs and self._ready and self._is_here:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._ready.pid, signal.SIGKILL)
        ray.kill(self.actor)
        if self._line is not None:
            self._line.close()

    @property
    def _is_here(self) -> bool:
        """Whether it runs on this machine."""
        node_id: str = ray.get_runtime_context().get_node_id()
        return self._ready is not None and self._ready.node_id == node_id

    def _tell(self, what: str) -> None:
        if self._is_watched and self._on_lost is not None:
            self._on_lost(self, what, False)

    def _listen(self) -> None:
        def answered(answer: "Future[float]") -> None:
            if not self._is_watched:
                return
            error = answer.exception()
            if error is not None:
                self._tell(str(as_itself(error)))
                return
            self._heard_s, self._busy_s = time.monotonic(), answer.result()
            self._listen()

        self.actor.beat.remote(BEAT_S).future().add_done_callback(answered)


class Watchdog(threading.Thread):
    """Calls `check` every `BEAT_S` until stopped, with True where it was itself kept from running meanwhile."""

    def __init__(self, check: Callable[[bool], None], silent_after_s: float) -> None:
        super().__init__(name="engine-watchdog", daemon=True)
        self._check = check
        self._slept_s = silent_after_s / 2
        self._stopping = threading.Event()
        self.start()

    def run(self) -> None:
        last_s = time.monotonic()
        while not self._stopping.wait(BEAT_S):
            now_s = time.monotonic()
            self._check(now_s - last_s > BEAT_S + self._slept_s)
            last_s = now_s

    def stop(self) -> None:
        self._stopping.set()


def is_loss(error: BaseException) -> bool:
    """Whether a call failed because a process, or features that one had made, are gone."""
    if isinstance(error, RayTaskError):
        return isinstance(error.cause, BaseException) and is_loss(error.cause)
    return isinstance(error, RayActorError | ObjectLostError)


def as_itself(error: BaseException) -> BaseException:
    """What went wrong in an actor as the exception it was there, with the actor's traceback as a note."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        cause: Exception = error.cause
        if isinstance(cause, RayError):
            return as_itself(cause)
        cause.add_note(f"In the actor:\n{error}")
        return cause
    if isinstance(error, RayActorError):
        return EngineError(f"an engine process died: {error}")
    return error if not isinstance(error, RayError) else EngineError(f"the engine failed: {error}")
