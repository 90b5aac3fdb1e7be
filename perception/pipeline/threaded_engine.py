"""An engine of this process that works beside its caller: a live run must not wait for its own engine."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from perception.core.ports import Engine, FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo


@dataclass(frozen=True, slots=True)
class _Awaited:
    key: str
    features: Future[FeatureHandle]


class ThreadedEngine:
    """Hands each call to `inner` in one thread, in order. begin: called first in that thread.

    `close` ends the thread, not `inner`.
    """

    def __init__(self, inner: Engine, begin: Callable[[], None]) -> None:
        self._inner = inner
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine", initializer=begin)

    @property
    def placement(self) -> str:
        return self._inner.placement

    @property
    def model(self) -> ModelInfo:
        return self._inner.model

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return _Awaited(request.key, self._worker.submit(self._inner.encode, request))

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        awaited = [handle.features for handle in features if isinstance(handle, _Awaited)]
        return self._worker.submit(self._fuse, request, awaited)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        for handle in features:
            if isinstance(handle, _Awaited):
                self._worker.submit(self._release, handle.features)

    def close(self) -> None:
        self._worker.shutdown(cancel_futures=True)

    def _fuse(self, request: FuseRequest, awaited: list[Future[FeatureHandle]]) -> FusionOutput:
        return self._inner.fuse(request, [features.result() for features in awaited]).result()

    def _release(self, features: Future[FeatureHandle]) -> None:
        if features.exception() is None:
            self._inner.release([features.result()])
