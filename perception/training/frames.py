"""A training frame: one bundle as the network takes it, and what is true about it."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from perception.core.cameras import CameraModel
from perception.models.boxes import BOX_FIELDS
from perception.models.preprocess import LIDAR_FIELDS, RADAR_FIELDS
from perception.models.tensors import EGO_FIELDS

F32 = NDArray[np.float32]

TARGET_SPEED_WINDOW_S: Final = (0.5, 1.5)
"""The speed to aim for is the mean speed the driver had between these times after the reference."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingFrame:
    """One bundle: N cameras, L lidars, M objects, S steps of the path, G cells along a side of the bird's-eye view.

    Everything is in the ego frame at `reference_ns`, preprocessed as the service does it.
    images: (N, 3, H, W) uint8 RGB of the network's size. cameras: N models in pixels of that size (`network_camera`).
    top_px: (N,) first row with picture in it; rows above are padding. reference_SE3_camera: (N, 4, 4), ego motion
    since capture included. camera_age_s: (N,).
    lidar_points: (P, 5) as `LIDAR_FIELDS`, the sweeps one after the other; lidar_count: (L,) int64 points of each;
    lidar_age_s: (L,). radar_points: (R, 7) as `RADAR_FIELDS`; radar_age_s: mean age, None without a radar.
    ego: (E,) as `EGO_FIELDS`.
    class_index: (M,) int64. boxes: (M, 10) as `BOX_FIELDS`, velocity nan where not known. attribute_index: (M,) int64,
    -1 for none. visible_share: (M,) 0..1 how much of each is not hidden, nan where not known.
    path_m: (S, 2) where the ego went; path_known: (S,) bool. target_speed_mps: nan where not known.
    drivable: (G, G) bool, rows along x and columns along y as the network's cells, None where not known.
    """

    drive_id: str
    reference_ns: int
    images: NDArray[np.uint8]
    cameras: tuple[CameraModel, ...]
    top_px: F32
    reference_SE3_camera: F32
    camera_age_s: F32
    lidar_points: F32
    lidar_count: NDArray[np.int64]
    lidar_age_s: F32
    radar_points: F32
    radar_age_s: float | None
    ego: F32
    class_index: NDArray[np.int64]
    boxes: F32
    attribute_index: NDArray[np.int64]
    visible_share: F32
    path_m: F32
    path_known: NDArray[np.bool_]
    target_speed_mps: float
    drivable: NDArray[np.bool_] | None

    def __post_init__(self) -> None:
        n, m, lidars, steps = len(self.cameras), len(self.class_index), len(self.lidar_count), len(self.path_m)
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "images": (self.images, (n, 3, *self.images.shape[2:])),
            "top_px": (self.top_px, (n,)),
            "reference_SE3_camera": (self.reference_SE3_camera, (n, 4, 4)),
            "camera_age_s": (self.camera_age_s, (n,)),
            "lidar_points": (self.lidar_points, (int(self.lidar_count.sum()), len(LIDAR_FIELDS))),
            "lidar_age_s": (self.lidar_age_s, (lidars,)),
            "radar_points": (self.radar_points, (len(self.radar_points), len(RADAR_FIELDS))),
            "ego": (self.ego, (len(EGO_FIELDS),)),
            "boxes": (self.boxes, (m, len(BOX_FIELDS))),
            "attribute_index": (self.attribute_index, (m,)),
            "visible_share": (self.visible_share, (m,)),
            "path_m": (self.path_m, (steps, 2)),
            "path_known": (self.path_known, (steps,)),
        }
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"training frame: {name} must be {shape}, got {array.shape}")
