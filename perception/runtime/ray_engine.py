"""The engines on Ray actors, one for each placement; they give the same results."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Literal

from perception.config.schema import ModelChoice, SupervisionConfig
from perception.core.ports import FeatureHandle, Supervised
from perception.core.stages import CameraRequest, EncodeRequest, FusionOutput, LidarRequest
from perception.runtime.actors import StageWorker
from perception.runtime.engine_process import EngineProcess
from perception.runtime.supervised_engine import Handle, Job, SupervisedEngine

Placement = Literal["split", "colocated"]


def ray_engine(
    model: ModelChoice,
    *,
    placement: Placement,
    threads: int,
    supervision: SupervisionConfig | None = None,
    worker: type[StageWorker] = StageWorker,
) -> Supervised:
    """Start the actors of a placement; Ray must be running (`ray_cluster`).

    threads: of torch in each actor; 0 takes all cores for `colocated` and shares them out for `split`. worker: what
    runs in each actor. Raises ModelError for an unknown or unfit model, EngineError where the actors do not start.
    """
    cores = os.cpu_count() or 1
    config = supervision or SupervisionConfig()
    shared = threads or (cores if placement == "colocated" else max(1, cores // 2))

    def start() -> EngineProcess:
        return EngineProcess(worker, model, shared, has_line=placement == "colocated")

    return ColocatedEngine(start, config) if placement == "colocated" else SplitEngine(start, config)


class SplitEngine(SupervisedEngine):
    """One actor each for camera, lidar, radar and fusion; features pass through the object store once."""

    placement = "split"

    def __init__(self, start: Callable[[], EngineProcess], config: SupervisionConfig) -> None:
        super().__init__(("camera", "lidar", "radar", "fusion"), start, config)

    def _role_of(self, request: EncodeRequest) -> str:
        if isinstance(request, CameraRequest):
            return "camera"
        return "lidar" if isinstance(request, LidarRequest) else "radar"

    def _begin(self, handle: Handle) -> None:
        handle.ref = self._processes[handle.role].actor.encode.remote(handle.request)
        handle.made_by = self._generation[handle.role]

    def _ask(self, job: Job) -> "Future[FusionOutput]":
        for handle in job.handles:
            if handle.instead is None and not self._is_made(handle):
                self._begin(handle)
        features = [handle.instead or handle.ref for handle in job.handles]
        answer: Future[FusionOutput] = self._processes["fusion"].actor.fuse.remote(job.request, *features).future()
        return answer

    def _answered(self) -> None:
        """Nothing to do: nothing was held back."""

    def _encode_alone(self, process: EngineProcess, handle: Handle) -> Any:
        return process.actor.encode.remote(handle.request)


class ColocatedEngine(SupervisedEngine):
    """One actor holds all, and no feature leaves it.

    A call costs the caller about a millisecond, so what the actor could not begin yet anyway, because a fusion is still
    under way, is held back and travels with the next fusion or as soon as the actor is free.
    """

    placement = "colocated"

    def __init__(self, start: Callable[[], EngineProcess], config: SupervisionConfig) -> None:
        self._held: list[Handle] = []
        self._forgotten: list[int] = []
        self._fusing = 0
        super().__init__(("all",), start, config)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        with self._lock:
            super().release(features)
            self._forgotten += [handle.number for handle in features if isinstance(handle, Handle)]

    def _role_of(self, request: EncodeRequest) -> str:
        return "all"

    def _begin(self, handle: Handle) -> None:
        self._held.append(handle)
        handle.made_by = self._generation["all"]
        if not self._fusing:
            self._processes["all"].tell(*self._arguments(None))

    def _ask(self, job: Job) -> "Future[FusionOutput]":
        for handle in job.handles:
            if handle.instead is None and not self._is_made(handle):
                self._held.append(handle)
                handle.made_by = self._generation["all"]
        self._fusing += 1
        return self._processes["all"].ask(*self._arguments(job))

    def _arguments(self, job: Job | None) -> tuple[Any, ...]:
        """Of the actor's `work`: what was held back, and the job."""
        held, self._held = self._held, []
        forgotten, self._forgotten = self._forgotten, []
        handles = job.handles if job is not None else ()
        return (
            [(handle.number, handle.request) for handle in held],
            {handle.number: handle.instead for handle in handles if handle.instead is not None},
            job.request if job is not None else None,
            [handle.number for handle in handles],
            forgotten,
        )

    def _answered(self) -> None:
        self._fusing -= 1
        if self._held and not self._fusing and "all" in self._up:
            self._processes["all"].tell(*self._arguments(None))

    def _renew(self, role: str) -> None:
        super()._renew(role)
        self._held, self._forgotten, self._fusing = [], [], 0

    def _encode_alone(self, process: EngineProcess, handle: Handle) -> Any:
        return process.actor.work.remote([(handle.number, handle.request)], {}, None, (), [handle.number])
