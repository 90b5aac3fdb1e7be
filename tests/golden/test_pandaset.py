"""Conventions of the PandaSet reader, proved on a real sequence."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from perception.core.geometry import (
    interpolate_se3,
    invert,
    quaternion_from_yaw,
    quaternion_to_rotation,
    transform_points,
)
from perception.core.labels import Labels, points_in_box
from perception.core.messages import CameraFrame, EgoState, LidarSweep, SweepMotion, Unreadable
from perception.core.taxonomy import CLASS_INDEX
from perception.sources.allowlist_pickle import load_table
from perception.sources.pandaset import PandaSetSource
from perception.sources.pandaset_files import read_points
from tests.golden.image_edges import edge_scores

pytestmark = pytest.mark.data
F64 = NDArray[np.float64]


@pytest.fixture(scope="module")
def root(drive_data: Path) -> Path:
    return drive_data / "pandaset-002"


@pytest.fixture(scope="module")
def source(root: Path) -> PandaSetSource:
    return PandaSetSource(root)


@pytest.fixture(scope="module")
def messages(source: PandaSetSource) -> list[object]:
    return list(source.messages())


@pytest.fixture(scope="module")
def poses(messages: list[object]) -> dict[int, F64]:
    return {m.capture_ns: m.world_SE3_ego for m in messages if isinstance(m, EgoState) and m.world_SE3_ego is not None}


def _sweeps(messages: list[object], time_ns: int, name: str | None = None) -> list[LidarSweep]:
    sweeps = [m for m in messages if isinstance(m, LidarSweep) and m.capture_ns == time_ns]
    return [sweep for sweep in sweeps if name in (None, sweep.sensor)]


def _ego_points(source: PandaSetSource, sweeps: list[LidarSweep]) -> F64:
    moved = [transform_points(source.rig[s.sensor].ego_SE3_sensor, s.points_m.astype(np.float64)) for s in sweeps]
    return np.concatenate(moved)


def _counts(points_m: F64, labels: Labels) -> NDArray[np.int64]:
    rotations = quaternion_to_rotation(labels.quaternion_wxyz)
    boxes = zip(labels.center_m, labels.size_m, rotations, strict=True)
    return np.array([points_in_box(points_m, *box).sum() for box in boxes])


def test_every_frame_is_there(source: PandaSetSource, messages: list[object]) -> None:
    assert len(source.label_times_ns) == 8
    assert len(source.rig.sensors) == 8
    assert sum(isinstance(m, LidarSweep) for m in messages) == 16
    assert sum(isinstance(m, CameraFrame) for m in messages) == 48
    assert not any(isinstance(m, Unreadable) for m in messages)


def test_raw_cuboids_of_frame_43_hold_points(root: Path) -> None:
    """World frame, heading along the box's y axis, both lidars' cuboids: 103 of 119 hold points."""
    points = read_points(root / "002/lidar/43.pkl.gz").points_world_m
    table = load_table(root / "002/annotations/cuboids/43.pkl.gz")
    assert len(table["uuid"]) == 119
    rotations = quaternion_to_rotation(quaternion_from_yaw(table["yaw"]))
    hit = 0
    for row, rotation in enumerate(rotations):
        center = np.array([table[f"position.{axis}"][row] for axis in "xyz"])
        size = np.array([table[f"dimensions.{axis}"][row] for axis in "xyz"])
        hit += bool(points_in_box(points, center, size, rotation).any())
    assert hit >= 103


def test_labels_hold_points(source: PandaSetSource, messages: list[object]) -> None:
    for time in source.label_times_ns:
        labels = source.labels(time)
        assert labels is not None
        counts = _counts(_ego_points(source, _sweeps(messages, time)), labels)
        assert len(labels) == 94
        assert np.count_nonzero(counts) >= 80
        assert counts.sum() > 38_000


def test_boxes_stand_on_the_road(source: PandaSetSource) -> None:
    labels = source.labels(source.label_times_ns[3])
    assert labels is not None
    is_near = np.hypot(*labels.center_m[:, :2].T) < 15
    bottom = labels.center_m[is_near, 2] - labels.size_m[is_near, 2] / 2
    assert abs(np.median(bottom)) < 0.1


def test_vehicles_move_along_their_heading(source: PandaSetSource) -> None:
    labels = source.labels(source.label_times_ns[3])
    assert labels is not None
    speed = np.hypot(*labels.velocity_mps.T)
    is_moving = (speed > 2) & (labels.class_index >= 0) & (labels.class_index < CLASS_INDEX["pedestrian"])
    heading = np.stack([np.cos(labels.yaw_rad), np.sin(labels.yaw_rad)], axis=1)
    cosine = np.sum(heading * labels.velocity_mps, axis=1)[is_moving] / speed[is_moving]
    assert len(cosine) >= 20
    assert cosine.min() > 0.98


def test_ego_drives_forward_at_the_speed_of_its_gps(root: Path, messages: list[object]) -> None:
    fixes = json.loads((root / "002/meta/gps.json").read_text())
    gps_mps = [np.hypot(fix["xvel"], fix["yvel"]) for fix in fixes[39:49]]
    velocity = np.array([m.velocity_mps for m in messages if isinstance(m, EgoState)])
    assert np.abs(velocity[:, 0] - gps_mps).max() < 0.1
    assert np.abs(velocity[:, 1]).max() < 0.15


def test_points_are_compensated(source: PandaSetSource, messages: list[object]) -> None:
    """The lidars see a standing surface at different times, yet in the same place: the ego motion has been taken out.

    Were the points raw, the forward lidar's would lie off by the way that the ego drove in between.
    """
    for time in (source.label_times_ns[0], source.label_times_ns[-1]):
        wide, ahead = (_standing(source, messages, time, name) for name in ("pandar64", "pandar_gt"))
        (state,) = [m for m in messages if isinstance(m, EgoState) and m.capture_ns == time]
        assert state.velocity_mps is not None
        speed = float(state.velocity_mps[0])
        shift_m, delay_s = _forward_shift(wide, ahead)
        assert abs(speed * delay_s) > 0.1
        assert abs(shift_m) < 0.2 * abs(speed * delay_s)


def _standing(source: PandaSetSource, messages: list[object], time_ns: int, name: str) -> tuple[F64, F64]:
    """Points (N, 3) in the ego frame and their times (N,) in seconds, without moving objects, the far and the ego."""
    (sweep,), labels = _sweeps(messages, time_ns, name), source.labels(time_ns)
    assert labels is not None
    assert sweep.motion is SweepMotion.COMPENSATED
    assert sweep.point_offset_ns is not None
    points = _ego_points(source, [sweep])
    distance = np.linalg.norm(points, axis=1)
    keep = (distance > 4) & (distance < 80)
    for row, rotation in enumerate(quaternion_to_rotation(labels.quaternion_wxyz)):
        if np.hypot(*labels.velocity_mps[row]) > 0.3:
            keep &= ~points_in_box(points, labels.center_m[row], labels.size_m[row] + 2.0, rotation)
    return points[keep], sweep.point_offset_ns[keep] / 1e9


def _forward_shift(fixed: tuple[F64, F64], moved: tuple[F64, F64]) -> tuple[float, float]:
    """How far ahead `moved` must go to lie on the surfaces of `fixed`, and how much later it saw them, seconds.

    Robust point-to-plane fit of a translation (iteratively reweighted with Cauchy weights).
    """
    chosen = np.random.default_rng(0).choice(len(moved[0]), 20_000, replace=False)
    queries, times = moved[0][chosen], moved[1][chosen]
    distance, nearest = cKDTree(fixed[0]).query(queries, k=10, distance_upper_bound=0.8)
    is_found = np.isfinite(distance).all(axis=1)
    indices = np.asarray(nearest)[is_found]
    patches = fixed[0][indices]
    centers = patches.mean(axis=1)
    _, extent, axes = np.linalg.svd(patches - centers[:, None], full_matrices=False)
    is_flat = (extent[:, 2] < 0.06) & (extent[:, 1] > 0.15)
    normals = axes[is_flat, 2]
    error = np.einsum("ni,ni->n", queries[is_found][is_flat] - centers[is_flat], normals)
    shift, residual = np.zeros(3), error
    for _ in range(15):
        scale = 2 * 1.48 * np.median(np.abs(residual))
        weight = 1 / np.sqrt(1 + (residual / scale) ** 2)
        shift = np.linalg.lstsq(normals * weight[:, None], -error * weight)[0]
        residual = error + normals @ shift
    delay = times[is_found][is_flat] - fixed[1][indices[is_flat]].mean(axis=1)
    return float(shift[0]), float(np.median(delay))


@pytest.mark.parametrize("name", ["front_camera", "front_left_camera", "back_camera"])
def test_points_fall_on_image_edges(
    source: PandaSetSource, messages: list[object], poses: dict[int, F64], name: str
) -> None:
    """Not for the side cameras on the right: there near edges are off by some 0.15 m along the road in the data."""
    sensor = source.rig[name]
    assert sensor.camera is not None
    frames = [m for m in messages if isinstance(m, CameraFrame) and m.sensor == name]
    times = sorted(poses)
    scores = np.zeros(13)
    for time, frame in zip(source.label_times_ns, frames, strict=True):
        before = times[times.index(time) - 1]
        share = (frame.capture_ns - before) / (time - before)
        world_SE3_camera = interpolate_se3(poses[before], poses[time], share) @ sensor.ego_SE3_sensor
        camera_SE3_ego = invert(world_SE3_camera) @ poses[time]
        points = transform_points(camera_SE3_ego, _ego_points(source, _sweeps(messages, time)))
        scores += edge_scores(sensor.camera, frame.data, points)
    assert abs(int(np.argmax(scores)) - 6) <= 1
