"""An engine on processes that may die or hang at any time: they are replaced, and what they owed is done again.

Fusion keeps nothing between frames, and features can be made again from their request. So requests stay here until
nobody can need them, and after a loss whatever had not come out yet is asked for once more: the same results, later.
"""

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from typing import Any

from ray.exceptions import ObjectLostError, RayError

from perception.config.schema import SupervisionConfig
from perception.core.errors import EngineError
from perception.core.ports import FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.core.supervision import SupervisionState
from perception.pipeline.stages import Encoded, not_encoded
from perception.runtime.engine_process import START_TIMEOUT_S, EngineProcess, Watchdog, as_itself, is_loss
from perception.runtime.quarantine import Quarantine, messages_of
from perception.runtime.supervision import RestartCounts, RestartPolicy

logger = logging.getLogger(__name__)

STANDBY_PAUSE_S = 2.0
NEVER = -1
_numbers = count()


@dataclass(slots=True, eq=False)
class Handle:
    """Features of one request, and what is needed to make them again.

    made_by: which process of its role (they are counted) was asked for them. ref: where features travel. crashes: of
    processes that may have been at work on it. is_proven: it was encoded once without a crash. instead: stands for the
    features of a message in the quarantine.
    """

    key: str
    request: EncodeRequest
    role: str
    number: int = field(default_factory=lambda: next(_numbers))
    made_by: int = NEVER
    ref: Any = None
    crashes: int = 0
    is_proven: bool = False
    instead: Encoded | None = None


@dataclass(slots=True, eq=False)
class Job:
    """One frame to be fused. attempt: counts how often it was asked for; an answer to an earlier attempt is ignored."""

    request: FuseRequest
    handles: Sequence[Handle]
    outcome: Future[FusionOutput] = field(default_factory=Future)
    attempt: int = 0
    is_sent: bool = False


