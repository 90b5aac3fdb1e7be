"""Made-up results with every field in use, for tests, benchmarks and checks of third-party queues."""

import numpy as np

from perception.core.faults import FaultKind, SensorFault, Severity
from perception.core.geometry import se3_from_yaw
from perception.core.motion import MotionSource
from perception.core.results import NO_TRACK, Detections, PathHints, PerceptionResult, Provenance, SensorStatus
from perception.core.rig import Modality
from perception.core.taxonomy import ATTRIBUTES, CLASSES


def sample_result(
    rng: np.random.Generator, *, sequence: int, run_id: str = "run-0", detections: int = 60, modes: int = 6
) -> PerceptionResult:
    """A plausible result of `detections` boxes and `modes` path hints, drawn from `rng`."""
    weights = np.sort(rng.random(modes).astype(np.float32))[::-1]
    return PerceptionResult(
        drive_id="sample-drive",
        run_id=run_id,
        sequence=sequence,
        reference_ns=1_600_000_000_000_000_001 + sequence * 50_000_000,
        published_ns=1_600_000_000_090_000_003 + sequence * 50_000_000,
        detections=_sample_detections(rng, detections),
        path_hints=PathHints(
            confidence=weights / max(float(weights.sum()), 1e-6),
            waypoints_m=rng.normal(0, 20, (modes, 6, 2)).astype(np.float32),
            times_s=np.arange(1, 7, dtype=np.float32) * np.float32(0.5),
            target_speed_mps=float(rng.uniform(0, 30)),
        ),
        sensors=(
            SensorStatus(
                name="camera_front",
                modality=Modality.CAMERA,
                present=True,
                age_ns=-12_345_678,
                alive=True,
                valid=True,
                frequency_hz=11.98,
            ),
            SensorStatus(
                name="lidar_top",
                modality=Modality.LIDAR,
                present=False,
                age_ns=None,
                alive=False,
                valid=False,
                frequency_hz=0.0,
                jitter_ns=1_250_000,
                faults=(
                    SensorFault(
                        kind=FaultKind.FROZEN.value,
                        since_ns=1_600_000_000_000_000_001,
                        severity=Severity.ERROR,
                        detail="the same 34688 points 5 times",
                    ),
                ),
                masked=True,
            ),
        ),
        world_SE3_ego=se3_from_yaw(float(rng.uniform(-3, 3)), rng.normal(0, 1000, 3)),
        provenance=Provenance(
            model="tiny",
            model_hash="0123456789abcdef",
            trained=False,
            calibration_hash="fedcba9876543210",
            ego_motion=MotionSource.POSES,
            placement="local",
            deadline_slack_ns=40_000_000,
            stage_latency_ns={"encode": 21_000_000, "fuse": 9_500_000},
            dropped={"late": 2},
            restarts={"camera": 1},
            quarantined=("camera_left",),
            publication_slack_ns=-3_000_000,
            ladder_level=2,
            ladder_rung="2 cameras",
            ladder_change="up: 3 slow frames",
        ),
        ego_velocity_mps=(float(rng.uniform(0, 30)), float(rng.normal(0, 0.2))),
        ego_yaw_rate_radps=float(rng.normal(0, 0.3)),
        published_drive_ns=1_600_000_000_090_000_000 + sequence * 50_000_000,
        predicted_to_ns=1_600_000_000_090_000_000 + sequence * 50_000_000,
        degraded=bool(rng.random() < 0.5),
    )


def _sample_detections(rng: np.random.Generator, count: int) -> Detections:
    return Detections(
        class_index=rng.integers(0, len(CLASSES), count),
        score=np.sort(rng.random(count).astype(np.float32))[::-1],
        center_m=rng.normal(0, 30, (count, 3)).astype(np.float32),
        size_m=rng.uniform(0.3, 12, (count, 3)).astype(np.float32),
        yaw_rad=rng.uniform(-np.pi, np.pi, count).astype(np.float32),
        velocity_mps=rng.normal(0, 8, (count, 2)).astype(np.float32),
        attribute_index=rng.integers(-1, len(ATTRIBUTES), count),
        track_id=np.where(rng.random(count) < 0.2, NO_TRACK, rng.integers(0, 10_000, count)),
    )
