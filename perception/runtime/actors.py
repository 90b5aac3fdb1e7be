"""The Ray actor that runs the model's stages."""

from collections.abc import Sequence

import ray
import torch

from perception.config.schema import ModelChoice
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.pipeline.stages import Encoded, Stages, open_model


class StageWorker:
    """Stages in a process of their own: a plain class that `StageActor` hands to Ray.

    `split`: features travel as return values and arguments. `colocated`: `encode_here` keeps them, by key, for
    `fuse_here`.
    """

    def __init__(self, model: ModelChoice, threads: int) -> None:
        # Ray sets OMP_NUM_THREADS=1 for actors that reserve no core.
        torch.set_num_threads(threads)
        self._stages = Stages(open_model(model))
        self._kept: dict[str, Encoded | Exception] = {}

    def info(self) -> ModelInfo:
        return self._stages.info

    def encode(self, request: EncodeRequest) -> Encoded:
        return self._stages.encode(request)

    def fuse(self, request: FuseRequest, *encoded: Encoded) -> FusionOutput:
        return self._stages.fuse(request, encoded)

    def encode_here(self, request: EncodeRequest) -> None:
        try:
            self._kept[request.key] = self._stages.encode(request)
        except Exception as error:  # raised by the fusion that needs it, where the caller waits
            self._kept[request.key] = error

    def fuse_here(self, request: FuseRequest, keys: Sequence[str]) -> FusionOutput:
        encoded = []
        for key in keys:
            kept = self._kept[key]
            if isinstance(kept, Exception):
                raise kept
            encoded.append(kept)
        return self._stages.fuse(request, encoded)

    def forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            self._kept.pop(key, None)


StageActor = ray.remote(StageWorker)
