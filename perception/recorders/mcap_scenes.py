"""Labels and results as `foxglove.SceneUpdate`: what a viewer draws. All of it is in the ego frame at its time."""

from typing import Final

import numpy as np
from foxglove_schemas_protobuf.LinePrimitive_pb2 import LinePrimitive
from foxglove_schemas_protobuf.SceneEntity_pb2 import SceneEntity
from foxglove_schemas_protobuf.SceneEntityDeletion_pb2 import SceneEntityDeletion
from foxglove_schemas_protobuf.SceneUpdate_pb2 import SceneUpdate
from numpy.typing import NDArray

from perception.core.geometry import quaternion_from_yaw, quaternion_to_rotation
from perception.core.labels import Labels
from perception.core.results import NO_TRACK, PerceptionResult
from perception.core.taxonomy import CLASSES
from perception.formats.mcap_drive import EGO_FRAME
from perception.recorders.mcap_foxglove import fill_pose, fill_vector

F64 = NDArray[np.float64]
Color = tuple[float, float, float, float]

LABEL_COLOR: Final[Color] = (0.2, 0.8, 0.3, 0.35)
DETECTION_COLOR: Final[Color] = (1.0, 0.55, 0.1, 0.45)
PATH_COLOR: Final[Color] = (0.2, 0.6, 1.0, 1.0)
TEXT_COLOR: Final[Color] = (1.0, 1.0, 1.0, 1.0)
TEXT_SIZE_M: Final = 0.6
PATH_WIDTH_M: Final = 0.15
VELOCITY_S: Final = 1.0
"""A line in front of each box shows where it is after this time."""


def label_scene(labels: Labels) -> bytes:
    """A cube for each label, with its category as text, and its velocity as a line where it is known."""
    update = _cleared(labels.reference_ns)
    rotations = quaternion_to_rotation(labels.quaternion_wxyz.reshape(-1, 4))
    for i, category in enumerate(labels.category):
        entity = _entity(update, labels.reference_ns, f"{labels.track_id[i]}/{i}")
        _add_box(entity, labels.center_m[i], labels.size_m[i], rotations[i], LABEL_COLOR)
        _add_text(entity, labels.center_m[i], labels.size_m[i], category)
        _add_velocity(entity, labels.center_m[i], labels.velocity_mps[i], LABEL_COLOR)
    return update.SerializeToString()


def result_scene(result: PerceptionResult) -> bytes:
    """A cube for each detection, with class, score and track as text, and a line for each path hint."""
    update = _cleared(result.reference_ns)
    found = result.detections
    rotations = quaternion_to_rotation(quaternion_from_yaw(found.yaw_rad.astype(np.float64)).reshape(-1, 4))
    for i in range(len(found)):
        entity = _entity(update, result.reference_ns, f"detection/{i}")
        _add_box(entity, found.center_m[i], found.size_m[i], rotations[i], DETECTION_COLOR)
        track = f" #{found.track_id[i]}" if found.track_id[i] != NO_TRACK else ""
        text = f"{CLASSES[found.class_index[i]]} {found.score[i]:.2f}{track}"
        _add_text(entity, found.center_m[i], found.size_m[i], text)
        _add_velocity(entity, found.center_m[i], found.velocity_mps[i], DETECTION_COLOR)
    for mode, waypoints_m in enumerate(result.path_hints.waypoints_m):
        entity = _entity(update, result.reference_ns, f"path/{mode}")
        red, green, blue, _ = PATH_COLOR
        share = float(result.path_hints.confidence[mode])
        points = np.c_[np.r_[np.zeros((1, 2)), waypoints_m], np.zeros(len(waypoints_m) + 1)]
        _add_line(entity, points, (red, green, blue, max(0.2, share)), PATH_WIDTH_M)
    return update.SerializeToString()


def _cleared(time_ns: int) -> SceneUpdate:
    """An update that takes away what the last one drew."""
    update = SceneUpdate()
    deletion = update.deletions.add(type=SceneEntityDeletion.ALL)
    deletion.timestamp.FromNanoseconds(time_ns)
    return update


def _entity(update: SceneUpdate, time_ns: int, name: str) -> SceneEntity:
    entity = update.entities.add(frame_id=EGO_FRAME, id=name)
    entity.timestamp.FromNanoseconds(time_ns)
    return entity


def _add_box(
    entity: SceneEntity,
    center_m: NDArray[np.floating],
    size_m: NDArray[np.floating],
    rotation: F64,
    color: Color,
) -> None:
    cube = entity.cubes.add()
    fill_pose(cube.pose, center_m, rotation)
    fill_vector(cube.size, size_m)
    cube.color.r, cube.color.g, cube.color.b, cube.color.a = color


def _add_text(entity: SceneEntity, center_m: NDArray[np.floating], size_m: NDArray[np.floating], text: str) -> None:
    added = entity.texts.add(text=text, billboard=True, font_size=TEXT_SIZE_M)
    above = center_m + np.array([0.0, 0.0, size_m[2] / 2 + TEXT_SIZE_M])
    fill_pose(added.pose, above, np.eye(3))
    added.color.r, added.color.g, added.color.b, added.color.a = TEXT_COLOR


def _add_velocity(
    entity: SceneEntity, center_m: NDArray[np.floating], velocity_mps: NDArray[np.floating], color: Color
) -> None:
    if np.all(np.isfinite(velocity_mps)):
        ahead = center_m + np.append(velocity_mps * VELOCITY_S, 0.0)
        _add_line(entity, np.stack([center_m, ahead]), (*color[:3], 1.0), PATH_WIDTH_M / 2)


def _add_line(entity: SceneEntity, points_m: NDArray[np.floating], color: Color, width_m: float) -> None:
    line = entity.lines.add(type=LinePrimitive.LINE_STRIP, thickness=width_m)
    line.pose.orientation.w = 1.0
    for point in points_m:
        fill_vector(line.points.add(), point)
    line.color.r, line.color.g, line.color.b, line.color.a = color
