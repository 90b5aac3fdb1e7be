"""The engine in this process: every call does its work before it returns."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import torch

from perception.core.ports import FeatureHandle
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.models.inference import InferenceModel
from perception.pipeline.stages import Encoded, Stages


@dataclass(frozen=True, slots=True)
class _LocalHandle:
    key: str
    encoded: Encoded


class LocalEngine:
    """Runs the stages in the calling thread, with `threads` threads of torch for the whole process."""

    placement = "local"

    def __init__(self, model: InferenceModel, *, threads: int) -> None:
        torch.set_num_threads(threads)
        self._stages = Stages(model)

    @property
    def model(self) -> ModelInfo:
        return self._stages.info

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return _LocalHandle(request.key, self._stages.encode(request))

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        future: Future[FusionOutput] = Future()
        encoded = [handle.encoded for handle in features if isinstance(handle, _LocalHandle)]
        try:
            future.set_result(self._stages.fuse(request, encoded))
        except Exception as error:  # the caller sees it where it waits, as with any other engine
            future.set_exception(error)
        return future

    def release(self, features: Sequence[FeatureHandle]) -> None:
        """Nothing to do: features go with their handles."""

    def close(self) -> None:
        """Nothing to stop."""
