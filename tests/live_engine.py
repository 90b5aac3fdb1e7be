"""An engine whose frames take their time and say what they saw, for tests of live runs."""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from perception.core.ports import FeatureHandle
from perception.core.results import Detections, PathHints
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo


@dataclass(frozen=True)
class Handle:
    key: str


class SlowEngine:
    """Takes `seconds` for each frame; detects a box for each camera, further away the later it is."""

    placement = "local"

    def __init__(self, seconds: float, *, model_hash: str = "0" * 16) -> None:
        self.model = ModelInfo(name="slow", hash=model_hash, trained=False)
        self._seconds = seconds

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        return Handle(request.key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        time.sleep(self._seconds)
        count = len(request.cameras)
        place = np.arange(count) * 10.0 + request.reference_ns % 1_000_000_000 / 1e9
        detections = Detections(
            class_index=np.zeros(count, dtype=np.int64),
            score=np.full(count, 0.9, dtype=np.float32),
            center_m=np.stack([place, np.zeros(count), np.zeros(count)], axis=1).astype(np.float32),
            size_m=np.ones((count, 3), dtype=np.float32),
            yaw_rad=np.zeros(count, dtype=np.float32),
            velocity_mps=np.ones((count, 2), dtype=np.float32),
            attribute_index=np.full(count, -1, dtype=np.int64),
            track_id=np.full(count, -1, dtype=np.int64),
        )
        hints = PathHints(
            confidence=np.ones(1, dtype=np.float32),
            waypoints_m=np.ones((1, 6, 2), dtype=np.float32),
            times_s=np.linspace(0.5, 3.0, 6, dtype=np.float32),
            target_speed_mps=1.0,
        )
        failures = {"CAM_FRONT": "broken"} if request.reference_ns // 50_000_000 % 7 == 0 else {}
        done: Future[FusionOutput] = Future()
        done.set_result(
            FusionOutput(detections=detections, path_hints=hints, failures=failures, stage_latency_ns={}, dense={})
        )
        return done

    def release(self, features: Sequence[FeatureHandle]) -> None: ...

    def close(self) -> None: ...
