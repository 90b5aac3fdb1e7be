"""Conventions of the aiMotive reader, proved on a real session."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import points_in_box
from perception.core.messages import CameraFrame, LidarSweep, RadarScan, SweepMotion, Unreadable
from perception.sources.aimotive import AiMotiveSource
from tests.golden.image_edges import edge_scores

pytestmark = pytest.mark.data
F64 = NDArray[np.float64]

EGO_MPS = 30.15
"""Forward speed, from the Doppler of standing targets (asserted below)."""


@pytest.fixture(scope="module")
def source(drive_data: Path) -> AiMotiveSource:
    return AiMotiveSource(drive_data / "aimotive-night")


@pytest.fixture(scope="module")
def messages(source: AiMotiveSource) -> list[object]:
    return list(source.messages())


def _hits(source: AiMotiveSource, scan: LidarSweep | RadarScan, margin_m: float, flip: float = 1.0) -> int:
    labels = source.labels(scan.capture_ns)
    assert labels is not None
    points = scan.points_m.astype(np.float64) * [1.0, 1.0, flip]
    ego = transform_points(source.rig[scan.sensor].ego_SE3_sensor, points)
    rotations = quaternion_to_rotation(labels.quaternion_wxyz)
    boxes = zip(labels.center_m, labels.size_m + 2 * margin_m, rotations, strict=True)
    return sum(bool(points_in_box(ego, *box).any()) for box in boxes)


def test_every_frame_is_there(source: AiMotiveSource, messages: list[object]) -> None:
    assert len(source.label_times_ns) == 15
    assert len(messages) == 15 * 7
    assert not any(isinstance(m, Unreadable) for m in messages)


def test_boxes_hold_lidar_points(source: AiMotiveSource, messages: list[object]) -> None:
    sweeps = [m for m in messages if isinstance(m, LidarSweep)]
    assert sum(_hits(source, sweep, 0.0) for sweep in sweeps) >= 112


def test_boxes_hold_radar_returns_only_with_elevation_downwards(source: AiMotiveSource, messages: list[object]) -> None:
    scans = [m for m in messages if isinstance(m, RadarScan)]
    for name in ("F_LRR_C", "B_LRR_C"):
        own = [scan for scan in scans if scan.sensor == name]
        right, flipped = (sum(_hits(source, scan, 0.7, flip) for scan in own) for flip in (1.0, -1.0))
        assert right >= 38
        assert flipped < right / 2


def test_standing_targets_show_the_ego_speed(source: AiMotiveSource, messages: list[object]) -> None:
    scans = [m for m in messages if isinstance(m, RadarScan)]
    for scan in scans[:4]:
        rotation = source.rig[scan.sensor].ego_SE3_sensor[:3, :3]
        ahead = (scan.points_m / np.linalg.norm(scan.points_m, axis=1, keepdims=True)) @ rotation.T
        speeds = -scan.radial_mps / ahead[:, 0]
        assert np.count_nonzero(np.abs(speeds - EGO_MPS) < 0.5) >= 15


def test_sweeps_are_raw_and_arrive_after_their_last_point(source: AiMotiveSource, messages: list[object]) -> None:
    """Seen from the lidar, points lie on its beams only if nothing of the ego motion has been taken out."""
    sweep = next(m for m in messages if isinstance(m, LidarSweep))
    assert sweep.motion is SweepMotion.RAW
    assert sweep.point_offset_ns is not None
    assert -69e6 < sweep.point_offset_ns.min() < -67e6
    assert 32e6 < sweep.point_offset_ns.max() < 33e6
    assert sweep.arrival_ns >= sweep.capture_ns + int(sweep.point_offset_ns.max())
    offset_s = sweep.point_offset_ns / 1e9
    forward = invert(source.rig[sweep.sensor].ego_SE3_sensor)[:3, :3] @ [EGO_MPS, 0.0, 0.0]

    def spread(share: float) -> float:
        points = sweep.points_m + share * offset_s[:, None] * forward
        elevation = np.degrees(np.arcsin(points[:, 2] / np.linalg.norm(points, axis=1)))
        share_of_bin = np.histogram(elevation, np.arange(-26, 16, 0.01))[0] / len(points)
        filled = share_of_bin[share_of_bin > 0]
        return float(-np.sum(filled * np.log(filled)))

    entropy = {share: spread(share) for share in (-1.0, -0.1, 0.0, 0.1, 1.0)}
    assert min(entropy, key=lambda share: entropy[share]) == 0.0
    assert entropy[0.0] < 0.9 * entropy[0.1]


def test_body_origin_is_on_the_road(source: AiMotiveSource, messages: list[object]) -> None:
    sweep = next(m for m in messages if isinstance(m, LidarSweep))
    ego = transform_points(source.rig[sweep.sensor].ego_SE3_sensor, sweep.points_m.astype(np.float64))
    lane = np.abs(ego[:, 1]) < 1.5
    ahead = ego[lane & (ego[:, 0] > 5) & (ego[:, 0] < 10), 2]
    behind = ego[lane & (ego[:, 0] < -5) & (ego[:, 0] > -10), 2]
    assert abs(np.median(ahead)) < 0.06
    assert abs(np.median(behind)) < 0.06


@pytest.mark.parametrize("name", ["F_MIDLONGRANGECAM_CL", "M_FISHEYE_L", "M_FISHEYE_R"])
def test_points_fall_on_image_edges(source: AiMotiveSource, messages: list[object], name: str) -> None:
    """Pinhole and both fisheyes; the rear camera sees a dark motorway without an edge."""
    sensor = source.rig[name]
    assert sensor.camera is not None
    frames = {m.capture_ns: m for m in messages if isinstance(m, CameraFrame) and m.sensor == name}
    scores = np.zeros(13)
    for sweep in [m for m in messages if isinstance(m, LidarSweep)][:6]:
        assert sweep.point_offset_ns is not None
        ego = transform_points(source.rig[sweep.sensor].ego_SE3_sensor, sweep.points_m.astype(np.float64))
        ego[:, 0] += EGO_MPS * sweep.point_offset_ns / 1e9
        points = transform_points(invert(sensor.ego_SE3_sensor), ego)
        scores += edge_scores(sensor.camera, frames[sweep.capture_ns].data, points)
    assert abs(int(np.argmax(scores)) - 6) <= 1


@pytest.mark.parametrize(
    ("name", "count"),
    [("F_MIDLONGRANGECAM_CL", 3), ("B_MIDRANGECAM_C", 4), ("M_FISHEYE_L", 7), ("M_FISHEYE_R", 8)],
)
def test_boxes_project_into_the_cameras_that_see_them(source: AiMotiveSource, name: str, count: int) -> None:
    sensor = source.rig[name]
    labels = source.labels(source.label_times_ns[5])
    assert labels is not None
    assert sensor.camera is not None
    in_camera = transform_points(invert(sensor.ego_SE3_sensor), labels.center_m)
    _, is_visible = sensor.camera.project(in_camera)
    assert np.count_nonzero(is_visible) == count
    # The van that the ego overtakes on its right.
    (van,) = np.flatnonzero(np.hypot(*labels.center_m[:, :2].T) < 5)
    assert labels.center_m[van, 1] < -3
    assert bool(is_visible[van]) == (name == "M_FISHEYE_R")
