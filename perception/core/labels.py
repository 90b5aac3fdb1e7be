"""Ground truth of one reference time, as arrays with one row a box."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from perception.core.geometry import quaternion_to_rotation, yaw_of

F64 = NDArray[np.float64]

UNKNOWN_COUNT = -1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Labels:
    """Labelled boxes in the ego frame at `reference_ns`; K rows.

    category: K names as the format has them. class_index: (K,) int64 into `CLASSES`, -1 outside the ten.
    center_m, size_m: (K, 3) float64, size as length, width, height. quaternion_wxyz: (K, 4), ego_R_box.
    velocity_mps: (K, 2) float64 over ground in ego axes, nan where not known. attribute_index: (K,) int64, -1 if none.
    track_id: K names, equal for one object throughout a drive. num_lidar_points, num_radar_points: (K,) int64,
    -1 where not counted. visible_share: (K,) float64 in 0..1, how much of each is not hidden; None where not known.
    """

    reference_ns: int
    category: tuple[str, ...]
    class_index: NDArray[np.int64]
    center_m: F64
    size_m: F64
    quaternion_wxyz: F64
    velocity_mps: F64
    attribute_index: NDArray[np.int64]
    track_id: tuple[str, ...]
    num_lidar_points: NDArray[np.int64]
    num_radar_points: NDArray[np.int64]
    visible_share: F64 | None = None

    def __post_init__(self) -> None:
        k = len(self.category)
        shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "class_index": (self.class_index, (k,)),
            "center_m": (self.center_m, (k, 3)),
            "size_m": (self.size_m, (k, 3)),
            "quaternion_wxyz": (self.quaternion_wxyz, (k, 4)),
            "velocity_mps": (self.velocity_mps, (k, 2)),
            "attribute_index": (self.attribute_index, (k,)),
            "num_lidar_points": (self.num_lidar_points, (k,)),
            "num_radar_points": (self.num_radar_points, (k,)),
        }
        if self.visible_share is not None:
            shapes["visible_share"] = (self.visible_share, (k,))
        for name, (array, shape) in shapes.items():
            if array.shape != shape:
                raise ValueError(f"labels: {name} must be {shape}, got {array.shape}")
        if len(self.track_id) != k:
            raise ValueError(f"labels: {k} categories but {len(self.track_id)} track ids")

    def __len__(self) -> int:
        return len(self.category)

    def rows(self, keep: NDArray[np.bool_]) -> "Labels":
        """Those of the labels where `keep` (K,) is True."""
        share = self.visible_share
        return replace(
            self,
            category=tuple(itertools.compress(self.category, keep)),
            class_index=self.class_index[keep],
            center_m=self.center_m[keep],
            size_m=self.size_m[keep],
            quaternion_wxyz=self.quaternion_wxyz[keep],
            velocity_mps=self.velocity_mps[keep],
            attribute_index=self.attribute_index[keep],
            track_id=tuple(itertools.compress(self.track_id, keep)),
            num_lidar_points=self.num_lidar_points[keep],
            num_radar_points=self.num_radar_points[keep],
            visible_share=None if share is None else share[keep],
        )

    @property
    def yaw_rad(self) -> F64:
        """(K,) heading of each box about z in the ego frame."""
        return yaw_of(quaternion_to_rotation(self.quaternion_wxyz)) if len(self) else np.zeros(0)


def points_in_box(points_m: NDArray[np.floating], center_m: F64, size_m: F64, rotation: F64) -> NDArray[np.bool_]:
    """True for each of the points (N, 3) inside the box of centre (3,), size (3,) l/w/h and rotation (3, 3)."""
    local = (np.asarray(points_m, dtype=np.float64) - center_m) @ rotation
    is_inside: NDArray[np.bool_] = np.all(np.abs(local) <= size_m / 2, axis=1)
    return is_inside
