"""`tracklet_labels.xml` of a KITTI raw drive: boxes in the velodyne frame, bottom centre, turned about z.

Format: cvlibs.net/datasets/kitti, raw data development kit (readme.txt, `tracklets.h`): an archive of boost.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import PayloadError
from perception.core.geometry import (
    quaternion_from_yaw,
    quaternion_to_rotation,
    rotation_to_quaternion,
    transform_points,
)
from perception.core.labels import UNKNOWN_COUNT, Labels
from perception.core.taxonomy import CLASS_INDEX, NO_ATTRIBUTE, NO_CLASS

F64 = NDArray[np.float64]

CATEGORIES = {
    "Car": "car",
    "Van": "car",
    "Truck": "truck",
    "Pedestrian": "pedestrian",
    "Person (sitting)": "pedestrian",
    "Cyclist": "bicycle",
}
"""Tram and Misc are outside the ten classes."""

MAX_FILE_BYTES = 64 * 2**20
"""The largest of the benchmark has 3 MB."""

_POSE = ("tx", "ty", "tz", "rx", "ry", "rz")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tracklet:
    """One object. size_m: (3,) length, width, height. poses: (T, 6) bottom centre and turns, from `first_frame` on."""

    category: str
    size_m: F64
    first_frame: int
    poses: F64

    def center_m(self, frame: int) -> F64 | None:
        """Centre (3,) in the velodyne frame, None where the object has no pose in that frame."""
        index = frame - self.first_frame
        if not 0 <= index < len(self.poses):
            return None
        center: F64 = self.poses[index, :3] + np.array([0.0, 0.0, self.size_m[2] / 2])
        return center

    def yaw_rad(self, frame: int) -> float:
        return float(self.poses[frame - self.first_frame, 5])


def read_tracklets(path: Path) -> list[Tracklet]:
    """All objects of a drive. Raises PayloadError where the file is broken, naming the object."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise PayloadError(f"{path}: {path.stat().st_size} bytes are more than such a file may have")
        data = path.read_bytes()
    except OSError as error:
        raise PayloadError(f"{path}: cannot be read ({error.strerror})") from error
    if b"<!ENTITY" in data:
        raise PayloadError(f"{path}: declares entities, which the format does not have")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise PayloadError(f"{path}: no valid XML ({error})") from error
    items = root.findall("./tracklets/item")
    return [_tracklet(path, number, item) for number, item in enumerate(items)]


def _tracklet(path: Path, number: int, item: ElementTree.Element) -> Tracklet:
    try:
        poses = [[float(pose.findtext(name, "")) for name in _POSE] for pose in item.findall("./poses/item")]
        size = np.array([float(item.findtext(name, "")) for name in ("l", "w", "h")])
        first_frame = int(item.findtext("first_frame", ""))
    except ValueError as error:
        raise PayloadError(f"{path}: object {number}: {error}") from error
    rows = np.array(poses).reshape(-1, len(_POSE))
    if not np.all(np.isfinite(rows)) or not np.all(np.isfinite(size)) or np.any(size <= 0) or first_frame < 0:
        raise PayloadError(f"{path}: object {number} has no positive size, no finite pose or no first_frame")
    return Tracklet(category=item.findtext("objectType", "").strip(), size_m=size, first_frame=first_frame, poses=rows)


def tracklet_labels(
    tracklets: Sequence[Tracklet],
    frame: int,
    reference_ns: int,
    around: Sequence[tuple[int, int, F64 | None]],
    ego_SE3_velodyne: F64,
) -> Labels:
    """Labels of one frame in the ego frame.

    around: number, time and world_SE3_ego of this frame and its neighbours; velocities are nan where poses are missing.
    """
    seen = [(number, found) for number, found in enumerate(tracklets) if found.center_m(frame) is not None]
    k = len(seen)
    centers = np.array([found.center_m(frame) for _, found in seen]).reshape(k, 3)
    yaws = np.array([found.yaw_rad(frame) for _, found in seen])
    rotations = ego_SE3_velodyne[:3, :3] @ quaternion_to_rotation(quaternion_from_yaw(yaws))
    return Labels(
        reference_ns=reference_ns,
        category=tuple(found.category for _, found in seen),
        class_index=np.array([_class_index(found.category) for _, found in seen], dtype=np.int64),
        center_m=transform_points(ego_SE3_velodyne, centers),
        size_m=np.array([found.size_m for _, found in seen]).reshape(k, 3),
        quaternion_wxyz=np.array([rotation_to_quaternion(rotation) for rotation in rotations]).reshape(k, 4),
        velocity_mps=np.array([_velocity(found, frame, around, ego_SE3_velodyne) for _, found in seen]).reshape(k, 2),
        attribute_index=np.full(k, NO_ATTRIBUTE, dtype=np.int64),
        track_id=tuple(str(number) for number, _ in seen),
        num_lidar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
        num_radar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
    )


def _velocity(
    tracklet: Tracklet, frame: int, around: Sequence[tuple[int, int, F64 | None]], ego_SE3_velodyne: F64
) -> F64:
    """(2,) over ground in ego axes, across the neighbouring frames."""
    sightings = [
        (time_ns, transform_points(pose @ ego_SE3_velodyne, center))
        for k, time_ns, pose in around
        if pose is not None and (center := tracklet.center_m(k)) is not None
    ]
    here = next((pose for k, _, pose in around if k == frame), None)
    if len(sightings) < 2 or here is None:
        return np.full(2, np.nan)
    (first_ns, first), (last_ns, last) = sightings[0], sightings[-1]
    velocity: F64 = (here[:3, :3].T @ (last - first))[:2] / ((last_ns - first_ns) / 1e9)
    return velocity


def _class_index(category: str) -> int:
    return CLASS_INDEX[CATEGORIES[category]] if category in CATEGORIES else NO_CLASS
