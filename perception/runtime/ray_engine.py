"""The engines on Ray actors, one for each placement; they give the same results."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from perception.config.schema import ModelChoice
from perception.core.errors import EngineError
from perception.core.ports import Engine, FeatureHandle
from perception.core.stages import (
    CameraRequest,
    EncodeRequest,
    FuseRequest,
    FusionOutput,
    LidarRequest,
    ModelInfo,
)
from perception.runtime.actors import StageActor

Placement = Literal["split", "colocated"]
START_TIMEOUT_S = 120.0


def ray_engine(model: ModelChoice, *, placement: Placement, threads: int) -> Engine:
    """Start the actors of a placement; Ray must be running (`ray_cluster`).

    threads: of torch in each actor; 0 takes all cores for `colocated` and shares them out for `split`.
    Raises ModelError for an unknown or unfit model, EngineError where the actors do not start.
    """
    cores = os.cpu_count() or 1
    if placement == "colocated":
        return ColocatedEngine(model, threads or cores)
    return SplitEngine(model, threads or max(1, cores // 2))


@dataclass(frozen=True, slots=True)
class _Handle:
    """`ref` holds the features where they travel (split); None where the actor keeps them by key (colocated)."""

    key: str
    ref: Any = None


class _ActorEngine:
    """Starts one actor for each role, and stops them."""

    def __init__(self, roles: Sequence[str], model: ModelChoice, threads: int) -> None:
        self._actors: dict[str, Any] = {role: StageActor.options(num_cpus=0).remote(threads) for role in roles}
        try:
            infos = ray.get([actor.load.remote(model) for actor in self._actors.values()], timeout=START_TIMEOUT_S)
        except RayError as error:
            self.close()
            raise _as_itself(error) from error
        self._model: ModelInfo = infos[0]

    @property
    def model(self) -> ModelInfo:
        return self._model

    def close(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)


class SplitEngine(_ActorEngine):
    """One actor each for camera, lidar, radar and fusion; features pass through the object store once."""

    placement = "split"

    def __init__(self, model: ModelChoice, threads: int) -> None:
        super().__init__(("camera", "lidar", "radar", "fusion"), model, threads)

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        role = "camera" if isinstance(request, CameraRequest) else "lidar"
        actor = self._actors[role if isinstance(request, CameraRequest | LidarRequest) else "radar"]
        return _Handle(request.key, actor.encode.remote(request))

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        refs = [handle.ref for handle in features if isinstance(handle, _Handle)]
        return _outcome(self._actors["fusion"].fuse.remote(request, *refs))

    def release(self, features: Sequence[FeatureHandle]) -> None:
        """Nothing to do: the object store frees features with their handles."""


class ColocatedEngine(_ActorEngine):
    """One actor holds all, and no feature leaves it.

    A call costs the caller about a millisecond, so what the actor could not begin yet anyway, because a fusion is still
    under way, is held back and travels with the next fusion or as soon as the actor is free.
    """

    placement = "colocated"

    def __init__(self, model: ModelChoice, threads: int) -> None:
        super().__init__(("all",), model, threads)
        self._lock = threading.Lock()
        self._held: list[EncodeRequest] = []
        self._forgotten: list[str] = []
        self._fusing = 0

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        with self._lock:
            self._held.append(request)
            if not self._fusing:
                self._send(None, ())
        return _Handle(request.key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        with self._lock:
            self._fusing += 1
            ref = self._send(request, [handle.key for handle in features])
        return _outcome(ref, self._fused)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        with self._lock:
            self._forgotten += [handle.key for handle in features]

    def _send(self, request: FuseRequest | None, keys: Sequence[str]) -> Any:
        held, self._held = self._held, []
        forgotten, self._forgotten = self._forgotten, []
        return self._actors["all"].work.remote(held, request, keys, forgotten)

    def _fused(self) -> None:
        with self._lock:
            self._fusing -= 1
            if self._held and not self._fusing:
                self._send(None, ())


def _outcome(ref: Any, then: Callable[[], None] | None = None) -> Future[FusionOutput]:
    """The future of a call; `then` runs first when it is done."""
    outcome: Future[FusionOutput] = Future()

    def forward(done: Future[FusionOutput]) -> None:
        if then is not None:
            then()
        _forward(done, outcome)

    ref.future().add_done_callback(forward)
    return outcome


def _forward(done: Future[FusionOutput], outcome: Future[FusionOutput]) -> None:
    error = done.exception()
    if error is None:
        outcome.set_result(done.result())
    else:
        outcome.set_exception(_as_itself(error))


def _as_itself(error: BaseException) -> BaseException:
    """What went wrong in an actor as the exception it was there, with the actor's traceback as a note."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, Exception):
        cause: Exception = error.cause
        if isinstance(cause, RayError):
            return _as_itself(cause)
        cause.add_note(f"In the actor:\n{error}")
        return cause
    if isinstance(error, RayActorError):
        return EngineError(f"an engine process died: {error}")
    return error if not isinstance(error, RayError) else EngineError(f"the engine failed: {error}")
