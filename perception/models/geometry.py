"""From calibration and ego motion to where fusion looks: view rays of image tokens, and the camera-to-BEV lift.

All numpy. What depends on the calibration alone is cached; a frame costs a few milliseconds for six cameras.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from perception.config.schema import ModelConfig
from perception.core.cameras import CameraModel
from perception.core.geometry import invert
from perception.core.stages import CameraView
from perception.models.blocks import cell_centers
from perception.models.encoders.camera import STRIDE
from perception.models.preprocess import ImageTransform

F32 = NDArray[np.float32]

CACHED_CAMERAS = 64
BORDER_SAMPLES = 16
CONE_MARGIN = 0.02


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Views:
    """Geometry of the cameras of one bundle; shapes as in `FusionInputs`, without the batch."""

    rays: F32
    origin_m: F32
    lift_camera: NDArray[np.int64]
    lift_uv: F32
    lift_depth_m: F32
    lift_valid: NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Camera:
    """What a calibration alone decides. rays: (T, 3) in camera axes. cos_cone: least cosine to the axis in view."""

    transform: ImageTransform
    rays: F32
    cos_cone: float


class ViewGeometry:
    """Builds `Views`; keeps the rays of the last calibrations seen, so one object serves any number of rigs."""

    def __init__(self, config: ModelConfig) -> None:
        self._image = config.image
        self._samples = config.lift_cameras
        self._rows, self._columns = config.image.height_px // STRIDE, config.image.width_px // STRIDE
        self._points = np.ascontiguousarray(_lift_points(config).T)  # (3, P)
        self._cameras: OrderedDict[Hashable, _Camera] = OrderedDict()

    def build(self, views: Sequence[CameraView]) -> Views:
        """Geometry of any number of cameras, none included."""
        count, points = len(views), self._points.shape[1]
        rays = np.empty((count, self._rows * self._columns, 3), dtype=np.float32)
        origin = np.empty((count, 3), dtype=np.float32)
        uv = np.zeros((max(count, 1), points, 2), dtype=np.float32)
        depth = np.zeros((max(count, 1), points), dtype=np.float32)
        rank = np.full((count, points), np.inf, dtype=np.float32)
        for i, view in enumerate(views):
            camera = self._camera(view.camera)
            rays[i] = camera.rays @ view.reference_SE3_camera[:3, :3].T.astype(np.float32)
            origin[i] = view.reference_SE3_camera[:3, 3]
            seen, pixels, distance = self._project(view, camera)
            uv[i, seen] = (pixels + 0.5) / STRIDE - 0.5
            depth[i, seen] = distance
            off_x = np.abs((pixels[:, 0] + 0.5) / self._image.width_px - 0.5)
            off_y = np.abs((pixels[:, 1] + 0.5) / self._image.height_px - 0.5)
            rank[i, seen] = np.maximum(off_x, off_y)
        chosen, is_valid = _nearest_to_middle(rank, self._samples)
        place = chosen * points + np.arange(points)[:, None]  # (P, K)
        return Views(
            rays=rays,
            origin_m=origin,
            lift_camera=chosen,
            lift_uv=uv.reshape(-1, 2)[place],
            lift_depth_m=depth.reshape(-1)[place],
            lift_valid=is_valid,
        )

    def _project(self, view: CameraView, camera: _Camera) -> tuple[NDArray[np.int64], NDArray[np.floating], F32]:
        """Indices (n,) of the lift's points that the camera sees, their network pixels (n, 2) and distances (n,)."""
        camera_SE3_reference = invert(view.reference_SE3_camera).astype(np.float32)
        x, y, z = camera_SE3_reference[:3, :3] @ self._points + camera_SE3_reference[:3, 3:]
        # The cone drops most points before the exact projection, which is the dear part.
        distance = np.sqrt(x * x + y * y + z * z)
        near = np.flatnonzero(z >= distance * camera.cos_cone)
        full, is_visible = view.camera.project(np.stack([x[near], y[near], z[near]], axis=1))
        pixels = camera.transform.to_network(full)
        u, v = pixels[:, 0], pixels[:, 1]
        is_kept = is_visible & (u >= -0.5) & (u < self._image.width_px - 0.5)
        is_kept &= (v >= -0.5) & (v < self._image.height_px - 0.5)
        return near[is_kept], pixels[is_kept], distance[near[is_kept]]

    def _camera(self, model: CameraModel) -> _Camera:
        key = camera_key(model)
        if key in self._cameras:
            self._cameras.move_to_end(key)
            return self._cameras[key]
        transform = ImageTransform.of(self._image, model.width_px, model.height_px)
        row, column = np.mgrid[: self._rows, : self._columns].reshape(2, -1)
        tokens = (np.stack([column, row], axis=1) + 0.5) * STRIDE - 0.5  # (T, 2) network pixels
        border = transform.to_full(_border(self._image.width_px, self._image.height_px))
        inside = np.clip(border, -0.5, np.array([model.width_px, model.height_px]) - 0.5)
        camera = _Camera(
            transform=transform,
            rays=model.rays(transform.to_full(tokens)).astype(np.float32),
            cos_cone=float(model.rays(inside)[:, 2].min()) - CONE_MARGIN,
        )
        self._cameras[key] = camera
        if len(self._cameras) > CACHED_CAMERAS:
            self._cameras.popitem(last=False)
        return camera


def camera_key(model: CameraModel) -> Hashable:
    """Names a calibration by its values."""
    numbers = (model.intrinsic.tobytes(), model.distortion.tobytes())
    return (model.width_px, model.height_px, model.projection, model.xi, *numbers)


def _lift_points(config: ModelConfig) -> F32:
    """Points (P, 3) in the ego frame: every cell of the bird's-eye view at every height."""
    xy = cell_centers(config.bev_cells).numpy() * config.range_m  # (G * G, 2)
    heights = np.array(config.lift_heights_m, dtype=np.float32)
    points = np.empty((len(xy), len(heights), 3), dtype=np.float32)
    points[..., :2] = xy[:, None]
    points[..., 2] = heights
    return points.reshape(-1, 3)


def _border(width_px: int, height_px: int) -> NDArray[np.float64]:
    """Pixels along the border of an image."""
    along = np.linspace(0.0, 1.0, BORDER_SAMPLES)
    zero, one = np.zeros_like(along), np.ones_like(along)
    sides = [(along, zero), (along, one), (zero, along), (one, along)]
    unit = np.concatenate([np.stack(side, axis=1) for side in sides])
    pixels: NDArray[np.float64] = unit * np.array([width_px, height_px]) - 0.5
    return pixels


def _nearest_to_middle(rank: F32, samples: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each point the cameras (P, K) that see it nearest to their middle, and whether there is one (P, K).

    rank: (N, P) distance from the middle, infinite where unseen. The choice does not depend on the order of cameras.
    """
    count, points = rank.shape
    chosen = np.zeros((points, samples), dtype=np.int64)
    is_valid = np.zeros((points, samples), dtype=bool)
    every = np.arange(points)
    flat_rank = rank.reshape(-1)
    for k in range(min(count, samples)):
        best = rank.argmin(axis=0)
        place = best * points + every
        is_valid[:, k] = np.isfinite(flat_rank[place])
        chosen[:, k] = best
        flat_rank[place] = np.inf
    return chosen, is_valid
