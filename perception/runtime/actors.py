"""The Ray actor that runs the model's stages."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray
import torch

from perception.config.schema import ModelChoice
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.pipeline.stages import Encoded, Stages, open_model
from perception.runtime.direct_line import LineServer

WATCH = "watch"
"""The concurrency group in which an actor answers while it works."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """What an actor says of itself once its model is loaded. node_id: the Ray node that it runs on."""

    info: ModelInfo
    pid: int
    node_id: str


class StageWorker:
    """Stages in a process of their own: a plain class that Ray runs as an actor.

    `split`: `encode` and `fuse`, features travel. `colocated`: `work`, features stay here, by number.
    """

    _stages: Stages

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._kept: dict[int, Encoded | Exception] = {}
        self._busy_since_s: float | None = None

    def load(self, model: ModelChoice) -> Ready:
        """Load the model; not in the constructor, whose errors Ray hands on as text only."""
        # Ray sets OMP_NUM_THREADS=1 for actors that reserve no core; OpenMP's count holds for the thread that sets it.
        torch.set_num_threads(self._threads)
        self._stages = Stages(open_model(model))
        return Ready(info=self._stages.info, pid=os.getpid(), node_id=ray.get_runtime_context().get_node_id())

    def listen(self) -> str:
        """Take calls of `work` over a socket as well; its path on this machine."""
        self._line = LineServer(self.work, lambda: torch.set_num_threads(self._threads))
        return self._line.path

    @ray.method(concurrency_group=WATCH)
    def beat(self, after_s: float) -> float:
        """A sign of life after so long: how many seconds the call at work has taken yet, 0 where there is none."""
        time.sleep(after_s)
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def encode(self, request: EncodeRequest) -> Encoded:
        self._busy_since_s = time.monotonic()
        try:
            return self.encode_one(request)
        finally:
            self._busy_since_s = None

    def fuse(self, request: FuseRequest, *encoded: Encoded) -> FusionOutput:
        self._busy_since_s = time.monotonic()
        try:
            return self._stages.fuse(request, encoded)
        finally:
            self._busy_since_s = None

    def work(
        self,
        encode: Sequence[tuple[int, EncodeRequest]],
        given: Mapping[int, Encoded],
        fuse: FuseRequest | None,
        numbers: Sequence[int],
        forget: Sequence[int],
    ) -> FusionOutput | None:
        """Encode and keep, keep what is given, then fuse the features of `numbers` if asked to, then forget."""
        try:
            self._kept.update(given)
            for number, request in encode:
                self._busy_since_s = time.monotonic()
                try:
                    self._kept[number] = self.encode_one(request)
                except Exception as error:  # raised by the fusion that needs it, where the caller waits
                    self._kept[number] = error
            self._busy_since_s = time.monotonic()
            return self._stages.fuse(fuse, [self._take(number) for number in numbers]) if fuse is not None else None
        finally:
            self._busy_since_s = None
            for number in forget:
                self._kept.pop(number, None)

    def encode_one(self, request: EncodeRequest) -> Encoded:
        return self._stages.encode(request)

    def _take(self, number: int) -> Encoded:
        kept = self._kept[number]
        if isinstance(kept, Exception):
            raise kept
        return kept
