"""Boxes as wire frames: in the ego frame, and bent into a camera's image."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from perception.core.boxes import EDGES, box_corners
from perception.core.geometry import invert, quaternion_to_rotation, rotation_from_yaw, transform_points
from perception.core.labels import Labels
from perception.core.results import Detections
from perception.core.stages import CameraView

F64 = NDArray[np.float64]

PIECES = 12
"""Pieces of an edge: enough for the border of an image to clip it and a fisheye to bend it."""


def detection_corners(detections: Detections) -> F64:
    """Corners (N, 8, 3) of the boxes in the ego frame, as `box_corners` orders them."""
    if not len(detections):
        return np.zeros((0, 8, 3))
    rotations = np.stack([rotation_from_yaw(float(yaw)) for yaw in detections.yaw_rad])
    return box_corners(detections.center_m, detections.size_m, rotations)


def label_corners(labels: Labels) -> F64:
    """Corners (K, 8, 3) of labelled boxes in the ego frame."""
    if not len(labels):
        return np.zeros((0, 8, 3))
    return box_corners(labels.center_m, labels.size_m, quaternion_to_rotation(labels.quaternion_wxyz))


def wire_strips(view: CameraView, corners: NDArray[np.floating]) -> Iterator[F64]:
    """The visible parts of a box's edges in the camera's full-size image: polylines (P, 2) of pixels, P >= 2.

    corners: (8, 3) in the ego frame at the reference. Every camera model bends them as it bends the world.
    """
    share = np.linspace(0.0, 1.0, PIECES + 1)[:, None]
    edges = np.concatenate([corners[a] + share * (corners[b] - corners[a]) for a, b in EDGES])
    pixels, is_visible = view.camera.project(transform_points(invert(view.reference_SE3_camera), edges))
    for start in range(0, len(edges), PIECES + 1):
        yield from _runs(pixels[start : start + PIECES + 1], is_visible[start : start + PIECES + 1])


def _runs(pixels: F64, is_visible: NDArray[np.bool_]) -> Iterator[F64]:
    """The stretches of two or more visible points."""
    if is_visible.all():
        yield pixels
        return
    bounds = np.flatnonzero(np.diff(np.r_[False, is_visible, False]))
    for first, end in zip(bounds[::2], bounds[1::2], strict=True):
        if end - first > 1:
            yield pixels[first:end]
