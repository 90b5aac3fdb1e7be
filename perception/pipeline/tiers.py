"""An engine and quicker ones beside it, as one."""

from collections.abc import Sequence
from concurrent.futures import Future

from perception.core.ports import Engine, FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo


class Tiers:
    """A `TieredEngine` of engines, the full one first; whoever knows nothing of tiers gets that one."""

    def __init__(self, tiers: tuple[Engine, ...]) -> None:
        self._tiers = tiers

    @property
    def tiers(self) -> tuple[Engine, ...]:
        return self._tiers

    @property
    def placement(self) -> str:
        return self._tiers[0].placement

    @property
    def model(self) -> ModelInfo:
        return self._tiers[0].model

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return self._tiers[0].encode(request)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        return self._tiers[0].fuse(request, features)

    def release(self, features: Sequence[FeatureHandle]) -> None:
        self._tiers[0].release(features)

    def close(self) -> None:
        for engine in self._tiers:
            engine.close()
