"""Argoverse 2 boxes as labels: vehicle frame at the time of their sweep, length/width/height, x along the heading.

Taxonomy: argoverse.github.io/user-guide, "Sensor dataset", "Annotations". Boxes of riders hold the person alone, and
the bicycle has its own, unlike nuScenes, where one box holds both; so riders are outside the ten classes here.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError, PayloadError
from perception.core.geometry import (
    invert,
    quaternion_to_rotation,
    rotation_to_quaternion,
    transform_points,
)
from perception.core.labels import UNKNOWN_COUNT, Labels
from perception.core.taxonomy import CLASS_INDEX, NO_ATTRIBUTE, NO_CLASS
from perception.sources.av2_files import Poses, Table

F64 = NDArray[np.float64]

CATEGORIES = {
    "REGULAR_VEHICLE": "car",
    "LARGE_VEHICLE": "truck",
    "BOX_TRUCK": "truck",
    "TRUCK": "truck",
    "TRUCK_CAB": "truck",
    "BUS": "bus",
    "SCHOOL_BUS": "bus",
    "ARTICULATED_BUS": "bus",
    "VEHICULAR_TRAILER": "trailer",
    "PEDESTRIAN": "pedestrian",
    "OFFICIAL_SIGNALER": "pedestrian",
    "MOTORCYCLE": "motorcycle",
    "BICYCLE": "bicycle",
    "CONSTRUCTION_CONE": "traffic_cone",
}
"""The others (riders, bollards, signs, barrels, strollers, animals, wheeled devices, ...) are outside the ten."""

_NUMBERS = ("qw", "qx", "qy", "qz", "tx_m", "ty_m", "tz_m", "length_m", "width_m", "height_m")
_COLUMNS = ("timestamp_ns", "track_uuid", "category", "num_interior_pts", *_NUMBERS)


def label_times(path: Path) -> frozenset[int]:
    """Times that have boxes. Raises DriveError where the table is broken."""
    return frozenset(Table(path, ("timestamp_ns",), DriveError).integers("timestamp_ns").tolist())


class Boxes:
    """The table of a log, `annotations.feather`. Raises PayloadError where it is broken."""

    def __init__(self, path: Path) -> None:
        table = Table(path, _COLUMNS, PayloadError)
        self._times_ns = table.integers("timestamp_ns")
        self._rows = table.numbers(*_NUMBERS)
        self._points = table.integers("num_interior_pts")
        self._category, self._track = table.texts("category"), table.texts("track_uuid")
        if not np.all(np.isfinite(self._rows)) or np.any(self._rows[:, 7:] <= 0):
            raise PayloadError(f"{path}: a box is not finite or has no positive size")
        if np.any(np.linalg.norm(self._rows[:, :4], axis=1) < 0.5):
            raise PayloadError(f"{path}: a box has no orientation")
        self._known_ns = np.unique(self._times_ns)

    def at(self, reference_ns: int, poses: Poses, ego_SE3_vehicle: F64) -> Labels:
        """The boxes stamped `reference_ns` in the ego frame. Velocity: across the labelled times before and after."""
        rows = np.flatnonzero(self._times_ns == reference_ns)
        k = len(rows)
        rotations = ego_SE3_vehicle[:3, :3] @ quaternion_to_rotation(self._rows[rows, :4])
        categories = tuple(self._category[row] for row in rows)
        is_counted = self._points[rows] >= 0
        return Labels(
            reference_ns=reference_ns,
            category=categories,
            class_index=np.array([_class_index(category) for category in categories], dtype=np.int64),
            center_m=transform_points(ego_SE3_vehicle, self._rows[rows, 4:7]),
            size_m=self._rows[rows, 7:],
            quaternion_wxyz=np.array([rotation_to_quaternion(rotation) for rotation in rotations]).reshape(k, 4),
            velocity_mps=self._velocities(rows, reference_ns, poses, ego_SE3_vehicle),
            attribute_index=np.full(k, NO_ATTRIBUTE, dtype=np.int64),
            track_id=tuple(self._track[row] for row in rows),
            num_lidar_points=np.where(is_counted, self._points[rows], UNKNOWN_COUNT),
            num_radar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
        )

    def _velocities(self, rows: NDArray[np.int64], time_ns: int, poses: Poses, ego_SE3_vehicle: F64) -> F64:
        """(K, 2) over ground in ego axes, nan for a track that is in neither of the neighbouring times."""
        i = int(np.searchsorted(self._known_ns, time_ns))
        around = self._known_ns[max(0, i - 1) : i + 2].tolist()
        seen: dict[str, list[tuple[int, F64]]] = {}
        for at_ns in around:
            here = np.flatnonzero(self._times_ns == at_ns)
            city_m = transform_points(poses.at(at_ns), self._rows[here, 4:7])
            for row, position in zip(here, city_m, strict=True):
                seen.setdefault(self._track[row], []).append((at_ns, position))
        velocity = np.full((len(rows), 3), np.nan)
        for number, row in enumerate(rows):
            (first_ns, first), *_, (last_ns, last) = [seen[self._track[row]][0], seen[self._track[row]][-1]]
            if last_ns > first_ns:
                velocity[number] = (last - first) / ((last_ns - first_ns) / 1e9)
        ego_R_city = ego_SE3_vehicle[:3, :3] @ invert(poses.at(time_ns))[:3, :3]
        return (velocity @ ego_R_city.T)[:, :2]


def _class_index(category: str) -> int:
    return CLASS_INDEX[CATEGORIES[category]] if category in CATEGORIES else NO_CLASS
