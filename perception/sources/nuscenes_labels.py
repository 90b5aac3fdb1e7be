"""Annotations of a nuScenes scene as labels in the ego frame of a keyframe."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from perception.core.errors import DriveError
from perception.core.geometry import invert, quaternion_to_rotation, rotation_to_quaternion
from perception.core.labels import Labels
from perception.core.taxonomy import ATTRIBUTE_INDEX, CLASS_INDEX, NO_ATTRIBUTE, NO_CLASS
from perception.sources.nuscenes_tables import AnnotationRow, SceneTables

# The classes of the nuScenes detection task (nuscenes-devkit, eval/detection/utils.py).
DETECTION_CLASSES: Final[dict[str, str]] = {
    "movable_object.barrier": "barrier",
    "vehicle.bicycle": "bicycle",
    "vehicle.bus.bendy": "bus",
    "vehicle.bus.rigid": "bus",
    "vehicle.car": "car",
    "vehicle.construction": "construction_vehicle",
    "vehicle.motorcycle": "motorcycle",
    "human.pedestrian.adult": "pedestrian",
    "human.pedestrian.child": "pedestrian",
    "human.pedestrian.construction_worker": "pedestrian",
    "human.pedestrian.police_officer": "pedestrian",
    "movable_object.trafficcone": "traffic_cone",
    "vehicle.trailer": "trailer",
    "vehicle.truck": "truck",
}
MAX_VELOCITY_SPAN_S = 1.5
"""Annotations further apart give no velocity; twice as much across two steps (nuscenes-devkit, box_velocity)."""

F64 = NDArray[np.float64]


def annotations_by_sample(tables: SceneTables) -> dict[str, list[AnnotationRow]]:
    """The annotations of each sample, in the order of the table."""
    rows: dict[str, list[AnnotationRow]] = {token: [] for token in tables.samples}
    for row in tables.annotations.values():
        rows[row.sample_token].append(row)
    return rows


def sample_labels(tables: SceneTables, rows: list[AnnotationRow], reference_ns: int, world_SE3_ego: F64) -> Labels:
    """Labels of one sample in the ego frame at `reference_ns`.

    Annotations are upright in the global frame; here they keep their whole rotation, since the ego pitches and rolls.
    Raises DriveError naming row and field where a token leads nowhere or a box has no shape.
    """
    ego_SE3_world = invert(world_SE3_ego)
    k = len(rows)
    category = tuple(_category(tables, row) for row in rows)
    center_world = np.array([row.translation for row in rows], dtype=np.float64).reshape(k, 3)
    size_wlh = np.array([row.size for row in rows], dtype=np.float64).reshape(k, 3)
    velocity_world = np.array([_velocity(tables, row) for row in rows], dtype=np.float64).reshape(k, 3)
    return Labels(
        reference_ns=reference_ns,
        category=category,
        class_index=_indices([CLASS_INDEX.get(DETECTION_CLASSES.get(name, ""), NO_CLASS) for name in category]),
        center_m=center_world @ ego_SE3_world[:3, :3].T + ego_SE3_world[:3, 3],
        size_m=size_wlh[:, [1, 0, 2]],
        quaternion_wxyz=_turned(tables, rows, ego_SE3_world[:3, :3]),
        velocity_mps=(velocity_world @ ego_SE3_world[:3, :3].T)[:, :2],
        attribute_index=_indices([_attribute(tables, row) for row in rows]),
        track_id=tuple(row.instance_token for row in rows),
        num_lidar_points=_indices([row.num_lidar_pts for row in rows]),
        num_radar_points=_indices([row.num_radar_pts for row in rows]),
    )


def _indices(values: list[int]) -> NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def _turned(tables: SceneTables, rows: list[AnnotationRow], ego_R_world: F64) -> F64:
    """ego_R_box as quaternions (K, 4)."""
    turned = np.empty((len(rows), 4))
    for i, row in enumerate(rows):
        try:
            turned[i] = rotation_to_quaternion(ego_R_world @ quaternion_to_rotation(row.rotation))
        except ValueError as error:
            path = tables.folder / "sample_annotation.json"
            raise DriveError(f"{path}: row {row.token}, field rotation: {error}; restore the table") from error
    return turned


def _category(tables: SceneTables, row: AnnotationRow) -> str:
    instance = tables.instances.get(row.instance_token)
    if instance is None:
        raise tables.broken_link("sample_annotation", row, "instance_token", "instance")
    category = tables.categories.get(instance.category_token)
    if category is None:
        raise tables.broken_link("instance", instance, "category_token", "category")
    return category.name


def _attribute(tables: SceneTables, row: AnnotationRow) -> int:
    """The first attribute; nuScenes gives an object one at most."""
    if not row.attribute_tokens:
        return NO_ATTRIBUTE
    attribute = tables.attributes.get(row.attribute_tokens[0])
    if attribute is None:
        raise tables.broken_link("sample_annotation", row, "attribute_tokens", "attribute")
    return ATTRIBUTE_INDEX.get(attribute.name, NO_ATTRIBUTE)


def _velocity(tables: SceneTables, row: AnnotationRow) -> tuple[float, float, float]:
    """Velocity in the global frame from the annotations before and after, nan where they are lacking.

    A link that leads out of the tables (a drive that was cut) counts as no link.
    """
    before, after = tables.annotations.get(row.prev), tables.annotations.get(row.next)
    first, last = before or row, after or row
    if first is last:
        return np.nan, np.nan, np.nan
    span_us = tables.samples[last.sample_token].timestamp - tables.samples[first.sample_token].timestamp
    span_s = span_us / 1e6
    limit_s = MAX_VELOCITY_SPAN_S * (2 if before is not None and after is not None else 1)
    if not 0 < span_s <= limit_s:
        return np.nan, np.nan, np.nan
    x, y, z = ((b - a) / span_s for a, b in zip(first.translation, last.translation, strict=True))
    return x, y, z
