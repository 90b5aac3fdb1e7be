"""The engine on Ray actors, in two placements that give the same results."""

import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from perception.config.schema import ModelChoice
from perception.core.errors import EngineError
from perception.core.ports import FeatureHandle
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


@dataclass(frozen=True, slots=True)
class _RayHandle:
    """`ref` holds the features where they travel (split); None where the actor keeps them by key (colocated)."""

    key: str
    ref: Any


class RayEngine:
    """Encodes and fuses in Ray actors; Ray must be running (`ray_cluster`).

    `split`: one actor each for camera, lidar, radar and fusion. `colocated`: one actor holds all, no feature leaves it.
    threads: of torch in each actor; 0 takes all cores for `colocated` and shares them out for `split`.
    """

    def __init__(self, model: ModelChoice, *, placement: Placement, threads: int) -> None:
        self.placement = placement
        cores = os.cpu_count() or 1
        roles = ("camera", "lidar", "radar", "fusion") if placement == "split" else ("all",)
        each = threads or (cores if placement == "colocated" else max(1, cores // 2))
        self._actors: dict[str, Any] = {
            role: StageActor.options(num_cpus=0, max_restarts=0).remote(model, each) for role in roles
        }
        try:
            infos = ray.get([actor.info.remote() for actor in self._actors.values()], timeout=START_TIMEOUT_S)
        except RayError as error:
            self.close()
            raise _as_itself(error) from error
        self._model: ModelInfo = infos[0]

    @property
    def model(self) -> ModelInfo:
        return self._model

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        if self.placement == "colocated":
            self._actors["all"].encode_here.remote(request)
            return _RayHandle(request.key, None)
        return _RayHandle(request.key, self._actor_for(request).encode.remote(request))

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        handles = [handle for handle in features if isinstance(handle, _RayHandle)]
        if self.placement == "colocated":
            ref = self._actors["all"].fuse_here.remote(request, [handle.key for handle in handles])
        else:
            ref = self._actors["fusion"].fuse.remote(request, *[handle.ref for handle in handles])
        outcome: Future[FusionOutput] = Future()
        ref.future().add_done_callback(lambda done: _forward(done, outcome))
        return outcome

    def release(self, features: Sequence[FeatureHandle]) -> None:
        """Split: the object store frees features with their handles. Colocated: the actor forgets them."""
        if self.placement == "colocated" and features:
            self._actors["all"].forget.remote([handle.key for handle in features])

    def close(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)

    def _actor_for(self, request: EncodeRequest) -> Any:
        if isinstance(request, CameraRequest):
            return self._actors["camera"]
        return self._actors["lidar" if isinstance(request, LidarRequest) else "radar"]


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
        cause.add_note(f"In the actor:\n{error.traceback_str}")
        return cause
    if isinstance(error, RayActorError):
        return EngineError(f"an engine process died: {error}")
    return error if not isinstance(error, RayError) else EngineError(f"the engine failed: {error}")
