"""Lets a session find its way back to where it was: an engine that does nothing until a given frame."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from perception.core.forwarding import ForwardingEngine
from perception.core.ports import Engine, FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput


@dataclass(slots=True, eq=False)
class _Postponed:
    """Features that nobody may ever ask for."""

    key: str
    request: EncodeRequest
    handle: FeatureHandle | None = None


class SleepingEngine(ForwardingEngine):
    """Sleeps through `frames` fusions, whose futures never resolve, then hands on to `engine`.

    What a later fusion needs of the requests made in its sleep is encoded when that fusion comes.
    """

    def __init__(self, engine: Engine, frames: int) -> None:
        super().__init__(engine)
        self._frames = frames

    @property
    def is_asleep(self) -> bool:
        return self._frames > 0

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        if self._frames:
            return _Postponed(request.key, request)
        return self._engine.encode(request)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        if self._frames:
            self._frames -= 1
            return Future()
        return self._engine.fuse(request, [self._awake(handle) for handle in features])

    def release(self, features: Sequence[FeatureHandle]) -> None:
        made = [handle.handle if isinstance(handle, _Postponed) else handle for handle in features]
        self._engine.release([handle for handle in made if handle is not None])

    def _awake(self, handle: FeatureHandle) -> FeatureHandle:
        if not isinstance(handle, _Postponed):
            return handle
        if handle.handle is None:
            handle.handle = self._engine.encode(handle.request)
        return handle.handle
