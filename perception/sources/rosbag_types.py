"""Bytes of ROS messages to objects, by the released definitions of the types that are read.

The definitions that come in a bag are only compared with those: a bag does not decide how its bytes are taken.
"""

import struct
from collections.abc import Callable
from functools import cache
from typing import Any, Final

from rosbags.serde import SerdeError
from rosbags.typesys import Stores, TypesysError, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception.core.errors import DriveError, PayloadError
from perception.sources.rosbag_storage import Record, Topic
from perception.sources.rosbag_wire import (
    Cursor,
    read_cloud,
    read_compressed_image,
    read_image,
    read_odometry,
    read_radar_scan,
    read_radar_tracks,
)

POINT_CLOUD = "sensor_msgs/msg/PointCloud2"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
IMAGE = "sensor_msgs/msg/Image"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
ODOMETRY = "nav_msgs/msg/Odometry"
TRANSFORMS = "tf2_msgs/msg/TFMessage"
OLD_TRANSFORMS = "tf/msg/tfMessage"
RADAR_SCAN = "radar_msgs/msg/RadarScan"
RADAR_TRACKS = "radar_msgs/msg/RadarTracks"
RADAR_RETURN = "radar_msgs/msg/RadarReturn"
RADAR_TRACK = "radar_msgs/msg/RadarTrack"

SENSOR_TYPES = (COMPRESSED_IMAGE, IMAGE, POINT_CLOUD, RADAR_SCAN, RADAR_TRACKS)
TYPES = (*SENSOR_TYPES, CAMERA_INFO, ODOMETRY, TRANSFORMS, OLD_TRANSFORMS)

MORE_TYPES = {
    "unique_identifier_msgs/msg/UUID": "uint8[16] uuid",
    RADAR_RETURN: "float32 range\nfloat32 azimuth\nfloat32 elevation\nfloat32 doppler_velocity\nfloat32 amplitude",
    RADAR_SCAN: "std_msgs/Header header\nradar_msgs/RadarReturn[] returns",
    RADAR_TRACK: (
        "uint16 NO_CLASSIFICATION=0\nuint16 STATIC=1\nuint16 DYNAMIC=2\n"
        "unique_identifier_msgs/UUID uuid\ngeometry_msgs/Point position\ngeometry_msgs/Vector3 velocity\n"
        "geometry_msgs/Vector3 acceleration\ngeometry_msgs/Vector3 size\nuint16 classification\n"
        "float32[6] position_covariance\nfloat32[6] velocity_covariance\n"
        "float32[6] acceleration_covariance\nfloat32[6] size_covariance"
    ),
    RADAR_TRACKS: "std_msgs/Header header\nradar_msgs/RadarTrack[] tracks",
    TRANSFORMS: "geometry_msgs/TransformStamped[] transforms",
    OLD_TRANSFORMS: "geometry_msgs/TransformStamped[] transforms",
}
"""Fields of the released packages (radar_msgs 0.2) that the standard sets of rosbags lack."""

_FREQUENT: Final[dict[str, Callable[[Cursor], Any]]] = {
    POINT_CLOUD: read_cloud,
    COMPRESSED_IMAGE: read_compressed_image,
    IMAGE: read_image,
    ODOMETRY: read_odometry,
    RADAR_SCAN: read_radar_scan,
    RADAR_TRACKS: read_radar_tracks,
}
_BROKEN = (SerdeError, struct.error, ValueError, IndexError, AssertionError, OverflowError, MemoryError)
_NANOSECONDS = 1_000_000_000


@cache
def typestore(*, is_ros1: bool) -> Typestore:
    """The types of ROS 1 Noetic or ROS 2 Humble, and those of `MORE_TYPES`."""
    store = get_typestore(Stores.ROS1_NOETIC if is_ros1 else Stores.ROS2_HUMBLE)
    for name, fields in MORE_TYPES.items():
        if name not in store.fielddefs:
            store.register(get_types_from_msg(fields, name))
    return store


def check_definition(topic: Topic) -> None:
    """Raise DriveError where what is told of the type, its definition or its hash, is not of the released one."""
    store = typestore(is_ros1=topic.is_ros1)
    if topic.is_ros1 and topic.digest not in ("", "*"):
        if topic.digest != store.generate_msgdef(topic.type_name, ros_version=1)[1]:
            raise _other_definition(topic)
    elif topic.digest:
        if topic.digest != type_hash(topic.type_name):
            raise _other_definition(topic)
    elif topic.definition:
        try:
            found = get_types_from_msg(topic.definition, topic.type_name)
        except (TypesysError, ValueError):
            return  # a definition in a language that is not known; the bytes will tell
        if any(name in store.fielddefs and fields[1] != store.fielddefs[name][1] for name, fields in found.items()):
            raise _other_definition(topic)


@cache
def type_hash(type_name: str) -> str:
    """REP 2016's hash of a released type of ROS 2."""
    return str(typestore(is_ros1=False).hash_rihs01(type_name))


def decode(topic: Topic, record: Record) -> Any:
    """The message in a record: one of `rosbag_wire.py`, or as rosbags gives it. It looks into the record's bytes.

    Raises PayloadError where they do not fit its type.
    """
    if record.error is not None:
        raise PayloadError(record.error)
    try:
        if (read := _FREQUENT.get(topic.type_name)) is not None:
            cursor = Cursor.of(record.data, is_ros1=topic.is_ros1)
            message = read(cursor)
            cursor.end()
            return message
        store = typestore(is_ros1=topic.is_ros1)
        if topic.is_ros1:
            return store.deserialize_ros1(record.data, topic.type_name)
        return store.deserialize_cdr(record.data, topic.type_name)
    except _BROKEN as error:
        raise PayloadError(f"{topic.name}: no valid {topic.type_name} ({error})") from error


def stamp_ns(header: Any) -> int:
    """The stamp of a `std_msgs/Header` in nanoseconds; 0 where nobody set it."""
    return int(header.stamp.sec) * _NANOSECONDS + int(header.stamp.nanosec)


def _other_definition(topic: Topic) -> DriveError:
    return DriveError(
        f"{topic.name}: its {topic.type_name} has other fields than the released one; leave the topic out with a "
        "topics.yaml, or convert it"
    )
