"""The Ray actor that runs the model's stages."""

from collections.abc import Sequence

import ray
import torch

from perception.config.schema import ModelChoice
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.pipeline.stages import Encoded, Stages, open_model


class StageWorker:
    """Stages in a process of their own: a plain class that `StageActor` hands to Ray.

    `split`: `encode` and `fuse`, features travel. `colocated`: `work`, features stay here, by key.
    """

    _stages: Stages

    def __init__(self, threads: int) -> None:
        # Ray sets OMP_NUM_THREADS=1 for actors that reserve no core.
        torch.set_num_threads(threads)
        self._kept: dict[str, Encoded | Exception] = {}

    def load(self, model: ModelChoice) -> ModelInfo:
        """Load the model; not in the constructor, whose errors Ray hands on as text only."""
        self._stages = Stages(open_model(model))
        return self._stages.info

    def encode(self, request: EncodeRequest) -> Encoded:
        return self._stages.encode(request)

    def fuse(self, request: FuseRequest, *encoded: Encoded) -> FusionOutput:
        return self._stages.fuse(request, encoded)

    def work(
        self, encode: Sequence[EncodeRequest], fuse: FuseRequest | None, keys: Sequence[str], forget: Sequence[str]
    ) -> FusionOutput | None:
        """Encode and keep, then fuse the features of `keys` if asked to, then forget."""
        for request in encode:
            try:
                self._kept[request.key] = self._stages.encode(request)
            except Exception as error:  # raised by the fusion that needs it, where the caller waits
                self._kept[request.key] = error
        try:
            return self._stages.fuse(fuse, [self._take(key) for key in keys]) if fuse is not None else None
        finally:
            for key in forget:
                self._kept.pop(key, None)

    def _take(self, key: str) -> Encoded:
        kept = self._kept[key]
        if isinstance(kept, Exception):
            raise kept
        return kept


StageActor = ray.remote(StageWorker)
