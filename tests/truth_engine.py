"""An engine that knows the truth: what perfect perception scores, all the way through the service."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from perception.core.geometry import integrate_twist
from perception.core.labels import Labels
from perception.core.ports import FeatureHandle, Source
from perception.core.results import Detections, PathHints
from perception.core.stages import EncodeRequest, FuseRequest, FusionOutput, ModelInfo
from perception.evaluation.planning import STEPS_S

LATENCY_NS = 40_000_000


@dataclass(frozen=True)
class Handle:
    key: str


class TruthEngine:
    """Detects exactly the labels that count, as long as there is a lidar; takes the ego to drive on as it does."""

    placement = "truth"
    model = ModelInfo(name="truth", hash="0" * 16, trained=True)

    def __init__(self, drive: Source) -> None:
        self.drive = drive
        self.encoded: list[str] = []
        self.fused = 0

    def encode(self, request: EncodeRequest) -> FeatureHandle:
        self.encoded.append(request.key)
        return Handle(request.key)

    def fuse(self, request: FuseRequest, features: Sequence[FeatureHandle]) -> Future[FusionOutput]:
        assert len(features) == len(request.cameras) + len(request.lidars) + (request.radar_age_ns is not None)
        self.fused += 1
        labels = self.drive.labels(request.reference_ns)
        found = Detections.empty() if labels is None or not request.lidars else perfect(labels)
        arc = integrate_twist((request.speed_mps, 0.0), request.yaw_rate_radps, STEPS_S)[:, :2, 3]
        hints = PathHints(
            confidence=np.ones(1, dtype=np.float32),
            waypoints_m=arc[None].astype(np.float32),
            times_s=STEPS_S.astype(np.float32),
            target_speed_mps=request.speed_mps,
        )
        done: Future[FusionOutput] = Future()
        done.set_result(
            FusionOutput(
                detections=found,
                path_hints=hints,
                failures={},
                stage_latency_ns={"model_since_last_message": LATENCY_NS},
                dense={},
            )
        )
        return done

    def release(self, features: Sequence[FeatureHandle]) -> None: ...

    def close(self) -> None: ...


def perfect(labels: Labels) -> Detections:
    """Labels of the ten classes that a sensor hit, or whose points nobody counted, with scores from 0.99 down."""
    keep = (labels.class_index >= 0) & ((labels.num_lidar_points != 0) | (labels.num_radar_points > 0))
    count = int(keep.sum())
    return Detections(
        class_index=labels.class_index[keep],
        score=np.linspace(0.99, 0.9, count, dtype=np.float32),
        center_m=labels.center_m[keep].astype(np.float32),
        size_m=labels.size_m[keep].astype(np.float32),
        yaw_rad=labels.yaw_rad[keep].astype(np.float32),
        velocity_mps=labels.velocity_mps[keep].astype(np.float32),
        attribute_index=labels.attribute_index[keep],
        track_id=np.full(count, -1, dtype=np.int64),
    )
