"""Rig, messages, labels and results: what makes no sense is refused, hashes are stable."""

import numpy as np
import pytest

from perception.core.bundle import CloseReason, SensorBundle, Stamp
from perception.core.cameras import CameraModel
from perception.core.geometry import quaternion_to_rotation, se3_from_yaw
from perception.core.labels import points_in_box
from perception.core.messages import LidarSweep, RadarScan, SweepMotion
from perception.core.results import Detections
from perception.core.rig import MAX_CAMERAS, Modality, Sensor, SensorRig


def camera(name: str = "camera", *, focal: float = 500.0) -> Sensor:
    model = CameraModel(width_px=640, height_px=480, intrinsic=np.diag([focal, focal, 1.0]))
    return Sensor(
        name=name,
        modality=Modality.CAMERA,
        ego_SE3_sensor=se3_from_yaw(0.3, (1.0, 0.0, 1.5)),
        frequency_hz=12.0,
        camera=model,
    )


def lidar(name: str = "lidar", yaw: float = 0.0) -> Sensor:
    return Sensor(name=name, modality=Modality.LIDAR, ego_SE3_sensor=se3_from_yaw(yaw), frequency_hz=20.0)


def test_a_rig_finds_its_sensors() -> None:
    rig = SensorRig(sensors=(camera(), lidar()))
    assert "lidar" in rig
    assert "radar" not in rig
    assert rig["lidar"].period_ns == 50_000_000
    assert [sensor.name for sensor in rig.of(Modality.CAMERA)] == ["camera"]
    with pytest.raises(KeyError, match="it has camera, lidar"):
        rig["radar"]


def test_the_calibration_hash_follows_the_calibration_alone() -> None:
    rig = SensorRig(sensors=(camera(), lidar()))
    assert rig.calibration_hash() == SensorRig(sensors=(camera(), lidar())).calibration_hash()
    others = [
        SensorRig(sensors=(camera(focal=500.1), lidar())),
        SensorRig(sensors=(camera(), lidar(yaw=1e-4))),
        SensorRig(sensors=(camera(), lidar(name="top"))),
        SensorRig(sensors=(camera(),)),
    ]
    assert len({rig.calibration_hash(), *(other.calibration_hash() for other in others)}) == 5
    noisy = SensorRig(sensors=(camera(), lidar(yaw=1e-13)))
    assert noisy.calibration_hash() == rig.calibration_hash()


def test_rigs_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="differ"):
        SensorRig(sensors=(lidar(), lidar()))
    with pytest.raises(ValueError, match="at least one"):
        SensorRig(sensors=())
    with pytest.raises(ValueError, match="at most"):
        SensorRig(sensors=tuple(camera(f"camera {i}") for i in range(MAX_CAMERAS + 1)))


def test_sensors_that_make_no_sense_are_refused() -> None:
    mirrored = np.diag([1.0, -1.0, 1.0, 1.0])
    for mount in (mirrored, np.full((4, 4), np.nan), np.eye(3)):
        with pytest.raises(ValueError, match="sensor lidar"):
            Sensor(name="lidar", modality=Modality.LIDAR, ego_SE3_sensor=mount, frequency_hz=20.0)
    with pytest.raises(ValueError, match="intrinsics"):
        Sensor(name="camera", modality=Modality.CAMERA, ego_SE3_sensor=np.eye(4), frequency_hz=20.0)
    with pytest.raises(ValueError, match="frequency_hz"):
        Sensor(name="lidar", modality=Modality.LIDAR, ego_SE3_sensor=np.eye(4), frequency_hz=0.0)


def test_point_messages_check_shape_and_dtype() -> None:
    points, column = np.zeros((4, 3), np.float32), np.zeros(4, np.float32)
    with pytest.raises(ValueError, match="points_m"):
        LidarSweep(
            sensor="lidar",
            capture_ns=0,
            arrival_ns=0,
            points_m=points.astype(np.float64),
            intensity=column,
            motion=SweepMotion.RAW,
        )
    with pytest.raises(ValueError, match="point_offset_ns"):
        LidarSweep(
            sensor="lidar",
            capture_ns=0,
            arrival_ns=0,
            points_m=points,
            intensity=column,
            motion=SweepMotion.RAW,
            point_offset_ns=np.zeros(3, np.int32),
        )
    with pytest.raises(ValueError, match="is_valid"):
        RadarScan(
            sensor="radar",
            capture_ns=0,
            arrival_ns=0,
            points_m=points,
            rcs_dbsm=column,
            radial_mps=column,
            compensated_mps=None,
            is_valid=np.ones(4, np.int8),
        )


def test_points_are_in_a_turned_box_up_to_its_faces() -> None:
    rotation = quaternion_to_rotation([np.cos(np.pi / 8), 0, 0, np.sin(np.pi / 8)])
    center, size = np.array([10.0, 2.0, 1.0]), np.array([4.0, 2.0, 1.5])
    local = np.array([[2, 0, 0], [0, 1, 0], [0, 0, 0.75], [2.01, 0, 0], [0, 1.01, 0], [0, 0, -0.76]]) * 0.9999
    inside = points_in_box(local @ rotation.T + center, center, size, rotation)
    assert inside.tolist() == [True, True, True, False, False, False]


def test_detections_are_rows() -> None:
    assert len(Detections.empty()) == 0
    assert list(Detections.empty()) == []
    with pytest.raises(ValueError, match="center_m"):
        Detections(**{name: getattr(Detections.empty(), name) for name in Detections.__slots__ if name != "center_m"}
                   | {"center_m": np.zeros((1, 3), np.float32)})  # fmt: skip


def test_a_bundle_tells_ages_and_slack() -> None:
    stamp = Stamp(arrival_ns=30, index=0, sensor="camera", capture_ns=12)
    bundle = SensorBundle(
        sequence=0,
        reference_ns=10,
        reference_sensor="lidar",
        opened_ns=20,
        deadline_ns=170,
        closed_ns=180,
        reason=CloseReason.DEADLINE,
        hits={"camera": stamp},
        misses=("lidar",),
    )
    assert bundle.age_ns("camera") == -2
    assert bundle.slack_ns == 0
    with pytest.raises(KeyError):
        bundle.age_ns("lidar")
