"""Results as messages of ROS 2, in CDR, without a ROS installation.

- `/perception/detections`, `vision_msgs/msg/Detection3DArray`: boxes; `class_id` is the label, `id` the track or empty.
- `/perception/path_hints/mode_0`, `mode_1` ..., `nav_msgs/msg/Path`: the hints, best first; each pose has its own time.
- `/tf`, `tf2_msgs/msg/TFMessage`: `map` to `base_link`, where the drive has poses.

Stamps are `reference_ns`. `base_link` is the ego frame at that time (REP 105: x forward, y left, z up), `map` the
drive's world. Velocities, attributes, sensor states and provenance have no place in these types: the protobuf has them.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception.core.errors import DriveError
from perception.core.geometry import quaternion_from_yaw, rotation_to_quaternion
from perception.core.results import Detection, PerceptionResult

EGO_FRAME = "base_link"
WORLD_FRAME = "map"
DETECTIONS_TOPIC = "/perception/detections"
PATHS_TOPIC = "/perception/path_hints"
TRANSFORMS_TOPIC = "/tf"

DETECTIONS = "vision_msgs/msg/Detection3DArray"
PATH = "nav_msgs/msg/Path"
TRANSFORMS = "tf2_msgs/msg/TFMessage"

VISION_MSGS = {
    "vision_msgs/msg/ObjectHypothesis": "string class_id\nfloat64 score",
    "vision_msgs/msg/ObjectHypothesisWithPose": (
        "vision_msgs/ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose"
    ),
    "vision_msgs/msg/BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size",
    "vision_msgs/msg/Detection3D": (
        "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox3D bbox\nstring id"
    ),
    DETECTIONS: "std_msgs/Header header\nvision_msgs/Detection3D[] detections",
}
"""Fields of vision_msgs 4 (Humble and later), which the standard set of rosbags lacks."""

NO_COVARIANCE = np.zeros(36)
INT32_S = range(-(2**31), 2**31)


@dataclass(frozen=True, slots=True, kw_only=True)
class RosMessage:
    """One message as it goes into a bag or onto a wire: type_name `package/msg/Name`, cdr with its encapsulation."""

    topic: str
    type_name: str
    cdr: bytes


@cache
def typestore() -> Typestore:
    """The standard types of ROS 2, and vision_msgs."""
    store = get_typestore(Stores.ROS2_HUMBLE)
    for name, fields in VISION_MSGS.items():
        store.register(get_types_from_msg(fields, name))
    return store


def ros_messages(result: PerceptionResult) -> list[RosMessage]:
    """Detections, a path for each hint, and the transform where there is a pose.

    Raises DriveError where the capture clock is outside of what a stamp of ROS 2 holds (1901 to 2038).
    """
    header = _header(result.reference_ns, EGO_FRAME)
    boxes = [_detection(header, detection) for detection in result.detections]
    messages = [_message(DETECTIONS_TOPIC, DETECTIONS, header=header, detections=boxes)]
    times_ns = [result.reference_ns + round(float(time) * 1e9) for time in result.path_hints.times_s]
    for mode, waypoints_m in enumerate(result.path_hints.waypoints_m):
        poses = _path_poses(waypoints_m, times_ns)
        messages.append(_message(f"{PATHS_TOPIC}/mode_{mode}", PATH, header=header, poses=poses))
    if result.world_SE3_ego is not None:
        transform = _make(
            "geometry_msgs/msg/TransformStamped",
            header=_header(result.reference_ns, WORLD_FRAME),
            child_frame_id=EGO_FRAME,
            transform=_transform(result.world_SE3_ego),
        )
        messages.append(_message(TRANSFORMS_TOPIC, TRANSFORMS, transforms=[transform]))
    return messages


def _message(topic: str, type_name: str, **fields: Any) -> RosMessage:
    cdr = bytes(typestore().serialize_cdr(_make(type_name, **fields), type_name, little_endian=True))
    return RosMessage(topic=topic, type_name=type_name, cdr=cdr)


def _make(type_name: str, **fields: Any) -> Any:
    return typestore().types[type_name](**fields)


def _header(time_ns: int, frame_id: str) -> Any:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    if seconds not in INT32_S:
        raise DriveError(f"capture time {time_ns} ns does not fit a stamp of ROS 2, whose seconds have 32 bits")
    stamp = _make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return _make("std_msgs/msg/Header", stamp=stamp, frame_id=frame_id)


def _detection(header: Any, detection: Detection) -> Any:
    pose = _pose(detection.center_m, quaternion_from_yaw(detection.yaw_rad))
    hypothesis = _make(
        "vision_msgs/msg/ObjectHypothesisWithPose",
        hypothesis=_make("vision_msgs/msg/ObjectHypothesis", class_id=detection.label, score=detection.score),
        pose=_make("geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=NO_COVARIANCE),
    )
    return _make(
        "vision_msgs/msg/Detection3D",
        header=header,
        results=[hypothesis],
        bbox=_make("vision_msgs/msg/BoundingBox3D", center=pose, size=_vector(detection.size_m)),
        id="" if detection.track_id is None else str(detection.track_id),
    )


def _path_poses(waypoints_m: NDArray[np.float32], times_ns: list[int]) -> list[Any]:
    """Poses that stand on `waypoints_m` (W, 2) and look along the way from the point before, the first from the ego."""
    steps = np.diff(waypoints_m.astype(np.float64), axis=0, prepend=np.zeros((1, 2)))
    quaternions = quaternion_from_yaw(np.arctan2(steps[:, 1], steps[:, 0]))
    return [
        _make("geometry_msgs/msg/PoseStamped", header=_header(time_ns, EGO_FRAME), pose=_pose((x, y, 0.0), quaternion))
        for (x, y), quaternion, time_ns in zip(waypoints_m.tolist(), quaternions, times_ns, strict=True)
    ]


def _transform(world_SE3_ego: NDArray[np.float64]) -> Any:
    return _make(
        "geometry_msgs/msg/Transform",
        translation=_vector(world_SE3_ego[:3, 3]),
        rotation=_quaternion(rotation_to_quaternion(world_SE3_ego[:3, :3])),
    )


def _pose(position_m: ArrayLike, quaternion_wxyz: NDArray[np.float64]) -> Any:
    x, y, z = np.asarray(position_m, dtype=np.float64).tolist()
    position = _make("geometry_msgs/msg/Point", x=x, y=y, z=z)
    return _make("geometry_msgs/msg/Pose", position=position, orientation=_quaternion(quaternion_wxyz))


def _quaternion(quaternion_wxyz: NDArray[np.float64]) -> Any:
    w, x, y, z = quaternion_wxyz.tolist()
    return _make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def _vector(values: ArrayLike) -> Any:
    x, y, z = np.asarray(values, dtype=np.float64).tolist()
    return _make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)
