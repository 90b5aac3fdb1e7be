"""What engines around another engine have in common."""

from collections.abc import Sequence
from concurrent.futures import Future

from perception.core.ports import Engine, FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo


class ForwardingEngine:
    """Hands everything on to `engine`: the base of those that watch or change what passes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def placement(self) -> str:
        return self._engine.placement

    @property
    def model(self) -> ModelInfo:
        return self._engine.model

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return self._engine.encode(request)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        return self._engine.fuse(request, features)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        self._engine.release(features)

    def close(self) -> None:
        """Nothing: the engine inside belongs to whoever made it."""
