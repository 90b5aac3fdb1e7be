"""Cameras of the synthetic drive: sky, road with lane marks, and shaded boxes painted from far to near."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel, Projection
from perception.core.errors import DriveError
from perception.core.geometry import invert, rotation_from_yaw, transform_points
from perception.core.taxonomy import CLASSES
from perception.sources.synthetic_ranging import BoxesAt
from perception.sources.synthetic_world import EGO_SPEED_MPS, LANE_M, ego_path

JPEG_QUALITY = 90
NEAR_M = 0.3
FAR_M = 90.0
_SUBPIXEL_BITS = 4
_MARK_WIDTH_M, _DASH_M, _DASH_PERIOD_M = 0.2, 3.0, 9.0

# Blue, green, red.
COLOURS: Final[dict[str, tuple[int, int, int]]] = {
    "car": (200, 120, 40),
    "truck": (60, 160, 220),
    "bus": (40, 200, 230),
    "trailer": (150, 150, 160),
    "construction_vehicle": (30, 190, 250),
    "pedestrian": (90, 60, 200),
    "motorcycle": (60, 60, 60),
    "bicycle": (70, 180, 70),
    "traffic_cone": (30, 110, 250),
    "barrier": (220, 220, 230),
}
_SKY_TOP, _SKY_BOTTOM = (225, 180, 130), (245, 235, 225)
_GROUND_FAR, _GROUND_NEAR = (135, 140, 138), (85, 88, 90)
_MARK = (235, 238, 238)

# Corners by sign along length, width and height; faces wind around their outward normal.
_SIGNS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], dtype=np.float64)
_FACES = ((4, 5, 7, 6), (0, 2, 3, 1), (2, 6, 7, 3), (0, 1, 5, 4), (1, 3, 7, 5))
_NORMALS = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]], dtype=np.float64)
_SHADES = (0.85, 0.7, 0.8, 0.6, 1.0)

F64 = NDArray[np.float64]
Image = NDArray[np.uint8]


def lane_marks(world_SE3_start: F64, length_m: float) -> F64:
    """Quadrilaterals (Q, 4, 3) on the ground in the world: dashes beside the ego's lane, lines at the road's edges."""
    quads = []
    for side_m, step_m, mark_m in (
        (-LANE_M / 2, _DASH_PERIOD_M, _DASH_M),
        (LANE_M / 2, _DASH_PERIOD_M, _DASH_M),
        (-LANE_M * 1.5, _DASH_M, _DASH_M),
        (LANE_M * 1.5, _DASH_M, _DASH_M),
    ):
        starts = np.arange(-FAR_M, length_m + FAR_M, step_m)
        ends = ego_path(world_SE3_start, np.stack([starts, starts + mark_m], axis=1) / EGO_SPEED_MPS)
        left = ends[..., :3, 3] + ends[..., :3, 1] * (side_m + _MARK_WIDTH_M / 2)
        right = ends[..., :3, 3] + ends[..., :3, 1] * (side_m - _MARK_WIDTH_M / 2)
        quads.append(np.stack([left[:, 0], left[:, 1], right[:, 1], right[:, 0]], axis=1))
    return np.concatenate(quads)


class Painter:
    """Paints what one mounted camera sees. Raises DriveError unless it is a pinhole."""

    def __init__(self, name: str, camera: CameraModel, ego_SE3_camera: F64) -> None:
        if camera.projection is not Projection.PINHOLE:
            raise DriveError(f"{name}: the synthetic drive paints pinhole cameras only, not {camera.projection}")
        self._camera = camera
        self._camera_SE3_ego = invert(ego_SE3_camera)
        self._widest_slope = camera.width_px / camera.intrinsic[0, 0]
        self._background = self._paint_background(ego_SE3_camera)

    def paint(self, boxes: BoxesAt, marks_ego_m: F64) -> bytes:
        """JPEG bytes of boxes and lane marks (Q, 4, 3), both in the ego frame at capture."""
        image = self._background.copy()
        marks = transform_points(self._camera_SE3_ego, marks_ego_m)
        slope = np.max(np.abs(marks[..., 0]) - self._widest_slope * np.maximum(marks[..., 2], NEAR_M), axis=1)
        for quad in marks[(slope < _DASH_M) & (np.max(marks[..., 2], axis=1) > NEAR_M)]:
            self._fill(image, quad, _MARK)
        centers = transform_points(self._camera_SE3_ego, boxes.center_m)
        radius = np.linalg.norm(boxes.size_m, axis=1) / 2
        aside = np.abs(centers[:, 0]) - self._widest_slope * np.maximum(centers[:, 2], 0.0)
        distance = np.linalg.norm(centers, axis=1)
        is_near = (aside < radius * (1 + self._widest_slope)) & (centers[:, 2] > -radius) & (distance < FAR_M)
        for i in np.argsort(-distance):
            if is_near[i]:
                self._paint_box(image, boxes, int(i))
        done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not done:
            raise DriveError("OpenCV could not encode an image as JPEG")
        return data.tobytes()

    def _paint_background(self, ego_SE3_camera: F64) -> Image:
        """Sky above the horizon, ground below, each a gradient in the angle to the horizon."""
        width, height = self._camera.width_px, self._camera.height_px
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        rays = self._camera.rays(np.stack([u.ravel(), v.ravel()], axis=1)) @ ego_SE3_camera[:3, :3].T
        rise = np.clip(np.abs(rays[:, 2]) * 3.0, 0.0, 1.0)[:, None]
        sky = np.array(_SKY_BOTTOM) * (1 - rise) + np.array(_SKY_TOP) * rise
        ground = np.array(_GROUND_FAR) * (1 - rise) + np.array(_GROUND_NEAR) * rise
        colours = np.where(rays[:, 2:] > 0, sky, ground)
        return colours.reshape(height, width, 3).astype(np.uint8)

    def _paint_box(self, image: Image, boxes: BoxesAt, i: int) -> None:
        ego_R_box = rotation_from_yaw(boxes.yaw_rad[i])
        corners = boxes.center_m[i] + (_SIGNS * boxes.size_m[i] / 2) @ ego_R_box.T
        corners_camera = transform_points(self._camera_SE3_ego, corners)
        if not np.any(corners_camera[:, 2] > NEAR_M):
            return
        normals = (_NORMALS @ ego_R_box.T) @ self._camera_SE3_ego[:3, :3].T
        colour = np.array(COLOURS[CLASSES[boxes.class_index[i]]])
        for face, normal, shade in zip(_FACES, normals, _SHADES, strict=True):
            quad = corners_camera[list(face)]
            if quad[0] @ normal < 0:
                b, g, r = (colour * shade).tolist()
                self._fill(image, quad, (b, g, r))

    def _fill(self, image: Image, polygon_camera_m: F64, colour: tuple[float, float, float]) -> None:
        """Fill a flat convex polygon (P, 3) given in camera axes, cut where it comes too near."""
        depth = polygon_camera_m[:, 2]
        if np.max(depth) <= NEAR_M or np.min(depth) > FAR_M:
            return
        polygon = polygon_camera_m if np.min(depth) > NEAR_M else _cut_near(polygon_camera_m)
        pixels, _ = self._camera.project(polygon)
        if np.any(np.max(pixels, axis=0) < 0) or np.any(np.min(pixels, axis=0) > (image.shape[1], image.shape[0])):
            return
        fixed = np.round(pixels * (1 << _SUBPIXEL_BITS)).astype(np.int32)
        cv2.fillConvexPoly(image, fixed, colour, lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)


def _cut_near(polygon: F64) -> F64:
    """The part of a convex polygon (P, 3) beyond `NEAR_M` (Sutherland and Hodgman, 1974, against one plane)."""
    kept = []
    for start, end in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if start[2] > NEAR_M:
            kept.append(start)
        if (start[2] > NEAR_M) != (end[2] > NEAR_M):
            kept.append(start + (end - start) * ((NEAR_M - start[2]) / (end[2] - start[2])))
    return np.array(kept)
