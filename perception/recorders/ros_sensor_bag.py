"""Writes a drive's cameras, lidars and poses as a bag of ROS 2, as drivers and `ros2 bag record` leave it.

For measuring how fast bags are read; radar and labels are left out.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rosbags.interfaces import Connection
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from perception.core.cameras import CameraModel
from perception.core.errors import DriveError
from perception.core.geometry import rotation_to_quaternion
from perception.core.messages import AnyMessage, CameraFrame, EgoState, LidarSweep
from perception.core.rig import Modality, SensorRig

TRANSFORMS = "tf2_msgs/msg/TFMessage"
ODOMETRY = "nav_msgs/msg/Odometry"
IMAGE = "sensor_msgs/msg/CompressedImage"
INFO = "sensor_msgs/msg/CameraInfo"
CLOUD = "sensor_msgs/msg/PointCloud2"

_FLOAT32 = 7
_ROW = np.dtype([("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("intensity", "<f4")])

Logged = tuple[str, str, int, Any]
"""Topic, type, log time, message."""


def write_sensor_bag(path: Path, rig: SensorRig, messages: Iterable[AnyMessage]) -> None:
    """A new bag (a folder with an MCAP file) at `path`. Raises DriveError where it exists or cannot be written."""
    connections: dict[str, Connection] = {}
    try:
        with Writer(path, version=8, storage_plugin=StoragePlugin.MCAP) as writer:
            for topic, kind, log_ns, message in logged(rig, messages):
                if topic not in connections:
                    connections[topic] = writer.add_connection(topic, kind, typestore=_types())
                writer.write(connections[topic], log_ns, to_cdr(kind, message))
    except (WriterError, OSError) as error:
        raise DriveError(f"{path}: no bag can be written there: {error}") from error


def logged(rig: SensorRig, messages: Iterable[AnyMessage]) -> Iterator[Logged]:
    """Messages as drivers publish them; before the first one `/tf_static`, and a `CameraInfo` for each camera."""
    is_begun = False
    for message in messages:
        if not is_begun:
            is_begun = True
            yield from _calibration(rig, message.arrival_ns)
        header = _header(message.capture_ns, message.sensor)
        if isinstance(message, CameraFrame):
            data = np.frombuffer(message.data, dtype=np.uint8)
            yield (
                f"/{message.sensor}/image/compressed",
                IMAGE,
                message.arrival_ns,
                _make(IMAGE, header=header, format="jpeg", data=data),
            )
        elif isinstance(message, LidarSweep):
            yield f"/{message.sensor}/points", CLOUD, message.arrival_ns, _cloud(header, message)
        elif isinstance(message, EgoState) and message.world_SE3_ego is not None:
            yield "/odom", ODOMETRY, message.arrival_ns, _odometry(message, message.world_SE3_ego)


def to_cdr(kind: str, message: Any) -> bytes:
    """A message of type `kind` in CDR."""
    return bytes(_types().serialize_cdr(message, kind))


def _calibration(rig: SensorRig, log_ns: int) -> Iterator[Logged]:
    links = [
        _make(
            "geometry_msgs/msg/TransformStamped",
            header=_header(log_ns, "base_link"),
            child_frame_id=sensor.name,
            transform=_make(
                "geometry_msgs/msg/Transform",
                translation=_vector("Vector3", sensor.ego_SE3_sensor[:3, 3]),
                rotation=_quaternion(sensor.ego_SE3_sensor[:3, :3]),
            ),
        )
        for sensor in rig.sensors
    ]
    yield "/tf_static", TRANSFORMS, log_ns, _make(TRANSFORMS, transforms=links)
    for sensor in rig.of(Modality.CAMERA):
        if sensor.camera is not None:
            yield f"/{sensor.name}/camera_info", INFO, log_ns, _info(_header(log_ns, sensor.name), sensor.camera)


def _info(header: Any, camera: CameraModel) -> Any:
    return _make(
        INFO,
        header=header,
        height=camera.height_px,
        width=camera.width_px,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=camera.intrinsic.ravel(),
        r=np.eye(3).ravel(),
        p=np.column_stack([camera.intrinsic, np.zeros(3)]).ravel(),
        binning_x=0,
        binning_y=0,
        roi=_make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    )


def _cloud(header: Any, sweep: LidarSweep) -> Any:
    rows = np.zeros(len(sweep.points_m), dtype=_ROW)
    for k, axis in enumerate("xyz"):
        rows[axis] = sweep.points_m[:, k]
    rows["intensity"] = sweep.intensity
    fields = [
        _make("sensor_msgs/msg/PointField", name=name, offset=4 * k, datatype=_FLOAT32, count=1)
        for k, name in enumerate(_ROW.names or ())
    ]
    return _make(
        CLOUD,
        header=header,
        height=1,
        width=len(rows),
        fields=fields,
        is_bigendian=False,
        point_step=_ROW.itemsize,
        row_step=_ROW.itemsize * len(rows),
        data=rows.view(np.uint8),
        is_dense=True,
    )


def _odometry(state: EgoState, pose: NDArray[np.float64]) -> Any:
    velocity = (0.0, 0.0) if state.velocity_mps is None else state.velocity_mps.tolist()
    place = _make(
        "geometry_msgs/msg/Pose", position=_vector("Point", pose[:3, 3]), orientation=_quaternion(pose[:3, :3])
    )
    twist = _make(
        "geometry_msgs/msg/Twist",
        linear=_vector("Vector3", (*velocity, 0.0)),
        angular=_vector("Vector3", (0.0, 0.0, state.yaw_rate_radps or 0.0)),
    )
    return _make(
        ODOMETRY,
        header=_header(state.capture_ns, "odom"),
        child_frame_id="base_link",
        pose=_make("geometry_msgs/msg/PoseWithCovariance", pose=place, covariance=np.zeros(36)),
        twist=_make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=np.zeros(36)),
    )


def _header(time_ns: int, frame: str) -> Any:
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    stamp = _make("builtin_interfaces/msg/Time", sec=seconds, nanosec=nanoseconds)
    return _make("std_msgs/msg/Header", stamp=stamp, frame_id=frame)


def _vector(kind: str, values: Iterable[float]) -> Any:
    x, y, z = (float(value) for value in values)
    return _make(f"geometry_msgs/msg/{kind}", x=x, y=y, z=z)


def _quaternion(rotation: NDArray[np.float64]) -> Any:
    w, x, y, z = rotation_to_quaternion(rotation).tolist()
    return _make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def _make(kind: str, **fields: Any) -> Any:
    return _types().types[kind](**fields)


@cache
def _types() -> Typestore:
    store = get_typestore(Stores.ROS2_HUMBLE)
    if TRANSFORMS not in store.fielddefs:
        store.register(get_types_from_msg("geometry_msgs/TransformStamped[] transforms", TRANSFORMS))
    return store
