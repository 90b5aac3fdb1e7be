"""Boxes bent into images: pinhole and fisheye, clipped where the camera sees nothing."""

import numpy as np
import pytest
from numpy.typing import NDArray

from perception.core.boxes import box_corners
from perception.core.cameras import CameraModel, Projection
from perception.core.geometry import se3
from perception.core.stages import CameraView
from perception.viewer.wires import PIECES, wire_strips

Float = NDArray[np.float64]

FORWARD = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""ego_R_camera of a camera that looks ahead."""


def _view(camera: CameraModel) -> CameraView:
    return CameraView(sensor="front", camera=camera, reference_SE3_camera=se3(FORWARD, (1.0, 0.0, 1.5)), age_ns=0)


def _camera(projection: Projection, focal_px: float) -> CameraModel:
    intrinsic = np.array([[focal_px, 0.0, 320.0], [0.0, focal_px, 240.0], [0.0, 0.0, 1.0]])
    coefficients = np.zeros(4) if projection is Projection.KANNALA_BRANDT else np.zeros(0)
    return CameraModel(width_px=640, height_px=480, intrinsic=intrinsic, projection=projection, distortion=coefficients)


def _box(x_m: float, y_m: float) -> Float:
    corners: Float = box_corners(np.array([[x_m, y_m, 1.0]]), np.array([[4.0, 2.0, 1.5]]), np.eye(3)[None])[0]
    return corners


def _bend_px(strip: Float) -> float:
    """How far the middle of a strip is from the straight line between its ends."""
    along = strip[-1] - strip[0]
    off = strip[len(strip) // 2] - strip[0]
    return float(abs(along[0] * off[1] - along[1] * off[0]) / np.hypot(*along))


def test_a_box_ahead_has_all_its_edges_and_a_pinhole_keeps_them_straight() -> None:
    strips = list(wire_strips(_view(_camera(Projection.PINHOLE, 300.0)), _box(15.0, 0.0)))
    assert [len(strip) for strip in strips] == [PIECES + 1] * 12
    assert max(map(_bend_px, strips)) < 1e-6
    # The rear face is 12 m ahead of the camera and 2 m wide: 50 px at this focal length.
    corners = np.concatenate(strips)
    assert np.ptp(corners[:, 0]) == pytest.approx(50.0)


def test_a_fisheye_bends_edges_beside_it_that_a_pinhole_cannot_see() -> None:
    beside = _box(3.2, 3.0)
    assert len(list(wire_strips(_view(_camera(Projection.PINHOLE, 150.0)), beside))) < 12
    strips = list(wire_strips(_view(_camera(Projection.KANNALA_BRANDT, 150.0)), beside))
    whole = [strip for strip in strips if len(strip) == PIECES + 1]
    assert len(whole) == 12
    assert max(map(_bend_px, whole)) > 3.0


def test_an_edge_that_leaves_the_image_is_cut_at_its_border() -> None:
    strips = list(wire_strips(_view(_camera(Projection.PINHOLE, 300.0)), _box(8.0, 6.0)))
    points = np.concatenate(strips)
    assert len(strips) > 0
    assert any(2 <= len(strip) <= PIECES for strip in strips)
    assert points[:, 0].min() >= -0.5
    assert points[:, 0].max() < 639.5


def test_a_box_behind_draws_nothing() -> None:
    assert list(wire_strips(_view(_camera(Projection.PINHOLE, 300.0)), _box(-10.0, 0.0))) == []