class SupervisedEngine(ABC):
    """What the placements have in common: a process for each role, the watch over them, and the work not yet done.

    `start` makes a process. Every method that is not public is called with the lock held unless it says otherwise.
    """

    placement: str

    def __init__(self, roles: Sequence[str], start: Callable[[], EngineProcess], config: SupervisionConfig) -> None:
        self._start, self._config = start, config
        self._lock = threading.RLock()
        self._jobs: dict[int, Job] = {}
        self._live: dict[int, Handle] = {}
        self._policy = RestartPolicy(config, time.monotonic)
        self._restarts = RestartCounts()
        self._hung = 0
        self._last_outage_s: float | None = None
        self._failure: EngineError | None = None
        self._closing = threading.Event()
        self._standby: EngineProcess | None = None
        self._generation = dict.fromkeys(roles, 0)
        self._processes = {role: start() for role in roles}
        self._up = set(roles)
        try:
            models = [process.await_ready(START_TIMEOUT_S) for process in self._processes.values()]
        except BaseException:
            self._kill_all()
            raise
        self._model = models[0]
        self._quarantine = Quarantine(config.quarantine, config.quarantine_limit, self._model.name)
        for role, process in self._processes.items():
            process.watch(partial(self._lost, role))
        self._replenish()
        self._watchdog = Watchdog(self._check, config.silent_after_s)

    @property
    def model(self) -> ModelInfo:
        return self._model

    def supervision(self) -> SupervisionState:
        with self._lock:
            return SupervisionState(
                restarts=dict(self._restarts.total),
                hung=self._hung,
                quarantined=self._quarantine.count,
                recovering=tuple(sorted(self._processes.keys() - self._up)),
                last_outage_s=self._last_outage_s,
                pids={role: process.pid for role, process in self._processes.items()},
            )

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        """As the port says. Raises EngineError once restarts have been given up."""
        with self._lock:
            self._raise_failure()
            handle = Handle(key=request.key, request=request, role=self._role_of(request))
            if (error := self._quarantine.known(request)) is not None:
                handle.instead = not_encoded(request, error)
            else:
                self._live[handle.number] = handle
                if handle.role in self._up:
                    self._begin(handle)
            return handle

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        with self._lock:
            self._raise_failure()
            job = Job(request, [handle for handle in features if isinstance(handle, Handle)])
            self._jobs[id(job)] = job
            if len(self._up) == len(self._processes):
                self._send(job)
            return job.outcome

    def release(self, features: Sequence[FeatureHandle]) -> None:
        with self._lock:
            for handle in features:
                if isinstance(handle, Handle):
                    self._live.pop(handle.number, None)

    def close(self) -> None:
        self._closing.set()
        self._watchdog.stop()
        with self._lock:
            self._kill_all()

    @abstractmethod
    def _role_of(self, request: EncodeRequest) -> str: ...

    @abstractmethod
    def _begin(self, handle: Handle) -> None:
        """Have the handle's features made by the present process of its role, now or a little later."""

    @abstractmethod
    def _ask(self, job: Job) -> "Future[FusionOutput]":
        """Have the job's features fused, those that are not there made before; the answer."""

    @abstractmethod
    def _encode_alone(self, process: EngineProcess, handle: Handle) -> Any:
        """Have `process` make the handle's features and nothing else; the reference of the answer."""

    def _renew(self, role: str) -> None:
        """A new process takes the role; it has nothing of what the last one had."""
        self._generation[role] += 1

    @abstractmethod
    def _answered(self) -> None:
        """A fusion that the present processes were asked for came out, whichever way."""

    def _is_made(self, handle: Handle) -> bool:
        return handle.made_by == self._generation[handle.role]

    def _send(self, job: Job) -> None:
        job.is_sent = True
        job.attempt += 1
        self._ask(job).add_done_callback(partial(self._fused, job, job.attempt))

    def _fused(self, job: Job, attempt: int, answer: "Future[FusionOutput]") -> None:
        """An answer came, in a thread of Ray's; without the lock."""
        error = answer.exception()
        with self._lock:
            if job.attempt != attempt or not job.is_sent or id(job) not in self._jobs:
                return
            self._answered()
            if error is not None and is_loss(error) and self._failure is None and not self._closing.is_set():
                # Whoever died is found by its watch; `_check` sends the job again if it was not needed.
                job.is_sent = False
                if isinstance(error, ObjectLostError):
                    for handle in job.handles:
                        handle.made_by = NEVER
                return
            del self._jobs[id(job)]
            restarts = self._restarts.take() if error is None else {}
            if error is None:
                self._policy.progress()
                for handle in job.handles:
                    handle.is_proven = True
        if error is not None:
            job.outcome.set_exception(as_itself(error))
        else:
            job.outcome.set_result(_with_account(answer.result(), job, restarts))

    def _check(self, overslept: bool) -> None:
        """The watchdog's round; without the lock."""
        config = self._config
        with self._lock:
            for role, process in list(self._processes.items()):
                if overslept:
                    process.forgive()
                elif role in self._up and (what := process.hang(config.silent_after_s, config.work_timeout_s)):
                    self._lost(role, process, what, True)
            if len(self._up) == len(self._processes):
                for job in [job for job in self._jobs.values() if not job.is_sent]:
                    self._send(job)

    def _lost(self, role: str, process: EngineProcess, what: str, hangs: bool) -> None:
        """The present process of a role is lost; without the lock."""
        with self._lock:
            if self._closing.is_set() or self._processes[role] is not process or role not in self._up:
                return
            self._up.discard(role)
            self._hung += hangs
        # Not here: this may be a thread of Ray's that Ray needs in order to answer.
        recover = partial(self._recover, role, what, process, hangs)
        threading.Thread(target=recover, name=f"restart-{role}", daemon=True).start()

    def _recover(self, role: str, what: str, lost: EngineProcess, hangs: bool) -> None:
        """Put a new process in a role until one works; without the lock."""
        lost_s = time.monotonic()
        try:
            lost.kill(hangs=hangs)
            with self._lock:
                suspects = self._disown(role)
            while not self._closing.is_set():
                logger.warning("the engine's %s process is lost and will be replaced: %s", role, what)
                with self._lock:
                    self._restarts.count(role)
                if self._closing.wait(self._policy.restart(role, what)):
                    return
                process = self._take_standby() or self._start()
                try:
                    process.await_ready(max(self._config.silent_after_s, 2.0))
                    self._probe(process, role, [handle for handle in suspects if handle.instead is None])
                except EngineError as error:
                    process.kill(hangs=True)
                    what = str(error)
                    continue
                self._install(role, process, lost_s)
                break
            self._replenish()
        except Exception as error:  # a thread of its own: whoever waits for results must hear of it
            self._give_up(error if isinstance(error, EngineError) else EngineError(f"the engine failed: {error}"))

    def _disown(self, role: str) -> list[Handle]:
        """Take back what was asked of a role's last process; which requests it may have crashed on."""
        made_by_it = {handle.number: handle for handle in self._live.values()}
        for job in self._jobs.values():
            made_by_it |= {handle.number: handle for handle in job.handles}
        suspects = [
            handle for _, handle in sorted(made_by_it.items())
            if handle.role == role and self._is_made(handle) and not handle.is_proven and handle.instead is None
        ]  # fmt: skip
        for handle in suspects:
            handle.crashes += 1
        self._renew(role)
        for job in self._jobs.values():
            job.is_sent = False
        return suspects

    def _probe(self, process: EngineProcess, role: str, suspects: Sequence[Handle]) -> None:
        """Where a message is under suspicion of crashing its encoder, encode the suspects one at a time.

        Raises EngineError where the process is lost over it; without the lock.
        """
        if all(handle.crashes < self._config.poison_after - 1 for handle in suspects):
            return
        for handle in suspects:
            try:
                process.finish(self._encode_alone(process, handle), self._config.work_timeout_s)
            except RayError as error:
                if not is_loss(error) and not isinstance(error, TimeoutError):
                    continue  # an error of the encoder's own: the fusion that needs it raises it
                handle.crashes += 1
                if handle.crashes >= self._config.poison_after:
                    self._put_aside(handle, as_itself(error))
                raise EngineError(f"{handle.key} crashed the {role} process: {as_itself(error)}") from error
            handle.crashes, handle.is_proven = 0, True

    def _put_aside(self, handle: Handle, error: BaseException) -> None:
        reason = f"quarantined after {handle.crashes} crashes of its encoder; the last: {error}"
        names = ", ".join(message.sensor for message in messages_of(handle.request))
        logger.warning("a message of %s is put into the quarantine %s: %s", names, self._config.quarantine, reason)
        with self._lock:
            self._quarantine.put(handle.request, reason)
            handle.instead = not_encoded(handle.request, reason)
        self._policy.progress()

    def _install(self, role: str, process: EngineProcess, lost_s: float) -> None:
        """The new process takes up the role and what is owed."""
        with self._lock:
            if self._closing.is_set():
                process.kill()
                return
            self._processes[role] = process
            self._up.add(role)
            self._last_outage_s = time.monotonic() - lost_s
            process.watch(partial(self._lost, role))
            logger.warning("the engine's %s process works again after %.2f s", role, self._last_outage_s)
        self._check(overslept=False)

    def _replenish(self) -> None:
        """See to it that there is a standby where there should be one; without the lock."""
        with self._lock:
            if self._config.standby and self._standby is None and not self._closing.is_set():
                self._standby = self._start()
                self._standby.watch(self._standby_lost)

    def _standby_lost(self, process: EngineProcess, what: str, hangs: bool) -> None:
        """Without the lock, in a thread of Ray's."""
        with self._lock:
            if self._standby is not process:
                return
            self._standby = None
        logger.warning("the engine's standby process is lost and will be replaced: %s", what)
        # A pause, lest one that cannot live keeps the machine busy; another thread, as Ray may need this one.
        timer = threading.Timer(STANDBY_PAUSE_S, self._replenish)
        timer.daemon = True
        timer.start()

    def _take_standby(self) -> EngineProcess | None:
        with self._lock:
            taken, self._standby = self._standby, None
            return taken

    def _give_up(self, failure: EngineError) -> None:
        with self._lock:
            self._failure = failure
            jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            job.outcome.set_exception(failure)

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _kill_all(self) -> None:
        for process in [*self._processes.values(), *([self._standby] if self._standby else [])]:
            with suppress(RayError, ValueError):
                process.kill()


def _with_account(output: FusionOutput, job: Job, restarts: Mapping[str, int]) -> FusionOutput:
    aside = tuple(sensor for handle in job.handles if handle.instead for sensor in handle.instead.sensors)
    if not aside and not restarts:
        return output
    return replace(output, quarantined=aside, restarts=restarts)
