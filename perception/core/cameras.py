"""Camera models: pinhole, Brown-Conrady, Mei (unified) and Kannala-Brandt, projecting and unprojecting in numpy.

Camera axes: x right, y down, z forward; pixels have their origin at the centre of the top-left pixel.
Distortion coefficients are in OpenCV's order.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.distortion import BrownDistortion, FisheyeDistortion
from perception.core.geometry import is_rotation

Float = NDArray[np.float64]


class Projection(StrEnum):
    PINHOLE = "pinhole"
    BROWN = "brown"
    """Pinhole with radial and tangential distortion k1 k2 p1 p2 [k3 [k4 k5 k6]]."""
    MEI = "mei"
    """Unit sphere, shift by xi, then Brown (Mei and Rives, ICRA 2007)."""
    KANNALA_BRANDT = "kannala_brandt"
    """Equidistant fisheye k1 k2 k3 k4 (Kannala and Brandt, PAMI 2006; OpenCV's fisheye model)."""


_COEFFICIENTS = {
    Projection.PINHOLE: (0,),
    Projection.BROWN: (4, 5, 8),
    Projection.MEI: (4, 5),
    Projection.KANNALA_BRANDT: (4,),
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CameraModel:
    """Intrinsics of one camera. Raises ValueError where the numbers make no camera.

    intrinsic: (3, 3) float64, pixels of the full-size image. distortion: (n,) float64.
    """

    width_px: int
    height_px: int
    intrinsic: Float
    projection: Projection = Projection.PINHOLE
    distortion: Float = field(default_factory=lambda: np.zeros(0))
    xi: float = 0.0

    def __post_init__(self) -> None:
        if self.width_px <= 0 or self.height_px <= 0:
            raise ValueError(f"image size {self.width_px}x{self.height_px} must be positive")
        if self.intrinsic.shape != (3, 3) or not np.all(np.isfinite(self.intrinsic)):
            raise ValueError("intrinsic must be a finite (3, 3) matrix")
        if self.intrinsic[0, 0] <= 0 or self.intrinsic[1, 1] <= 0:
            raise ValueError("focal lengths must be positive")
        if self.distortion.ndim != 1 or len(self.distortion) not in _COEFFICIENTS[self.projection]:
            allowed = " or ".join(map(str, _COEFFICIENTS[self.projection]))
            raise ValueError(f"{self.projection} takes {allowed} distortion coefficients, got {self.distortion.shape}")

    def project(self, points_camera_m: NDArray[Any]) -> tuple[Float, NDArray[np.bool_]]:
        """Project points (N, 3) in camera axes to pixels.

        Returns pixels (N, 2) float64 and is_visible (N,): True where the point is in front and lands in the image.
        """
        points = np.asarray(points_camera_m, dtype=np.float64)
        plane, is_valid = self._to_plane(points)
        pixels = np.empty((len(points), 2))
        k = self.intrinsic
        pixels[:, 0] = k[0, 0] * plane[:, 0] + k[0, 1] * plane[:, 1] + k[0, 2]
        pixels[:, 1] = k[1, 1] * plane[:, 1] + k[1, 2]
        inside = (
            (pixels[:, 0] >= -0.5)
            & (pixels[:, 0] < self.width_px - 0.5)
            & (pixels[:, 1] >= -0.5)
            & (pixels[:, 1] < self.height_px - 0.5)
        )
        return pixels, is_valid & inside

    def rays(self, pixels: NDArray[Any]) -> Float:
        """Unit view rays (N, 3) in camera axes through pixels (N, 2); pixels that no ray reaches get the lens's rim."""
        uv = np.asarray(pixels, dtype=np.float64)
        k = self.intrinsic
        y = (uv[:, 1] - k[1, 2]) / k[1, 1]
        x = (uv[:, 0] - k[0, 2] - k[0, 1] * y) / k[0, 0]
        distorted = np.stack([x, y], axis=1)
        if self.projection is Projection.KANNALA_BRANDT:
            return _fisheye_rays(distorted, FisheyeDistortion(self.distortion))
        plane = distorted if len(self.distortion) == 0 else BrownDistortion(self.distortion).invert(distorted)
        if self.projection is Projection.MEI:
            return _lift_to_sphere(plane, self.xi)
        directions = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)
        unit: Float = directions / np.linalg.norm(directions, axis=1, keepdims=True)
        return unit

    def _to_plane(self, points: Float) -> tuple[Float, NDArray[np.bool_]]:
        """Points to distorted coordinates on the normalised image plane, and where that is defined."""
        if self.projection is Projection.KANNALA_BRANDT:
            lens = FisheyeDistortion(self.distortion)
            radius = np.linalg.norm(points[:, :2], axis=1)
            theta = np.arctan2(radius, points[:, 2])
            scale = np.where(radius > 1e-12, lens.apply(theta) / np.maximum(radius, 1e-12), 1.0)
            return points[:, :2] * scale[:, None], (theta < lens.limit) & (np.linalg.norm(points, axis=1) > 1e-6)
        if self.projection is Projection.MEI:
            norm = np.linalg.norm(points, axis=1)
            depth = points[:, 2] / np.maximum(norm, 1e-12) + self.xi
            # Behind the mirror's limit two rays share a pixel (Mei, eq. 4); 1/xi bounds the cone that does not.
            limit = -1.0 / self.xi if self.xi > 1.0 else -self.xi
            is_valid = (norm > 1e-6) & (points[:, 2] / np.maximum(norm, 1e-12) > limit + 1e-3)
            plane = points[:, :2] / np.maximum(norm, 1e-12)[:, None] / np.where(is_valid, depth, 1.0)[:, None]
        else:
            is_valid = points[:, 2] > 1e-3
            plane = points[:, :2] / np.where(is_valid, points[:, 2], 1.0)[:, None]
        if len(self.distortion) == 0:
            return plane, is_valid
        brown = BrownDistortion(self.distortion)
        return brown.apply(plane), is_valid & (np.hypot(plane[:, 0], plane[:, 1]) < brown.limit)


def _fisheye_rays(distorted: Float, lens: FisheyeDistortion) -> Float:
    radius = np.linalg.norm(distorted, axis=1)
    theta = lens.invert(radius)
    scale = np.where(radius > 1e-12, np.sin(theta) / np.maximum(radius, 1e-12), 1.0)
    return np.concatenate([distorted * scale[:, None], np.cos(theta)[:, None]], axis=1)


def _lift_to_sphere(plane: Float, xi: float) -> Float:
    """Invert Mei's projection of the unit sphere: plane coordinates (N, 2) to unit rays (N, 3)."""
    r2 = np.sum(plane * plane, axis=1)
    root = np.sqrt(np.maximum(1 + (1 - xi * xi) * r2, 0.0))
    scale = (xi + root) / (1 + r2)
    return np.concatenate([plane * scale[:, None], (scale - xi)[:, None]], axis=1)


def check_mount(ego_SE3_sensor: Float) -> None:
    """Raise ValueError unless `ego_SE3_sensor` is a finite rigid (4, 4) float64 transform."""
    if ego_SE3_sensor.shape != (4, 4) or not np.all(np.isfinite(ego_SE3_sensor)):
        raise ValueError("ego_SE3_sensor must be a finite (4, 4) matrix")
    if not is_rotation(ego_SE3_sensor[:3, :3]):
        raise ValueError("the rotation of ego_SE3_sensor is not orthonormal and right-handed")
