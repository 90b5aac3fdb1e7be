"""Conventions of the KITTI reader, proved on real frames."""

from pathlib import Path

import numpy as np
import pytest

from perception.core.geometry import invert, quaternion_to_rotation, transform_points
from perception.core.labels import points_in_box
from perception.core.messages import CameraFrame, LidarSweep
from perception.sources.kitti import PERIOD_NS, KittiSource

pytestmark = pytest.mark.data

COUNTS = {0: {"Pedestrian": 376}, 1: {"Truck": 70, "Car": 9, "Cyclist": 18}, 2: {"Misc": 1351, "Car": 67}}


@pytest.fixture(scope="module")
def root(drive_data: Path) -> Path:
    return drive_data / "kitti-object"


@pytest.fixture(scope="module")
def source(root: Path) -> KittiSource:
    return KittiSource(root)


def test_boxes_hold_their_points(source: KittiSource) -> None:
    sweeps = [m for m in source.messages() if isinstance(m, LidarSweep)]
    assert len(sweeps) == 3
    for frame, sweep in enumerate(sweeps):
        labels = source.labels(sweep.capture_ns)
        assert labels is not None
        ego = transform_points(source.rig["velodyne"].ego_SE3_sensor, sweep.points_m)
        rotations = quaternion_to_rotation(labels.quaternion_wxyz)
        boxes = zip(labels.center_m, labels.size_m, rotations, strict=True)
        counts = [int(points_in_box(ego, *box).sum()) for box in boxes]
        assert dict(zip(labels.category, counts, strict=True)) == pytest.approx(COUNTS[frame], abs=3)


def test_the_ground_is_at_zero(source: KittiSource) -> None:
    for sweep in (m for m in source.messages() if isinstance(m, LidarSweep)):
        ego = transform_points(source.rig["velodyne"].ego_SE3_sensor, sweep.points_m)
        is_near = (np.abs(ego[:, 1]) < 2) & (ego[:, 0] > 5) & (ego[:, 0] < 12) & (ego[:, 2] < 0.3)
        assert abs(np.median(ego[is_near, 2])) < 0.15


def test_boxes_project_onto_their_labelled_rectangles(root: Path, source: KittiSource) -> None:
    """The corners, seen by the frame's own camera, span the rectangle that people drew (columns 5 to 8)."""
    frames = [m for m in source.messages() if isinstance(m, CameraFrame)]
    for number, frame in enumerate(frames):
        labels = source.labels(number * PERIOD_NS)
        camera = frame.calibration or source.rig["image_2"].camera
        assert labels is not None
        assert camera is not None
        lines = (root / f"training/label_2/{number:06d}.txt").read_text().splitlines()
        rectangles = [[float(v) for v in line.split()[4:8]] for line in lines if not line.startswith("DontCare")]
        mount = source.rig["image_2"].ego_SE3_sensor if frame.ego_SE3_sensor is None else frame.ego_SE3_sensor
        camera_SE3_ego = invert(mount)
        for row, rectangle in enumerate(rectangles):
            corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)])
            rotation = quaternion_to_rotation(labels.quaternion_wxyz[row])
            ego = corners * labels.size_m[row] @ rotation.T + labels.center_m[row]
            pixels, _ = camera.project(transform_points(camera_SE3_ego, ego))
            spanned = np.concatenate([pixels.min(axis=0), pixels.max(axis=0)])
            assert np.abs(spanned - rectangle).max() < 12


def test_the_first_frame_fits_the_rig_and_the_others_bring_their_camera(source: KittiSource) -> None:
    frames = [m for m in source.messages() if isinstance(m, CameraFrame)]
    sizes = [(f.calibration.width_px, f.calibration.height_px) if f.calibration else None for f in frames]
    assert sizes == [None, (1242, 375), (1242, 375)]
    assert [frame.ego_SE3_sensor is None for frame in frames] == [True, False, False]
    assert any("0.92 degrees" in note for note in source.notes)
