"""PandaSet cuboids as labels: world frame, heading along the box's y axis, dimensions x/y/z = width/length/height.

Proved on sequence 002: lidar points lie inside, and tracks move along the heading.
"""

from collections.abc import Sequence
from pathlib import Path

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
from perception.core.taxonomy import ATTRIBUTE_INDEX, CLASS_ATTRIBUTES, CLASS_INDEX, CLASSES, NO_ATTRIBUTE, NO_CLASS
from perception.sources.allowlist_pickle import Table, load_table
from perception.sources.pandaset_files import numbers

F64 = NDArray[np.float64]

CATEGORIES = {
    "Car": "car",
    "Pickup Truck": "truck",
    "Medium-sized Truck": "truck",
    "Semi-truck": "truck",
    "Towed Object": "trailer",
    "Bus": "bus",
    "Other Vehicle - Construction Vehicle": "construction_vehicle",
    "Motorcycle": "motorcycle",
    "Bicycle": "bicycle",
    "Pedestrian": "pedestrian",
    "Pedestrian with Object": "pedestrian",
    "Cones": "traffic_cone",
    "Road Barriers": "barrier",
    "Temporary Construction Barriers": "barrier",
}
"""The others (animals, signs, pylons, trams, scooters, emergency vehicles, ...) are outside the ten classes."""

ATTRIBUTES = {
    "Moving": "vehicle.moving",
    "Stopped": "vehicle.stopped",
    "Parked": "vehicle.parked",
    "With Rider": "cycle.with_rider",
    "Without Rider": "cycle.without_rider",
    "Walking": "pedestrian.moving",
    "Standing": "pedestrian.standing",
    "Sitting": "pedestrian.sitting_lying_down",
    "Lying": "pedestrian.sitting_lying_down",
}
_ATTRIBUTE_COLUMNS = ("attributes.object_motion", "attributes.rider_status", "attributes.pedestrian_behavior")

_POSITION = ("position.x", "position.y", "position.z")
_LENGTH_WIDTH_HEIGHT = ("dimensions.y", "dimensions.x", "dimensions.z")
_SECOND_LIDAR = 1


def read_labels(path: Path, reference_ns: int, neighbours: Sequence[tuple[Path, int]], ego_SE3_world: F64) -> Labels:
    """Labels of one frame in the ego frame. neighbours: cuboids of the frames before and after with their times.

    Velocity is the difference of a track's positions across the neighbours (or to the one there is), nan where a moving
    object is in neither. Raises PayloadError where `path` cannot be read; an unreadable neighbour is passed over.
    """
    table = load_table(path)
    keep = np.flatnonzero(~_is_double(path, table))
    values = numbers(path, table, (*_POSITION, *_LENGTH_WIDTH_HEIGHT, "yaw"))[keep]
    if not np.all(np.isfinite(values)) or np.any(values[:, 3:6] <= 0):
        raise PayloadError(f"{path}: a cuboid has no finite position or no positive dimensions")
    tracks = [_names(path, table, "uuid")[row] for row in keep]
    categories = tuple(_names(path, table, "label")[row] for row in keep)
    class_index = np.array([CLASS_INDEX[CATEGORIES[c]] if c in CATEGORIES else NO_CLASS for c in categories], np.int64)
    velocity_world = _velocities(path, table, keep, tracks, values[:, :3], reference_ns, neighbours)
    world_R_box = quaternion_to_rotation(quaternion_from_yaw(values[:, 6] + np.pi / 2))
    k = len(keep)
    return Labels(
        reference_ns=reference_ns,
        category=categories,
        class_index=class_index,
        center_m=transform_points(ego_SE3_world, values[:, :3]),
        size_m=values[:, 3:6],
        quaternion_wxyz=np.array(
            [rotation_to_quaternion(ego_SE3_world[:3, :3] @ rotation) for rotation in world_R_box]
        ).reshape(k, 4),
        velocity_mps=(velocity_world @ ego_SE3_world[:3, :3].T)[:, :2],
        attribute_index=np.array(
            [_attribute(table, row, c) for row, c in zip(keep.tolist(), class_index.tolist(), strict=True)], np.int64
        ),
        track_id=tuple(tracks),
        num_lidar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
        num_radar_points=np.full(k, UNKNOWN_COUNT, dtype=np.int64),
    )


def _is_double(path: Path, table: Table) -> NDArray[np.bool_]:
    """True for cuboids of the forward lidar whose object has one of the 360-degree lidar too.

    Either of the two may name the other: some of the references in the data are cut short or name themselves.
    """
    track, sibling = _names(path, table, "uuid"), _names(path, table, "cuboids.sibling_id")
    is_second = numbers(path, table, ("cuboids.sensor_id",))[:, 0] == _SECOND_LIDAR
    first_tracks = {name for name, second in zip(track, is_second, strict=True) if not second}
    named_by_first = {name for name, second in zip(sibling, is_second, strict=True) if not second and name != "-"}
    has_first = [name in named_by_first or other in first_tracks for name, other in zip(track, sibling, strict=True)]
    is_double: NDArray[np.bool_] = is_second & np.array(has_first, dtype=bool)
    return is_double


def _velocities(
    path: Path,
    table: Table,
    keep: NDArray[np.int64],
    tracks: list[str],
    here_m: F64,
    time_ns: int,
    neighbours: Sequence[tuple[Path, int]],
) -> F64:
    """(K, 3) over ground in world axes."""
    sightings = [(time_ns, dict(zip(tracks, here_m, strict=True)))]
    for other, other_ns in neighbours:
        try:
            sightings.append((other_ns, _positions(other)))
        except PayloadError:
            continue  # asking for that frame's own labels reports it
    sightings.sort(key=lambda sighting: sighting[0])
    is_standing = numbers(path, table, ("stationary",))[keep, 0] > 0
    velocity = np.full((len(tracks), 3), np.nan)
    for row, track in enumerate(tracks):
        seen = [(at_ns, positions[track]) for at_ns, positions in sightings if track in positions]
        if len(seen) > 1:
            velocity[row] = (seen[-1][1] - seen[0][1]) / ((seen[-1][0] - seen[0][0]) / 1e9)
        elif is_standing[row]:
            velocity[row] = 0.0
    return velocity


def _positions(path: Path) -> dict[str, F64]:
    table = load_table(path)
    return dict(zip(_names(path, table, "uuid"), numbers(path, table, _POSITION), strict=True))


def _names(path: Path, table: Table, column: str) -> list[str]:
    if column not in table:
        raise PayloadError(f"{path}: column {column} is missing; it has {', '.join(sorted(table))}")
    return [str(value) for value in table[column]]


def _attribute(table: Table, row: int, class_index: int) -> int:
    """The attribute of one cuboid that its class may have, -1 if none is given."""
    allowed = CLASS_ATTRIBUTES[CLASSES[class_index]] if class_index != NO_CLASS else ()
    for column in _ATTRIBUTE_COLUMNS:
        name = ATTRIBUTES.get(str(table[column][row])) if column in table else None
        if name in allowed:
            return ATTRIBUTE_INDEX[name]
    return NO_ATTRIBUTE
